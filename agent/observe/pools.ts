// The pools as the status shows them. Counts are of the family of which a pool has less: that one runs out first, and a pod of a
// pool of both needs one of each.
import type { PeerView, PoolView } from '#agent/runtime/ipam.ts';
import { families, type Family } from '#ipam-peer/address.ts';
import { type Cidr, countAddresses, parseCidr, subtract } from '#ipam-peer/cidr.ts';

export interface PeerStatus extends PeerView {
  /** Addresses in its blocks. */
  readonly addresses: number;
  /** Part of the pool, 0 to 100. */
  readonly sharePercent: number;
}

export interface PoolStatus extends Omit<PoolView, 'peers'> {
  /** Addresses that the nodes share: the ranges less what is reserved. */
  readonly addresses: number;
  readonly peers: readonly PeerStatus[];
}

function parsed(texts: readonly string[], family: Family): readonly Cidr[] {
  return texts.flatMap((text) => parseCidr(text) ?? []).filter((cidr) => cidr.family === family);
}

/** Says of a peer how much of these ranges it holds. */
export function sharesOf(ranges: readonly string[], reserved: readonly string[]): (peer: PeerView) => PeerStatus {
  const { family, addresses: total } = scarcer(ranges, reserved);
  return (peer) => {
    const addresses = countAddresses(parsed(peer.blocks, family));
    return { ...peer, addresses, sharePercent: total === 0 ? 0 : Math.round((addresses / total) * 1e4) / 100 };
  };
}

function scarcer(
  ranges: readonly string[],
  reserved: readonly string[],
): { readonly family: Family; readonly addresses: number } {
  const totals = families.map((family) => ({
    family,
    addresses: countAddresses(subtract(parsed(ranges, family), parsed(reserved, family))),
  }));
  return (
    totals.filter(({ addresses }) => addresses > 0).toSorted((a, b) => a.addresses - b.addresses)[0] ?? {
      family: 4,
      addresses: 0,
    }
  );
}

export function poolStatus(pool: PoolView): PoolStatus {
  const { addresses } = scarcer(pool.ranges, pool.reserved);
  return { ...pool, addresses, peers: pool.peers.map(sharesOf(pool.ranges, pool.reserved)) };
}
