// Which addresses of another plugin (`ipam.type`) a pod's link may have: the node routes each to the pod, so one that is the node's own,
// another node's, the pool's or another pod's would take that one's traffic away from it.

import { WeftError } from '#agent/errors.ts';
import { containsAddress, parseCidr } from '#ipam-peer/cidr.ts';
import { formatAddress, parseAddress } from '#ipam-peer/address.ts';
import { holderText } from '#ipam-peer/holder.ts';
import { type Delegate, type IpamView, isOnSegment, type Lease, type LeaseRequest } from './ipam.ts';

/** No unicast address of a pod: RFC 6890, RFC 4291. */
const never: readonly (readonly [cidr: string, what: string])[] = [
  ['0.0.0.0/8', 'no address of a host'],
  ['127.0.0.0/8', 'a loopback address'],
  ['169.254.0.0/16', 'a link-local address'],
  ['224.0.0.0/4', 'a multicast address'],
  ['255.255.255.255/32', 'the broadcast address'],
  ['::/127', 'no address of a link'],
  ['::ffff:0:0/96', 'an IPv4 address in IPv6'],
  ['fe80::/10', 'a link-local address'],
  ['ff00::/8', 'a multicast address'],
];

/**
 * Peers route the pool's addresses to their owner and answer for them; none may be given out by anybody else.
 * Throws WeftError('invalidConfig'), also for what is no address of a pod.
 */
export function requireForeign(
  { addresses, delegate }: Pick<LeaseRequest, 'addresses' | 'delegate'>,
  ranges: readonly string[],
): void {
  for (const address of addresses) {
    const [, what] = never.find(([cidr]) => isIn(address, cidr)) ?? [];
    if (what !== undefined) throw refused(delegate, address, `which is ${what}`);
    const range = ranges.find((cidr) => isIn(address, cidr));
    if (range === undefined) continue;
    throw refused(delegate, address, `which lies in ${range}, the range that Weft itself gives out`);
  }
}

/** Throws WeftError('invalidConfig') for an address that is in use: `hosts` are those of the node itself. */
export function requireUnused(
  { addresses, delegate }: Pick<LeaseRequest, 'addresses' | 'delegate'>,
  leases: readonly Lease[],
  { peers }: Pick<IpamView, 'peers'>,
  hosts: readonly string[],
): void {
  const own = new Set(hosts.map(canonical));
  for (const address of addresses) {
    if (own.has(canonical(address))) throw refused(delegate, address, 'which the node itself has');
    const peer = peers.find(({ underlayAddress }) => underlayAddress === canonical(address));
    if (peer !== undefined) throw refused(delegate, address, `which is the address of the node ${peer.nodeName}`);
    const other = leases.find((lease) => !isOnSegment(lease) && lease.addresses.includes(address));
    if (other === undefined) continue;
    throw refused(delegate, address, `which ${holderText(other)} on this node has already`);
  }
}

/** The range that one of the addresses lies in. */
export function rangeOf(addresses: readonly string[], ranges: readonly string[]): string | undefined {
  return ranges.find((cidr) => addresses.some((address) => isIn(address, cidr)));
}

function isIn(address: string, cidr: string): boolean {
  const [block, parsed] = [parseCidr(cidr), parseAddress(address)];
  return block !== undefined && parsed !== undefined && containsAddress(block, parsed);
}

function canonical(text: string): string {
  const parsed = parseAddress(text);
  return parsed === undefined ? text : formatAddress(parsed.family, parsed.value);
}

function refused(delegate: Delegate | undefined, address: string, why: string): WeftError {
  return new WeftError('invalidConfig', `${delegate?.type ?? 'the IPAM plugin'} gave ${address}, ${why}`, {
    details: 'ipam',
    address,
  });
}
