// The `portMappings` capability, and the port claims of ADDs at work: two pods cannot have one port of the node, and the second
// is told who has it.

import { WeftError } from '#agent/errors.ts';
import type { AttachmentKey, Lease, PortMapping } from '#agent/runtime/ipam.ts';
import { formatAddress, parseAddress } from '#ipam-peer/address.ts';
import { holderText } from '#ipam-peer/holder.ts';
import { invalid, objects, quote } from './json.ts';

const where = 'runtimeConfig.portMappings';
const protocols = ['tcp', 'udp', 'sctp'] as const;
const wildcards = ['0.0.0.0', '::'] as const;

/** Entries with host port 0 ask for nothing (as with the reference plugin). Throws WeftError('invalidConfig') (7). */
export function parsePortMappings(value: unknown): readonly PortMapping[] {
  const mappings = new Map<string, PortMapping>();
  for (const item of objects(value ?? [], where)) {
    const hostPort = port(item['hostPort'] ?? 0, 'hostPort', 0);
    if (hostPort === 0) continue;
    const containerPort = port(item['containerPort'], 'containerPort', 1);
    const given = item['protocol'] ?? 'tcp';
    const lower = typeof given === 'string' ? given.toLowerCase() || 'tcp' : given;
    const protocol = protocols.find((known) => known === lower);
    if (protocol === undefined) {
      throw invalid(
        `${where}.protocol`,
        `${where} has the protocol ${quote(given)}; weft knows ${protocols.join(', ')}`,
      );
    }
    const hostIp = parseHostIp(item['hostIP']);
    const mapping: PortMapping = { protocol, hostPort, containerPort, ...(hostIp === undefined ? {} : { hostIp }) };
    const clashing = clashesOf(mapping).find((name) => mappings.has(name));
    const other = clashing === undefined ? undefined : mappings.get(clashing);
    if (other !== undefined && other.containerPort !== containerPort) {
      throw invalid(where, `${where} maps ${nameOf(mapping)} to ${other.containerPort} and to ${containerPort}`);
    }
    mappings.set(nameOf(mapping), mapping);
  }
  return [...mappings.values()];
}

function port(value: unknown, key: string, least: number): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= least && value <= 65_535) return value;
  throw invalid(`${where}.${key}`, `${where} has the ${key} ${quote(value)}, which is no port`);
}

function parseHostIp(value: unknown): string | undefined {
  if (value === undefined || value === null || value === '') return undefined;
  const address = typeof value === 'string' ? parseAddress(value) : undefined;
  if (address === undefined)
    throw invalid(`${where}.hostIP`, `${where} has the hostIP ${quote(value)}, which is no address`);
  // An IPv4 address as an IPv6 socket writes it (RFC 4291, 2.5.5.2): no packet has it.
  if (address.family === 6 && address.value >> 32n === 0xffffn) return formatAddress(4, address.value & 0xffff_ffffn);
  return formatAddress(address.family, address.value);
}

function nameOf({ protocol, hostPort, hostIp }: Pick<PortMapping, 'protocol' | 'hostPort' | 'hostIp'>): string {
  const host = hostIp === undefined ? '' : hostIp.includes(':') ? `[${hostIp}]:` : `${hostIp}:`;
  return `${host}${hostPort}/${protocol}`;
}

/**
 * Names of the mappings that a packet meant for this one could be meant for too. A wildcard and a single address do not clash: the single
 * address goes first.
 */
function clashesOf({ protocol, hostPort, hostIp }: PortMapping): readonly string[] {
  const anywhere = nameOf({ protocol, hostPort });
  const names = wildcards.map((wildcard) => nameOf({ protocol, hostPort, hostIp: wildcard }));
  if (hostIp === undefined) return [anywhere, ...names];
  const name = nameOf({ protocol, hostPort, hostIp });
  return names.includes(name) ? [name, anywhere] : [name];
}

/** Host ports of ADDs whose lease is not there yet; the others are read from the leases. */
export class PortClaims {
  readonly #claims = new Map<AttachmentKey, readonly PortMapping[]>();

  /** Held until disposed, where any are wanted; by then the lease tells. Throws WeftError('hostPortTaken'). */
  claim(key: AttachmentKey, wanted: readonly PortMapping[], leases: () => readonly Lease[]): Disposable | undefined {
    if (wanted.length === 0) return undefined;
    for (const lease of leases()) refuseClash(wanted, lease.link?.portMappings ?? [], key, lease);
    for (const [other, mappings] of this.#claims) refuseClash(wanted, mappings, key, other);
    this.#claims.set(key, wanted);
    return { [Symbol.dispose]: () => void this.#claims.delete(key) };
  }
}

function refuseClash(
  wanted: readonly PortMapping[],
  taken: readonly PortMapping[],
  key: AttachmentKey,
  holder: AttachmentKey & Partial<Pick<Lease, 'owner'>>,
): void {
  if (holder.containerId === key.containerId && holder.ifname === key.ifname) return;
  if (taken.length === 0) return;
  const names = new Set(taken.map(nameOf));
  const clashing = wanted.find((mapping) => clashesOf(mapping).some((name) => names.has(name)));
  if (clashing === undefined) return;
  throw new WeftError('hostPortTaken', `host port ${nameOf(clashing)} belongs to ${holderText(holder)}`, {
    details: nameOf(clashing),
  });
}
