// How a voter comes to vote. Nobody can tell an intact disk from one that was rolled back, wiped or copied, so each start joins:
//
//   hello ──▶ F+1 of the other 2F voters record this start's session, answer the highest counter that they have promised
//   copy  ──▶ the same F+1 answer nothing more at or below the highest of these, the floor, then hand over every register
//   vote      with the newest of the own and the copied registers, and nothing at or below the floor
//
// Until all is there nothing is applied: part of it would make a minority's cell look like a majority's.
//
// Why it holds: let (b, v) be chosen with the vote of this voter's earlier life. Its proposer had a majority's promises, so one
// of the F+1 had promised b before the hello (then b is not above the floor: one of the F+1 has accepted v before it set the
// floor, and it is copied), or promised b after it (then its promise named the new session, and the proposer counted nothing of
// the earlier life). Likewise a promise of the earlier life: it is not above the floor, or it does not count.
// docs/decisions/035 has the whole argument; test/sim/caspaxos.test.ts searches for holes.
//
// A voter whose disk is known to be a voter's (`weft init` made it) and that finds too few others goes on with its disk alone:
// after a power failure somebody has to begin. A disk without that mark waits for as long as it takes.

import { compareBallots } from './ballot.ts';
import type { Register } from './acceptor.ts';
import { compareSessions, mergeSessions, sessionCounter, type Sessions } from './session.ts';

/** What a voter has on its disk beside the registers. */
export interface Membership {
  /** The session of this start. */
  readonly session: string;
  /** No ballot with this counter or a lower one is promised or accepted. */
  readonly floor: number;
  readonly sessions: Sessions;
  /** False: the disk is new, and may stand for one that was lost. */
  readonly member: boolean;
}

export type HelloReply =
  | { readonly kind: 'welcome'; readonly highest: number; readonly sessions: Sessions }
  /** A later session of the asking voter is known. */
  | { readonly kind: 'superseded'; readonly by: string }
  /** This voter's own disk is new: it can vouch for nothing. */
  | { readonly kind: 'newDisk' };

/** `highest`: the highest counter that any register has promised. The membership must be durable before the reply leaves. */
export function answerHello(
  own: Membership,
  highest: number,
  voter: string,
  session: string,
): { readonly membership: Membership; readonly reply: HelloReply } {
  if (!own.member) return { membership: own, reply: { kind: 'newDisk' } };
  const by = own.sessions[voter];
  // The same counter with another random part comes from a disk that was set back, or of which there are two.
  if (by !== undefined && by !== session && sessionCounter(by) >= sessionCounter(session)) {
    return { membership: own, reply: { kind: 'superseded', by } };
  }
  const sessions = by === session ? own.sessions : { ...own.sessions, [voter]: session };
  const membership = sessions === own.sessions ? own : { ...own, sessions };
  return { membership, reply: { kind: 'welcome', highest: Math.max(highest, own.floor), sessions } };
}

/** Must be durable before any register is handed over. */
export function raiseFloor(own: Membership, floor: number): Membership {
  return floor <= own.floor ? own : { ...own, floor };
}

/** The newest accepted cell of both; promises of others are not copied, the floor stands for them. */
export function newestRegister(own: Register, other: Register): Register {
  const { accepted, cell } = other;
  if (compareBallots(accepted, own.accepted) <= 0) return own;
  return { promised: compareBallots(own.promised, accepted) >= 0 ? own.promised : accepted, accepted, cell };
}

export type JoinEvent =
  | { readonly kind: 'hello'; readonly round: number; readonly voter: string; readonly reply: HelloReply }
  /** Every register of that voter, as of after its floor was set, is at hand. */
  | { readonly kind: 'copied'; readonly round: number; readonly voter: string }
  /** No answer from this voter, in either part. */
  | { readonly kind: 'failed'; readonly round: number; readonly voter: string }
  /**
   * Begin a round: first at the start, then after each pause. `random`: the random part of a new session; `highest`: the highest
   * counter that the own disk has promised.
   */
  | { readonly kind: 'begin'; readonly random: string; readonly highest: number }
  /** The time is over in which this voter waits for others before it trusts its own disk. */
  | { readonly kind: 'waited' };

export type JoinEffect =
  /** Durable before what follows. */
  | { readonly kind: 'persist'; readonly membership: Membership }
  /** The same, together with the newest of the own registers and those copied in this round. */
  | { readonly kind: 'install'; readonly membership: Membership }
  | { readonly kind: 'hello'; readonly round: number; readonly voter: string; readonly session: string }
  /** What was copied in earlier rounds is to be forgotten. */
  | { readonly kind: 'copy'; readonly round: number; readonly voter: string; readonly floor: number }
  /** Feed `begin` after a pause; the pause grows with `failures`. */
  | { readonly kind: 'pause'; readonly failures: number };

export interface Join {
  readonly self: string;
  /** The other voters. */
  readonly others: readonly string[];
  readonly membership: Membership;
  readonly round: number;
  readonly phase: 'idle' | 'hello' | 'copy' | 'joined';
  /** It has gone on with its own disk, for want of others. */
  readonly alone: boolean;
  /** True when this voter may answer acceptor requests. */
  readonly voting: boolean;
  readonly waited: boolean;
  readonly failures: number;
  /** Another process has come with a later session of this voter: the counter to go above, and how often that was. */
  readonly superseded: { readonly by: string; readonly times: number } | undefined;
  readonly welcomes: ReadonlyMap<string, number>;
  readonly failed: ReadonlySet<string>;
  readonly sources: readonly string[];
  /** The floor of this round, its own once all is copied. */
  readonly floor: number;
  readonly copied: ReadonlySet<string>;
}

export interface JoinStep {
  readonly join: Join;
  readonly effects: readonly JoinEffect[];
}

/** `membership`: as on the disk; the first `begin` gives it a session of its own. */
export function newJoin(self: string, others: readonly string[], membership: Membership): Join {
  return {
    self,
    others,
    membership,
    round: 0,
    phase: 'idle',
    alone: false,
    voting: false,
    waited: false,
    failures: 0,
    superseded: undefined,
    welcomes: new Map(),
    failed: new Set(),
    sources: [],
    floor: 0,
    copied: new Set(),
  };
}

/** How many of the others must vouch: F+1 of 2F; none for a single voter. */
export function vouchersNeeded(others: number): number {
  return others === 0 ? 0 : others / 2 + 1;
}

export function joinStep(join: Join, event: JoinEvent): JoinStep {
  switch (event.kind) {
    case 'begin':
      return begin(join, event.random, event.highest);
    case 'waited':
      return trustDisk({ ...join, waited: true });
    case 'failed':
      if (event.round !== join.round) return { join, effects: [] };
      return judge({ ...join, failed: new Set(join.failed).add(event.voter) });
    case 'hello':
      return event.round === join.round ? onHello(join, event.voter, event.reply) : { join, effects: [] };
    case 'copied':
      if (event.round !== join.round || join.phase !== 'copy') return { join, effects: [] };
      return judge({ ...join, copied: new Set(join.copied).add(event.voter) });
  }
}

function begin(join: Join, random: string, highest: number): JoinStep {
  const first = join.round === 0;
  const effects: JoinEffect[] = [];
  let { membership, voting } = join;
  if (first || join.superseded !== undefined) {
    const known = join.superseded?.by ?? membership.session;
    const session = `${Math.max(sessionCounter(known), sessionCounter(membership.session)) + 1}.${random}`;
    membership = { ...membership, session };
    effects.push({ kind: 'persist', membership });
    // Another process votes with this voter's name: what this disk has may be behind.
    if (join.superseded !== undefined) voting = false;
  }
  const round = join.round + 1;
  const next: Join = {
    ...join,
    membership,
    voting,
    round,
    phase: join.phase === 'joined' && join.superseded === undefined ? 'joined' : 'hello',
    superseded: undefined,
    welcomes: new Map(),
    failed: new Set(),
    sources: [],
    floor: highest,
    copied: new Set(),
  };
  for (const voter of join.others) effects.push({ kind: 'hello', round, voter, session: membership.session });
  if (join.others.length > 0) return { join: next, effects };
  // A single voter has nobody to ask; a new disk of it is a lost registry.
  if (!membership.member) return { join: next, effects: [...effects, { kind: 'pause', failures: 1 }] };
  return { join: { ...next, phase: 'joined', voting: true }, effects };
}

function onHello(join: Join, voter: string, reply: HelloReply): JoinStep {
  switch (reply.kind) {
    case 'welcome': {
      const sessions = mergeSessions(join.membership.sessions, reply.sessions);
      const membership = { ...join.membership, sessions };
      return judge({ ...join, membership, welcomes: new Map(join.welcomes).set(voter, reply.highest) });
    }
    case 'superseded': {
      const times = (join.superseded?.times ?? 0) + 1;
      const by = later(join.superseded?.by, reply.by);
      const failed = new Set(join.failed).add(voter);
      // A session is on the disk before anybody hears of it: a later one means that this disk is not the newest.
      const membership = { ...join.membership, member: false };
      return judge({ ...join, membership, voting: false, superseded: { by, times }, failed });
    }
    case 'newDisk':
      return judge({ ...join, failed: new Set(join.failed).add(voter) });
  }
}

function later(a: string | undefined, b: string): string {
  return a === undefined || compareSessions(a, b) < 0 ? b : a;
}

function judge(join: Join): JoinStep {
  const needed = vouchersNeeded(join.others.length);
  const answered = join.welcomes.size + join.failed.size;
  if (join.phase === 'joined') {
    if (answered < join.others.length) return { join, effects: [] };
    return pause(join, join.superseded === undefined ? 0 : 1);
  }
  if (join.phase === 'hello' && join.superseded === undefined && join.welcomes.size >= needed) {
    const sources = [...join.welcomes.keys()];
    const floor = Math.max(join.floor, join.membership.floor, ...join.welcomes.values());
    const { round } = join;
    return {
      join: { ...join, phase: 'copy', sources, floor },
      effects: sources.map((voter) => ({ kind: 'copy', round, voter, floor })),
    };
  }
  if (join.phase === 'hello') return answered < join.others.length ? { join, effects: [] } : pause(join, 1);
  if (join.phase !== 'copy') return { join, effects: [] };
  if (join.superseded !== undefined || join.sources.some((voter) => join.failed.has(voter))) return pause(join, 1);
  if (join.copied.size < join.sources.length) return { join, effects: [] };
  const membership = { ...join.membership, member: true, floor: Math.max(join.membership.floor, join.floor) };
  return {
    join: { ...join, membership, phase: 'joined', alone: false, voting: true, failures: 0 },
    effects: [
      { kind: 'install', membership },
      { kind: 'pause', failures: 0 },
    ],
  };
}

function pause(join: Join, failed: 0 | 1): JoinStep {
  const failures = failed === 0 ? 0 : join.failures + 1;
  const phase = join.phase === 'joined' && join.superseded === undefined ? 'joined' : 'idle';
  const step: JoinStep = { join: { ...join, phase, failures }, effects: [{ kind: 'pause', failures }] };
  const trusted = trustDisk(step.join);
  return { join: trusted.join, effects: [...trusted.effects, ...step.effects] };
}

/** Too few others: a voter's own disk is enough after the wait, a new one never is. */
function trustDisk(join: Join): JoinStep {
  const enough = join.waited && join.membership.member && join.superseded === undefined && !join.voting;
  // Not while a round is under way: it may still learn that the disk is not to be trusted.
  if (!enough || join.phase === 'copy') return { join, effects: [] };
  return { join: { ...join, phase: 'joined', alone: true, voting: true }, effects: [] };
}
