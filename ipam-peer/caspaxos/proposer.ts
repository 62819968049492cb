// One operation of a CASPaxos proposer as a state machine: replies come in as events, requests and timers go out as effects.
//
//   read ──agreed, nothing to write──────────▶ done
//    │ └─disagreed twice, or to write─▶ prepare ─▶ accept ─chosen─▶ done
//    ▲                                └ contended ┘
//    └────────── backoff ◀────────────────┘
//
// Reads begin with a read, writes with a prepare. A write that was contended reads before it prepares again: if it has lost,
// it learns that without disturbing who has won.
//
// A decision is answered only once its ground is chosen: even "conflict" first confirms the cell that it saw, because a cell
// that only a minority accepted may never have been the register's content.

import { ballotText, compareBallots, sameBallot, zeroBallot, type Ballot } from './ballot.ts';
import type { AcceptorReply, AcceptorRequest } from './acceptor.ts';
import { applyChange, type Attempts, type Cell, type Change, type Decision, type Verdict } from './change.ts';
import { isSuperseded, type Sessions } from './session.ts';

export type OperationResult =
  | { readonly kind: 'decided'; readonly decision: Decision; readonly cell: Cell | null }
  /** The voters do not let this node write that. */
  | { readonly kind: 'refused'; readonly reason: string }
  /** Nothing of this operation was ever sent for acceptance: it has no effect, now or later. */
  | { readonly kind: 'unreachable' }
  /** Sent for acceptance and not confirmed: it may have taken effect, or may yet. */
  | { readonly kind: 'unknown' };

export type OperationEvent =
  | { readonly kind: 'reply'; readonly round: number; readonly voter: string; readonly reply: AcceptorReply }
  /** No answer can be had from this voter in this round. */
  | { readonly kind: 'failed'; readonly round: number; readonly voter: string }
  /** A majority has answered a read without agreeing; the rest had its time. */
  | { readonly kind: 'patienceOver'; readonly round: number }
  /** The backoff is over. */
  | { readonly kind: 'retry' }
  | { readonly kind: 'expired' };

export type OperationEffect =
  | { readonly kind: 'send'; readonly round: number; readonly voter: string; readonly request: AcceptorRequest }
  | { readonly kind: 'patience'; readonly round: number }
  | { readonly kind: 'backoff'; readonly attempt: number }
  | { readonly kind: 'done'; readonly result: OperationResult };

/** So often does a read that finds voters disagreeing look again before it makes them agree. */
const looksBeforeRound = 2;

interface Seen {
  readonly voterId: string;
  readonly accepted: Ballot;
  readonly cell: Cell | null;
  readonly sessions: Sessions;
}

type Phase = 'read' | 'prepare' | 'accept' | 'backoff' | 'done';

export interface Operation {
  readonly change: Change;
  readonly voters: readonly string[];
  /** Unique to this operation: the proposer part of its ballots. */
  readonly proposer: string;
  /** The highest counter used or seen. */
  readonly counter: number;
  /** What this operation has sent for acceptance; undefined: nothing yet. */
  readonly attempts: Attempts | undefined;
  /** Backoffs so far. */
  readonly attempt: number;
  readonly phase: Phase;
  /** Number of the current batch of requests; replies of others are stale. */
  readonly round: number;
  readonly ballot: Ballot;
  /** The round of prepares whose promises the current proposal stands on; 0: nothing is proposed at this ballot. */
  readonly proposedOn: number;
  readonly seen: ReadonlyMap<string, Seen>;
  readonly accepts: ReadonlySet<string>;
  readonly failed: ReadonlySet<string>;
  readonly proposal: Pick<Verdict, 'cell' | 'fresh' | 'decision' | 'answer'>;
  /** Why a voter does not let this node write the fresh content; ''. */
  readonly refusal: string;
}

export interface OperationStep {
  readonly operation: Operation;
  readonly effects: readonly OperationEffect[];
}

/** `counter`: the highest counter that the process knows of, so that the first ballot is not refused for its age. */
export function beginOperation(
  change: Change,
  voters: readonly string[],
  proposer: string,
  counter: number,
): OperationStep {
  const operation: Operation = {
    change,
    voters,
    proposer,
    counter,
    attempts: undefined,
    attempt: 0,
    phase: 'read',
    round: 0,
    ballot: zeroBallot,
    proposedOn: 0,
    seen: new Map(),
    accepts: new Set(),
    failed: new Set(),
    proposal: { cell: null, fresh: false, decision: 'ok', answer: null },
    refusal: '',
  };
  if (change.kind !== 'read') return prepare(operation);
  return { operation, effects: sendAll(operation, () => ({ kind: 'read' })) };
}

export function operationStep(operation: Operation, event: OperationEvent): OperationStep {
  switch (event.kind) {
    case 'reply':
      return onReply(operation, event.round, event.voter, event.reply);
    case 'failed':
      return counts(operation, event.round, event.voter) ? judge(fail(operation, event.voter)) : unchanged(operation);
    case 'patienceOver':
      return operation.phase === 'read' && event.round === operation.round ? prepare(operation) : unchanged(operation);
    case 'retry':
      return operation.phase === 'backoff' ? look(operation) : unchanged(operation);
    case 'expired':
      return operation.phase === 'done' ? unchanged(operation) : expire(operation);
  }
}

function onReply(operation: Operation, round: number, voter: string, reply: AcceptorReply): OperationStep {
  if (reply.kind === 'promised' && round < operation.round) return onLatePromise(operation, round, voter, reply);
  if (!counts(operation, round, voter)) return unchanged(operation);
  switch (reply.kind) {
    case 'current':
    case 'promised': {
      const expected = reply.kind === 'current' ? 'read' : 'prepare';
      if (operation.phase !== expected || operation.seen.has(voter)) return unchanged(operation);
      const counter = Math.max(operation.counter, reply.accepted.counter);
      return judge(withoutSuperseded({ ...operation, counter, seen: new Map(operation.seen).set(voter, reply) }));
    }
    case 'accepted': {
      if (operation.phase !== 'accept' || round !== operation.round) return unchanged(operation);
      return judge({ ...operation, accepts: new Set(operation.accepts).add(voter) });
    }
    case 'outdated': {
      // A duplicate of an own request is answered with the own ballot: that refuses nothing.
      if (compareBallots(reply.promised, operation.ballot) <= 0) return unchanged(operation);
      return judge(fail({ ...operation, counter: Math.max(operation.counter, reply.promised.counter) }, voter));
    }
    case 'otherVoter':
      return judge(fail(operation, voter));
    case 'refused':
      return judge(fail({ ...operation, refusal: operation.proposal.fresh ? reply.reason : '' }, voter));
  }
}

/** What a voter has said before it started anew, or in a copy of it that goes on, counts for nothing (session.ts). */
function withoutSuperseded(operation: Operation): Operation {
  const seen = new Map(operation.seen);
  const failed = new Set(operation.failed);
  for (const [voter, { voterId }] of operation.seen) {
    if (!isKnownLater(operation, voter, voterId)) continue;
    seen.delete(voter);
    failed.add(voter);
  }
  return seen.size === operation.seen.size ? operation : { ...operation, seen, failed };
}

function isKnownLater(operation: Operation, voter: string, voterId: string): boolean {
  for (const { sessions } of operation.seen.values()) if (isSuperseded(voter, voterId, sessions)) return true;
  return false;
}

/** A promise that arrives after a majority's: that voter gets the cell too, so that it does not lag behind. */
function onLatePromise(
  operation: Operation,
  round: number,
  voter: string,
  reply: { readonly voterId: string; readonly sessions: Sessions },
): OperationStep {
  if (operation.proposedOn !== round || operation.seen.has(voter)) return unchanged(operation);
  const { voterId, sessions } = reply;
  if (isKnownLater(operation, voter, voterId)) return judge(fail(operation, voter));
  const { cell } = operation.proposal;
  const seen = new Map(operation.seen).set(voter, { voterId, accepted: zeroBallot, cell: null, sessions });
  return {
    operation: { ...operation, seen },
    effects: [send(operation, voter, { kind: 'accept', ballot: operation.ballot, voterId: reply.voterId, cell })],
  };
}

function judge(operation: Operation): OperationStep {
  switch (operation.phase) {
    case 'read':
      return judgeRead(operation);
    case 'prepare':
      if (operation.seen.size >= majority(operation)) return propose(operation);
      return hopeless(operation) ? backoff(operation) : unchanged(operation);
    case 'accept':
      if (operation.accepts.size >= majority(operation)) return decide(operation);
      if (hopeless(operation) && operation.refusal !== '') {
        // No majority can come together any more, so it has no effect; unless one has let it pass, from which it may spread.
        const reason = operation.refusal;
        return finish(operation, operation.accepts.size === 0 ? { kind: 'refused', reason } : { kind: 'unknown' });
      }
      return hopeless(operation) ? backoff(operation) : unchanged(operation);
    case 'backoff':
    case 'done':
      return unchanged(operation);
  }
}

function judgeRead(operation: Operation): OperationStep {
  const agreed = agreedCell(operation);
  if (agreed !== undefined) {
    const { fresh, decision, answer } = applyChange(operation.change, agreed.cell, operation.attempts, '');
    return fresh ? prepare(operation) : finish(operation, { kind: 'decided', decision, cell: answer });
  }
  if (operation.seen.size + operation.failed.size === operation.voters.length) {
    return operation.seen.size >= majority(operation) ? disagreed(operation) : backoff(operation);
  }
  if (hopeless(operation)) return backoff(operation);
  if (operation.seen.size === majority(operation)) {
    return { operation, effects: [{ kind: 'patience', round: operation.round }] };
  }
  return unchanged(operation);
}

/** Mostly a write under way that is done in a moment: a full round would only get in its way. */
function disagreed(operation: Operation): OperationStep {
  return operation.attempt < looksBeforeRound ? backoff(operation) : prepare(operation);
}

function look(operation: Operation): OperationStep {
  const next: Operation = {
    ...operation,
    phase: 'read',
    round: operation.round + 1,
    proposedOn: 0,
    seen: new Map(),
    failed: new Set(),
  };
  return { operation: next, effects: sendAll(next, () => ({ kind: 'read' })) };
}

function prepare(operation: Operation): OperationStep {
  const counter = operation.counter + 1;
  const next: Operation = {
    ...operation,
    counter,
    ballot: { counter, proposer: operation.proposer },
    phase: 'prepare',
    round: operation.round + 1,
    proposedOn: 0,
    seen: new Map(),
    accepts: new Set(),
    failed: new Set(),
  };
  return { operation: next, effects: sendAll(next, () => ({ kind: 'prepare', ballot: next.ballot })) };
}

function propose(operation: Operation): OperationStep {
  let current: Seen | undefined;
  for (const seen of operation.seen.values()) {
    if (current === undefined || compareBallots(seen.accepted, current.accepted) > 0) current = seen;
  }
  const version = ballotText(operation.ballot);
  const { attempts } = operation;
  const verdict = applyChange(operation.change, current?.cell ?? null, attempts, version);
  const { cell, fresh, decision, answer } = verdict;
  // What a whole majority has accepted already needs no second confirmation.
  if (!fresh && agreedCell(operation) !== undefined) {
    return finish(operation, { kind: 'decided', decision, cell: answer });
  }
  const next: Operation = {
    ...operation,
    phase: 'accept',
    round: operation.round + 1,
    proposedOn: operation.round,
    accepts: new Set(),
    refusal: '',
    // Who refused the prepare is sent no accept: forgotten, it would be waited for until the operation's deadline.
    failed: operation.failed,
    proposal: { cell, fresh, decision, answer },
    attempts: fresh
      ? { versions: [...(attempts?.versions ?? []), version], base: current?.cell?.version ?? '' }
      : attempts,
  };
  const { ballot } = next;
  return {
    operation: next,
    effects: [...next.seen].map(([voter, { voterId }]) => send(next, voter, { kind: 'accept', ballot, voterId, cell })),
  };
}

function decide(operation: Operation): OperationStep {
  const { decision, answer } = operation.proposal;
  return finish(operation, { kind: 'decided', decision, cell: answer });
}

function backoff(operation: Operation): OperationStep {
  const attempt = operation.attempt + 1;
  return { operation: { ...operation, attempt, phase: 'backoff' }, effects: [{ kind: 'backoff', attempt }] };
}

function expire(operation: Operation): OperationStep {
  return finish(operation, { kind: operation.attempts === undefined ? 'unreachable' : 'unknown' });
}

function finish(operation: Operation, result: OperationResult): OperationStep {
  return { operation: { ...operation, phase: 'done' }, effects: [{ kind: 'done', result }] };
}

/** The cell of the ballot that a majority of all voters reports as accepted, if there is one: it is chosen, and the newest. */
function agreedCell(operation: Operation): { readonly cell: Cell | null } | undefined {
  for (const candidate of operation.seen.values()) {
    let count = 0;
    for (const other of operation.seen.values()) if (sameBallot(candidate.accepted, other.accepted)) count += 1;
    if (count >= majority(operation)) return { cell: candidate.cell };
  }
  return undefined;
}

/** Replies count in their own round; the refusal of a prepare also against the proposal that stands on that round. */
function counts(operation: Operation, round: number, voter: string): boolean {
  if (round === operation.round) return true;
  return operation.phase === 'accept' && round === operation.proposedOn && !operation.seen.has(voter);
}

function fail(operation: Operation, voter: string): Operation {
  return { ...operation, failed: new Set(operation.failed).add(voter) };
}

/** So many voters have failed in this round that a majority cannot come together any more. */
function hopeless(operation: Operation): boolean {
  return operation.failed.size > operation.voters.length - majority(operation);
}

function majority(operation: Operation): number {
  return Math.floor(operation.voters.length / 2) + 1;
}

function send(operation: Operation, voter: string, request: AcceptorRequest): OperationEffect {
  return { kind: 'send', round: operation.round, voter, request };
}

function sendAll(operation: Operation, request: () => AcceptorRequest): readonly OperationEffect[] {
  return operation.voters.map((voter) => send(operation, voter, request()));
}

function unchanged(operation: Operation): OperationStep {
  return { operation, effects: [] };
}
