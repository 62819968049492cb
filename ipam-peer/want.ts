// Want: a peer without space, or below its low-water mark, names one donor in its record. Donors are drawn at random, weighted by
// what they publish; with few of them the roomiest is taken, so that small clusters split the same way each time. One that does
// not answer in time is passed over in this round (its grant, should it still come, is taken: two grants are harmless). When
// nobody has enough, that is reported and nothing is written. Each family is asked for by itself, of the same donor where one has both.
import { families, type Family, type PerFamily } from './address.ts';
import { type Cidr, compareCidr, countAddresses, formatCidrs } from './cidr.ts';
import type { Draft } from './draft.ts';
import { enoughToGive, wantsPerWrite } from './grant.ts';
import { type Block, blocksLimit, isIncarnation, type PeerRecord, type RecordRef, sameRef } from './records.ts';
import { freeAddresses } from './space.ts';
import { familiesOf, familyWord, type Known, type State, selfRef } from './state.ts';

/** Up to so many candidates the choice is not random. */
const fewCandidates = 3;

export function want(draft: Draft): void {
  const { state } = draft;
  // What is in doubt comes back with this very write.
  if (state.durable.doubt !== undefined && state.durable.doubt === state.confirmed?.stored.version) return;
  for (const family of families) wantFamily(draft, family);
}

function wantFamily(draft: Draft, family: Family): void {
  const { state } = draft;
  const asked = draft.wants[family];
  const gained = draft.blocks.filter((block) => !draft.base.blocks.includes(block)).map((block) => block.cidr);
  const more = countAddresses(gained.filter((cidr) => cidr.family === family));
  if (!isShort(state, family, draft.blocks, more)) {
    if (asked !== undefined) draft.changed = true;
    draft.wants = { ...draft.wants, [family]: undefined };
    return;
  }
  if (asked !== undefined && stillHopeful(state, family, asked, draft.nowMs)) return;
  const donor = chooseDonor(state, family, { previous: asked, preferred: draft.wants[4], random: draft.random });
  if (donor === undefined) {
    // Whoever waits may still get what this very write brings.
    if (more > 0) state.asks[family].exhausted = false;
    return;
  }
  if (sameRef(donor, asked)) {
    // Nobody else could be asked: go on waiting for the same one.
    state.asks[family].from = donor;
    state.asks[family].sinceMs = draft.nowMs;
    return;
  }
  draft.wants = { ...draft.wants, [family]: donor };
  draft.changed = true;
  draft.news.push(`asked ${donor.name} for${familyWord(state, family)} space`);
}

/** The wants that ride on the creation of a record: one for each family of the universe, of the same donor where it has both. */
export function firstWants(state: State, random: number): PerFamily<RecordRef | undefined> {
  const served = familiesOf(state);
  const first = served.includes(4) ? chooseDonor(state, 4, { random }) : undefined;
  return { 4: first, 6: served.includes(6) ? chooseDonor(state, 6, { preferred: first, random }) : undefined };
}

/**
 * True when space of a family should be asked for: none at all, or less free than the low-water mark; never when the record is full.
 * `gained`: addresses in `blocks` that are not usable yet.
 */
export function isShort(state: State, family: Family, blocks: readonly Block[], gained: number): boolean {
  if (blocks.length >= blocksLimit - wantsPerWrite || !familiesOf(state).includes(family)) return false;
  if (gained === 0 && !blocks.some((block) => block.cidr.family === family)) return true;
  // What is in quarantine comes back by itself, unless pods run in it that nobody knows.
  const resting = blocks.filter((block) => block.quarantine === true);
  const back = countAddresses(resting.map((block) => block.cidr).filter((cidr) => cidr.family === family));
  return freeAddresses(state.spaces[family]) + gained + back < state.config.lowWater;
}

/** True while the donor asked may still answer. */
export function stillHopeful(state: State, family: Family, donor: RecordRef, nowMs: number): boolean {
  const { from, sinceMs } = state.asks[family];
  if (from === undefined || !sameRef(from, donor)) return false;
  if (nowMs >= sinceMs + state.config.answerTimeoutMs) return false;
  const hint = state.peers.get(donor.name);
  return hint === undefined || hint.stored.uid !== donor.uid || canGive(state, hint, family) || isUnseeded(state, hint);
}

function canGive(state: State, peer: Known<PeerRecord>, family: Family): boolean {
  const alive = peer.record.heir === undefined && !state.gone.has(peer.stored.name);
  return alive && peer.record.free[family] >= enoughToGive(state);
}

function isUnseeded(state: State, peer: Known<PeerRecord>): boolean {
  return !peer.record.seeded && isIncarnation(state.universe?.record.founder, peer.stored, peer.record.was);
}

interface Choice {
  /** Asked before, in vain. */
  readonly previous?: RecordRef | undefined;
  /** Asked for the other family in the same write: one answer serves both. */
  readonly preferred?: RecordRef | undefined;
  readonly random: number;
}

/** The donor to ask; undefined when nobody has enough (`exhausted` is then set). */
function chooseDonor(state: State, family: Family, choice: Choice): RecordRef | undefined {
  const { previous, preferred, random } = choice;
  const ask = state.asks[family];
  if (previous !== undefined) ask.silent.add(previous.name);
  const able = [...state.peers.values()].filter((peer) => canGive(state, peer, family));
  let candidates = able.filter((peer) => !ask.silent.has(peer.stored.name));
  if (candidates.length === 0 && able.length > 0) {
    ask.silent.clear();
    candidates = able;
  }
  const chosen = candidates.find((peer) => sameRef(peer.stored, preferred)) ?? pick(candidates, family, random);
  ask.exhausted = false;
  if (chosen !== undefined) return { name: chosen.stored.name, uid: chosen.stored.uid };
  const founder = founderNotYetHeard(state);
  ask.exhausted = founder === undefined;
  return founder;
}

function pick(candidates: readonly Known<PeerRecord>[], family: Family, random: number): Known<PeerRecord> | undefined {
  if (candidates.length <= fewCandidates) return candidates.toSorted((a, b) => byRoom(a, b, family)).at(-1);
  let rest = random * candidates.reduce((sum, peer) => sum + peer.record.free[family], 0);
  return candidates.find((peer) => (rest -= peer.record.free[family]) < 0) ?? candidates.at(-1);
}

function byRoom(a: Known<PeerRecord>, b: Known<PeerRecord>, family: Family): number {
  const [freeA, freeB] = [a.record.free[family], b.record.free[family]];
  const [blockA, blockB] = [a, b].map(({ record }) => record.blocks.find(({ cidr }) => cidr.family === family)?.cidr);
  if (freeA !== freeB || blockA === undefined || blockB === undefined) return freeA - freeB;
  return compareCidr(blockA, blockB);
}

/** The founder owns everything before it says so: ask it when its record is not known or not seeded yet. */
function founderNotYetHeard(state: State): RecordRef | undefined {
  const founder = state.universe?.record.founder;
  if (founder === undefined || sameRef(founder, selfRef(state)) || founder.name === state.config.self) return undefined;
  const hint = state.peers.get(founder.name);
  // Once everybody was listed, a founder that is not there has been taken over.
  if (hint === undefined) return state.listed ? undefined : founder;
  return isUnseeded(state, hint) && !state.gone.has(founder.name) ? founder : undefined;
}

/** Who holds the pool's space, for a person whose pod found none. */
export function exhaustionText(state: State, family: Family): string {
  const ofFamily = (cidrs: readonly Cidr[]): readonly Cidr[] => cidrs.filter((cidr) => cidr.family === family);
  const holders = [...state.peers.values()]
    .map(({ record }) => ({
      name: record.node.name,
      size: countAddresses(ofFamily(record.blocks.map((block) => block.cidr))),
    }))
    .filter((holder) => holder.size > 0)
    .toSorted((a, b) => b.size - a.size);
  const named = holders.slice(0, 3).map((holder) => `${holder.name} ${holder.size}`);
  const more = holders.length > 3 ? `, ${holders.length - 3} more nodes` : '';
  const ranges = formatCidrs(ofFamily(state.universe?.record.ranges ?? state.durable.universe?.ranges ?? []));
  const others = named.length === 0 ? 'no other node holds any' : `held by ${named.join(', ')}${more}`;
  const { total } = state.spaces[family];
  const own = total > 0 ? `this node ${total}, ` : '';
  return `no node of the pool ${ranges} has space to give (addresses: ${own}${others})`;
}
