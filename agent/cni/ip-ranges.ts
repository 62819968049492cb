// The `ipRanges` capability for Weft's own addresses: one address out of each set of ranges, of what this node owns of them. Ranges are
// a wish like addresses by name (`ips`): nobody fetches space for them from another node. The candidates are tried one after the
// other, since only IPAM knows which of them rest.

import { WeftError } from '#agent/errors.ts';
import type { Ipam, IpamView, Lease, LeaseRequest } from '#agent/runtime/ipam.ts';
import { type Family, formatAddress, parseAddress } from '#ipam-peer/address.ts';
import { type Cidr, lastAddress, parseCidr } from '#ipam-peer/cidr.ts';
import { invalid } from './json.ts';
import type { IpRange } from './wish.ts';

const where = 'runtimeConfig.ipRanges';
/** How many addresses that IPAM refuses are tried. */
const attempts = 256;

/** Addresses from `first` to `last`, both included. */
interface Span {
  readonly family: Family;
  readonly first: bigint;
  readonly last: bigint;
}

/**
 * Leases as `request` asks, with the addresses out of `sets`. Throws WeftError: `invalidConfig` for ranges of no pool, and for two sets of
 * one family; `noAddress` where this node owns nothing of them, or nothing that is free; those of Ipam.lease.
 */
export async function leaseInRanges(
  ipam: Pick<Ipam, 'lease' | 'leases' | 'view'>,
  request: LeaseRequest,
  sets: readonly (readonly IpRange[])[],
  signal: AbortSignal,
): Promise<Lease> {
  const view = ipam.view();
  const taken = new Set([...view.overlayAddresses, ...ipam.leases().flatMap(({ addresses }) => addresses)]);
  const candidates = spansBySet(sets, view, request.pool).map((spans) => addressesIn(spans, taken));
  let current = candidates.map((addresses) => addresses.next().value);
  for (let attempt = 0; attempt < attempts; attempt++) {
    const addresses = current.filter((address) => address !== undefined);
    if (addresses.length < sets.length) break;
    try {
      return await ipam.lease({ ...request, addresses }, signal);
    } catch (error) {
      // A range may hold what is never given out, such as the pool's first address.
      if (!(error instanceof WeftError) || error.address === undefined || !addresses.includes(error.address))
        throw error;
      current = current.map((address, at) => (address === error.address ? candidates[at]?.next().value : address));
    }
  }
  throw new WeftError('noAddress', `no address of ${textOf(sets.flat())} is free on this node`, { details: where });
}

function spansBySet(
  sets: readonly (readonly IpRange[])[],
  view: IpamView,
  pool: string | undefined,
): readonly (readonly Span[])[] {
  const pools = (view.pools ?? []).filter(({ name }) => pool === undefined || name === pool);
  const ranges = blocksOf(pools.length > 0 ? pools.flatMap((one) => one.ranges) : view.ranges);
  const peers = pools.length > 0 ? pools.flatMap((one) => one.peers) : view.peers;
  const own = blocksOf(peers.filter(({ self }) => self).flatMap(({ blocks }) => blocks));
  const families = new Set<Family>();
  return sets.map((set) => {
    const spans = set.map(spanOf);
    const family = spans[0]?.family;
    if (family === undefined || spans.some((span) => span.family !== family) || families.has(family)) {
      throw invalid(where, `${where} must have one set for each family, not ${textOf(set)} beside the others`);
    }
    families.add(family);
    if (!spans.some((span) => ranges.some((range) => common(span, range) !== undefined))) {
      throw invalid(where, `${textOf(set)} is in no pool; the pools have ${[...view.ranges].join(', ') || 'no range'}`);
    }
    const owned = spans.flatMap((span) => own.flatMap((block) => common(span, block) ?? []));
    if (owned.length > 0) return owned;
    throw new WeftError('noAddress', `this node owns nothing of ${textOf(set)}`, { details: where });
  });
}

function blocksOf(texts: readonly string[]): readonly Cidr[] {
  return texts.flatMap((text) => parseCidr(text) ?? []);
}

function spanOf({ subnet, rangeStart, rangeEnd }: IpRange): Span {
  const block = parseCidr(subnet);
  if (block === undefined) throw invalid(`${where}.subnet`, `${subnet} is no CIDR`);
  const [first, last] = [parseAddress(rangeStart ?? ''), parseAddress(rangeEnd ?? '')];
  return { family: block.family, first: first?.value ?? block.base, last: last?.value ?? lastAddress(block) };
}

function common({ family, first, last }: Span, block: Cidr): Span | undefined {
  if (family !== block.family) return undefined;
  const [from, to] = [first > block.base ? first : block.base, last < lastAddress(block) ? last : lastAddress(block)];
  return from <= to ? { family, first: from, last: to } : undefined;
}

function* addressesIn(spans: readonly Span[], taken: ReadonlySet<string>): Generator<string, undefined> {
  for (const { family, first, last } of spans) {
    for (let value = first; value <= last; value++) {
      const text = formatAddress(family, value);
      if (!taken.has(text)) yield text;
    }
  }
  return undefined;
}

function textOf(ranges: readonly IpRange[]): string {
  return ranges
    .map(({ subnet, rangeStart, rangeEnd }) =>
      rangeStart === undefined && rangeEnd === undefined ? subnet : `${rangeStart ?? subnet}-${rangeEnd ?? subnet}`,
    )
    .join(', ');
}
