// Who may write which record, told by the node name in the writer's certificate (design/ipam: "a record says who may write it, and
// voters check that"). A node writes its own records. Of another's it may only write itself in as heir, and remove what it is the
// heir of. The founder of a universe is written once, by itself.

import { isDeepStrictEqual } from 'node:util';
import type { RecordKind } from '#agent/registry/registry.ts';
import type { Cell, CellValue } from '#ipam-peer/caspaxos/change.ts';

export interface RecordWrite {
  readonly kind: RecordKind;
  readonly name: string;
  /** What is replaced; null: nothing, or a deleted record. */
  readonly before: CellValue | null;
  /** null: a deletion. */
  readonly after: CellValue | null;
}

/**
 * undefined: allowed, otherwise the reason. `isLive` tells whether an incarnation of a peer record is there, as far as this voter
 * knows.
 */
export type WriterRule = (
  node: string,
  write: RecordWrite,
  isLive: (name: string, uid: string) => boolean,
) => string | undefined;

export const mayWrite: WriterRule = (node, write, isLive) => {
  switch (write.kind) {
    case 'peer':
      return isOwn(node, write.name) ? ownPeer(node, write) : othersPeer(node, write, isLive);
    case 'session':
      return isOwn(node, write.name) || write.name === node
        ? undefined
        : `${write.name} is the session of another node`;
    case 'universe':
      return universe(node, write);
  }
};

/** `<node>.<8 hex digits of its uid>` */
function isOwn(node: string, name: string): boolean {
  return name.length === node.length + 9 && name.startsWith(`${node}.`) && /^[0-9a-f]{8}$/.test(name.slice(-8));
}

function ownPeer(node: string, { name, before, after }: RecordWrite): string | undefined {
  if (after === null) return undefined;
  const claimed = nameIn(after['node']);
  if (claimed !== node) return `${name} says that it is of node ${claimed}, written by ${node}`;
  if (before?.['heir'] !== undefined && !isDeepStrictEqual(before['heir'], after['heir'])) {
    return `${name} has an heir, which its node may not change`;
  }
  return undefined;
}

function othersPeer(
  node: string,
  { name, before, after }: RecordWrite,
  isLive: Parameters<WriterRule>[2],
): string | undefined {
  if (before === null) return `${name} is of another node than ${node}`;
  const heir = refOf(before['heir']);
  if (after === null) {
    return heir !== undefined && isOwn(node, heir.name) ? undefined : `${node} is not the heir of ${name}`;
  }
  const named = refOf(after['heir']);
  if (named === undefined || !isOwn(node, named.name)) return `${node} may only write itself into ${name}, as its heir`;
  if (heir !== undefined && heir.uid !== named.uid && isLive(heir.name, heir.uid)) {
    return `${name} has an heir already, ${heir.name}`;
  }
  for (const field of new Set([...Object.keys(before), ...Object.keys(after)])) {
    if (field === 'heir' || field === 'seq') continue;
    if (!isDeepStrictEqual(before[field], after[field])) return `${node} may not change ${field} of ${name}`;
  }
  return undefined;
}

function universe(node: string, { name, before, after }: RecordWrite): string | undefined {
  if (after === null) return `nobody deletes the universe ${name}`;
  const [was, is] = [before?.['founder'], after['founder']];
  if (isDeepStrictEqual(was, is)) return undefined;
  if (was !== undefined) return `the founder of ${name} never changes`;
  const founder = refOf(is);
  return founder !== undefined && isOwn(node, founder.name) ? undefined : `${node} may found ${name} only for itself`;
}

function refOf(value: unknown): { readonly name: string; readonly uid: string } | undefined {
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
