// The `portMappings` capability, and the port claims of ADDs at work: two pods cannot have one port of the node, and the second
// is told who has it.

import { WeftError } from '#agent/errors.ts';
import type { AttachmentKey, Lease, PortMapping } from '#agent/runtime/ipam.ts';
import { formatAddress, parseAddress } from '#ipam-peer/address.ts';
import { invalid, objects, quote } from './json.ts';

const where = 'runtimeConfig.portMappings';
const protocols = ['tcp', 'udp', 'sctp'] as const;

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
    const key = nameOf(mapping);
    const other = mappings.get(key);
    if (other !== undefined && other.containerPort !== containerPort) {
      throw invalid(where, `${where} maps ${key} to ${other.containerPort} and to ${containerPort}`);
    }
    mappings.set(key, mapping);
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
  return formatAddress(address.family, address.value);
}

function nameOf({ protocol, hostPort, hostIp }: PortMapping): string {
  const host = hostIp === undefined ? '' : hostIp.includes(':') ? `[${hostIp}]:` : `${hostIp}:`;
  return `${host}${hostPort}/${protocol}`;
}

/** Whether one packet could be meant for both. A wildcard and a single address do not clash: the single address goes first. */
function clash(left: PortMapping, right: PortMapping): boolean {
  if (left.protocol !== right.protocol || left.hostPort !== right.hostPort) return false;
  const [a, b] = [left.hostIp, right.hostIp];
  if (a === b) return true;
  const wild = (hostIp: string | undefined): boolean => hostIp === undefined || hostIp === '0.0.0.0' || hostIp === '::';
  return wild(a) && wild(b) && (a === undefined || b === undefined);
}

/** Host ports of ADDs whose lease is not there yet; the others are read from the leases. */
export class PortClaims {
  readonly #claims = new Map<AttachmentKey, readonly PortMapping[]>();

  /** Held until disposed; by then the lease tells. Throws WeftError('hostPortTaken'). */
  claim(key: AttachmentKey, wanted: readonly PortMapping[], leases: () => readonly Lease[]): Disposable {
    if (wanted.length > 0) {
      for (const lease of leases()) refuseClash(wanted, lease.link?.portMappings ?? [], key, lease);
      for (const [other, mappings] of this.#claims) refuseClash(wanted, mappings, key, other);
      this.#claims.set(key, wanted);
    }
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
  const clashing = wanted.find((mapping) => taken.some((other) => clash(mapping, other)));
  if (clashing === undefined) return;
  const { podNamespace = '', podName } = holder.owner ?? {};
  const who = podName === undefined ? `container ${holder.containerId}` : `pod ${podNamespace}/${podName}`;
  throw new WeftError('hostPortTaken', `host port ${nameOf(clashing)} belongs to ${who}`, {
    details: nameOf(clashing),
  });
}
