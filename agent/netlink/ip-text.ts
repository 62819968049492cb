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

/** Value of a hexadecimal digit, -1 for anything else. */
function hexDigit(code: number): number {
  if (code >= 48 && code <= 57) return code - 48;
  const letter = code | 32;
  return letter >= 97 && letter <= 102 ? letter - 87 : -1;
}

/** One pass: groups go in as they come, and what follows "::" is moved to the end. */
function writeIpv6(target: Uint8Array, offset: number, text: string): void {
  let written = 0;
  let gap = -1;
  let at = 0;
  if (text.startsWith('::')) {
    gap = 0;
    at = 2;
  }
  while (at < text.length) {
    let end = at;
    let value = 0;
    for (; end < text.length && end - at < 5; end += 1) {
      const digit = hexDigit(text.charCodeAt(end));
      if (digit < 0) break;
      value = value * 16 + digit;
    }
    if (text.charCodeAt(end) === 46 && written <= 12) {
      writeIpv4(target, offset + written, text.slice(at), text);
      written += 4;
      break;
    }
    if (end === at || end - at > 4 || written > 14) throw invalid('IPv6', text);
    target[offset + written] = value >> 8;
    target[offset + written + 1] = value & 0xff;
    written += 2;
    if (end === text.length) break;
    if (text.charCodeAt(end) !== 58 || end + 1 === text.length) throw invalid('IPv6', text);
    at = end + 1;
    if (text.charCodeAt(at) !== 58) continue;
    if (gap !== -1) throw invalid('IPv6', text);
    gap = written;
    at += 1;
  }
  if (gap === -1 ? written !== 16 : written > 14) throw invalid('IPv6', text);
  if (gap !== -1) openGap(target, offset, gap, written);
}

function openGap(target: Uint8Array, offset: number, gap: number, written: number): void {
  const tail = written - gap;
  for (let i = 1; i <= tail; i += 1) target[offset + 16 - i] = target[offset + written - i] ?? 0;
  target.fill(0, offset + gap, offset + 16 - tail);
}

/** An address of 4 or 16 bytes as canonical text; another length is undefined. */
export function readIp(bytes: Uint8Array, start: number, end: number): string | undefined {
  if (end - start === 4) return `${bytes[start]}.${bytes[start + 1]}.${bytes[start + 2]}.${bytes[start + 3]}`;
  if (end - start === 16) return readIpv6(bytes, start);
  return undefined;
}

function readIpv6(bytes: Uint8Array, start: number): string {
  const group = (i: number): number => ((bytes[start + i * 2] ?? 0) << 8) | (bytes[start + i * 2 + 1] ?? 0);
  let from = 0;
  let length = 0;
  for (let i = 0, begin = 0; i <= 8; i += 1) {
    if (i < 8 && group(i) === 0) continue;
    if (i - begin > length) {
      from = begin;
      length = i - begin;
    }
    begin = i + 1;
  }
  if (from === 0 && length === 5 && group(5) === 0xffff) return `::ffff:${readIp(bytes, start + 12, start + 16)}`;
  let text = '';
  for (let i = 0; i < 8; i += 1) {
    if (length > 1 && i === from) {
      text += '::';
      i += length - 1;
    } else {
      text += i === 0 || (length > 1 && i === from + length) ? group(i).toString(16) : `:${group(i).toString(16)}`;
    }
  }
  return text;
}

/** Writes a colon-separated hardware address and returns its length in bytes. Throws WeftError. */
export function writeLladdr(target: Uint8Array, offset: number, text: string): number {
  if (text === '') return 0; // tunnels without link-layer addresses
  const length = (text.length + 1) / 3;
  if (!Number.isInteger(length)) throw invalid('lladdr', text);
  for (let i = 0; i < length; i += 1) {
    const high = hexDigit(text.charCodeAt(i * 3));
    const low = hexDigit(text.charCodeAt(i * 3 + 1));
    const isLast = i === length - 1;
    if (high < 0 || low < 0 || (!isLast && text.charCodeAt(i * 3 + 2) !== 58)) throw invalid('lladdr', text);
    target[offset + i] = (high << 4) | low;
  }
  return length;
}

const hexBytes: readonly string[] = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'));

export function readLladdr(bytes: Uint8Array, start: number, end: number): string {
  if (start >= end) return '';
  let text = hexBytes[bytes[start] ?? 0] ?? '';
  for (let i = start + 1; i < end; i += 1) text += `:${hexBytes[bytes[i] ?? 0] ?? ''}`;
  return text;
}
