// A change of few peers among thousands, planned by itself: the same desired and diff as of a full round, but on nothing except
// the peers that differ, with what the kernel is expected to hold of them. Undefined where the change is not that simple
// (another range, a conflict between peers, a first round): a full round decides then. Where packets go directly, a peer differs too
// whose link address, proof or refusal does. Pure.
import type { IpamView, PeerView } from '#agent/runtime/ipam.ts';

import { desiredState } from './desired.ts';
import type { DesiredInput } from './desired.ts';
import { diff } from './diff.ts';
import { directDifference } from './direct.ts';
import type { DirectInput } from './direct.ts';
import type { Expected } from './expected.ts';
import { mainRouteKey } from './objects.ts';
import type { ActualOverlay, ActualState, DesiredState, Operation, OverlayLink } from './objects.ts';

export interface PeerChange {
  /** What the differing peers should have, and what they are expected to have. */
  readonly desired: DesiredState;
  readonly actual: ActualState;
}

/** Findings of one peer alone: only a full round tells of them. */
const told: ReadonlySet<string> = new Set(['peerWithoutUnderlay', 'underlayFamily']);

/** Findings that depend on more than the one peer: with such a view the peers are not independent. */
const entangled: ReadonlySet<string> = new Set([
  'duplicatePeerAddress',
  'duplicatePeerMac',
  'duplicateBlock',
  'badBlock',
]);

/** All of the peers that planning is told. */
export interface PeersTold {
  readonly view: IpamView;
  readonly direct: DirectInput;
}

export interface PeerChangeInput {
  /** What the kernel was brought to. */
  readonly before: PeersTold;
  readonly after: PeersTold;
  /** Findings of the last full round. */
  readonly findings: readonly { readonly name: string }[];
  readonly expected: Expected;
  /** The desired state without pods. */
  readonly desiredOf: (told: PeersTold) => DesiredState;
}

/** More peers that all come, or all go, are planned in parts: the kernel is at work on one while the next is planned. */
const mostInPart = 500;

/**
 * The writes for such a change, part by part, each planned once what the one before writes is noted in `expected`. Undefined as with
 * planPeerChange: of the whole, or as the last part.
 */
export function peerOperations(
  input: Omit<PeerChangeInput, 'desiredOf'> & Omit<DesiredInput, 'view' | 'leases' | 'direct'>,
  peersInPart: number = mostInPart,
): Iterable<readonly Operation[] | undefined> | undefined {
  const desiredOf = (told: PeersTold): DesiredState => desiredState({ ...input, ...told, leases: [] });
  const whole = { ...input, desiredOf };
  const difference = simpleDifference(whole);
  const parts = difference && partsOf(difference, peersInPart);
  return parts?.values().map((part) => operationsOf(planPart(whole, part)));
}

function operationsOf(change: PeerChange | undefined): readonly Operation[] | undefined {
  return change && diff(change.desired, change.actual);
}

export function planPeerChange(input: PeerChangeInput): PeerChange | undefined {
  const difference = simpleDifference(input);
  return difference && planPart(input, difference);
}

interface Difference {
  readonly self: PeerView;
  readonly gone: readonly PeerView[];
  readonly come: readonly PeerView[];
}

/** Undefined where more than other peers differ, or nothing: whoever asks then wants a comparison. */
function simpleDifference({ before, after, findings }: PeerChangeInput): Difference | undefined {
  const isOtherwiseDirect = directDifference(before.direct, after.direct);
  if (!isOtherwiseDirect || !sameButPeers(before.view, after.view)) return undefined;
  if (findings.some(({ name }) => entangled.has(name))) return undefined;
  const { gone, come } = differingPeers(before.view.peers, after.view.peers);
  if (before.direct !== after.direct) {
    const others = new Set(come.map(({ name }) => name));
    const same = after.view.peers.filter((peer) => !peer.self && !others.has(peer.name) && isOtherwiseDirect(peer));
    gone.push(...same);
    come.push(...same);
  }
  const self = after.view.peers.find((peer) => peer.self);
  const isOwn = gone.some((peer) => peer.self) || come.some((peer) => peer.self);
  return self && gone.length + come.length > 0 && !isOwn ? { self, gone, come } : undefined;
}

/** What one peer loses another may get, and must not lose in between: only of nothing but new ones, or old ones, are parts independent. */
function partsOf(difference: Difference, peersInPart: number): readonly Difference[] {
  const { self, gone, come } = difference;
  if (gone.length > 0 && come.length > 0) return [difference];
  const parts: Difference[] = [];
  for (let from = 0; from < gone.length + come.length; from += peersInPart) {
    const to = from + peersInPart;
    parts.push({ self, gone: gone.slice(from, to), come: come.slice(from, to) });
  }
  return parts;
}

function planPart(
  { before, after, expected, desiredOf }: PeerChangeInput,
  { self, gone, come }: Difference,
): PeerChange | undefined {
  const old = desiredOf(withPeers(before, [self, ...gone]));
  const desired = desiredOf(withPeers(after, [self, ...come]));
  if (!old.overlay || desired.findings.some(({ name }) => entangled.has(name))) return undefined;
  if ([...old.findings, ...desired.findings].some(({ name }) => told.has(name))) return undefined;
  if (clashes(old, desired, expected)) return undefined;
  const actual = asActual(old, old.overlay, expected);
  return actual && { desired, actual };
}

function withPeers({ view, direct }: PeersTold, peers: readonly PeerView[]): PeersTold {
  return { view: { ...view, peers }, direct };
}

/** True where both views come to the same kernel. Texts of blocks are the same arrays as a rule: thousands take half a millisecond. */
export function sameRouting(before: IpamView, after: IpamView): boolean {
  const { peers } = after;
  return (
    sameButPeers(before, after) &&
    before.peers.length === peers.length &&
    before.peers.every((peer, index) => samePeer(peer, peers[index]))
  );
}

function sameButPeers(before: IpamView, after: IpamView): boolean {
  return (['ranges', 'reserved', 'overlayAddresses'] as const).every((key) => sameTexts(before[key], after[key]));
}

/** Peers of `before` that are not the same in `after`, and the other way round; a changed one is in both. */
export function differingPeers(
  before: readonly PeerView[],
  after: readonly PeerView[],
): { readonly gone: PeerView[]; readonly come: PeerView[] } {
  let head = 0;
  const shorter = Math.min(before.length, after.length);
  while (head < shorter && samePeer(before[head], after[head])) head++;
  let tail = 0;
  const [beforeEnd, afterEnd] = [before.length - 1, after.length - 1];
  while (tail < shorter - head && samePeer(before[beforeEnd - tail], after[afterEnd - tail])) tail++;
  const gone = new Map(before.slice(head, before.length - tail).map((peer) => [peer.name, peer]));
  const come = after.slice(head, after.length - tail).filter((peer) => {
    if (!samePeer(gone.get(peer.name), peer)) return true;
    gone.delete(peer.name);
    return false;
  });
  return { gone: [...gone.values()], come };
}

function samePeer(left: PeerView | undefined, right: PeerView | undefined): boolean {
  if (left === right) return true;
  return (
    left !== undefined &&
    right !== undefined &&
    left.name === right.name &&
    left.self === right.self &&
    left.underlayAddress === right.underlayAddress &&
    left.gone === right.gone &&
    sameTexts(left.overlayAddresses, right.overlayAddresses) &&
    sameTexts(left.blocks, right.blocks)
  );
}

function sameTexts(left: readonly string[], right: readonly string[]): boolean {
  if (left === right) return true;
  if (left.length !== right.length) return false;
  for (let at = 0; at < left.length; at++) if (left[at] !== right[at]) return false;
  return true;
}

/** True where a new object's key belongs to a peer (or to this node) that is not among the changed ones. */
function clashes(old: DesiredState, desired: DesiredState, expected: Expected): boolean {
  const oldMacs = new Set(old.fdb.map(({ mac }) => mac));
  if (desired.fdb.some(({ mac }) => expected.fdb.has(mac) && !oldMacs.has(mac))) return true;
  const oldAddresses = new Set(old.fdb.map(({ underlayAddress }) => underlayAddress));
  const { peers4, peers6 } = expected.elements;
  const taken = (address: string): boolean =>
    (peers4.has(address) || peers6.has(address)) && !oldAddresses.has(address);
  if (desired.fdb.some(({ underlayAddress }) => taken(underlayAddress))) return true;
  const oldRoutes = new Set(old.routes.map(mainRouteKey));
  return desired.routes.some(
    (route) => expected.routes.has(mainRouteKey(route)) && !oldRoutes.has(mainRouteKey(route)),
  );
}

/** The old desired state as the kernel has it; undefined where it is not expected to. */
function asActual(old: DesiredState, overlay: OverlayLink, expected: Expected): ActualState | undefined {
  const nexthops = old.nexthops.flatMap((gateway) => {
    const id = expected.nexthopIds.get(gateway);
    return id === undefined ? [] : [{ id, gateway }];
  });
  const routes = old.routes.flatMap((route) => expected.routes.get(mainRouteKey(route)) ?? []);
  if (nexthops.length < old.nexthops.length || routes.length < old.routes.length) return undefined;
  return {
    overlay: overlayAsWanted(overlay),
    bridge: old.bridge && { ...old.bridge, isBridge: true, settled: true },
    portEntries: [],
    podLinks: [],
    heldNeighbours: [],
    addresses: old.addresses,
    nexthops,
    foreignNexthopIds: expected.takenNexthopIds,
    routes,
    neighbours: old.neighbours.map((neighbour) => ({ ...neighbour, permanent: true })),
    fdb: old.fdb,
    firewall: { fingerprint: old.firewall.ruleset.fingerprint, elements: old.firewall.elements },
  };
}

function overlayAsWanted(link: OverlayLink): ActualOverlay {
  return {
    ...link,
    kind: 'vxlan',
    learning: false,
    external: false,
    up: true,
    quietIpv6: true,
    settled: true,
    plain: true,
  };
}
