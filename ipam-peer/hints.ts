// What was heard of other peers' records, from watches, lists and reads. It decides when a cycle is worth starting and which
// records that cycle reads; it is never the ground for a write.
import { families } from './address.ts';
import {
  incarnationKey,
  isIncarnation,
  parsePeer,
  type PeerRecord,
  type RecordRef,
  sameRef,
  universeOf,
} from './records.ts';
import type { StoredRecord } from './events.ts';
import { enoughToGive } from './grant.ts';
import { noteSpares, pullsFrom } from './spare.ts';
import { emit, type Known, say, selfRef, type State } from './state.ts';

/** Event `hint`: older news than what is known of the same incarnation are passed over. */
export function hint(state: State, name: string, stored: StoredRecord | undefined, nowMs: number): void {
  if (name === state.config.self) {
    hintOfOwn(state, stored);
    return;
  }
  if (stored === undefined) {
    state.cycle?.news.add(name);
    forget(state, name);
    if (concerns(state, name)) wakeUp(state, nowMs);
    return;
  }
  if (universeOf(stored.value) !== state.config.universe) return;
  const known = state.peers.get(name);
  if (known?.stored.version === stored.version && known.stored.uid === stored.uid) return;
  const parsed = parsePeer(stored.value);
  if (isOlder(known, stored, parsed)) return;
  state.cycle?.news.add(name);
  learn(state, stored, parsed);
  if (concerns(state, name)) wakeUp(state, nowMs);
}

/** Older than what is known of the same incarnation. */
export function isOlder(
  known: Known<PeerRecord> | undefined,
  { uid }: Pick<StoredRecord, 'uid'>,
  parsed: ReturnType<typeof parsePeer>,
): boolean {
  return known?.stored.uid === uid && parsed.ok && parsed.record.seq < known.record.seq;
}

function hintOfOwn(state: State, stored: StoredRecord | undefined): void {
  const known = state.confirmed;
  // Its disk was lost: it is no mere observer.
  if (known === undefined && stored !== undefined && state.config.joinOnUse) state.ownChanged = true;
  if (known === undefined || stored?.version === known.stored.version) return;
  // Who deletes records may have put another Universe in the place of theirs.
  if (stored?.uid !== known.stored.uid) state.universeTrack.stale = true;
  const parsed = parsePeer(stored?.value);
  if (stored === undefined || !parsed.ok || stored.uid !== known.stored.uid || parsed.record.seq >= known.record.seq) {
    state.ownChanged = true;
  }
}

/** Takes in a record as read; undefined when it is another universe's, or malformed, which is reported once. */
export function learn(
  state: State,
  stored: StoredRecord,
  parsed: ReturnType<typeof parsePeer> = parsePeer(stored.value),
): Known<PeerRecord> | undefined {
  if (universeOf(stored.value) !== state.config.universe) return undefined;
  if (!parsed.ok) {
    if (state.malformed.get(stored.name) !== parsed.reason) {
      state.malformed.set(stored.name, parsed.reason);
      say(state, 'error', `the record of ${stored.name} cannot be understood and is passed over: ${parsed.reason}`);
    }
    return undefined;
  }
  state.malformed.delete(stored.name);
  const known: Known<PeerRecord> = { stored, record: parsed.record };
  if (stored.name === state.config.self) return known;
  const before = state.peers.get(stored.name);
  state.peers.set(stored.name, known);
  markInterest(state, known);
  noteSpares(state, known);
  if (before !== undefined && before.stored.uid !== stored.uid) bury(state, before);
  for (const key of incarnationsOf(known)) {
    state.vanished.delete(key);
    state.buried.delete(key);
  }
  if (parsed.record.suspect !== true) state.suspects.delete(stored.name);
  else if (!state.suspects.has(stored.name)) state.suspects.set(stored.name, state.nowMs);
  for (const family of families) {
    const ask = state.asks[family];
    if (!ask.exhausted || parsed.record.free[family] < enoughToGive(state)) continue;
    ask.exhausted = false;
    ask.silent.clear();
  }
  if (before?.stored.version !== stored.version || before.stored.uid !== stored.uid) emit(state, { kind: 'changed' });
  return known;
}

export function forget(state: State, name: string): void {
  if (state.interest.delete(name)) state.interestVersion++;
  state.heirOf.delete(name);
  state.spares.delete(name);
  state.suspects.delete(name);
  state.malformed.delete(name);
  const known = state.peers.get(name);
  if (known !== undefined) bury(state, known);
  if (state.peers.delete(name)) emit(state, { kind: 'changed' });
}

/** A record that named its heir is settled when it goes, and so is what it went on from. */
function bury(state: State, known: Known<PeerRecord>): void {
  if (known.record.heir === undefined) return;
  for (const key of incarnationsOf(known)) state.buried.add(key);
}

/** Keys of a record's own incarnation and of those that it went on from. */
function incarnationsOf({ stored: { name, uid }, record }: Known<PeerRecord>): readonly string[] {
  return [uid, ...(record.was ?? [])].map((each) => incarnationKey({ name, uid: each }));
}

function asks(record: PeerRecord, self: RecordRef): boolean {
  return families.some((family) => sameRef(record.wants[family], self));
}

function markInterest(state: State, peer: Known<PeerRecord>): void {
  const self = selfRef(state);
  const was = state.confirmed?.record.was;
  const { record, stored } = peer;
  const concerns =
    self !== undefined &&
    (asks(record, self) ||
      pullsFrom(record, self) ||
      record.granting.some((grant) => isIncarnation(grant.to, self, was)));
  const before = state.interest.delete(stored.name);
  if (concerns) state.interest.add(stored.name);
  if (before || concerns) state.interestVersion++;
  if (self !== undefined && isIncarnation(record.heir, self, was)) state.heirOf.add(stored.name);
  else state.heirOf.delete(stored.name);
}

/** True when something of this peer's hangs on that record. */
function concerns(state: State, name: string): boolean {
  const own = state.confirmed?.record;
  return (
    state.interest.has(name) ||
    families.some((family) => own?.wants[family]?.name === name) ||
    state.heirOf.has(name) ||
    own?.pulls?.from.name === name ||
    own?.granting.some((grant) => grant.to.name === name) === true ||
    own?.blocks.some((block) => block.via?.name === name) === true
  );
}

/** News end the pause after cycles that came to nothing. */
function wakeUp(state: State, nowMs: number): void {
  state.fruitless = 0;
  state.notBeforeMs = Math.min(state.notBeforeMs, nowMs);
}

/** After the own incarnation became known or changed. */
export function markAllInterest(state: State): void {
  for (const peer of state.peers.values()) markInterest(state, peer);
}
