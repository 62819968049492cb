// One view of all pools: the datapath wants each node once, with whatever blocks it owns, and every range that is somebody's. Counts
// and readiness stay the default pool's.
import type { PeerNode } from '#agent/discovery/discovery.ts';
import { nodeRecordOf } from '#agent/registry/record-name.ts';
import { parseAddress } from '#ipam-peer/address.ts';
import { compareCidr, formatCidr, parseCidr, subtract } from '#ipam-peer/cidr.ts';
import { defaultUniverse } from '#ipam-peer/records.ts';
import type { IpamView, PeerView, PoolView } from './ipam.ts';
import { cidrs } from './pool-overlaps.ts';

/** A node has a record in each pool that it takes part in, and is told once. */
export function mergeNodes(nodes: readonly PeerNode[]): readonly PeerNode[] {
  const merged = new Map<string, PeerNode>();
  for (const node of nodes) if (merged.get(node.uid)?.takenOver !== true) merged.set(node.uid, node);
  return [...merged.values()];
}

export interface FurtherPool {
  readonly name: string;
  readonly namespaces: readonly string[];
  readonly view: IpamView;
}

export function mergeViews(main: IpamView, further: readonly FurtherPool[]): IpamView {
  const pools = [
    poolView(defaultUniverse, [], main),
    ...further.map((one) => poolView(one.name, one.namespaces, one.view)),
  ];
  const founded = [main, ...further.map((pool) => pool.view)].filter((view) => view.unfounded !== true);
  const space = {
    ranges: founded.flatMap((view) => view.ranges),
    reserved: reservedByAll(founded),
  };
  if (further.length === 0) return { ...main, ...space, pools };
  const peers = new Map(main.peers.map((peer) => [peer.name, peer]));
  for (const pool of further) {
    for (const peer of pool.view.peers) {
      const name = nodeRecordOf(peer.name);
      const known = peers.get(name);
      peers.set(name, known === undefined ? { ...peer, name } : joined(known, peer));
    }
  }
  const views = further.map((pool) => pool.view);
  return {
    ...main,
    ...space,
    overlayAddresses: views.reduce((all, view) => withFamilies(all, view.overlayAddresses), main.overlayAddresses),
    peers: [...peers.values()].toSorted((a, b) => (a.name < b.name ? -1 : 1)),
    pools,
  };
}

/** What one pool has reserved because it is another's is that one's space. */
function reservedByAll(views: readonly IpamView[]): readonly string[] {
  if (views.length < 2) return views.flatMap(({ reserved }) => reserved);
  return views.flatMap(({ reserved }, at) => {
    const others = views.flatMap((view, index) =>
      index === at ? [] : subtract(cidrs(view.ranges), cidrs(view.reserved)),
    );
    return subtract(cidrs(reserved), others).map(formatCidr);
  });
}

function joined(known: PeerView, more: PeerView): PeerView {
  return {
    ...known,
    underlayAddress: known.underlayAddress ?? more.underlayAddress,
    overlayAddresses: withFamilies(known.overlayAddresses, more.overlayAddresses),
    blocks: sorted([...known.blocks, ...more.blocks]),
    ...((known.outside ?? more.outside) && { outside: [...(known.outside ?? []), ...(more.outside ?? [])] }),
  };
}

/** `known`, and of `more` what is of another family; IPv4 first. */
function withFamilies(known: readonly string[], more: readonly string[]): readonly string[] {
  const has = new Set(known.map((text) => parseAddress(text)?.family));
  const all = [...known, ...more.filter((text) => !has.has(parseAddress(text)?.family))];
  return all.toSorted((a, b) => (parseAddress(a)?.family ?? 0) - (parseAddress(b)?.family ?? 0));
}

function sorted(texts: readonly string[]): readonly string[] {
  const blocks = texts.map((text) => ({ text, cidr: parseCidr(text) }));
  return blocks.toSorted((a, b) => (a.cidr && b.cidr ? compareCidr(a.cidr, b.cidr) : 0)).map(({ text }) => text);
}

function poolView(name: string, namespaces: readonly string[], view: IpamView): PoolView {
  const { ranges, reserved, peers, freeAddresses, leasedAddresses, restingAddresses, ready, waitingFor } = view;
  const counts = { freeAddresses, leasedAddresses, restingAddresses, availableAddresses: view.availableAddresses ?? 0 };
  const joinedHere = name === defaultUniverse || peers.some((peer) => peer.self);
  const { ended, conflicts, unowned } = view;
  const troubles = { ...(ended && { ended }), ...(conflicts && { conflicts }), ...(unowned && { unowned }) };
  return {
    name,
    namespaces,
    ranges,
    reserved,
    peers,
    ...counts,
    ready,
    ...troubles,
    waitingFor: joinedHere ? waitingFor : '',
  };
}
