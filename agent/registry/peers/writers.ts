// Who may write which record, told by the node name in the writer's certificate (design/ipam: "a record says who may write it, and
// voters check that"). A node writes its own records. Into another's `Peer` it may write itself as heir; as the heir (or the heir
// of an heir that died too) it may drop grants and blocks, seed it where it was not seeded, and delete it. Any node may declare another
// one gone, in its session and its `Peer`, which is what `weft peers remove` does, and then take out of that `Peer` what it had no more. The
// founder of a universe is written once, by itself; from then on its ranges stay.

import { isDeepStrictEqual } from 'node:util';
import { isOfNode } from '#agent/registry/record-name.ts';
import type { RecordKind } from '#agent/registry/registry.ts';
import type { Cell, CellValue } from '#ipam-peer/caspaxos/change.ts';
import { contains, parseCidr } from '#ipam-peer/cidr.ts';

export interface RecordWrite {
  readonly kind: RecordKind;
  readonly name: string;
  /** What is replaced; null: nothing, or a deleted record. */
  readonly before: CellValue | null;
  /** null: a deletion. */
  readonly after: CellValue | null;
}

/** A `Peer` as far as this voter knows; undefined: there is none. */
export type LookUp = (name: string) => { readonly uid: string; readonly value: CellValue } | undefined;

/** undefined: allowed, otherwise the reason. */
export type WriterRule = (node: string, write: RecordWrite, lookUp: LookUp) => string | undefined;

export const mayWrite: WriterRule = (node, write, lookUp) => {
  switch (write.kind) {
    case 'peer':
      return isOfNode(node, write.name) ? ownPeer(node, write) : othersPeer(node, write, lookUp);
    case 'session':
      return isOfNode(node, write.name) ? undefined : othersSession(node, write, lookUp);
    case 'universe':
      return universe(node, write);
  }
};

function ownPeer(node: string, { name, before, after }: RecordWrite): string | undefined {
  if (after === null) return undefined;
  const claimed = nameIn(after['node']);
  if (claimed !== node) return `${name} says that it is of node ${claimed}, written by ${node}`;
  if (before?.['heir'] !== undefined && !isDeepStrictEqual(before['heir'], after['heir'])) {
    return `${name} has an heir, which its node may not change`;
  }
  return undefined;
}

function othersPeer(node: string, { name, before, after }: RecordWrite, lookUp: LookUp): string | undefined {
  if (before === null) return `${name} is of another node than ${node}`;
  const heir = refOf(before['heir']);
  const inherits = heir !== undefined && isHeir(node, heir, lookUp);
  if (after === null) return inherits ? undefined : `${node} is not the heir of ${name}`;
  const named = refOf(after['heir']);
  const changesHeir = !isDeepStrictEqual(before['heir'], after['heir']);
  if (changesHeir && (named === undefined || !isOfNode(node, named.name))) {
    return `${node} may only write itself into ${name}, as its heir`;
  }
  if (changesHeir && heir !== undefined && !inherits && lookUp(heir.name)?.uid === heir.uid) {
    return `${name} has an heir already, ${heir.name}`;
  }
  const declaresGone = after['removed'] === true && before['removed'] !== true;
  // Of a node that a person has declared gone another says, after a restore, what of its record is its own (`weft ipam reclaim`).
  const reclaims = before['removed'] === true && heir === undefined && !changesHeir;
  if (!changesHeir && !inherits && !declaresGone && !reclaims) return `${name} is of another node than ${node}`;
  for (const field of new Set([...Object.keys(before), ...Object.keys(after)])) {
    if (field === 'heir' || field === 'seq' || isDeepStrictEqual(before[field], after[field])) continue;
    if (field === 'removed' && declaresGone) continue;
    if (field === 'granting' && (inherits || reclaims) && isPartOf(after[field], before[field])) continue;
    if (field === 'blocks' && reclaims && areWithin(after[field], before[field])) continue;
    if (field === 'blocks' && inherits && isPartOf(after[field], before[field])) continue;
    if (inherits && ['seeded', 'blocks'].includes(field) && before['seeded'] !== true && after['seeded'] === true)
      continue;
    return `${node} may not change ${field} of ${name}`;
  }
  return undefined;
}

/** The heir is of this node, or died and has left to one that is. */
function isHeir(node: string, heir: Ref, lookUp: LookUp): boolean {
  let at: Ref | undefined = heir;
  for (let steps = 0; at !== undefined && steps < longestLineage; steps += 1) {
    if (isOfNode(node, at.name)) return true;
    const record = lookUp(at.name);
    at = record?.uid === at.uid ? refOf(record.value['heir']) : undefined;
  }
  return false;
}

const longestLineage = 16;

function isPartOf(part: unknown, whole: unknown): boolean {
  if (part === undefined) return true;
  if (!Array.isArray(part) || !Array.isArray(whole)) return false;
  return part.every((item) => whole.some((other) => isDeepStrictEqual(item, other)));
}

/** Every block is one of those, or a piece of one with the same marks. */
function areWithin(after: unknown, before: unknown): boolean {
  if (!Array.isArray(after) || !Array.isArray(before)) return false;
  return after.every((block) => before.some((other) => isWithin(block, other)));
}

function isWithin(block: unknown, other: unknown): boolean {
  if (!isObject(block) || !isObject(other)) return false;
  const [inner, outer] = [block['cidr'], other['cidr']].map((text) => parseCidr(typeof text === 'string' ? text : ''));
  if (inner === undefined || outer === undefined || !contains(outer, inner)) return false;
  return isDeepStrictEqual({ ...block, cidr: '' }, { ...other, cidr: '' });
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}

function othersSession(node: string, { name, before, after }: RecordWrite, lookUp: LookUp): string | undefined {
  const refused = `${name} is the session of another node than ${node}`;
  // One that was lost in a restore can be declared gone as any other.
  if (before === null) return after?.['removed'] === true ? undefined : refused;
  // What is left of a node whose record is gone serves nobody.
  if (after === null) return lookUp(name) === undefined ? undefined : refused;
  return after['removed'] === true && isDeepStrictEqual({ ...before, removed: true }, after) ? undefined : refused;
}

function universe(node: string, { name, before, after }: RecordWrite): string | undefined {
  if (after === null) return `nobody deletes the universe ${name}`;
  const [was, is] = [before?.['founder'], after['founder']];
  const changed = ['ranges', 'reserved'].find((field) => !isDeepStrictEqual(before?.[field], after[field]));
  if (was !== undefined && changed !== undefined) return `${changed} of ${name} never change once it is founded`;
  if (isDeepStrictEqual(was, is)) return undefined;
  if (was !== undefined) return `the founder of ${name} never changes`;
  const founder = refOf(is);
  return founder !== undefined && isOfNode(node, founder.name)
    ? undefined
    : `${node} may found ${name} only for itself`;
}

interface Ref {
  readonly name: string;
  readonly uid: string;
}

function refOf(value: unknown): Ref | undefined {
  if (typeof value !== 'object' || value === null || !('name' in value) || !('uid' in value)) return undefined;
  const { name, uid } = value;
  return typeof name === 'string' && typeof uid === 'string' ? { name, uid } : undefined;
}

function nameIn(value: unknown): string {
  return refOf(value)?.name ?? 'without a name';
}

/** Same incarnation, content and history: equal versions are not enough where somebody may lie. */
export function sameCell(a: Cell | null, b: Cell | null): boolean {
  return isDeepStrictEqual(a, b);
}
