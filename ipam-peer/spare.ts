// Give back: a block that has been empty for long is marked `spare`. Nobody pushes it away: a peer that wants space gets it like any
// other, and the holder of its buddy pulls it, which makes one block of two.
//
//   a: |-- 10.0.0.0/24 spare --|      b: |-- 10.0.1.0/24 --|   ── b pulls ──>   b: |-------- 10.0.0.0/23 --------|
//
// Each pull lowers the number of blocks, so pulling ends. Of two spare buddies the holder with the lower name pulls.
import type { Family } from './address.ts';
import { type Cidr, countAddresses, formatCidr, sameCidr, sizeOf } from './cidr.ts';
import type { Draft } from './draft.ts';
import { type Block, blocksLimit, type PeerRecord, sameRef } from './records.ts';
import { emptyPieces, freeAddresses } from './space.ts';
import { type Known, selfRef, type State } from './state.ts';

/** The other half of the block that this one is a half of. */
function buddyOf(block: Cidr): Cidr | undefined {
  if (block.prefix === 0) return undefined;
  return { ...block, base: block.base ^ sizeOf(block) };
}

function isPlain(block: Block): boolean {
  return block.via === undefined && block.quarantine !== true;
}

/** True when no address of the block is leased or rests. */
export function isEmptyBlock(state: State, { cidr }: Block): boolean {
  const [first, second] = emptyPieces(state.spaces[cidr.family], cidr);
  return first !== undefined && second === undefined && sameCidr(first, cidr);
}

/** Notes since when each block is empty; looked at again only when units came into use or went out of it. */
export function noteEmpty(state: State, nowMs: number): void {
  const { confirmed, spaces } = state;
  const key = `${spaces[4].busyVersion} ${spaces[6].busyVersion} ${confirmed?.stored.version}`;
  if (state.emptyKey === key) return;
  state.emptyKey = key;
  const empty = new Set<string>();
  for (const block of confirmed?.record.blocks ?? []) {
    if (!isPlain(block) || !isEmptyBlock(state, block)) continue;
    const text = formatCidr(block.cidr);
    empty.add(text);
    if (!state.emptySince.has(text)) state.emptySince.set(text, nowMs);
  }
  for (const text of state.emptySince.keys()) if (!empty.has(text)) state.emptySince.delete(text);
}

/** True when the peer could do without this block. */
function isDispensable(state: State, blocks: readonly Block[], block: Block): boolean {
  const { family } = block.cidr;
  const kept = blocks.filter(
    (other) => other !== block && other.cidr.family === family && other.spare !== true && isPlain(other),
  );
  const left = freeAddresses(state.spaces[family]) - countAddresses([block.cidr]);
  const spares = blocks.filter((other) => other !== block && other.spare === true && other.cidr.family === family);
  return kept.length > 0 && left - countAddresses(spares.map(({ cidr }) => cidr)) >= 2 * state.config.lowWater;
}

/** What the mark should be, or undefined where it is right as it is. */
function markFor(state: State, blocks: readonly Block[], block: Block, nowMs: number): boolean | undefined {
  if (!isPlain(block)) return undefined;
  const sinceMs = state.emptySince.get(formatCidr(block.cidr));
  if (block.spare === true) return sinceMs === undefined || holdsBuddy(blocks, block) ? false : undefined;
  const long = sinceMs !== undefined && nowMs >= sinceMs + state.config.spareAfterMs;
  return long && isDispensable(state, blocks, block) ? true : undefined;
}

function holdsBuddy(blocks: readonly Block[], { cidr }: Block): boolean {
  const buddy = buddyOf(cidr);
  return buddy !== undefined && blocks.some((other) => isPlain(other) && sameCidr(other.cidr, buddy));
}

/** When a block should be marked, or a mark taken off; Infinity: never as things are. */
export function spareDueMs(state: State): number {
  const blocks = state.confirmed?.record.blocks ?? [];
  if (state.emptySince.size === 0 && !blocks.some((block) => block.spare === true)) return Infinity;
  let due = Infinity;
  for (const block of blocks) {
    if (block.spare === true && markFor(state, blocks, block, 0) === false) return -Infinity;
    const sinceMs = state.emptySince.get(formatCidr(block.cidr));
    if (block.spare === true || sinceMs === undefined || !isDispensable(state, blocks, block)) continue;
    due = Math.min(due, sinceMs + state.config.spareAfterMs);
  }
  return due;
}

/** Marks what has been empty for long, one block in a write, and unmarks what came into use. */
export function markSpare(draft: Draft): void {
  const { state } = draft;
  const base = draft.base.blocks;
  for (const [index, block] of draft.blocks.entries()) {
    if (!base.includes(block)) continue;
    const mark = markFor(state, draft.blocks, block, draft.nowMs);
    if (mark === undefined) continue;
    const { spare: _before, ...rest } = block;
    draft.blocks[index] = mark ? { ...rest, spare: true } : rest;
    draft.changed = true;
    if (mark) draft.news.push(`${formatCidr(block.cidr)} is spare: it has been empty for long`);
  }
}

/** As far as was heard: a spare block of another peer whose buddy this peer holds. */
function buddyHeard(state: State): { readonly from: Known<PeerRecord>; readonly cidr: Cidr } | undefined {
  const blocks = state.confirmed?.record.blocks ?? [];
  if (blocks.length >= blocksLimit - 1) return undefined;
  for (const name of state.spares) {
    const from = state.peers.get(name);
    if (from === undefined || from.record.heir !== undefined || state.gone.has(name)) continue;
    for (const { cidr, spare } of from.record.blocks) {
      const buddy = spare === true ? buddyOf(cidr) : undefined;
      const own = buddy && blocks.find((block) => isPlain(block) && sameCidr(block.cidr, buddy));
      if (own !== undefined && (own.spare !== true || state.config.self < name)) return { from, cidr };
    }
  }
  return undefined;
}

/** When a pull should begin, or be given up. */
export function pullDueMs(state: State): number {
  const pulls = state.confirmed?.record.pulls;
  if (pulls !== undefined)
    return isPulling(state, pulls, -Infinity) ? state.pull.sinceMs + state.config.answerTimeoutMs : -Infinity;
  return state.spares.size > 0 && buddyHeard(state) !== undefined ? state.pull.notBeforeMs : Infinity;
}

/** True while the spare block may still come. */
function isPulling(state: State, pulls: NonNullable<PeerRecord['pulls']>, nowMs: number): boolean {
  const hint = state.peers.get(pulls.from.name);
  if (!sameRef(hint?.stored, pulls.from) || nowMs >= state.pull.sinceMs + state.config.answerTimeoutMs) return false;
  const stands = hint?.record.blocks.some((block) => block.spare === true && sameCidr(block.cidr, pulls.cidr)) === true;
  return stands || hint?.record.granting.some((grant) => sameRef(grant.to, selfRef(state))) === true;
}

/** Names the spare block that would merge with one of this peer's; at most one at a time. */
export function pull(draft: Draft): void {
  const { state, nowMs } = draft;
  if (draft.pulls !== undefined) {
    const got = draft.blocks.some((block) => draft.pulls !== undefined && sameCidr(block.cidr, draft.pulls.cidr));
    if (!got && isPulling(state, draft.pulls, nowMs)) return;
    if (!got) state.pull.notBeforeMs = nowMs + 4 * state.config.answerTimeoutMs * (0.5 + draft.random);
    draft.pulls = undefined;
    draft.changed = true;
    return;
  }
  if (nowMs < state.pull.notBeforeMs) return;
  const heard = buddyHeard(state);
  if (heard === undefined) return;
  const { stored } = heard.from;
  state.pull.sinceMs = nowMs;
  draft.pulls = { from: { name: stored.name, uid: stored.uid }, cidr: heard.cidr };
  draft.changed = true;
  draft.news.push(`pulls the spare ${formatCidr(heard.cidr)} of ${stored.name}`);
}

/** Spare blocks that are asked for by name, of one family, and by whom. */
export function pulledFrom(
  draft: Draft,
  family: Family,
  pullers: readonly Known<PeerRecord>[],
): readonly PulledBlock[] {
  const pulled: PulledBlock[] = [];
  for (const { stored, record } of pullers) {
    const { pulls, heir } = record;
    if (pulls === undefined || heir !== undefined || pulls.cidr.family !== family || !sameRef(pulls.from, draft.self))
      continue;
    const block = draft.blocks.find((one) => one.spare === true && isPlain(one) && sameCidr(one.cidr, pulls.cidr));
    if (block === undefined || !isEmptyBlock(draft.state, block) || !isLeftEnough(draft, block)) continue;
    pulled.push({ block, to: { name: stored.name, uid: stored.uid } });
  }
  return pulled.slice(0, 1);
}

export interface PulledBlock {
  readonly block: Block;
  readonly to: { readonly name: string; readonly uid: string };
}

function isLeftEnough({ state, blocks }: Draft, block: Block): boolean {
  const left = freeAddresses(state.spaces[block.cidr.family]) - countAddresses([block.cidr]);
  return (
    left >= state.config.lowWater &&
    blocks.some((one) => one !== block && one.cidr.family === block.cidr.family && isPlain(one))
  );
}

/** True when the record asks this peer for a spare block. */
export function pullsFrom(
  record: PeerRecord,
  self: { readonly name: string; readonly uid: string } | undefined,
): boolean {
  return sameRef(record.pulls?.from, self);
}

/** Keeps the names of peers with spare blocks. */
export function noteSpares(state: State, { stored, record }: Known<PeerRecord>): void {
  if (record.blocks.some((block) => block.spare === true)) state.spares.add(stored.name);
  else state.spares.delete(stored.name);
}
