// Pod links `bridge`: every pod of the node is a port of one bridge, so that they hear each other's broadcasts and multicasts and talk
// without the host's routing. Everything that leaves the node is routed as with `routed` links. Planning; bridge-io.ts writes.
//
//   pod netns                          host
//   eth0 10.40.0.7/14 ── veth ── weftpXXXX ─┐
//   default via 10.40.0.1                    ├─ weftbr0  10.40.0.1/32, fe80::457:…/64, the fixed MAC
//   eth0 10.40.0.8/14 ── veth ── weftpYYYY ─┘            route 10.40.0.0/14 dev weftbr0 src 10.40.0.1
//
// A node's blocks change while pods run, so nothing may depend on the prefix that a pod was given: the bridge answers ARP for whatever
// the host routes elsewhere (proxy_arp), and a pod of another block of the node is reached through the gateway. IPv6 has no such proxy
// for whole prefixes: a pod's IPv6 address is /128, so unicast between pods goes through the host. Ports do not learn: a static
// entry says where a pod's MAC is, so that no pod can draw another's frames.
import type { Lease, PeerView } from '#agent/runtime/ipam.ts';

import { canonicalCidr, cidrContains, familyOf, prefixLengthOf } from './cidr.ts';
import type { Family } from './cidr.ts';
import { gatewayCidr, hostMac, podMacOf } from './identity.ts';
import type { BridgeLink, LinkAddress, PortEntry, Route } from './objects.ts';
import { plainMetric } from './objects.ts';
import type { DatapathSettings } from './settings.ts';

/** What decides about the bridge, of DesiredInput. */
interface PodsInput {
  readonly settings: Pick<DatapathSettings, 'podLink' | 'bridgeDevice'>;
  readonly leases: readonly Lease[];
  readonly ports: ReadonlySet<string>;
  readonly ipv6: boolean;
}

/** Whether pods of this node are, or will be, ports of a bridge. */
export function hasBridge({ settings, leases, ports }: PodsInput): boolean {
  return settings.podLink === 'bridge' || leases.some(({ hostIfname }) => ports.has(hostIfname));
}

/** The bridge and what belongs to it; undefined where the node has none. */
export function bridgeOf(
  input: PodsInput,
  mtuBytes: number,
  overlayAddresses: ReadonlyMap<Family, string>,
  ownBlocks: readonly string[],
): BridgePlan | undefined {
  if (!hasBridge(input)) return undefined;
  const ports = input.leases.filter(({ hostIfname }) => input.ports.has(hostIfname));
  const { bridgeDevice: ifname } = input.settings;
  return planBridge({ ifname, ipv6: input.ipv6, mtuBytes, overlayAddresses, ownBlocks, ports });
}

/** The route of an own block where pods are routed: an address that nobody has answers at once. */
export function unreachable(dst: string): Route {
  return { dst, metric: plainMetric[familyOf(dst)], target: { kind: 'unreachable' } };
}

interface BridgeInput {
  readonly ifname: string;
  readonly mtuBytes: number;
  readonly ipv6: boolean;
  readonly overlayAddresses: ReadonlyMap<Family, string>;
  readonly ownBlocks: readonly string[];
  /** Leases whose links are ports. */
  readonly ports: readonly Lease[];
}

export interface BridgePlan {
  readonly bridge: BridgeLink;
  readonly addresses: readonly LinkAddress[];
  readonly routes: readonly Route[];
  readonly portEntries: readonly PortEntry[];
}

function planBridge({ ifname, mtuBytes, ipv6, overlayAddresses, ownBlocks, ports }: BridgeInput): BridgePlan {
  return {
    bridge: { ifname, mac: hostMac, mtuBytes },
    addresses: ipv6 ? [{ ifname, cidr: gatewayCidr(6), linkScope: true }] : [],
    routes: ownBlocks.map((dst) => {
      const family = familyOf(dst);
      return {
        dst,
        metric: plainMetric[family],
        target: { kind: 'bridge', ifname, prefsrc: overlayAddresses.get(family) },
      };
    }),
    portEntries: ports.map(({ hostIfname, addresses, link }) => ({
      ifname: hostIfname,
      mac: link?.mac ?? podMacOf(addresses[0] ?? ''),
    })),
  };
}

/** The pod's address as its link has it: IPv4 with the prefix of the node's block around it, so that its neighbours are on the link. */
export function portCidr(address: string, self: Pick<PeerView, 'blocks'> | undefined): string {
  if (familyOf(address) === 6) return `${address}/128`;
  const block = self?.blocks.find(
    (candidate) => familyOf(candidate) === 4 && cidrContains(canonicalCidr(candidate), address),
  );
  return `${address}/${block === undefined ? 32 : prefixLengthOf(block)}`;
}
