// CIDR arithmetic for planning: blocks are kept as their canonical text (the map key used everywhere) and turned into
// integers only where ranges are cut. Pure.
import { isIPv4 } from 'node:net';

import { type Family, familyOf } from '#ipam-peer/address.ts';

export type { Family };
export { familyOf };

interface Block {
  readonly family: Family;
  readonly first: bigint;
  readonly prefixLength: number;
}

const widths = { 4: 32, 6: 128 } as const;

/** Families that occur among addresses, IPv4 first. */
export function familiesOf(addresses: readonly string[]): readonly Family[] {
  return ([4, 6] as const).filter((family) => addresses.some((address) => familyOf(address) === family));
}

/** The first address of each family. */
export function byFamily(addresses: readonly string[]): ReadonlyMap<Family, string> {
  return new Map(addresses.toReversed().map((address) => [familyOf(address), address]));
}

/** `10.32.0.7` -> `10.32.0.7/32`; `fd00::7` -> `fd00::7/128`. */
export function hostCidr(address: string): string {
  return `${address}/${widths[familyOf(address)]}`;
}

/** Address part of a CIDR; a plain address is returned as it is. */
export function addressOf(cidr: string): string {
  const slash = cidr.indexOf('/');
  return slash < 0 ? cidr : cidr.slice(0, slash);
}

/** Prefix length of a CIDR; a plain address counts as a host route. */
export function prefixLengthOf(cidr: string): number {
  const slash = cidr.indexOf('/');
  return slash < 0 ? widths[familyOf(cidr)] : Number(cidr.slice(slash + 1));
}

/**
 * The parts of `ranges` that no range of `holes` covers, as canonical CIDRs, ordered by family and address.
 * Overlapping input ranges give each address once.
 */
export function subtractCidrs(ranges: readonly string[], holes: readonly string[]): readonly string[] {
  const cut = holes.map(parseBlock);
  let pieces: Block[] = [];
  for (const range of ranges.map(parseBlock).toSorted(compareBlocks)) {
    if (!pieces.some((piece) => covers(piece, range))) pieces.push(range);
  }
  for (const hole of cut) pieces = pieces.flatMap((piece) => subtractOne(piece, hole));
  return pieces.toSorted(compareBlocks).map(formatBlock);
}

/** True when `address` (plain) or the whole CIDR lies inside `range`. */
export function cidrContains(range: string, inner: string): boolean {
  return covers(parseBlock(range), parseBlock(inner));
}

/** The canonical text of a CIDR or plain address: host bits cleared, IPv6 in RFC 5952 form, prefix length always given. */
export function canonicalCidr(text: string): string {
  return isCanonicalIpv4(text) ? text : formatBlock(parseBlock(text));
}

/** A plain address as the kernel prints it: IPv6 in RFC 5952 form. Throws RangeError when it is none, a CIDR included. */
export function canonicalAddress(text: string): string {
  if (isIPv4(text)) return text;
  if (familyOf(text) === 4 || text.includes('/')) throw new RangeError(`not an address: ${text}`);
  return addressOf(canonicalCidr(text));
}

/** The same without the throw. */
export function readAddress(text: string): string | undefined {
  try {
    return canonicalAddress(text);
  } catch {
    return undefined;
  }
}

/** The usual case in one pass, without a big integer or another string: an IPv4 block that is canonical already. */
function isCanonicalIpv4(text: string): boolean {
  let bits = 0;
  let part = 0;
  let digits = 0;
  let value = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code >= 48 && code <= 57) {
      if (digits > 0 && value === 0) return false;
      value = value * 10 + code - 48;
      digits++;
    } else {
      if (code !== (part === 3 ? 47 : 46) || digits === 0 || value > 255) return false;
      bits = (bits << 8) | value;
      part++;
      digits = 0;
      value = 0;
    }
  }
  if (part !== 4 || digits === 0 || value > 32) return false;
  return value === 32 || (bits & (2 ** (32 - value) - 1)) === 0;
}

/** First and last address of a CIDR. Throws RangeError when it is none. */
export function cidrBounds(cidr: string): { readonly low: string; readonly high: string } {
  const { family, first, prefixLength } = parseBlock(cidr);
  const last = first + (1n << BigInt(widths[family] - prefixLength)) - 1n;
  const format = family === 4 ? formatIpv4 : formatIpv6;
  return { low: format(first), high: format(last) };
}

/** The CIDR from `low` to `high`; other bounds than a CIDR's come out as `low-high`. */
export function cidrOfBounds(low: string, high: string): string {
  const family = familyOf(low);
  const parse = family === 4 ? parseIpv4 : parseIpv6;
  const size = (parse(high) ?? 0n) - (parse(low) ?? 0n) + 1n;
  const hostBits = size > 0n ? size.toString(2).length - 1 : 0;
  const cidr = `${low}/${widths[family] - hostBits}`;
  return size === 1n << BigInt(hostBits) && canonicalCidr(cidr) === cidr ? cidr : `${low}-${high}`;
}

function subtractOne(piece: Block, hole: Block): Block[] {
  if (covers(hole, piece)) return [];
  if (!covers(piece, hole)) return [piece];
  const prefixLength = piece.prefixLength + 1;
  const half = 1n << BigInt(widths[piece.family] - prefixLength);
  const low: Block = { family: piece.family, first: piece.first, prefixLength };
  const high: Block = { family: piece.family, first: piece.first + half, prefixLength };
  return [...subtractOne(low, hole), ...subtractOne(high, hole)];
}

function covers(outer: Block, inner: Block): boolean {
  if (outer.family !== inner.family || outer.prefixLength > inner.prefixLength) return false;
  const shift = BigInt(widths[outer.family] - outer.prefixLength);
  return outer.first >> shift === inner.first >> shift;
}

/** Larger ranges before the smaller ones that begin at the same address. */
function compareBlocks(left: Block, right: Block): number {
  if (left.family !== right.family) return left.family - right.family;
  if (left.first !== right.first) return left.first < right.first ? -1 : 1;
  return left.prefixLength - right.prefixLength;
}

function parseBlock(text: string): Block {
  const family = familyOf(text);
  const address = addressOf(text);
  const prefixLength = prefixLengthOf(text);
  const bits = family === 4 ? parseIpv4(address) : parseIpv6(address);
  if (bits === undefined || !/^[^/]+(\/\d{1,3})?$/.test(text) || prefixLength > widths[family]) {
    throw new RangeError(`not a CIDR: ${text}`);
  }
  const shift = BigInt(widths[family] - prefixLength);
  return { family, first: (bits >> shift) << shift, prefixLength };
}

function parseIpv4(text: string): bigint | undefined {
  const parts = text.split('.');
  if (parts.length !== 4) return undefined;
  let bits = 0n;
  for (const part of parts) {
    if (!/^(0|[1-9]\d{0,2})$/.test(part) || Number(part) > 255) return undefined;
    bits = (bits << 8n) | BigInt(part);
  }
  return bits;
}

function parseIpv6(text: string): bigint | undefined {
  const halves = text.split('::');
  if (halves.length > 2) return undefined;
  const head = groupsOf(halves[0] ?? '');
  const tail = groupsOf(halves[1] ?? '');
  const missing = 8 - head.length - tail.length;
  if (halves.length === 2 ? missing < 1 : missing !== 0) return undefined;
  let bits = 0n;
  for (const group of [...head, ...Array<string>(missing).fill('0'), ...tail]) {
    if (!/^[0-9a-f]{1,4}$/i.test(group)) return undefined;
    bits = (bits << 16n) | BigInt(`0x${group}`);
  }
  return bits;
}

function groupsOf(text: string): readonly string[] {
  return text === '' ? [] : text.split(':');
}

function formatBlock(block: Block): string {
  return `${block.family === 4 ? formatIpv4(block.first) : formatIpv6(block.first)}/${block.prefixLength}`;
}

function formatIpv4(bits: bigint): string {
  return [24n, 16n, 8n, 0n].map((shift) => String((bits >> shift) & 0xffn)).join('.');
}

function formatIpv6(bits: bigint): string {
  const groups = Array.from({ length: 8 }, (_, index) => ((bits >> BigInt(112 - 16 * index)) & 0xffffn).toString(16));
  let best = { start: -1, length: 1 };
  for (let start = 0; start < 8; start++) {
    let length = 0;
    while (groups[start + length] === '0') length++;
    if (length > best.length) best = { start, length };
  }
  if (best.start < 0) return groups.join(':');
  return `${groups.slice(0, best.start).join(':')}::${groups.slice(best.start + best.length).join(':')}`;
}
