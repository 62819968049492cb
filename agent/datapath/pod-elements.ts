// What one pod has in `table inet weft`: its source addresses and the node's ports that lead to it. Pure.
//
//   client ──▶ node:8080 ─▶ prerouting or output, nat: ports4 { tcp . 8080 : 10.32.0.5 . 80 } ─▶ pod
//                                                      ports_at4 where the mapping names an address of the node
//
// The source stays as it is but in two cases, in which the answer would not come back through the node's NAT: a pod that calls
// itself (hairpin4: `address . address`), and the node calling 127.0.0.1. Both get the node's overlay address. For the latter the
// pod's host link also has `route_localnet`, and pods that aim at 127.0.0.0/8 are dropped (ruleset.ts).
import type { Lease, PortMapping } from '#agent/runtime/ipam.ts';

import { familyOf } from './cidr.ts';
import type { Family } from './cidr.ts';
import type { ElementRef } from './set-shapes.ts';

type Ported = Pick<Lease, 'addresses' | 'link'>;

/** Every address of the node. */
export const wildcards: Readonly<Record<Family, string>> = { 4: '0.0.0.0', 6: '::' };

/** True where the mapping is for packets of that family. */
export function serves(mapping: PortMapping, family: Family): boolean {
  return mapping.hostIp === undefined || familyOf(mapping.hostIp) === family;
}

/** All elements of one pod link. Where the node has a bridge, the bridge's own table knows the sources too. */
export function podElements(
  lease: Pick<Lease, 'hostIfname' | 'addresses' | 'link'>,
  onBridge = false,
): readonly ElementRef[] {
  const { hostIfname } = lease;
  return [
    ...lease.addresses.map((address): ElementRef => ({
      set: familyOf(address) === 6 ? 'sources6' : 'sources4',
      key: `${hostIfname} . ${address}`,
    })),
    ...(onBridge ? lease.addresses : []).map((address): ElementRef => ({
      set: familyOf(address) === 6 ? 'bridged6' : 'bridged4',
      key: `${hostIfname} . ${address}`,
    })),
    ...portElements(lease),
  ];
}

/** The elements of a lease's port mappings, for each of its addresses. */
export function portElements(lease: Ported): readonly ElementRef[] {
  const mappings = lease.link?.portMappings ?? [];
  if (mappings.length === 0) return [];
  return lease.addresses.flatMap((address): readonly ElementRef[] => {
    const family = familyOf(address);
    const served = mappings.filter((mapping) => serves(mapping, family));
    if (served.length === 0) return [];
    return [
      ...served.map((mapping) => elementOf(mapping, family, address)),
      { set: family === 4 ? 'hairpin4' : 'hairpin6', key: `${address} . ${address}` },
    ];
  });
}

function elementOf(
  { protocol, hostPort, containerPort, hostIp }: PortMapping,
  family: Family,
  address: string,
): ElementRef {
  const target = `${protocol} . ${hostPort} : ${address} . ${containerPort}`;
  if (hostIp === undefined || hostIp === wildcards[family])
    return { set: family === 4 ? 'ports4' : 'ports6', key: target };
  return { set: family === 4 ? 'ports_at4' : 'ports_at6', key: `${hostIp} . ${target}` };
}

/** Whether the node itself shall reach the pod by 127.0.0.1 and a host port. */
export function needsRouteLocalnet(lease: Ported): boolean {
  return portElements(lease).some(({ set }) => set === 'ports4' || set === 'ports_at4');
}

/** A mapping that no address of the lease can serve; undefined when there is none. */
export function unservedMapping(lease: Ported): PortMapping | undefined {
  const families = lease.addresses.map((address) => familyOf(address));
  return lease.link?.portMappings?.find((mapping) => !families.some((family) => serves(mapping, family)));
}
