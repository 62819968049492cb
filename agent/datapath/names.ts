// Links of ours that somebody has renamed get their names back: firewall rules, routes and the next reading know them by name, and a
// second VXLAN device of the same VNI the kernel refuses. A link is ours by what nobody else gives one: a lease's alias, our MACs.
import { linkFlag, setLink } from '#agent/netlink/link.ts';
import type { Link, LinkRequest } from '#agent/netlink/link.ts';
import type { Lease } from '#agent/runtime/ipam.ts';

import { aliasOf } from './identity.ts';
import type { KernelIo } from './kernel-io.ts';
import type { BridgeLink, DesiredState, OverlayLink } from './objects.ts';

/** Returns the names that links were given back; none where every wanted link has its name. */
export function restoreNames(
  io: KernelIo,
  links: readonly Link[],
  desired: Pick<DesiredState, 'overlay' | 'bridge'>,
  leases: readonly Lease[],
): readonly string[] {
  const present = new Set(links.map(({ ifname }) => ifname));
  const restored: string[] = [];
  const restore = (ifname: string, isIt: (link: Link) => boolean): void => {
    const link = present.has(ifname) ? undefined : links.find(isIt);
    if (link && rename(io, link, ifname)) restored.push(ifname);
  };
  const { overlay, bridge } = desired;
  if (overlay) restore(overlay.ifname, (link) => isOverlay(link, overlay));
  if (bridge) restore(bridge.ifname, (link) => isBridge(link, bridge));
  for (const lease of leases) {
    if (present.has(lease.hostIfname)) continue;
    const aliases = [aliasOf(lease, 'routed'), aliasOf(lease, 'bridge')];
    restore(lease.hostIfname, ({ linkinfo, ifalias = '' }) => linkinfo?.kind === 'veth' && aliases.includes(ifalias));
  }
  return restored;
}

function isOverlay({ linkinfo, address }: Link, { vni, port, mac }: OverlayLink): boolean {
  return linkinfo?.kind === 'vxlan' && linkinfo.data?.id === vni && linkinfo.data.port === port && address === mac;
}

function isBridge({ linkinfo, address }: Link, { mac }: BridgeLink): boolean {
  return linkinfo?.kind === 'bridge' && address === mac;
}

/** Kernels before 6.2 rename only what is down: what goes with that is put back by the round. */
function rename(io: KernelIo, { ifiIndex }: Link, ifname: string): boolean {
  const name: LinkRequest = { ifiIndex, ifname };
  const flags = (ifiFlags: number): LinkRequest => ({ ifiIndex, ifiFlags, ifiChange: linkFlag.up });
  const [live] = io.route.batch([setLink(name)]);
  if (live.ok) return true;
  const [, down] = io.route.batch([setLink(flags(0)), setLink(name), setLink(flags(linkFlag.up))]);
  return down.ok;
}
