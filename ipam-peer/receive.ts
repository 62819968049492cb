// Receive: the taker's end of a transfer. A grant read in a donor's record becomes a block that carries `via`, the grant's id:
// from this write on the space is this peer's. While `via` stands the block is leased from but not split, granted or merged;
// it is cleared when the source is read to be gone, so that no grant is ever taken twice.
import { isSuspicious, mayComeBack } from './back.ts';
import { contains, formatCidr, overlaps, subtract } from './cidr.ts';
import { type Draft, look, readPeers } from './draft.ts';
import { isShared } from './invariants.ts';
import {
  type Block,
  blocksLimit,
  type Grant,
  isIncarnation,
  isVia,
  type PeerRecord,
  type RecordRef,
} from './records.ts';
import { stillHolds } from './source.ts';
import { sayOnce } from './state.ts';

export function receive(draft: Draft): void {
  for (const { stored, record } of readPeers(draft)) {
    const donor: RecordRef = { name: stored.name, uid: stored.uid };
    for (const grant of record.granting) {
      if (!isIncarnation(grant.to, draft.self, draft.base.was)) continue;
      if (draft.blocks.some((block) => isVia(block.via, donor, grant.id, record.was))) continue;
      if ((draft.base.was ?? record.was) !== undefined && markAgain(draft, grant, donor)) continue;
      // It may have been taken, and given on, in what the registry has forgotten: its donor writes its record back first.
      if (isSuspicious(draft.state, draft.nowMs)) continue;
      if (!isPlausible(draft, grant, donor) || isFull(draft)) continue;
      draft.blocks.push({ cidr: grant.cidr, via: { ...donor, id: grant.id } });
      draft.changed = true;
      draft.news.push(`got ${formatCidr(grant.cidr)} from ${donor.name}`);
    }
  }
}

/** After the registry went back a donor may not know any more that its grant was taken: the block gets its `via` again. */
function markAgain(draft: Draft, grant: Grant, donor: RecordRef): boolean {
  const own = draft.blocks.find((block) => block.via === undefined && contains(block.cidr, grant.cidr));
  if (own === undefined || draft.blocks.length >= blocksLimit) return false;
  const { cidr: _whole, ...marks } = own;
  const rest = subtract([own.cidr], [grant.cidr]).map((cidr): Block => ({ ...marks, cidr }));
  const block: Block = { ...marks, cidr: grant.cidr, via: { ...donor, id: grant.id } };
  draft.blocks = [...draft.blocks.filter((one) => one !== own), ...rest, block];
  draft.changed = true;
  return true;
}

/** What does not fit into the record stays with its donor, granted, until there is room. */
function isFull(draft: Draft): boolean {
  const vias = draft.blocks.filter((block) => block.via !== undefined).length;
  return draft.blocks.length >= blocksLimit || vias >= draft.state.config.mostVias;
}

/** A grant written by hand or by an enemy must not put foreign space into this record. */
function isPlausible(draft: Draft, grant: Grant, donor: RecordRef): boolean {
  const universe = draft.state.universe?.record;
  const what = `${donor.name} grants ${formatCidr(grant.cidr)}`;
  if (universe === undefined) return false;
  if (!isShared(universe, grant.cidr)) {
    sayOnce(draft.state, `${what}, which is not space of this universe: not taken`);
    return false;
  }
  const own = [...draft.blocks, ...draft.granting];
  if (own.some((one) => overlaps(one.cidr, grant.cidr))) {
    sayOnce(draft.state, `${what}, which overlaps space of this node: not taken`);
    return false;
  }
  return true;
}

function mayWriteBack({ state, nowMs }: Draft, via: RecordRef, source: PeerRecord | 'gone'): boolean {
  if (isSuspicious(state, nowMs)) return true;
  return source === 'gone' ? mayComeBack(state, via) : source.suspect === true;
}

/** Clears `via` where the source is read to be gone: the grant dropped, the dead record without the block, or the incarnation deleted. */
export function clearVia(draft: Draft): void {
  draft.blocks = draft.blocks.map((block) => {
    if (block.via === undefined) return block;
    const { via, ...rest } = block;
    const source = look(draft, via);
    if (source === 'unread') return block;
    if (source !== 'gone' && stillHolds(draft.state.universe?.record, source, via, block.cidr)) return block;
    // After the registry went back, or its record was deleted by hand, the source may write its grant back at any moment.
    if (via.id !== undefined && mayWriteBack(draft, via, source)) return block;
    draft.changed = true;
    return rest;
  });
}
