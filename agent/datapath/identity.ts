// Addresses and names that follow from an identity, so that every agent computes the same ones without asking: a peer's
// VTEP MAC and link-local gateway from its record name, a pod's MAC from its address, the alias on a pod link's host end
// from its lease (the kernel is then a second copy of the lease store).
import { createHash } from 'node:crypto';

import type { Lease, LinkOptions } from '#agent/runtime/ipam.ts';
import { remembered } from '#ipam-peer/remembered.ts';

import type { Family } from './cidr.ts';
import type { PodLinkKind } from './settings.ts';

/** The one MAC of every pod link's host end: pods can keep it for ever, wherever their link is rebuilt. */
export const hostMac = '06:57:65:66:74:01';

/** The gateway that IPv4 pods see; link-local, answered on the host end of each pod link. */
const podGateway4 = '169.254.1.1';

/** The gateway that IPv6 pods see: the link-local address of `hostMac`. */
const podGateway6: string = linkLocalOf(hostMac);

/** The gateway of a family as pods see it; its prefix length on the host end is `gatewayCidr`'s. */
export function podGatewayOf(family: Family): string {
  return family === 4 ? podGateway4 : podGateway6;
}

/** The gateway as an address of the host end. IPv6: with the prefix that every link-local address has (RFC 4291, 2.5.6). */
export function gatewayCidr(family: Family): string {
  return family === 4 ? `${podGateway4}/32` : `${podGateway6}/64`;
}

/** Where a peer is on the overlay: what follows from its record name alone. */
export interface Vtep {
  readonly mac: string;
  /** The link-local address that belongs to the MAC. */
  readonly linkLocal: string;
}

/** By record name: thousands of peers are asked for in every round. */
export const vtepOf: (recordName: string) => Vtep = remembered(20_000, (recordName: string) => {
  const mac = hashedMac(recordName);
  return { mac, linkLocal: linkLocalOf(mac) };
});

/** MAC of a peer's VTEP: SHA-256 of its record name, unicast, locally administered. */
export function vtepMac(recordName: string): string {
  return vtepOf(recordName).mac;
}

/** A MAC that follows from a name: SHA-256, unicast, locally administered. */
export function hashedMac(name: string): string {
  const bytes = createHash('sha256').update(name).digest().subarray(0, 6);
  bytes[0] = ((bytes[0] ?? 0) & 0xfc) | 0x02;
  return [...bytes].map(hexByte).join(':');
}

/** The IPv6 link-local address that belongs to a MAC (RFC 4291, appendix A), RFC 5952 text as the kernel prints it. */
export function linkLocalOf(mac: string): string {
  const bytes = mac.split(':').map((part) => Number.parseInt(part, 16));
  const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = bytes;
  const groups = [((a ^ 0x02) << 8) | b, (c << 8) | 0xff, 0xfe00 | d, (e << 8) | f].map((group) => group.toString(16));
  // The zeros before the interface identifier are the longest run; a zero at its beginning belongs to them.
  return `fe80::${(groups[0] === '0' ? groups.slice(1) : groups).join(':')}`;
}

/** MAC of a pod: `0a:58` and the IPv4 address, or a hash of the IPv6 one; unicast, locally administered. */
export function podMacOf(address: string): string {
  if (!address.includes(':')) {
    const [a, b, c, d] = address.split('.', 4);
    return `0a:58:${hexByte(Number(a))}:${hexByte(Number(b))}:${hexByte(Number(c))}:${hexByte(Number(d))}`;
  }
  const bytes = createHash('sha256').update(address).digest().subarray(0, 4);
  return ['0a', '58', ...[...bytes].map(hexByte)].join(':');
}

/** What the alias of a pod link's host end says. */
export interface LinkAlias {
  /** Undefined where the id was too long for the alias (256 bytes) and only its hash is kept. */
  readonly containerId: string | undefined;
  readonly ifname: string;
  readonly generation: string;
  readonly addresses: readonly string[];
  /** How the link was made. */
  readonly podLink: PodLinkKind;
}

/** A pod link found in the kernel, by which leases can be rebuilt. */
export interface KernelLease extends LinkAlias {
  readonly hostIfname: string;
  /** What the link has beyond addresses, where it was asked for and there is any. */
  readonly link?: LinkOptions;
}

/** What an alias begins with, by how the link was made. */
const magics: Readonly<Record<PodLinkKind, string>> = { routed: 'weft:1', bridge: 'weft:1:bridge' };

/** Longest alias the kernel keeps (linux/if.h, IFALIASZ, with its terminator). */
const maxAliasBytes = 255;

/** The alias of a lease: `weft:1 (or weft:1:bridge) <containerId> <ifname> <generation> <address>[,<address>]`. */
export function aliasOf(
  lease: Pick<Lease, 'containerId' | 'ifname' | 'generation' | 'addresses'>,
  podLink: PodLinkKind = 'routed',
): string {
  const rest = `${lease.ifname} ${lease.generation} ${lease.addresses.join(',')}`;
  const magic = magics[podLink];
  const whole = `${magic} ${lease.containerId} ${rest}`;
  if (Buffer.byteLength(whole) <= maxAliasBytes) return whole;
  return `${magic} #${createHash('sha256').update(lease.containerId).digest('hex')} ${rest}`;
}

/** Undefined when the alias is not one of ours. */
export function parseAlias(alias: string): LinkAlias | undefined {
  const [magic, containerId, ifname, generation, addresses, ...more] = alias.split(' ');
  const podLink = magic === magics.routed ? 'routed' : magic === magics.bridge ? 'bridge' : undefined;
  if (podLink === undefined || !containerId || !ifname || !generation || !addresses || more.length > 0)
    return undefined;
  return {
    containerId: containerId.startsWith('#') ? undefined : containerId,
    ifname,
    generation,
    addresses: addresses.split(','),
    podLink,
  };
}

const hexBytes: readonly string[] = Array.from({ length: 256 }, (_, value) => value.toString(16).padStart(2, '0'));

function hexByte(value: number): string {
  return hexBytes[value] ?? '';
}
