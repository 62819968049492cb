// What a piece of text in the settings may look like: one predicate and one sentence for people each.

import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';

import { isUnicast } from '#agent/datapath/cidr.ts';

export interface Format {
  readonly allowed: string;
  readonly test: (text: string) => boolean;
}

/** Where a server listens; `host` undefined means all addresses. */
export interface HostPort {
  readonly host: string | undefined;
  readonly port: number;
}

/** Parses `host:port`, `[v6]:port`, `:port`. `undefined` for `off` and for anything else. */
export function hostPort(text: string): HostPort | undefined {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([0-9.]*|localhost)):(\d{1,5})$/.exec(text);
  if (match === null) return undefined;
  const port = Number(match[3]);
  const host = match[1] ?? match[2] ?? '';
  if (port < 1 || port > 65_535) return undefined;
  if (host === '') return { host: undefined, port };
  if (host === 'localhost') return { host: '127.0.0.1', port };
  return isIP(host) === 0 ? undefined : { host, port };
}

/** A CIDR whose address has no bits below the prefix, written the usual way. */
export function isCidr(text: string): boolean {
  const match = /^([0-9a-fA-F:.]+)\/(\d{1,3})$/.exec(text);
  if (match === null || isIP(match[1] ?? '') === 0) return false;
  const prefix = Number(match[2]);
  if (prefix > (isIP(match[1] ?? '') === 4 ? 32 : 128)) return false;
  const [address] = ipaddr.parseCIDR(text);
  const network =
    address.kind() === 'ipv4' ? ipaddr.IPv4.networkAddressFromCIDR(text) : ipaddr.IPv6.networkAddressFromCIDR(text);
  return network.toString() === address.toString();
}

/** True when two valid CIDRs share an address. */
export function rangesOverlap(a: string, b: string): boolean {
  const [first, firstPrefix] = ipaddr.parseCIDR(a);
  const [second, secondPrefix] = ipaddr.parseCIDR(b);
  if (first.kind() !== second.kind()) return false;
  const shorter = Math.min(firstPrefix, secondPrefix);
  return first.match(second, shorter);
}

/** The parts of a `pools` item. */
export function poolOf(text: string): { readonly name: string; readonly ranges: readonly string[] } {
  const [name = '', ranges = ''] = text.split('=', 2);
  return { name, ranges: ranges.split('+') };
}

function isRange(text: string): boolean {
  if (!isCidr(text)) return false;
  const [address, prefix] = ipaddr.parseCIDR(text);
  const [shortest, longest] = address.kind() === 'ipv4' ? [8, 28] : [32, 120];
  const usable = ['private', 'unicast', 'carrierGradeNat', 'reserved', 'uniqueLocal'];
  return prefix >= shortest && prefix <= longest && usable.includes(address.range());
}

function isPath(text: string): boolean {
  return text.startsWith('/') && !text.includes('\0') && !text.split('/').includes('..') && text !== '/';
}

const isName = (text: string): boolean =>
  text.length <= 253 && /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$/.test(text);

/** By the name that the schema uses. */
export const formats: Readonly<Record<string, Format>> = {
  nodeName: { allowed: 'a DNS name: lower-case letters, digits, "-" and "."', test: isName },
  label: {
    allowed: 'a DNS label: lower-case letters, digits and "-", at most 63',
    test: (text) => isName(text) && text.length <= 63 && !text.includes('.'),
  },
  optionalServer: {
    allowed: '"https://host:port", or empty',
    test: (text) => text === '' || /^https:\/\/(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+)(:\d{1,5})?$/.test(text),
  },
  address: { allowed: 'an IPv4 or IPv6 address', test: (text) => isIP(text) !== 0 },
  optionalAddress: {
    allowed: 'an IPv4 or IPv6 address that other machines can send to, or empty',
    test: (text) => text === '' || (isIP(text) !== 0 && isUnicast(text)),
  },
  cidr: { allowed: 'a range such as 10.96.0.0/12, with no bits set beyond the prefix', test: isCidr },
  range: {
    allowed:
      'an IPv4 range from /8 to /28 such as 10.32.0.0/12 or an IPv6 range from /32 to /120 such as fd00:32::/64, with no bits set beyond the prefix',
    test: isRange,
  },
  pool: {
    allowed:
      'a name (a DNS label other than "default"), "=" and ranges joined by "+", such as blue=10.64.0.0/16+fd00:64::/64',
    test: (text) => {
      const { name, ranges } = poolOf(text);
      return isName(name) && name.length <= 63 && !name.includes('.') && name !== 'default' && ranges.every(isRange);
    },
  },
  absolutePath: { allowed: 'an absolute path without ".."', test: isPath },
  optionalPath: { allowed: 'an absolute path without "..", or empty', test: (text) => text === '' || isPath(text) },
  socketPath: {
    allowed: 'an absolute path of at most 107 bytes (the kernel allows no more for a Unix socket)',
    test: (text) => isPath(text) && Buffer.byteLength(text) <= 107,
  },
  conflistPath: {
    allowed: 'an absolute path that ends in .conflist',
    test: (text) => isPath(text) && text.endsWith('.conflist'),
  },
  optionalInterface: {
    allowed: 'an interface name of 1 to 15 characters without "/" and blanks, or empty',
    test: (text) => text === '' || (/^[^\s/:]{1,15}$/.test(text) && text !== '.' && text !== '..'),
  },
  listen: {
    allowed: '"address:port" such as 127.0.0.1:6785 or [::1]:6785, ":port" for all addresses, or "off"',
    test: (text) => text === 'off' || hostPort(text) !== undefined,
  },
};
