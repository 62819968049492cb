// Two pools must not share an address. What one agent has heard is not enough to keep them apart: of two Universes that overlap each
// agent may have heard another one first, and of a deleted one a new node hears nothing. So whoever is about to found a pool asks the
// registry: every other Universe counts, founded or not, and what any node holds in another pool. Of two that overlap, the later one
// is there when its founder asks for the other, whatever the order; so at most one of them is ever founded.
import type { Registry } from '#agent/registry/registry.ts';
import { type Cidr, formatCidr, overlaps, parseCidr, subtract } from '#ipam-peer/cidr.ts';
import type { InUse } from '#ipam-peer/events.ts';
import { defaultUniverse, parsePeer, parseUniverse } from '#ipam-peer/records.ts';

/**
 * What other pools than `name` have by the registry's word. The default pool leaves it out of its ranges (they are reserved), a further
 * one must be apart from it. Throws WeftError('registry').
 */
export async function spaceOfOtherPools(
  registry: Pick<Registry, 'list'>,
  name: string,
  signal: AbortSignal,
): Promise<readonly InUse[]> {
  const [universes, peers] = await Promise.all([registry.list('universe', signal), registry.list('peer', signal)]);
  const shared = universes.flatMap((record): readonly InUse[] => {
    const parsed = parseUniverse(record.value);
    if (record.name === name || !parsed.ok) return [];
    const { ranges, reserved } = parsed.record;
    return inUse(name, subtract(ranges, reserved), `the pool ${record.name}'s`);
  });
  const held = peers.flatMap(({ value }): readonly InUse[] => {
    const parsed = parsePeer(value);
    if (!parsed.ok || parsed.record.universe === name) return [];
    const { universe, node, blocks, granting } = parsed.record;
    const cidrs = [...blocks, ...granting].map(({ cidr }) => cidr);
    return inUse(name, cidrs, `${node.name}'s in the pool ${universe}`);
  });
  return [...shared, ...held];
}

export function inUse(founding: string, cidrs: readonly Cidr[], by: string): readonly InUse[] {
  return cidrs.map((cidr) => ({ cidr, by, ...(founding !== defaultUniverse && { apart: true }) }));
}

export function isWithin(address: string | undefined, ranges: readonly string[]): boolean {
  const block = address === undefined ? undefined : parseCidr(`${address}/${address.includes(':') ? 128 : 32}`);
  return block !== undefined && ranges.some((range) => overlapsText(range, block));
}

export function overlapsText(text: string, cidr: Cidr): boolean {
  const own = parseCidr(text);
  return own !== undefined && overlaps(own, cidr);
}

export function cidrs(texts: readonly string[]): readonly Cidr[] {
  return texts.flatMap((text) => parseCidr(text) ?? []);
}

export function problemOf({ pool, cidr }: { readonly pool: string; readonly cidr: Cidr | undefined }): string {
  return `${cidr === undefined ? 'its space' : formatCidr(cidr)} is the pool ${pool}'s, and its own ranges overlap it`;
}
