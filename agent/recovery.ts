// A node that has lost its state directory while pods run. The host end of each pod's link carries who it belongs to and its addresses, and
// its ports and limits are there too, so leases can be rebuilt from the kernel. Where Weft is only the IPAM plugin the link is another
// plugin's and says nothing of the kind: there the address is found inside the pod's namespace. Until that is done nothing may touch
// those links, and nothing is leased.

import { createHash } from 'node:crypto';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';

import { errnoOf } from '#agent/cni/parts.ts';
import type { KernelLease } from '#agent/datapath/identity.ts';
import { dumpAddresses } from '#agent/netlink/addr.ts';
import { dumpLinks, type Link } from '#agent/netlink/link.ts';
import { netnsInfo, ownNetns } from '#agent/netlink/netns.ts';
import { NetlinkSocket } from '#agent/netlink/socket.ts';
import type { Lease } from '#agent/runtime/ipam.ts';

/**
 * Leases as the kernel knows them, as if made at `nowMs` (since the epoch). Names of pods and namespaces are lost; a container id that
 * was too long for the link is replaced by one that no DEL will name, so that its address stays taken.
 */
export function leasesFromLinks(links: readonly KernelLease[], nowMs: number): readonly Lease[] {
  return links.map(({ containerId, ifname, generation, addresses, hostIfname, link }) => ({
    containerId: containerId ?? `unknown-${hostIfname}`,
    ifname,
    generation,
    addresses,
    hostIfname,
    owner: { network: 'weft', netnsPath: '', netnsInode: 0n },
    state: 'active',
    sinceMs: nowMs,
    ...(link !== undefined && { link }),
  }));
}

export interface NamespaceScan {
  /** The host's namespace; absent: this process' own. */
  readonly netnsPath?: string;
  /** Where runtimes keep namespaces: containerd, CRI-O and podman, then Docker. */
  readonly directories?: readonly string[];
  /** Whether a link, by its name on the host or in the pod, is Weft's own. */
  readonly isOwn: (name: string) => boolean;
}

const pinned = ['/run/netns', '/run/docker/netns'];

/**
 * What pods have on links that are not Weft's, whatever the address: which of it is a pool's is for the caller to say. No DEL will name
 * such a lease (the container's id is not known to the kernel), so it is taken back once its namespace is gone. Throws NetlinkError.
 */
export function leasesFromNamespaces(scan: NamespaceScan, nowMs: number): readonly Lease[] {
  const { netnsPath, directories = pinned, isOwn } = scan;
  const host = netnsPath === undefined ? ownNetns() : netnsInfo(netnsPath);
  const hostLinks = linksIn(netnsPath);
  return [...namespaces(directories)]
    .filter(([inode]) => inode !== BigInt(host.ino))
    .flatMap(([inode, path]) => {
      const found = ifGone(() => attachmentsIn(path, hostLinks, isOwn)) ?? [];
      return found.map(({ ifname, addresses, linkedBy, onBridge }): Lease => {
        const id = createHash('sha256').update(`${path} ${inode} ${ifname}`).digest('hex').slice(0, 16);
        return {
          containerId: `unknown-${id}`,
          ifname,
          generation: id,
          addresses,
          hostIfname: '',
          owner: {
            network: '',
            netnsPath: path,
            netnsInode: inode,
            linkedBy,
            ...(onBridge !== undefined && { onBridge }),
          },
          state: 'active',
          sinceMs: nowMs,
        };
      });
    });
}

/** Every network namespace that has a name or a process, by inode, with the path that lasts longest. */
function namespaces(directories: readonly string[]): ReadonlyMap<bigint, string> {
  const found = new Map<bigint, string>();
  for (const directory of directories) {
    for (const name of ifGone(() => readdirSync(directory)) ?? []) {
      const path = join(directory, name);
      const info = ifGone(() => netnsInfo(path));
      if (info?.isNetns === true && !found.has(BigInt(info.ino))) found.set(BigInt(info.ino), path);
    }
  }
  // A container's first process, which ends with it, has as a rule the lowest number.
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  for (const pid of pids.toSorted((a, b) => Number(a) - Number(b))) {
    const path = `/proc/${pid}/ns/net`;
    // A process that may do what the agent may not does not show its namespace: it is no container's.
    const inode = ifGone(() => statSync(path, { bigint: true }).ino, 'EACCES');
    if (inode !== undefined && !found.has(inode)) found.set(inode, path);
  }
  return found;
}

interface Found {
  readonly ifname: string;
  /** IPv4 first. */
  readonly addresses: readonly string[];
  readonly linkedBy: string;
  readonly onBridge?: string;
}

function attachmentsIn(path: string, hostLinks: readonly Link[], isOwn: (name: string) => boolean): readonly Found[] {
  using socket = NetlinkSocket.open({ protocol: 'route', netnsPath: path });
  const addresses = socket.dump(dumpAddresses());
  return socket.dump(dumpLinks()).flatMap((link): readonly Found[] => {
    const { ifname = '', ifiIndex } = link;
    if (ifname === 'lo' || isOwn(ifname)) return [];
    const mine = addresses.filter((one) => one.ifaIndex === ifiIndex).map((one) => one.local ?? one.address ?? '');
    const texts = mine.filter((text) => text !== '' && !text.startsWith('fe80:'));
    if (texts.length === 0) return [];
    const sorted = texts.toSorted((a, b) => Number(a.includes(':')) - Number(b.includes(':')));
    if (link.linkinfo?.kind !== 'veth') return [{ ifname, addresses: sorted, linkedBy: kindOf(link) }];
    // A veth whose other end is not here is another machine's, as containers that are nodes have them.
    const peer = hostLinks.find((one) => one.ifiIndex === link.link && one.link === ifiIndex);
    if (peer === undefined || isOwn(peer.ifname ?? '')) return [];
    const bridge = hostLinks.find((one) => one.ifiIndex === peer.master)?.ifname;
    return [{ ifname, addresses: sorted, ...(bridge === undefined ? ptp : { linkedBy: 'bridge', onBridge: bridge }) }];
  });
}

const ptp = { linkedBy: 'ptp' } as const;

function kindOf({ linkinfo }: Link): string {
  if (linkinfo === undefined) return 'host-device';
  return linkinfo.kind === 'other' ? linkinfo.kindName : linkinfo.kind;
}

function linksIn(netnsPath: string | undefined): readonly Link[] {
  using socket = NetlinkSocket.open({ protocol: 'route', ...(netnsPath !== undefined && { netnsPath }) });
  return socket.dump(dumpLinks());
}

/** Undefined for what went, or was never there, while it was looked at. */
function ifGone<T>(look: () => T, ...also: readonly string[]): T | undefined {
  try {
    return look();
  } catch (error) {
    if (['ENOENT', 'ESRCH', 'ENOTDIR', ...also].includes(errnoOf(error))) return undefined;
    throw error;
  }
}

/**
 * The leases of a disk that was set back say more than a namespace does: where one has the same address on a link of another plugin, it is
 * the same attachment.
 */
export function namedByDisk(found: readonly Lease[], known: readonly Lease[]): readonly Lease[] {
  const byAddress = new Map(known.flatMap((lease) => lease.addresses.map((text) => [text, lease] as const)));
  return found.map((lease) => {
    const same = lease.owner.linkedBy === undefined ? undefined : byAddress.get(lease.addresses[0] ?? '');
    return same?.owner.linkedBy === undefined || same.owner.netnsInode !== lease.owner.netnsInode ? lease : same;
  });
}
