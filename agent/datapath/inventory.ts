// Leases as the kernel knows them, for an agent that has lost its own: who has a pod link stands in the link's alias; its host ports,
// limits and, of a port of the bridge, its MAC are read back from what they were made into. What cannot be told apart there comes back as
// what does the same: a mapping for `0.0.0.0` of a pod that has IPv4 alone as one for every address. Pure but for the reading.
import { dumpLinks, withOwner } from '#agent/netlink/link.ts';
import type { LinkOptions, PortMapping } from '#agent/runtime/ipam.ts';

import { isPodLink } from './actual.ts';
import type { KernelReading } from './actual.ts';
import { familyOf } from './cidr.ts';
import type { Family } from './cidr.ts';
import { parseAlias, podMacOf } from './identity.ts';
import type { KernelLease } from './identity.ts';
import type { KernelIo } from './kernel-io.ts';
import type { ActualPodLink, ActualState } from './objects.ts';
import { wildcards } from './pod-elements.ts';
import type { DatapathSettings } from './settings.ts';
import { readLimits } from './shaper.ts';

/** The pod links that carry a readable alias and do not wait for deletion. */
export function linksOf({
  podLinks,
}: {
  readonly podLinks: readonly Pick<ActualPodLink, 'ifname' | 'alias' | 'doomed'>[];
}): readonly KernelLease[] {
  return podLinks.flatMap((link) => {
    const alias = link.doomed ? undefined : parseAlias(link.alias);
    return alias ? [{ ...alias, hostIfname: link.ifname }] : [];
  });
}

/** The same of a namespace, whose links alone are read: asked for every minute, beside thousands of peers. Throws NetlinkError. */
export async function readLinksOf(
  io: KernelIo,
  settings: DatapathSettings,
  signal: AbortSignal,
): Promise<readonly KernelLease[]> {
  const links = await io.route.dumpAsync(withOwner(dumpLinks()), signal);
  const podLinks = links.flatMap((link) => {
    const { ifname = '', ifalias: alias = '', group } = link;
    return isPodLink(link, settings) ? [{ ifname, alias, doomed: group === settings.doomedGroup }] : [];
  });
  return linksOf({ podLinks });
}

/** The pod links of a reading with what they have beyond addresses. Throws NetlinkError. */
export async function leasesOf(
  io: KernelIo,
  settings: DatapathSettings,
  { state, links }: Pick<KernelReading, 'state' | 'links'>,
  signal: AbortSignal,
): Promise<readonly KernelLease[]> {
  const found = linksOf(state);
  const names = found.map(({ hostIfname }) => hostIfname);
  const limits = await readLimits(io, settings, links, names, signal);
  return found.map((lease) => {
    const bandwidth = limits.get(lease.hostIfname);
    const portMappings = portMappingsOf(lease.addresses, state.firewall.elements);
    const mac = state.portEntries.find(({ ifname }) => ifname === lease.hostIfname)?.mac;
    const link: LinkOptions = {
      ...(mac !== undefined && mac !== podMacOf(lease.addresses[0] ?? '') ? { mac } : {}),
      ...(portMappings.length > 0 ? { portMappings } : {}),
      ...(bandwidth ? { bandwidth } : {}),
    };
    return Object.keys(link).length > 0 ? { ...lease, link } : lease;
  });
}

type PortSets = Pick<ActualState['firewall']['elements'], 'ports4' | 'ports6' | 'ports_at4' | 'ports_at6'>;

/** The mappings of which these elements are made (pod-elements.ts). */
export function portMappingsOf(addresses: readonly string[], sets: PortSets): readonly PortMapping[] {
  const found: { readonly family: Family; readonly mapping: PortMapping }[] = [];
  for (const address of addresses) {
    const family = familyOf(address);
    for (const element of family === 4 ? sets.ports4 : sets.ports6) {
      const mapping = mappingFrom(element, address);
      if (mapping) found.push({ family, mapping });
    }
    for (const element of family === 4 ? sets.ports_at4 : sets.ports_at6) {
      const [hostIp = '', ...rest] = element.split(' . ');
      const mapping = mappingFrom(rest.join(' . '), address);
      if (mapping) found.push({ family, mapping: { ...mapping, hostIp } });
    }
  }
  // A mapping without an address of the node has an element for each family of the pod.
  const texts = found.map(({ mapping }) => JSON.stringify(mapping));
  const whole = found.map(({ family, mapping }, at): PortMapping => {
    const isAll =
      mapping.hostIp !== undefined || texts.filter((text) => text === texts[at]).length === addresses.length;
    return isAll ? mapping : { ...mapping, hostIp: wildcards[family] };
  });
  const byText = new Map(whole.map((mapping) => [JSON.stringify(mapping), mapping]));
  return [...byText.values()];
}

/** Of `tcp . 8080 : 10.32.0.5 . 80`; undefined where it leads elsewhere, or is none that we make. */
function mappingFrom(element: string, address: string): PortMapping | undefined {
  const [key = '', target = ''] = element.split(' : ');
  const [protocol = '', hostPort = ''] = key.split(' . ');
  const [to = '', containerPort = ''] = target.split(' . ');
  if (to !== address || (protocol !== 'tcp' && protocol !== 'udp' && protocol !== 'sctp')) return undefined;
  return { protocol, hostPort: Number(hostPort), containerPort: Number(containerPort) };
}
