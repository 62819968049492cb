// Direct routes: to peers on the same link (layer 2 segment) packets may go without the overlay, by a plain route to the peer's
// underlay address. Which peers that is, and from which link address their pods' packets are admitted. Pure.
//
//   vxlan   nobody
//   direct  every peer whose underlay address lies on the underlay link
//   auto    of those the ones that the probes have found to be reached in both directions (agent/probe)
//
// A nexthop on the underlay link is written `192.0.2.2%eth0`, one on the overlay without a link name. Admission is wider than
// routing: while one side has fallen back to VXLAN already, the other may still send directly, and none of that is lost.
import type { IpamView, PeerView } from '#agent/runtime/ipam.ts';

import { cidrContains, familyOf, readAddress } from './cidr.ts';
import type { Family } from './cidr.ts';
import type { ActualState } from './objects.ts';

export type OverlayMode = 'vxlan' | 'direct' | 'auto';

/** What planning needs to know of the underlay link. */
export interface UnderlayLink {
  readonly ifname: string;
  readonly up: boolean;
  /** Its addresses with prefix length. */
  readonly cidrs: readonly string[];
  /** MAC by address, as the kernel's neighbour table or an earlier admission has it. */
  readonly macs: ReadonlyMap<string, string>;
  /** Addresses that the kernel refused as direct gateways. */
  readonly refused: ReadonlySet<string>;
}

export interface DirectInput {
  readonly mode: OverlayMode;
  readonly underlay: UnderlayLink | undefined;
  /** Record names that the probes found good; only `auto` asks. */
  readonly proven: ReadonlySet<string>;
}

export const noDirect: DirectInput = { mode: 'vxlan', underlay: undefined, proven: new Set() };

/** True where the peer's address lies on the underlay link itself: no router in between. What is no address lies nowhere. */
export function isOnLink(underlay: Pick<UnderlayLink, 'cidrs'>, underlayAddress: string): boolean {
  if (readAddress(underlayAddress) === undefined) return false;
  return underlay.cidrs.some((cidr) => !/\/(32|128)$/.test(cidr) && cidrContains(cidr, underlayAddress));
}

/** `ADDRESS%LINK` of the nexthop that serves blocks of `family` directly; undefined: through the overlay. */
export function directGateway(
  input: DirectInput,
  peer: { readonly name: string; readonly underlayAddress: string },
  family: Family,
): string | undefined {
  const { mode, underlay, proven } = input;
  if (mode === 'vxlan' || !underlay?.up) return undefined;
  // An IPv6 route cannot have an IPv4 gateway.
  if (family === 6 && familyOf(peer.underlayAddress) === 4) return undefined;
  if (mode === 'auto' && !proven.has(peer.name)) return undefined;
  if (underlay.refused.has(peer.underlayAddress)) return undefined;
  return isOnLink(underlay, peer.underlayAddress) ? `${peer.underlayAddress}%${underlay.ifname}` : undefined;
}

/** Elements of the sets `direct4` and `direct6`: link address and block of every peer that might send directly. */
export function directElements(
  input: DirectInput,
  peers: readonly { readonly underlayAddress: string; readonly blocks: readonly string[] }[],
): { readonly direct4: ReadonlySet<string>; readonly direct6: ReadonlySet<string> } {
  const keys = { 4: new Set<string>(), 6: new Set<string>() };
  if (input.mode !== 'vxlan' && input.underlay) {
    for (const { underlayAddress, blocks } of peers) {
      const mac = input.underlay.macs.get(underlayAddress);
      if (mac === undefined || !isOnLink(input.underlay, underlayAddress)) continue;
      for (const block of blocks) keys[familyOf(block)].add(`${mac} . ${block}`);
    }
  }
  return { direct4: keys[4], direct6: keys[6] };
}

/** What tells whether a peer is reached directly, and admitted, otherwise than before; undefined: the link itself is another. */
export function directDifference(
  before: DirectInput,
  after: DirectInput,
): ((peer: Pick<PeerView, 'name' | 'underlayAddress'>) => boolean) | undefined {
  if (before === after) return () => false;
  const [old, now] = [before.underlay, after.underlay];
  if (!old || !now || old.ifname !== now.ifname || old.up !== now.up || old.cidrs !== now.cidrs) return undefined;
  return ({ name, underlayAddress = '' }) =>
    old.macs.get(underlayAddress) !== now.macs.get(underlayAddress) ||
    before.proven.has(name) !== after.proven.has(name) ||
    old.refused.has(underlayAddress) !== now.refused.has(underlayAddress);
}

/** Record names of the peers that the kernel routes to directly now: what a predecessor found good. */
export function directInKernel(view: IpamView, state: ActualState): ReadonlySet<string> {
  const ids = new Set(state.nexthops.flatMap(({ id, gateway }) => (gateway?.includes('%') ? [id] : [])));
  const blocks = new Set(
    state.routes.flatMap(({ dst, target }) => (target.kind === 'nexthop' && ids.has(target.id) ? [dst] : [])),
  );
  return new Set(view.peers.filter((peer) => peer.blocks.some((block) => blocks.has(block))).map(({ name }) => name));
}

/**
 * MAC by underlay address: what the neighbour table says now, else what was `known`, else what a predecessor admitted. The kernel
 * forgets neighbours that it does not talk to; a peer's packets must not be dropped for that.
 */
export function linkAddresses(
  peers: readonly PeerView[],
  neighbours: ReadonlyMap<string, string>,
  known: ReadonlyMap<string, string>,
  state: ActualState,
): ReadonlyMap<string, string> {
  const admitted = new Map(
    [...state.firewall.elements.direct4, ...state.firewall.elements.direct6].map((key) => {
      const [mac = '', block = ''] = key.split(' . ');
      return [block, mac];
    }),
  );
  const macs = new Map<string, string>();
  for (const { underlayAddress, blocks } of peers) {
    if (underlayAddress === undefined) continue;
    const before = (): string | undefined =>
      blocks.map((block) => admitted.get(block)).find((mac) => mac !== undefined);
    const mac = neighbours.get(underlayAddress) ?? known.get(underlayAddress) ?? before();
    if (mac !== undefined) macs.set(underlayAddress, mac);
  }
  return macs;
}
