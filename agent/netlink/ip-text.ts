// Textual IP and MAC addresses <-> bytes, without allocation beyond the result: thousands of them are parsed for each full
// reconciliation. IPv6 is written as RFC 5952 asks. Invalid text throws, because an address that reaches netlink was parsed at the edge.

import { WeftError } from '#agent/errors.ts';

export const addressFamily = { unspec: 0, inet: 2, bridge: 7, inet6: 10 } as const;

function invalid(what: string, text: string): WeftError {
  return new WeftError('internal', `not an ${what} address: "${text}"`);
}

/** AF_INET or AF_INET6 of an address in text form, by its look alone. */
export function familyOf(text: string): number {
  return text.includes(':') ? addressFamily.inet6 : addressFamily.inet;
}

/** Writes an address in network byte order at `offset` and returns its length in bytes, 4 or 16. Throws WeftError. */
export function writeIp(target: Uint8Array, offset: number, text: string): number {
  if (!text.includes(':')) {
    writeIpv4(target, offset, text, text);
    return 4;
  }
  writeIpv6(target, offset, text);
  return 16;
}

function writeIpv4(target: Uint8Array, offset: number, text: string, whole: string): void {
  let part = 0;
  let digits = 0;
  let value = 0;
  for (let i = 0; i <= text.length; i += 1) {
    const code = i < text.length ? text.charCodeAt(i) : 46;
    if (code === 46) {
      if (digits === 0 || value > 255 || part > 3) throw invalid('IPv4', whole);
      target[offset + part] = value;
      part += 1;
      digits = 0;
      value = 0;
    } else {
      if (code < 48 || code > 57 || (digits > 0 && value === 0)) throw invalid('IPv4', whole);
      value = value * 10 + code - 48;
      digits += 1;
    }
  }
  if (part !== 4) throw invalid('IPv4', whole);
}

function writeIpv6(target: Uint8Array, offset: number, text: string): void {
  const gap = text.indexOf('::');
  if (gap !== -1 && text.includes('::', gap + 1)) throw invalid('IPv6', text);
  const head = gap === -1 ? text : text.slice(0, gap);
  const tail = gap === -1 ? '' : text.slice(gap + 2);
  target.fill(0, offset, offset + 16);
  const headBytes = writeGroups(target, offset, head, text);
  if (gap === -1) {
    if (headBytes !== 16) throw invalid('IPv6', text);
    return;
  }
  const scratch = new Uint8Array(16);
  const tailBytes = writeGroups(scratch, 0, tail, text);
  if (headBytes + tailBytes > 14) throw invalid('IPv6', text);
  target.set(scratch.subarray(0, tailBytes), offset + 16 - tailBytes);
}

/** Groups of an IPv6 address without "::"; the last may be dotted IPv4. Returns the bytes written. */
function writeGroups(target: Uint8Array, offset: number, text: string, whole: string): number {
  if (text === '') return 0;
  const groups = text.split(':');
  let at = 0;
  for (const [index, group] of groups.entries()) {
    if (index === groups.length - 1 && group.includes('.')) {
      if (at > 12) throw invalid('IPv6', whole);
      writeIpv4(target, offset + at, group, whole);
      return at + 4;
    }
    if (at > 14 || !/^[0-9a-f]{1,4}$/iu.test(group)) throw invalid('IPv6', whole);
    const value = Number.parseInt(group, 16);
    target[offset + at] = value >> 8;
    target[offset + at + 1] = value & 0xff;
    at += 2;
  }
  return at;
}

/** An address of 4 or 16 bytes as canonical text; another length is undefined. */
export function readIp(bytes: Uint8Array, start: number, end: number): string | undefined {
  if (end - start === 4) return `${bytes[start]}.${bytes[start + 1]}.${bytes[start + 2]}.${bytes[start + 3]}`;
  if (end - start === 16) return readIpv6(bytes, start);
  return undefined;
}

function readIpv6(bytes: Uint8Array, start: number): string {
  const groups: number[] = [];
  for (let i = 0; i < 16; i += 2) groups.push(((bytes[start + i] ?? 0) << 8) | (bytes[start + i + 1] ?? 0));
  if (groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff) {
    return `::ffff:${readIp(bytes, start + 12, start + 16)}`;
  }
  const [from, length] = longestZeroRun(groups);
  const hex = (list: readonly number[]): string => list.map((group) => group.toString(16)).join(':');
  if (length < 2) return hex(groups);
  return `${hex(groups.slice(0, from))}::${hex(groups.slice(from + length))}`;
}

function longestZeroRun(groups: readonly number[]): readonly [from: number, length: number] {
  let best: readonly [number, number] = [0, 0];
  let from = 0;
  for (let i = 0; i <= groups.length; i += 1) {
    if (groups[i] === 0) continue;
    if (i - from > best[1]) best = [from, i - from];
    from = i + 1;
  }
  return best;
}

/** Writes a colon-separated hardware address and returns its length in bytes. Throws WeftError. */
export function writeLladdr(target: Uint8Array, offset: number, text: string): number {
  if (text === '') return 0; // tunnels without link-layer addresses
  if (!/^[0-9a-f]{2}(?::[0-9a-f]{2})*$/iu.test(text)) throw invalid('lladdr', text);
  const length = (text.length + 1) / 3;
  for (let i = 0; i < length; i += 1) target[offset + i] = Number.parseInt(text.slice(i * 3, i * 3 + 2), 16);
  return length;
}

export function readLladdr(bytes: Uint8Array, start: number, end: number): string {
  let text = '';
  for (let i = start; i < end; i += 1) {
    const byte = bytes[i] ?? 0;
    text += `${i === start ? '' : ':'}${byte < 16 ? '0' : ''}${byte.toString(16)}`;
  }
  return text;
}
