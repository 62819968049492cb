// CIDR-aligned blocks and sets of them. Two aligned blocks are nested or apart, never partly across each other: that is what
// keeps every function here short. A set is an array sorted by base, without overlap; `coalesce` makes it minimal.
import { type Address, addressBits, type Family, formatAddress, parseAddress } from './address.ts';

export interface Cidr {
  readonly family: Family;
  /** First address; every bit below the prefix is zero. */
  readonly base: bigint;
  readonly prefix: number;
}

/** Parses `address/prefix`; undefined when malformed or when bits below the prefix are set. */
export function parseCidr(text: string): Cidr | undefined {
  const match = /^([^/]+)\/(0|[1-9]\d{0,2})$/.exec(text);
  const address = parseAddress(match?.[1] ?? '');
  const prefix = Number(match?.[2] ?? -1);
  if (address === undefined || prefix < 0 || prefix > addressBits(address.family)) return undefined;
  const block: Cidr = { family: address.family, base: address.value, prefix };
  return address.value % sizeOf(block) === 0n ? block : undefined;
}

export function formatCidr(block: Cidr): string {
  return `${formatAddress(block.family, block.base)}/${block.prefix}`;
}

export function formatCidrs(blocks: readonly Cidr[]): string {
  return blocks.map(formatCidr).join(', ');
}

/** Number of addresses. */
export function sizeOf(block: Cidr): bigint {
  return 1n << BigInt(addressBits(block.family) - block.prefix);
}

/** Number of addresses in a set, as a number (exact up to 2^53, good enough for choosing beyond). */
export function countAddresses(blocks: readonly Cidr[]): number {
  return Number(blocks.reduce((sum, block) => sum + sizeOf(block), 0n));
}

export function lastAddress(block: Cidr): bigint {
  return block.base + sizeOf(block) - 1n;
}

export function sameCidr(a: Cidr, b: Cidr): boolean {
  return a.prefix === b.prefix && a.base === b.base && a.family === b.family;
}

export function sameCidrs(a: readonly Cidr[], b: readonly Cidr[]): boolean {
  return a.length === b.length && a.every((block, index) => sameCidr(block, b[index] ?? block));
}

/** True when `inner` lies in `outer` or equals it. */
export function contains(outer: Cidr, inner: Cidr): boolean {
  if (outer.family !== inner.family || outer.prefix > inner.prefix) return false;
  const shift = BigInt(addressBits(outer.family) - outer.prefix);
  return outer.base >> shift === inner.base >> shift;
}

export function containsAddress(block: Cidr, address: Address): boolean {
  return block.family === address.family && address.value >= block.base && address.value <= lastAddress(block);
}

export function overlaps(a: Cidr, b: Cidr): boolean {
  return contains(a, b) || contains(b, a);
}

/** Lower and upper half. Not defined for a single address. */
export function halvesOf(block: Cidr): readonly [Cidr, Cidr] {
  const prefix = block.prefix + 1;
  const lower: Cidr = { family: block.family, base: block.base, prefix };
  return [lower, { family: block.family, base: block.base + sizeOf(lower), prefix }];
}

/** Order by family, then base, then larger block first. */
export function compareCidr(a: Cidr, b: Cidr): number {
  if (a.family !== b.family) return a.family - b.family;
  if (a.base !== b.base) return a.base < b.base ? -1 : 1;
  return a.prefix - b.prefix;
}

/** `block` without `holes`, as the fewest aligned blocks. */
function without(block: Cidr, holes: readonly Cidr[]): readonly Cidr[] {
  const inside = holes.filter((hole) => overlaps(block, hole));
  if (inside.length === 0) return [block];
  if (inside.some((hole) => contains(hole, block))) return [];
  const [lower, upper] = halvesOf(block);
  return [...without(lower, inside), ...without(upper, inside)];
}

/** The set `blocks` less the set `holes`, sorted. */
export function subtract(blocks: readonly Cidr[], holes: readonly Cidr[]): readonly Cidr[] {
  return blocks.flatMap((block) => without(block, holes)).toSorted(compareCidr);
}

/** What two sets have in common, sorted. */
export function intersect(a: readonly Cidr[], b: readonly Cidr[]): readonly Cidr[] {
  const common: Cidr[] = [];
  for (const one of a) {
    for (const other of b) {
      if (contains(one, other)) common.push(other);
      else if (contains(other, one)) common.push(one);
    }
  }
  return common.toSorted(compareCidr);
}

/** The same addresses in the fewest blocks, sorted: buddies are joined, nested blocks absorbed. */
export function coalesce(blocks: readonly Cidr[]): readonly Cidr[] {
  const stack: Cidr[] = [];
  for (const block of blocks.toSorted(compareCidr)) {
    const top = stack.at(-1);
    if (top !== undefined && contains(top, block)) continue;
    stack.push(block);
    joinBuddies(stack);
  }
  return stack;
}

function joinBuddies(stack: Cidr[]): void {
  for (;;) {
    const upper = stack.at(-1);
    const lower = stack.at(-2);
    if (upper === undefined || lower === undefined) return;
    if (upper.family !== lower.family || upper.prefix !== lower.prefix || upper.prefix === 0) return;
    const parent: Cidr = { family: lower.family, base: lower.base, prefix: lower.prefix - 1 };
    if (lower.base % sizeOf(parent) !== 0n || !contains(parent, upper)) return;
    stack.splice(-2, 2, parent);
  }
}

/** True when no two blocks of the list overlap. */
export function disjoint(blocks: readonly Cidr[]): boolean {
  const sorted = blocks.toSorted(compareCidr);
  return sorted.every((block, index) => {
    const previous = sorted[index - 1];
    return previous === undefined || !overlaps(previous, block);
  });
}
