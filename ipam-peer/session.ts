// Session: one process at a time acts for a node. Its record names the process; whoever holds it renews it. A start whose disk
// has the session that stands in the record takes it at once (a new id, written to disk before it is sent); any other waits until the
// record has stood still for its term on the own clock, and says "two agents, one name" when it moves. Losing it stops allocation.
//
//   disk {id: A}   ── persist {id: A, next: B} ── CAS record A -> B ── persist {id: B} ── held, renewed
//
// Without an answer from the registry a start goes on with what its disk allows; nothing is written to the registry before the
// session is held.
import type { Answer, StoredRecord } from './events.ts';
import { disown } from './identity.ts';
import { parsePeer } from './records.ts';
import { formatSession, parseSession, type SessionRecord } from './session-record.ts';
import type { Session } from './session-state.ts';
import { emit, isObserving, persistPeer, refreshUsable, say, setFence, type State } from './state.ts';

/** True when this process may write to the registry for its node. */
export function isHeld(state: State): boolean {
  return state.session.status === 'held';
}

/** When the session wants attention next. */
export function sessionDueMs(state: State): number {
  const { session } = state;
  const due = session.pending?.deadlineMs ?? (isResting(state) ? Infinity : session.nextMs);
  return session.status === 'asking' ? Math.min(due, session.offlineAtMs) : due;
}

/** No session for who only follows the others; and that of a node that is gone is left to stand still. */
function isResting(state: State): boolean {
  return isObserving(state) || (state.fences.get('node') ?? '') !== '';
}

export function driveSession(state: State, nowMs: number): void {
  const { session } = state;
  if (session.status === 'asking' && nowMs >= session.offlineAtMs) {
    session.status = 'offline';
    refreshUsable(state);
  }
  if (session.pending !== undefined && nowMs >= session.pending.deadlineMs) {
    session.pending = undefined;
    lookAgain(session, nowMs);
  }
  if (session.pending !== undefined || nowMs < session.nextMs || isResting(state)) return;
  if (session.status === 'held' && session.stored !== undefined) write(state, session.stored, nowMs);
  else read(state, nowMs);
}

function begin(state: State, doing: 'read' | 'write', nowMs: number): number {
  const id = state.nextRequest++;
  state.session.pending = { id, doing, deadlineMs: nowMs + state.config.requestTimeoutMs };
  return id;
}

function read(state: State, nowMs: number): void {
  emit(state, { kind: 'get', request: begin(state, 'read', nowMs), record: 'session', name: state.config.self });
}

/** Takes or renews the session that stands in `stored`; creates it when there is none. */
function write(state: State, stored: StoredRecord | undefined, nowMs: number): void {
  const { config } = state;
  const known = parseSession(stored?.value);
  const before: Pick<SessionRecord, 'renewals' | 'extra'> = known.ok ? known.record : { renewals: 0, extra: {} };
  // A new id each time: a disk that is rolled back by more than one renewal is told from the present one.
  const renewals = Math.max(before.renewals, state.durable.session?.renewals ?? 0) + 1;
  const next = `${config.session}-${renewals}`;
  const mine =
    known.ok && isMine(state, known.record) ? known.record : { sessionId: '', renewals: heldRenewals(state) };
  const session = { id: mine.sessionId, next, sent: sentSoFar(state), renewals, held: mine.renewals };
  persistPeer(state, { session, self: config.self });
  const value = formatSession({
    ...before,
    sessionId: next,
    renewals,
    termMs: config.sessionTermMs,
    removed: false,
  });
  const request = begin(state, 'write', nowMs);
  if (stored === undefined) emit(state, { kind: 'create', request, record: 'session', name: config.self, value });
  else emit(state, { kind: 'update', request, record: 'session', stored, value });
}

/** Most renewals without an answer that a disk remembers. */
const sentLimit = 16;

function sentSoFar({ durable: { session } }: State): readonly string[] {
  return [session?.next ?? '', ...(session?.sent ?? [])].filter((id) => id !== '').slice(0, sentLimit);
}

/** Event `answer`; true when it was one for the session. */
export function sessionAnswered(state: State, id: number, answer: Answer, at: { readonly nowMs: number }): boolean {
  const { session, config } = state;
  if (session.pending?.id !== id) return false;
  session.pending = undefined;
  switch (answer.kind) {
    case 'ok':
      held(state, answer.record, at.nowMs);
      return true;
    case 'record':
      wasRead(state, answer.record, at.nowMs);
      return true;
    case 'failed':
      if (session.status === 'asking') session.status = 'offline';
      refreshUsable(state);
      session.nextMs = at.nowMs + config.pollMs;
      return true;
    case 'refused':
      session.nextMs = at.nowMs + config.pollMs;
      say(state, 'warn', `the registry refuses this node's session: ${answer.reason}`);
      return true;
    case 'unknown':
    case 'conflict':
    case 'notFound':
    case 'deleted':
    case 'list':
    case 'node':
      // Unknown, or somebody else's write came between: what stands there now decides.
      lookAgain(session, at.nowMs + (answer.kind === 'unknown' ? config.pollMs / 4 : 0));
      return true;
  }
}

/** What is known of the own session is in doubt; how long a stranger's has stood still is not forgotten. */
function lookAgain(session: Session, atMs: number): void {
  if (session.status !== 'foreign') session.stored = undefined;
  session.nextMs = atMs;
}

/**
 * True while the own record, as read, may be the work of another machine of this name that holds the session by now: nothing is done with
 * it before the session was found to be this process's own, after the record was read. An own write of unknown outcome looks the same.
 */
export function mayBeOthers(state: State, stored: StoredRecord, nowMs: number): boolean {
  const { session } = state;
  const version = versionOf(stored);
  const parsed = parsePeer(stored.value);
  // What an heir or a person wrote into it is for `confirm` to judge.
  if (!parsed.ok || parsed.record.heir !== undefined || parsed.record.removed === true) return false;
  if (isOfDisk(state, stored, parsed.record.seq)) session.knownVersion = version;
  if (session.knownVersion === version) return false;
  if (session.doubtedVersion === version) return true;
  session.doubtedVersion = version;
  // What is under way was asked before.
  session.pending = undefined;
  lookAgain(session, nowMs);
  return true;
}

/** At the first look: the record is as the disk has it. */
function isOfDisk({ confirmed, durable }: State, { uid }: StoredRecord, seq: number): boolean {
  return confirmed === undefined && durable.uid === uid && durable.seq === seq;
}

/** The own record as this process has just written it. */
export function noteOwnWrite({ session }: State, stored: StoredRecord): void {
  session.knownVersion = versionOf(stored);
}

/** True when the own record was not written by this process, whose other machine may still write upon it, until it is overtaken. */
export function wasFound({ session }: State, stored: StoredRecord): boolean {
  return session.foundVersion === versionOf(stored);
}

/** Incarnation and version; '' for no record. */
export function versionOf(stored: StoredRecord | undefined): string {
  return stored === undefined ? '' : `${stored.uid} ${stored.version}`;
}

function held(state: State, stored: StoredRecord, nowMs: number): void {
  const { session, config } = state;
  if (session.status !== 'held') {
    state.polledMs = nowMs;
    state.notBeforeMs = nowMs;
  }
  session.status = 'held';
  session.stored = stored;
  session.sinceMs = nowMs;
  session.moved = false;
  session.nextMs = nowMs + config.sessionRenewMs;
  const known = parseSession(stored.value);
  if (known.ok) {
    const { sessionId: id, renewals } = known.record;
    persistPeer(state, { session: { id, next: '', renewals, held: renewals }, self: config.self });
  }
  if (session.doubtedVersion !== '') {
    session.knownVersion = session.doubtedVersion;
    session.foundVersion = session.doubtedVersion;
    session.doubtedVersion = '';
    // What the record tells is still to be looked at.
    state.ownChanged = true;
    state.notBeforeMs = nowMs;
  }
  setFence(state, 'session', '');
  refreshUsable(state);
}

function wasRead(state: State, stored: StoredRecord | undefined, nowMs: number): void {
  const { session, config } = state;
  const known = parseSession(stored?.value);
  if (known.ok && known.record.removed) {
    session.status = 'removed';
    session.nextMs = nowMs + config.sessionRenewMs;
    setFence(state, 'session', 'this node was removed from the network (weft peers remove)');
    return;
  }
  if (stored === undefined || !known.ok || isMine(state, known.record) || isOlder(state, known.record)) {
    write(state, stored, nowMs);
    return;
  }
  watchStranger(state, stored, known.record, nowMs);
}

/** One of the two ids of the disk, or an earlier renewal of this very process that came late. */
function isMine({ durable: { session }, config }: State, { sessionId, renewals }: SessionRecord): boolean {
  if (session === undefined) return false;
  if (sessionId === session.id || sessionId === session.next) return true;
  return sessionId === `${config.session}-${renewals}` && renewals <= (session.renewals ?? 0);
}

/**
 * The registry went back: the session that stands there was replaced by one that this disk held. What was only sent does not count: of
 * those an earlier one may have come late, and a copy of the disk made since then does not know what was done under it.
 */
function isOlder(state: State, record: SessionRecord): boolean {
  return record.renewals < heldRenewals(state);
}

/** A disk of a version that did not count them apart: all. */
function heldRenewals({ durable: { session } }: State): number {
  return session?.held ?? session?.renewals ?? 0;
}

/** Another process holds the session, or held it before the disk was lost or rolled back: it must stand still for its term. */
function watchStranger(state: State, stored: StoredRecord, record: SessionRecord, nowMs: number): void {
  const { session, config } = state;
  const termMs = Math.max(record.termMs, config.sessionTermMs);
  if (session.stored?.version !== stored.version || session.stored.uid !== stored.uid) {
    if (session.status === 'held' || (session.status === 'foreign' && session.stored !== undefined))
      session.moved = true;
    session.stored = stored;
    session.sinceMs = nowMs;
  }
  session.status = 'foreign';
  if (nowMs >= session.sinceMs + termMs) {
    strangerIsDead(state, record);
    write(state, stored, nowMs);
    return;
  }
  session.nextMs = Math.min(session.sinceMs + termMs, nowMs + config.sessionRenewMs);
  const text = session.moved
    ? `two agents, one name: another agent acts as ${config.self}; stop one of them, or give its machine an identity of its own`
    : `another session of ${config.self} is not known to this disk: waiting until it has stood still for ${Math.round(termMs / 1000)} s`;
  setFence(state, 'session', text);
}

/**
 * The disk may not be the one that the node went on with: its leases are taken from the kernel, as if it were empty. Where the session is
 * one that this very disk sent, no other went on from it: what it knew of the record stays, should a person have deleted that.
 */
function strangerIsDead(state: State, { sessionId }: SessionRecord): void {
  const { uid, seq, record, back, lastKnown, founding } = state.durable;
  if (state.durable.session?.sent?.includes(sessionId) === true) {
    if (uid === undefined) return;
    say(state, 'warn', 'a session of this node came late: the leases are taken from the kernel');
    disown(state, {
      lastKnown: record === undefined ? undefined : { uid, seq, record, back: back === true },
      founding: founding ?? [],
    });
  } else {
    if (uid === undefined && lastKnown === undefined && (founding ?? []).length === 0) return;
    say(state, 'warn', 'another session went on from a later disk than this one: the leases are taken from the kernel');
    disown(state);
  }
  state.recovery = 'none';
}
