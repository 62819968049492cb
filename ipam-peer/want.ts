// Want: a peer without space, or below its low-water mark, names one donor in its record. Donors are drawn at random, weighted by
// what they publish; with few of them the roomiest is taken, so that small clusters split the same way each time. One that does
// not answer in time is passed over in this round (its grant, should it still come, is taken: two grants are harmless). When
// nobody has enough, that is reported and nothing is written.
import { compareCidr, countAddresses, formatCidrs } from './cidr.ts';
import type { Draft } from './draft.ts';
import { enoughToGive, wantsPerWrite } from './grant.ts';
import { blocksLimit, type PeerRecord, type RecordRef, sameRef } from './records.ts';
import { freeAddresses } from './space.ts';
import { type Known, type State, selfRef } from './state.ts';

/** Up to so many candidates the choice is not random. */
const fewCandidates = 3;

export function want(draft: Draft): void {
  const { state } = draft;
  // What is in doubt comes back with this very write.
  if (state.durable.doubt !== undefined && state.durable.doubt === state.confirmed?.stored.version) return;
  const gained = draft.blocks.filter((block) => !draft.base.blocks.includes(block)).map((block) => block.cidr);
  if (!isShort(state, draft.blocks.length, countAddresses(gained))) {
    if (draft.wants !== undefined) draft.changed = true;
    draft.wants = undefined;
    return;
  }
  if (draft.wants !== undefined && stillHopeful(state, draft.wants, draft.nowMs)) return;
  const donor = chooseDonor(state, draft.wants, draft.random);
  if (donor === undefined) return;
  if (sameRef(donor, draft.wants)) {
    // Nobody else could be asked: go on waiting for the same one.
    state.asking = { from: donor, sinceMs: draft.nowMs };
    return;
  }
  draft.wants = donor;
  draft.changed = true;
  draft.news.push(`asked ${donor.name} for space`);
}

/** True when space should be asked for: none at all, or less free than the low-water mark; never when the record is full. */
export function isShort(state: State, blocks: number, gained: number): boolean {
  if (blocks >= blocksLimit - wantsPerWrite) return false;
  return (blocks === 0 && gained === 0) || freeAddresses(state.space) + gained < state.config.lowWater;
}

/** True while the donor asked may still answer. */
export function stillHopeful(state: State, donor: RecordRef, nowMs: number): boolean {
  if (state.asking === undefined || !sameRef(state.asking.from, donor)) return false;
  if (nowMs >= state.asking.sinceMs + state.config.answerTimeoutMs) return false;
  const hint = state.peers.get(donor.name);
  return hint === undefined || hint.stored.uid !== donor.uid || canGive(state, hint) || isUnseeded(state, hint);
}

function canGive(state: State, peer: Known<PeerRecord>): boolean {
  return peer.record.free >= enoughToGive(state) && peer.record.heir === undefined;
}

function isUnseeded(state: State, peer: Known<PeerRecord>): boolean {
  return !peer.record.seeded && sameRef(state.universe?.record.founder, peer.stored);
}

/** The donor to ask; undefined when nobody has enough (`exhausted` is then set). */
export function chooseDonor(state: State, previous: RecordRef | undefined, random: number): RecordRef | undefined {
  if (previous !== undefined) state.silent.add(previous.name);
  const able = [...state.peers.values()].filter((peer) => canGive(state, peer));
  let candidates = able.filter((peer) => !state.silent.has(peer.stored.name));
  if (candidates.length === 0 && able.length > 0) {
    state.silent.clear();
    candidates = able;
  }
  const chosen = pick(candidates, random);
  state.exhausted = false;
  if (chosen !== undefined) return { name: chosen.stored.name, uid: chosen.stored.uid };
  return founderNotYetHeard(state) ?? reportExhaustion(state);
}

function pick(candidates: readonly Known<PeerRecord>[], random: number): Known<PeerRecord> | undefined {
  if (candidates.length <= fewCandidates) return candidates.toSorted(byRoom).at(-1);
  let rest = random * candidates.reduce((sum, peer) => sum + peer.record.free, 0);
  return candidates.find((peer) => (rest -= peer.record.free) < 0) ?? candidates.at(-1);
}

function byRoom(a: Known<PeerRecord>, b: Known<PeerRecord>): number {
  const [blockA, blockB] = [a.record.blocks[0]?.cidr, b.record.blocks[0]?.cidr];
  if (a.record.free !== b.record.free || blockA === undefined || blockB === undefined) {
    return a.record.free - b.record.free;
  }
  return compareCidr(blockA, blockB);
}

/** The founder owns everything before it says so: ask it when its record is not known or not seeded yet. */
function founderNotYetHeard(state: State): RecordRef | undefined {
  const founder = state.universe?.record.founder;
  if (founder === undefined || sameRef(founder, selfRef(state)) || founder.name === state.config.self) return undefined;
  const hint = state.peers.get(founder.name);
  return hint === undefined || isUnseeded(state, hint) ? founder : undefined;
}

function reportExhaustion(state: State): undefined {
  state.exhausted = true;
  return undefined;
}

/** Who holds the pool's space, for a person whose pod found none. */
export function exhaustionText(state: State): string {
  const holders = [...state.peers.values()]
    .map(({ record }) => ({ name: record.node.name, size: countAddresses(record.blocks.map((block) => block.cidr)) }))
    .filter((holder) => holder.size > 0)
    .toSorted((a, b) => b.size - a.size);
  const named = holders.slice(0, 3).map((holder) => `${holder.name} ${holder.size}`);
  const more = holders.length > 3 ? `, ${holders.length - 3} more nodes` : '';
  const ranges = formatCidrs(state.universe?.record.ranges ?? state.durable.universe?.ranges ?? []);
  const others = named.length === 0 ? 'no other node holds any' : `held by ${named.join(', ')}${more}`;
  const own = state.space.total > 0 ? `this node ${state.space.total}, ` : '';
  return `no node of the pool ${ranges} has space to give (addresses: ${own}${others})`;
}
