// CASPaxos searched exhaustively for small sizes: real proposers and acceptors; requests and replies are delivered in any order or lost,
// voters start anew between any two of them, a proposer gives up at any moment. Each operation has so many rounds at most.
import { type AcceptorReply, type AcceptorRequest, acceptorStep, type Register } from '#ipam-peer/caspaxos/acceptor.ts';
import { emptyRegister } from '#ipam-peer/caspaxos/acceptor.ts';
import type { Change } from '#ipam-peer/caspaxos/change.ts';
import {
  beginOperation,
  type Operation,
  type OperationEffect,
  type OperationEvent,
  type OperationResult,
  operationStep,
} from '#ipam-peer/caspaxos/proposer.ts';
import { type Found, search } from './search.ts';

export interface Bounds {
  readonly voters: number;
  readonly changes: readonly Change[];
  /** Batches of requests of one operation. */
  readonly rounds: number;
  /** Messages lost in all. */
  readonly losses: number;
  /** Replies that arrive late, anywhere among what follows; the others come at once. */
  readonly late: number;
  /** Starts of voters in all. */
  readonly restarts: number;
  readonly limit: number;
  /** A planted bug: a voter that starts anew has forgotten what it promised. */
  readonly forgetful?: boolean;
}

interface Message {
  readonly operation: number;
  readonly round: number;
  readonly voter: number;
  readonly request?: AcceptorRequest;
  readonly reply?: AcceptorReply;
}

interface Voter {
  readonly register: Register;
  readonly starts: number;
}

interface Moment {
  readonly voters: readonly Voter[];
  /** undefined: not begun. */
  readonly operations: readonly (Operation | undefined)[];
  readonly results: readonly (OperationResult | undefined)[];
  /** Operations that were over when this one began. */
  readonly before: readonly (readonly number[])[];
  readonly messages: readonly Message[];
  readonly timers: readonly { readonly operation: number; readonly event: OperationEvent }[];
  readonly losses: number;
  readonly late: number;
  readonly restarts: number;
}

export function searchCaspaxos(bounds: Bounds): Found {
  const names = Array.from({ length: bounds.voters }, (_, index) => `v${index}`);
  const start: Moment = {
    voters: names.map(() => ({ register: emptyRegister, starts: 0 })),
    operations: bounds.changes.map(() => undefined),
    results: bounds.changes.map(() => undefined),
    before: bounds.changes.map(() => []),
    messages: [],
    timers: [],
    losses: 0,
    late: 0,
    restarts: 0,
  };
  return search(start, { key, next: (moment) => next(bounds, names, moment), violation, limit: bounds.limit });
}

function* next(bounds: Bounds, names: readonly string[], moment: Moment): Iterable<readonly [string, Moment]> {
  const { operations, results, messages, timers, voters } = moment;
  for (const [index, change] of bounds.changes.entries()) {
    if (operations[index] !== undefined) continue;
    const { operation, effects } = beginOperation(change, names, `p${index}`, 0);
    const over = results.flatMap((result, other) => (result === undefined ? [] : [other]));
    const begun = { ...moment, before: moment.before.with(index, over) };
    yield [`${change.kind} ${index}`, perform(bounds, begun, index, operation, effects)];
    // They are alike but for their order: the first that has not begun.
    break;
  }
  for (const [at, message] of messages.entries()) {
    const rest = { ...moment, messages: messages.toSpliced(at, 1) };
    const { operation, round, voter } = message;
    const what = `${message.request?.kind ?? message.reply?.kind} ${operation}/${round} v${voter}`;
    const failed: OperationEvent = { kind: 'failed', round, voter: `v${voter}` };
    const mayLose = moment.losses < bounds.losses;
    if (mayLose) yield [`lost ${what}`, feed(bounds, { ...rest, losses: moment.losses + 1 }, operation, failed)];
    if (message.reply !== undefined) yield [what, take(bounds, rest, message, message.reply)];
    if (message.request === undefined) continue;
    const { after, reply } = arrive(rest, message, message.request);
    yield [what, take(bounds, after, message, reply)];
    const kept = { ...after, late: after.late + 1, messages: [...after.messages, { operation, round, voter, reply }] };
    if (moment.late < bounds.late) yield [`${what}, reply late`, kept];
    const unheard = { ...after, losses: after.losses + 1 };
    if (mayLose) yield [`${what}, reply lost`, feed(bounds, unheard, operation, failed)];
  }
  for (const [at, { operation, event }] of timers.entries())
    yield [
      `${event.kind} ${operation}`,
      feed(bounds, { ...moment, timers: timers.toSpliced(at, 1) }, operation, event),
    ];
  if (moment.restarts >= bounds.restarts) return;
  for (const [index, voter] of voters.entries()) {
    const register = bounds.forgetful === true ? emptyRegister : voter.register;
    const anew = voters.with(index, { register, starts: voter.starts + (bounds.forgetful === true ? 0 : 1) });
    yield [`v${index} starts anew`, { ...moment, voters: anew, restarts: moment.restarts + 1 }];
  }
}

function take(bounds: Bounds, moment: Moment, { operation, round, voter }: Message, reply: AcceptorReply): Moment {
  return feed(bounds, moment, operation, { kind: 'reply', round, voter: `v${voter}`, reply });
}

function arrive(
  moment: Moment,
  message: Message,
  request: AcceptorRequest,
): { readonly after: Moment; readonly reply: AcceptorReply } {
  const voter = moment.voters[message.voter];
  if (voter === undefined) throw new Error('no such voter');
  const self = { voterId: `${message.voter}-${voter.starts}`, floor: 0, sessions: {} };
  const { register, reply } = acceptorStep(self, voter.register, request);
  return { after: { ...moment, voters: moment.voters.with(message.voter, { ...voter, register }) }, reply };
}

function feed(bounds: Bounds, moment: Moment, index: number, event: OperationEvent): Moment {
  const operation = moment.operations[index];
  if (operation === undefined) throw new Error('an event without an operation');
  const step = operationStep(operation, event);
  return perform(bounds, moment, index, step.operation, step.effects);
}

function perform(
  bounds: Bounds,
  before: Moment,
  index: number,
  operation: Operation,
  effects: readonly OperationEffect[],
): Moment {
  let moment: Moment = { ...before, operations: before.operations.with(index, operation) };
  for (const effect of effects) {
    switch (effect.kind) {
      case 'send': {
        if (effect.round > bounds.rounds) continue;
        const { round, request } = effect;
        const message: Message = { operation: index, round, voter: Number(effect.voter.slice(1)), request };
        moment = { ...moment, messages: [...moment.messages, message] };
        break;
      }
      case 'patience':
        moment = later(moment, index, { kind: 'patienceOver', round: effect.round });
        break;
      case 'backoff':
        moment = later(moment, index, { kind: 'retry' });
        break;
      case 'done':
        moment = { ...moment, results: moment.results.with(index, effect.result) };
    }
  }
  return moment;
}

function later(moment: Moment, operation: number, event: OperationEvent): Moment {
  return { ...moment, timers: [...moment.timers, { operation, event }] };
}

/** One create of a key may succeed; what succeeded is what every operation finds that began after it. */
function violation({ results, operations, before }: Moment): string {
  const won = results.flatMap((result, index) =>
    result?.kind === 'decided' && result.decision === 'ok' && operations[index]?.change.kind === 'create'
      ? [index]
      : [],
  );
  if (won.length > 1) return `operations ${won.join(' and ')} both made the key`;
  for (const [index, result] of results.entries()) {
    if (result?.kind !== 'decided') continue;
    const [winner] = won;
    const change = operations[index]?.change.kind;
    const after = winner !== undefined && before[index]?.includes(winner) === true;
    if (after && change === 'read' && result.cell === null)
      return `operation ${index} does not find what ${winner} made`;
    if (change === 'read' && result.cell !== null && winner !== undefined && result.cell.writer !== `w${winner}`)
      return `operation ${index} finds what never was`;
  }
  return '';
}

function key({ voters, operations, results, before, messages, timers, losses, late, restarts }: Moment): string {
  const sorted = messages.map(text).toSorted();
  return [text({ voters, operations, results, before, timers, losses, late, restarts }), ...sorted].join('|');
}

function text(value: unknown): string {
  return JSON.stringify(value, (_, one: unknown) => {
    if (one instanceof Map) return [...(one as Map<string, unknown>)].toSorted(([a], [b]) => (a < b ? -1 : 1));
    return one instanceof Set ? [...(one as Set<string>)].toSorted() : one;
  });
}
