// One cycle: read the universe (until it is founded), list the others (now and then), read the own record, read the others that
// something hangs on, and compare-and-swap the own record at the version read. Every step waits for its answers; an answer that
// does not come, or does not tell, ends the cycle, and the next one reads again.
import { clearVia, receive } from './receive.ts';
import { describe } from './describe.ts';
import { type Draft, finish, jsonBytes, startDraft } from './draft.ts';
import { toRead } from './due.ts';
import type { Answer, StoredRecord } from './events.ts';
import { newUniverse, seed } from './found.ts';
import { grant } from './grant.ts';
import { forget, isOlder, learn } from './hints.ts';
import { isBack, suspect, writeBack } from './back.ts';
import { adopt, createOwn, found } from './join.ts';
import { confirm, mayHaveOldPods, recall } from './own.ts';
import { endCycle, idle, type Moment } from './pause.ts';
import {
  formatPeer,
  formatUniverse,
  parsePeer,
  type PeerRecord,
  recordLimitBytes,
  type UniverseRecord,
} from './records.ts';
import { inherit, toLookAt } from './takeover.ts';
import { liftQuarantine, quarantineLost } from './quarantine.ts';
import { actOnDead, selfRead } from './foreign.ts';
import { outsideLeases } from './identity.ts';
import { withdrawGiven } from './withdraw.ts';
import { read, readNode, request, startWriting } from './requests.ts';
import { markSpare, pull } from './spare.ts';
import { isHeld, mayBeOthers, noteOwnWrite } from './session.ts';
import { settle } from './settle.ts';
import { type Cycle, emit, isObserving, type Known, persistPeer, say, sayOnce, type State } from './state.ts';
import { noteUnowned } from './unowned.ts';
import { isOver, isUniverseDue, knowUniverse, leave, missUniverse, standingOf } from './universe.ts';
import { want } from './want.ts';

export function beginCycle(state: State, at: Moment): void {
  state.cycle = {
    phase: 'universe',
    deadlineMs: at.nowMs + state.config.requestTimeoutMs,
    pending: new Map(),
    own: undefined,
    others: new Map(),
    heard: new Map(),
    news: new Set(),
    sessions: new Map(),
    nodes: new Map(),
    foreign: undefined,
    writing: undefined,
  };
  state.polledMs = at.nowMs;
  if (isUniverseDue(state, at.nowMs)) read(state, state.cycle, 'universe', state.config.universe);
  else enterList(state, state.cycle, at);
}

/** Event `answer`. One to a request that is no longer waited for changes nothing: its write is looked up by the next read. */
export function answered(state: State, id: number, answer: Answer, at: Moment): void {
  const cycle = state.cycle;
  const asked = cycle?.pending.get(id);
  if (cycle === undefined || asked === undefined) return;
  cycle.pending.delete(id);
  switch (answer.kind) {
    case 'failed':
      // One of the others could not be read: nothing is concluded from it, the rest of the cycle goes on.
      if (cycle.phase === 'others' && cycle.own !== undefined) afterReads(state, cycle, cycle.own, at);
      else endCycle(state, at, `the registry: ${answer.reason}`);
      return;
    case 'unknown':
      endCycle(state, at, `the registry: ${answer.reason}`);
      return;
    case 'refused':
      state.trouble = `the registry refuses this node's write: ${answer.reason}`;
      sayOnce(state, state.trouble);
      endCycle(state, at, '');
      return;
    case 'conflict':
    case 'notFound':
      endCycle(state, at, '');
      return;
    case 'ok':
      written(state, cycle, answer.record, at);
      return;
    case 'deleted':
      if (cycle.foreign !== undefined) forget(state, cycle.foreign.dead.stored.name);
      writtenAny(state, cycle, at);
      return;
    case 'node':
      nodeRead(state, cycle, asked.name, answer.exists, at);
      return;
    case 'list':
      listed(state, cycle, answer.records, at);
      return;
    case 'record':
      if (cycle.phase === 'universe') universeRead(state, cycle, answer.record, at);
      else if (cycle.phase === 'own') ownRead(state, cycle, answer.record, at);
      else if (asked.about === 'session') sessionRead(state, cycle, asked.name, answer.record, at);
      else otherRead(state, cycle, asked.name, answer.record, at);
  }
}

function universeRead(state: State, cycle: Cycle, stored: StoredRecord | undefined, at: Moment): void {
  const missed = stored === undefined ? missUniverse(state, at.nowMs, at.random) : 'none';
  if (missed === 'goOn') {
    enterList(state, cycle, at);
    return;
  }
  if (stored === undefined) {
    if (missed === 'none' && state.config.ranges.length === 0) {
      state.trouble = `the registry has no Universe "${state.config.universe}": apply the manifest`;
      sayOnce(state, state.trouble);
      endCycle(state, at, '');
      return;
    }
    startWriting(cycle, { kind: 'universe', news: [], record: undefined });
    emit(state, {
      kind: 'create',
      request: request(state, cycle, state.config.universe),
      record: 'universe',
      name: state.config.universe,
      value: formatUniverse(newUniverse(state)),
    });
    return;
  }
  if (knowUniverse(state, stored)) enterList(state, cycle, at);
  else endCycle(state, at, '');
}

function enterList(state: State, cycle: Cycle, at: Moment): void {
  if (at.nowMs < state.nextListMs) {
    enterOwn(state, cycle);
    return;
  }
  cycle.phase = 'list';
  cycle.news.clear();
  emit(state, { kind: 'list', request: request(state, cycle, '') });
}

function listed(state: State, cycle: Cycle, records: readonly StoredRecord[], at: Moment): void {
  const names = new Set(records.map((stored) => stored.name));
  for (const name of state.peers.keys()) if (!names.has(name) && !cycle.news.has(name)) forget(state, name);
  for (const stored of records) {
    if (stored.name === state.config.self) continue;
    const parsed = parsePeer(stored.value);
    if (cycle.news.has(stored.name) && isOutdated(state.peers.get(stored.name), stored, parsed)) continue;
    learn(state, stored, parsed);
  }
  state.listed = true;
  cycle.listed = true;
  noteUnowned(state, at.nowMs);
  state.nextListMs = at.nowMs + state.config.resyncMs * (0.75 + at.random / 2);
  enterOwn(state, cycle);
}

/** Another incarnation than the one that was heard of, or older, or of a record that is gone. */
function isOutdated(
  known: Known<PeerRecord> | undefined,
  stored: StoredRecord,
  parsed: ReturnType<typeof parsePeer>,
): boolean {
  return known?.stored.uid !== stored.uid || isOlder(known, stored, parsed);
}

function enterOwn(state: State, cycle: Cycle): void {
  cycle.phase = 'own';
  read(state, cycle, 'peer', state.config.self);
}

function look(state: State): void {
  if (!state.looked) emit(state, { kind: 'changed' });
  state.looked = true;
}

function ownRead(state: State, cycle: Cycle, stored: StoredRecord | undefined, at: Moment): void {
  state.ownChanged = false;
  // Whoever only follows the others has no session, and writes nothing; with a record of its own it is none of those.
  if (!isHeld(state)) {
    state.hasRecord = stored !== undefined;
    if (!state.hasRecord) look(state);
    idle(state, at);
    return;
  }
  look(state);
  if (isOver(state, stored)) {
    leave(state);
    idle(state, at);
    return;
  }
  if (stored !== undefined && mayBeOthers(state, stored, at.nowMs)) {
    idle(state, at);
    return;
  }
  if (recall(state, stored)) {
    idle(state, at);
    return;
  }
  if (isBack(state, stored)) {
    if (!writeBack(state, cycle, stored, at.nowMs)) idle(state, at);
    return;
  }
  if (stored === undefined) {
    if (isObserving(state) || mayHaveOldPods(state)) idle(state, at);
    else createOwn(state, cycle, at);
    return;
  }
  const own = confirm(state, stored, at.nowMs);
  if (own === undefined) {
    idle(state, at);
    return;
  }
  cycle.own = own;
  const universe = state.universe;
  if (universe !== undefined && universe.record.founder === undefined) {
    foundOrAdopt(state, cycle, universe, own, at);
    return;
  }
  cycle.phase = 'others';
  const dead = toLookAt(state, at.nowMs);
  for (const name of toRead(state, own.record, stored, dead)) {
    const heard = state.peers.get(name);
    if (heard !== undefined) cycle.heard.set(name, heard);
    read(state, cycle, 'peer', name);
  }
  for (const name of dead) {
    const node = state.peers.get(name)?.record.node;
    if (node === undefined) continue;
    read(state, cycle, 'session', name);
    readNode(state, cycle, name, node);
  }
  afterReads(state, cycle, own, at);
}

/** Whether there is anything to found is told by a list of this very cycle. */
function foundOrAdopt(
  state: State,
  cycle: Cycle,
  universe: Known<UniverseRecord>,
  own: Known<PeerRecord>,
  at: Moment,
): void {
  const standing = standingOf(state, universe.record, own);
  if (standing.kind === 'found' && state.survey === undefined) {
    found(state, cycle, universe, at);
    return;
  }
  if (cycle.listed !== true) {
    state.nextListMs = at.nowMs;
    state.notBeforeMs = at.nowMs;
    state.cycle = undefined;
    return;
  }
  if (standing.kind === 'wait') {
    state.trouble = standing.why;
    sayOnce(state, standing.why);
    endCycle(state, at, '');
    state.notBeforeMs = at.nowMs + state.config.pollMs;
    return;
  }
  const seeded = standing.kind === 'adopt';
  if (own.record.seeded !== seeded) {
    const draft = startDraft(state, own, cycle.others, at.nowMs, at.random);
    draft.seeded = seeded;
    writeDraft(state, cycle, own, draft, at);
  } else if (seeded) adopt(state, cycle, universe, own);
  else found(state, cycle, universe, at);
}

function otherRead(state: State, cycle: Cycle, name: string, stored: StoredRecord | undefined, at: Moment): void {
  const latest = state.peers.get(name);
  if (stored === undefined) forget(state, name);
  const known = stored && learn(state, stored);
  const isOlder = (than: Known<PeerRecord> | undefined): boolean =>
    than !== undefined && than.stored.uid === known?.stored.uid && known.record.seq < than.record.seq;
  // Older than what was heard of the same record before it was asked for: the registry went back. News that came while the answer was
  // on its way tell nothing of the kind, and stay known.
  if (isOlder(cycle.heard.get(name))) suspect(state, at.nowMs);
  else if (latest !== undefined && isOlder(latest)) learn(state, latest.stored);
  cycle.others.set(name, known ?? stored);
  if (cycle.own !== undefined) afterReads(state, cycle, cycle.own, at);
}

function sessionRead(state: State, cycle: Cycle, name: string, stored: StoredRecord | undefined, at: Moment): void {
  cycle.sessions.set(name, stored);
  if (cycle.own !== undefined) afterReads(state, cycle, cycle.own, at);
}

function nodeRead(state: State, cycle: Cycle, name: string, exists: boolean, at: Moment): void {
  if (cycle.phase === 'self') {
    if (!selfRead(state, cycle, exists)) endCycle(state, at, 'the node that this agent stands for is gone');
    return;
  }
  cycle.nodes.set(name, exists);
  if (cycle.own !== undefined) afterReads(state, cycle, cycle.own, at);
}

function afterReads(state: State, cycle: Cycle, own: Known<PeerRecord>, at: Moment): void {
  if (cycle.pending.size === 0) writeOwn(state, cycle, own, at);
}

/** In this order: what was given and taken is settled before new space is given or asked for. */
const operations: readonly ((draft: Draft) => void)[] = [
  seed,
  settle,
  clearVia,
  receive,
  inherit,
  quarantineLost,
  liftQuarantine,
  grant,
  markSpare,
  want,
  pull,
  describe,
];

function writeOwn(state: State, cycle: Cycle, own: Known<PeerRecord>, at: Moment): void {
  const draft = startDraft(state, own, cycle.others, at.nowMs, at.random);
  if (actOnDead(draft, cycle)) return;
  for (const operation of operations) operation(draft);
  // A write that may still be under way is overtaken by one that changes the version: only then may space come back.
  if (state.durable.doubt === own.stored.version) draft.changed = true;
  // Nothing is written back any more: the disk that knew of it was lost.
  if (own.record.suspect === true) draft.changed = true;
  if (!draft.changed) {
    state.trouble = '';
    idle(state, at);
    return;
  }
  writeDraft(state, cycle, own, draft, at);
}

function writeDraft(state: State, cycle: Cycle, own: Known<PeerRecord>, draft: Draft, at: Moment): void {
  const record = finish(draft);
  const value = formatPeer(record);
  if (jsonBytes(value) > recordLimitBytes) {
    endCycle(state, at, `the record would exceed ${recordLimitBytes} bytes: not written`);
    return;
  }
  withdrawGiven(state, own, record);
  startWriting(cycle, { kind: 'update', news: draft.news, record });
  const id = request(state, cycle, own.stored.name);
  emit(state, { kind: 'update', request: id, record: 'peer', stored: own.stored, value });
}

function written(state: State, cycle: Cycle, stored: StoredRecord, at: Moment): void {
  const writing = cycle.writing;
  if (writing?.record !== undefined) noteOwnWrite(state, stored);
  if (writing?.kind === 'universe' || writing?.kind === 'found') knowUniverse(state, stored);
  else if (writing?.kind === 'foreign') learn(state, stored);
  else if (writing?.kind === 'back') state.polledMs = -Infinity;
  else confirm(state, stored, at.nowMs);
  if (writing?.kind === 'backDone' && outsideLeases(state).length > 0) persistPeer(state, { cutting: true });
  if (writing?.kind === 'update' && state.durable.lostRests === true) persistPeer(state, { lostRests: false });
  writtenAny(state, cycle, at);
}

function writtenAny(state: State, cycle: Cycle, at: Moment): void {
  state.trouble = '';
  for (const text of cycle.writing?.news ?? []) say(state, 'info', text);
  state.cycle = undefined;
  state.fruitless = 0;
  state.notBeforeMs = at.nowMs;
  // One write often makes the next one possible: what is under way with a dead peer goes on at once.
  if (state.heirOf.size > 0) state.polledMs = -Infinity;
}
