// A node that has lost its state directory while pods run: the host end of each pod's link carries who it belongs to and its
// addresses, and its ports and limits are there too, so leases can be rebuilt from the kernel. Until that is done nothing may touch those links.

import type { KernelLease } from '#agent/datapath/identity.ts';
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
