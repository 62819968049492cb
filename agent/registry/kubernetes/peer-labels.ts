// Labels of a Peer that say which parts of the address space it touches and whether it has an heir: by them the admission policies
// (deploy/base/admission*.yaml) find the few records that a write must be compared with. The policy
// weft-peers computes the same from the record and refuses a write whose labels say something else.

import { nodePart, partLabel } from '#agent/kubernetes/node-part.ts';
import type { RecordValue } from '#agent/registry/registry.ts';
import { addressBits, type Family } from '#ipam-peer/address.ts';
import { parseCidr } from '#ipam-peer/cidr.ts';

const prefix = 'weft.network/';
const heirsLabel = `${prefix}heirs`;
/** What is larger than this is compared with everything. */
const partBits: Readonly<Record<Family, number>> = { 4: 18, 6: 56 };

/** The labels to be stored with a Peer, made of those that it has and of what it held before; undefined for none. */
export function peerLabels(
  labels: Readonly<Record<string, string>> | undefined,
  value: RecordValue,
  before?: RecordValue,
): Readonly<Record<string, string>> | undefined {
  const others = Object.entries(labels ?? {}).filter(([name]) => !name.startsWith(prefix));
  const marks = [...cidrsOf(value['blocks']), ...cidrsOf(value['granting'])].map((cidr) => `space-${partOf(cidr)}`);
  const all: (readonly [string, string])[] = [...others, ...marks.map((mark) => [prefix + mark, ''] as const)];
  if (value['heir'] !== undefined) {
    const part = nodePart((value['node'] as { readonly uid?: unknown } | undefined)?.uid);
    all.push([`${prefix}heir`, '']);
    // Of the heirs of one record each after the first is compared with every Peer (weft-heirs).
    if (labels?.[heirsLabel] !== undefined || isAnother(before?.['heir'], value['heir'])) all.push([heirsLabel, '']);
    if (part !== undefined) all.push([partLabel, part]);
  }
  return all.length === 0 ? undefined : Object.fromEntries(all);
}

function isAnother(before: unknown, now: unknown): boolean {
  const [one, other] = [before, now] as readonly ({ readonly name?: unknown; readonly uid?: unknown } | undefined)[];
  return one !== undefined && (one.name !== other?.name || one.uid !== other?.uid);
}

function cidrsOf(list: unknown): readonly string[] {
  return Array.isArray(list) ? list.map((one: { readonly cidr?: unknown } | null) => String(one?.cidr)) : [];
}

/** One of sixteen, the same for blocks that overlap; `wide` for a block that lies in several, or cannot be read. */
function partOf(text: string): string {
  const block = parseCidr(text);
  if (block === undefined || block.prefix < partBits[block.family]) return 'wide';
  let bits = block.base >> BigInt(addressBits(block.family) - partBits[block.family]);
  // IPv4: the second byte and the upper two bits of the third; IPv6: the digits of the first 56 bits.
  if (block.family === 4) return String(Number(((bits >> 2n) & 255n) + (bits & 3n)) % 16);
  let sum = 0;
  for (; bits > 0n; bits >>= 4n) sum += Number(bits & 15n);
  return String(sum % 16);
}
