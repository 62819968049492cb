// CIDRs for planning: blocks are kept as their canonical text (the map key used everywhere) and turned into integers
// (ipam-peer/cidr.ts) only where ranges are cut. Pure.
import { isIPv4 } from 'node:net';

import { addressBits, type Family, familyOf, formatAddress, parseAddress } from '#ipam-peer/address.ts';
import { type Cidr, compareCidr, contains, formatCidr, lastAddress, subtract } from '#ipam-peer/cidr.ts';

export type { Family };
export { familyOf };

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
  return `${address}/${addressBits(familyOf(address))}`;
}

/** Address part of a CIDR; a plain address is returned as it is. */
export function addressOf(cidr: string): string {
  const slash = cidr.indexOf('/');
  return slash < 0 ? cidr : cidr.slice(0, slash);
}

/** Prefix length of a CIDR; a plain address counts as a host route. */
export function prefixLengthOf(cidr: string): number {
  const slash = cidr.indexOf('/');
  return slash < 0 ? addressBits(familyOf(cidr)) : Number(cidr.slice(slash + 1));
}

/**
 * The parts of `ranges` that no range of `holes` covers, as canonical CIDRs, ordered by family and address.
 * Overlapping input ranges give each address once.
 */
export function subtractCidrs(ranges: readonly string[], holes: readonly string[]): readonly string[] {
  const outermost: Cidr[] = [];
  for (const range of ranges.map(parseBlock).toSorted(compareCidr)) {
    if (!outermost.some((outer) => contains(outer, range))) outermost.push(range);
  }
  return subtract(outermost, holes.map(parseBlock)).map(formatCidr);
}

/** True when `address` (plain) or the whole CIDR lies inside `range`. */
export function cidrContains(range: string, inner: string): boolean {
  return contains(parseBlock(range), parseBlock(inner));
}

/** The canonical text of a CIDR or plain address: host bits cleared, IPv6 in RFC 5952 form, prefix length always given. */
export function canonicalCidr(text: string): string {
  return isCanonicalIpv4(text) ? text : formatCidr(parseBlock(text));
}

/** A plain address as the kernel prints it: IPv6 in RFC 5952 form. Throws RangeError when it is none, a CIDR included. */
function canonicalAddress(text: string): string {
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

/** False for addresses that are no single other machine's: unspecified, loopback, multicast, broadcast, IPv6 link-local. */
export function isUnicast(address: string): boolean {
  if (familyOf(address) === 6) return address !== '::' && address !== '::1' && !/^f(?:f|e[89ab])/i.test(address);
  const first = Number.parseInt(address, 10);
  return first !== 0 && first !== 127 && !(first >= 224 && first < 240) && address !== '255.255.255.255';
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
  const block = parseBlock(cidr);
  return { low: formatAddress(block.family, block.base), high: formatAddress(block.family, lastAddress(block)) };
}

/** The CIDR from `low` to `high`; other bounds than a CIDR's come out as `low-high`. */
export function cidrOfBounds(low: string, high: string): string {
  const size = (parseAddress(high)?.value ?? 0n) - (parseAddress(low)?.value ?? 0n) + 1n;
  const hostBits = size > 0n ? size.toString(2).length - 1 : 0;
  const cidr = `${low}/${addressBits(familyOf(low)) - hostBits}`;
  return size === 1n << BigInt(hostBits) && canonicalCidr(cidr) === cidr ? cidr : `${low}-${high}`;
}

function parseBlock(text: string): Cidr {
  const address = parseAddress(addressOf(text));
  const prefix = prefixLengthOf(text);
  // No IPv4 in IPv6: the kernel writes that otherwise.
  const isPlain = /^(?:[\d.]+|[\da-f:]+)(?:\/\d{1,3})?$/i.test(text);
  if (address === undefined || !isPlain || prefix > addressBits(address.family)) {
    throw new RangeError(`not a CIDR: ${text}`);
  }
  const hostBits = BigInt(addressBits(address.family) - prefix);
  return { family: address.family, base: (address.value >> hostBits) << hostBits, prefix };
}
