// Addresses as bigints, one form for both families: parsing is strict (no leading zeros, no zone, no port), formatting is
// canonical (IPv6 as RFC 5952), so that text compares like the value. No library may be imported, so this is hand-written.

import { remembered } from './remembered.ts';

export type Family = 4 | 6;

/** One value for each family. */
export type PerFamily<T> = Readonly<Record<Family, T>>;

/** IPv4 first, the order in which a pod's and a node's addresses are told. */
export const families: readonly Family[] = [4, 6];

export function perFamily<T>(make: (family: Family) => T): PerFamily<T> {
  return { 4: make(4), 6: make(6) };
}

export interface Address {
  readonly family: Family;
  /** The address as an unsigned integer of 32 or 128 bits, most significant bit first. */
  readonly value: bigint;
}

/** Width of an address in bits. */
export function addressBits(family: Family): number {
  return family === 4 ? 32 : 128;
}

/** Of the blocks and addresses that are read and written over and over. */
const keptAnswers = 8192;

/** Parses a plain address; undefined when it is not exactly one. */
export const parseAddress: (text: string) => Address | undefined = remembered(keptAnswers, (text: string) =>
  text.includes(':') ? parseIpv6(text) : parseIpv4(text),
);

/** Nothing is kept by a bigint: V8 hashes its low 64 bits alone, and those are the same in all blocks of IPv6. */
export function formatAddress(family: Family, value: bigint): string {
  return family === 4 ? formatIpv4(Number(value)) : formatIpv6(value);
}

const decimalByte = /^(?:0|[1-9]\d{0,2})$/;

function parseIpv4(text: string): Address | undefined {
  const parts = text.split('.');
  if (parts.length !== 4) return undefined;
  let value = 0;
  for (const part of parts) {
    const byte = decimalByte.test(part) ? Number(part) : 256;
    if (byte > 255) return undefined;
    value = value * 256 + byte;
  }
  return { family: 4, value: BigInt(value) };
}

function formatIpv4(value: number): string {
  return `${value >>> 24}.${(value >>> 16) & 255}.${(value >>> 8) & 255}.${value & 255}`;
}

const hexGroup = /^[0-9a-f]{1,4}$/i;

/** The family of an address, or of a block, that is known to be one. */
export function familyOf(text: string): Family {
  return text.includes(':') ? 6 : 4;
}

function parseGroups(text: string): readonly bigint[] | undefined {
  if (text === '') return [];
  const parts = text.split(':');
  const groups: bigint[] = [];
  for (const [index, part] of parts.entries()) {
    if (part.includes('.')) {
      const tail = index === parts.length - 1 ? parseIpv4(part) : undefined;
      if (tail === undefined) return undefined;
      groups.push(tail.value >> 16n, tail.value & 0xffffn);
      continue;
    }
    if (!hexGroup.test(part)) return undefined;
    groups.push(BigInt(`0x${part}`));
  }
  return groups;
}

function parseIpv6(text: string): Address | undefined {
  const halves = text.split('::');
  if (halves.length > 2) return undefined;
  const head = parseGroups(halves[0] ?? '');
  const tail = halves.length === 2 ? parseGroups(halves[1] ?? '') : [];
  if (head === undefined || tail === undefined) return undefined;
  const missing = 8 - head.length - tail.length;
  if (halves.length === 2 ? missing < 1 : missing !== 0) return undefined;
  const groups = [...head, ...Array.from({ length: missing }, () => 0n), ...tail];
  return { family: 6, value: groups.reduce((value, group) => (value << 16n) | group, 0n) };
}

function formatIpv6(value: bigint): string {
  const hex = value.toString(16).padStart(32, '0');
  const groups: string[] = [];
  for (let at = 0; at < 32; at += 4) groups.push(hex.slice(at, at + 4).replace(/^0{1,3}/, ''));
  let [start, length] = [0, 1];
  for (let from = 0; from < 8; from++) {
    let to = from;
    while (groups[to] === '0') to++;
    if (to - from > length) [start, length] = [from, to - from];
  }
  if (length === 1) return groups.join(':');
  return `${groups.slice(0, start).join(':')}::${groups.slice(start + length).join(':')}`;
}
