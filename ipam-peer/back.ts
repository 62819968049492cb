// The registry went back: etcd was restored from a backup, or the own record was deleted by hand. The own record is missing, or older
// than what this peer is known to have written, and no heir and no removal of the node explains it. Then
//
//   1. only what is both on the disk and in the record is leased from;
//   2. the record is made smaller first: what the disk does not know as its own any more is somebody else's by now;
//   3. once no other record holds anything of it, the disk's copy of the record is written back.
//
// Every living peer does so with its own record. Meanwhile (`suspect` stands in some record, or something was read that is older than
// what was heard) nobody grants, takes over or takes back: the records do not tell who owns what.
import { type Cidr, coalesce, contains, formatCidrs, intersect, overlaps, subtract } from './cidr.ts';
import type { DurablePeer, StoredRecord } from './events.ts';
import {
  formatPeer,
  incarnationKey,
  isDeadSource,
  isIncarnation,
  parsePeer,
  type PeerRecord,
  type RecordRef,
} from './records.ts';
import { request, startWriting } from './requests.ts';
import { type Cycle, emit, type Known, persistPeer, refreshUsable, sayOnce, setFence, type State } from './state.ts';
import type { Conflict } from './universe-state.ts';

/** What a disk knows of the own record. */
type Memory = Pick<DurablePeer, 'uid' | 'seq' | 'record' | 'back'>;

/** The own record as the disk knows it, when there is something to write back. */
function kept(state: State, { uid, record }: Memory = state.durable): PeerRecord | undefined {
  const parsed = parsePeer(record);
  if (!parsed.ok) return undefined;
  const { blocks, granting, seeded, was } = parsed.record;
  const self = { name: state.config.self, uid: uid ?? '' };
  const founder = !seeded && isIncarnation(state.universe?.record.founder, self, was);
  return founder || blocks.length + granting.length > 0 ? parsed.record : undefined;
}

/** True while the own record has to be written back; begins it when the record as read shows that the registry went back. */
export function isBack(state: State, stored: StoredRecord | undefined): boolean {
  if (state.durable.back === true) return true;
  if (!wentBack(state, state.durable, stored)) return false;
  const how = stored === undefined ? 'is gone' : 'is older than what this node wrote';
  sayOnce(
    state,
    `the registry went back: this node's record ${how}; it is written back once no other record holds its blocks`,
  );
  persistPeer(state, { back: true });
  return true;
}

/** True when the record as read is missing, or older than what was known of it, and neither an heir nor a removal explains that. */
export function wentBack(state: State, memory: Memory, stored: StoredRecord | undefined): boolean {
  if (memory.uid === undefined || kept(state, memory) === undefined) return false;
  if (memory.back === true) return true;
  const parsed = parsePeer(stored?.value);
  if (stored !== undefined && (!parsed.ok || parsed.record.heir !== undefined || parsed.record.removed === true))
    return false;
  return stored?.uid !== memory.uid || !parsed.ok || parsed.record.seq < memory.seq;
}

/** The next step of writing the own record back; false when it has to wait. */
export function writeBack(state: State, cycle: Cycle, stored: StoredRecord | undefined, nowMs: number): boolean {
  if (state.backSinceMs === Infinity) state.backSinceMs = nowMs;
  suspect(state, nowMs);
  const copy = kept(state);
  const parsed = parsePeer(stored?.value);
  if (copy === undefined) {
    persistPeer(state, { back: false });
    return false;
  }
  if (stored === undefined) {
    setFence(state, 'own', 'the registry has no record of this node any more, while its disk holds blocks');
    const was = wasOf(state, copy, undefined);
    create(state, cycle, {
      ...copy,
      seq: 1,
      blocks: [],
      granting: [],
      wants: { 4: undefined, 6: undefined },
      // As long as others' records were not read it claims nothing, not even an unseeded founder's range.
      seeded: true,
      was,
      suspect: true,
    });
    return true;
  }
  if (!parsed.ok) return false;
  const known: Known<PeerRecord> = { stored, record: parsed.record };
  setFence(state, 'own', '');
  state.confirmed = known;
  refreshUsable(state);
  const smaller = smallerOf(parsed.record, copy);
  if (smaller !== undefined) {
    update(state, cycle, stored, smaller, 'back');
    return true;
  }
  // The list is read anew before each attempt.
  state.nextListMs = Math.min(state.nextListMs, nowMs);
  if (cycle.listed !== true) return false;
  const whole = withoutInherited(state, withoutLost(state, withoutTaken(state, copy)));
  const holders = holdersOf(state, whole);
  noteConflicts(state, holders);
  if (holders.length > 0) {
    const who = holders.map(({ name, cidrs }) => `${name} (${formatCidrs(cidrs)})`);
    sayOnce(state, `cannot write this node's record back yet: its blocks are also in the records of ${who.join(', ')}`);
    return false;
  }
  const was = wasOf(state, copy, { uid: stored.uid, was: parsed.record.was });
  const seq = Math.max(parsed.record.seq, state.durable.seq) + 1;
  const { suspect: _done, ...back } = whole;
  update(state, cycle, stored, { ...back, seq, ...(was.length > 0 && { was }) }, 'backDone');
  return true;
}

/** The incarnations that the record goes on from: that of the disk, and those before it. */
function wasOf(
  state: State,
  copy: PeerRecord,
  now: { readonly uid: string; readonly was: PeerRecord['was'] } | undefined,
): readonly string[] {
  const uids = new Set([state.durable.uid ?? '', ...(now?.was ?? []), ...(copy.was ?? [])]);
  return [...uids].filter((uid) => uid !== '' && uid !== now?.uid).slice(0, 4);
}

/** The record as it stands less what the disk does not know as its own, marked as suspect; undefined when it is so already. */
function smallerOf(record: PeerRecord, copy: PeerRecord): PeerRecord | undefined {
  const foreign = subtract(
    record.blocks.map(({ cidr }) => cidr),
    copy.blocks.map(({ cidr }) => cidr),
  );
  const granting = record.granting.filter((grant) => copy.granting.some((one) => one.id === grant.id));
  if (foreign.length === 0 && granting.length === record.granting.length && record.suspect === true) return undefined;
  const blocks = copy.blocks.flatMap((block) => {
    const held = record.blocks.some((one) => contains(one.cidr, block.cidr));
    return held ? [block] : record.blocks.filter((one) => contains(block.cidr, one.cidr));
  });
  return { ...record, blocks, granting, seq: record.seq + 1, suspect: true };
}

/**
 * Without the grants that their targets have taken for good: those read the grant as gone while this record was missing, and may have
 * given parts of it on. The others had time to make their records smaller before that is concluded from all of theirs together.
 */
function withoutTaken(state: State, copy: PeerRecord): PeerRecord {
  const late = state.nowMs >= state.backSinceMs + state.config.suspicionMs / 2;
  const granting = copy.granting.filter(({ to, cidr, id }) => {
    const target = state.peers.get(to.name)?.record;
    if (target?.blocks.some((block) => contains(block.cidr, cidr) && block.via?.id !== id) === true) return false;
    return !late || subtract([cidr], ownedByOthers(state, id)).length > 0;
  });
  return { ...copy, granting };
}

/** After a long time what others hold is theirs: the rest is written back, and pods on what was lost are cut off the network. */
function withoutLost(state: State, copy: PeerRecord): PeerRecord {
  if (state.nowMs < state.backSinceMs + 2 * state.config.suspicionMs) return copy;
  const theirs = ownedByOthers(state, -1);
  const lost = intersect(
    copy.blocks.map(({ cidr }) => cidr),
    theirs,
  );
  if (lost.length > 0)
    sayOnce(state, `${formatCidrs(lost)} was this node's and is others' now; pods on it are cut off the network`);
  return {
    ...copy,
    blocks: copy.blocks.flatMap((block) => subtract([block.cidr], theirs).map((cidr) => ({ ...block, cidr }))),
    granting: copy.granting.filter((grant) => !theirs.some((cidr) => overlaps(cidr, grant.cidr))),
  };
}

/** A founder that had seeded nothing: where anybody has space by now, an heir has inherited the range. */
function withoutInherited(state: State, copy: PeerRecord): PeerRecord {
  const isOthers = [...state.peers.values()].some(({ record }) => record.blocks.length + record.granting.length > 0);
  return isOthers ? { ...copy, seeded: true } : copy;
}

/** Blocks and grants of all others, less those that still carry this peer's grant. */
function ownedByOthers(state: State, id: number): readonly Cidr[] {
  const cidrs: Cidr[] = [];
  for (const { record } of state.peers.values()) {
    for (const block of record.blocks) {
      if (block.via?.name !== state.config.self || block.via.id !== id) cidrs.push(block.cidr);
    }
    for (const grant of record.granting) cidrs.push(grant.cidr);
  }
  return cidrs;
}

/** Whose records hold anything of the copy. What was granted by them to this peer and is carried, or by this peer to them, is no conflict. */
function holdersOf(state: State, copy: PeerRecord): readonly Conflict[] {
  const own = [...copy.blocks, ...copy.granting].map(({ cidr }) => cidr);
  const holders: Conflict[] = [];
  for (const { stored, record } of state.peers.values()) {
    const blocks = record.blocks.filter(
      (block) =>
        !copy.granting.some((grant) => block.via?.name === state.config.self && block.via.id === grant.id) &&
        own.some((cidr) => overlaps(cidr, block.cidr)) &&
        !copy.blocks.some((own) => isDeadSource(own.via, stored)),
    );
    const grants = record.granting.filter(
      (grant) => grant.to.name !== state.config.self && own.some((cidr) => overlaps(cidr, grant.cidr)),
    );
    const held = [...blocks, ...grants].map(({ cidr }) => cidr);
    if (held.length > 0) holders.push({ name: stored.name, cidrs: coalesce(intersect(held, own)) });
  }
  return holders;
}

function noteConflicts(state: State, conflicts: readonly Conflict[]): void {
  const text = (list: readonly Conflict[]): string => list.map(({ name, cidrs }) => name + formatCidrs(cidrs)).join();
  if (text(conflicts) === text(state.conflicts)) return;
  state.conflicts = conflicts;
  emit(state, { kind: 'changed' });
}

function create(state: State, cycle: Cycle, record: PeerRecord): void {
  startWriting(cycle, { kind: 'back', news: ['made the record of this node again'], record });
  const id = request(state, cycle, state.config.self);
  emit(state, { kind: 'create', request: id, record: 'peer', name: state.config.self, value: formatPeer(record) });
}

function update(state: State, cycle: Cycle, stored: StoredRecord, record: PeerRecord, kind: 'back' | 'backDone'): void {
  const news = kind === 'back' ? [] : ['wrote the record of this node back'];
  startWriting(cycle, { kind, news, record });
  const id = request(state, cycle, stored.name);
  emit(state, { kind: 'update', request: id, record: 'peer', stored, value: formatPeer(record) });
}

/** From now on, for a while, the records are not believed. */
export function suspect(state: State, nowMs: number): void {
  state.suspectUntilMs = Math.max(state.suspectUntilMs, nowMs + state.config.suspicionMs);
}

/** True while nobody may grant, take over or take back. A peer that stays suspect for too long holds nobody up. */
export function isSuspicious(state: State, nowMs: number): boolean {
  if (state.durable.back === true || nowMs < state.suspectUntilMs) return true;
  for (const sinceMs of state.suspects.values()) if (nowMs < sinceMs + state.config.suspicionMs) return true;
  return false;
}

/**
 * True while an incarnation that was read to be gone may still be made again by its agent, with what it had taken, or was made again since.
 * An heir deletes only what is settled; whose record went otherwise, or before this process looked, is waited for: by its incarnation,
 * as another record of the name may be one that knows nothing of it.
 */
export function mayComeBack(state: State, ref: RecordRef): boolean {
  const known = state.peers.get(ref.name);
  if (known !== undefined && isIncarnation(ref, known.stored, known.record.was)) return true;
  const key = incarnationKey(ref);
  if (state.buried.has(key)) return false;
  const sinceMs = state.vanished.get(key) ?? state.nowMs;
  state.vanished.set(key, sinceMs);
  return state.nowMs < sinceMs + state.config.suspicionMs;
}
