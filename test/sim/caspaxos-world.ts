// A seeded world for CASPaxos: clients run the pure proposer against pure acceptors over a network that loses, duplicates and
// reorders messages; acceptors crash and come back with what was durable. Answers the history of operations, each with the
// time it was called and the time it was answered. `plant` breaks one rule on purpose.

import type { AcceptorRequest } from '#ipam-peer/caspaxos/acceptor.ts';
import type { CellValue, Change } from '#ipam-peer/caspaxos/change.ts';
import {
  beginOperation,
  operationStep,
  type Operation,
  type OperationEffect,
  type OperationEvent,
  type OperationResult,
} from '#ipam-peer/caspaxos/proposer.ts';
import { Voters, type Network, type Plant } from './caspaxos-voters.ts';

export interface WorldOptions {
  readonly seed: number;
  readonly voters: number;
  readonly clients: number;
  /** Operations of each client, one after another. */
  readonly operations: number;
  readonly plant: Plant;
}

export interface Call {
  readonly client: number;
  readonly change: 'read' | 'create' | 'update' | 'delete';
  /** Content written, a number unique to the call; 0 for read and delete. */
  readonly writes: number;
  /** Content that an update or delete expects to replace. */
  readonly expects: number;
  readonly calledAt: number;
  readonly answeredAt: number;
  /** `ok` with the content read or written (0: nothing), or how it failed. */
  readonly outcome: 'ok' | 'conflict' | 'notFound' | 'unknown' | 'noEffect';
  readonly found: number;
}

export interface Counters {
  readonly lost: number;
  readonly duplicated: number;
  readonly crashes: number;
  readonly wiped: number;
  readonly rolledBack: number;
  readonly cloned: number;
  readonly joined: number;
  readonly operations: number;
  readonly unknown: number;
}

interface Known {
  readonly uid: string;
  readonly version: string;
  readonly content: number;
}

interface Client {
  readonly index: number;
  left: number;
  generation: number;
  operation: Operation | undefined;
  /** Requests without an answer or a timeout so far, and running timers; not the operation's own deadline. */
  awaited: number;
  call: Omit<Call, 'answeredAt' | 'outcome' | 'found'> | undefined;
  known: Known | undefined;
}

/** xorshift32: small, seeded, the same everywhere. Answers a number in [0, 1). */
export function seededRandom(seed: number): () => number {
  let state = (seed * 2654435761) >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state / 4294967296;
  };
}

export function runWorld(options: WorldOptions): { readonly history: readonly Call[]; readonly counters: Counters } {
  return new World(options).run();
}

class World {
  readonly #options: WorldOptions;
  readonly #random: () => number;
  readonly #voters: Voters;
  readonly #names: readonly string[];
  readonly #clients: readonly Client[];
  readonly #history: Call[] = [];
  readonly #counters = { lost: 0, duplicated: 0, operations: 0, unknown: 0 };
  readonly #lossRate: number;
  readonly #slowRate: number;
  readonly #restMs: number;
  #agenda: { readonly at: number; readonly order: number; readonly act: () => void }[] = [];
  #now = 0;
  #orders = 0;
  #contents = 0;

  constructor(options: WorldOptions) {
    this.#options = options;
    this.#random = seededRandom(options.seed);
    // The seed draws how hostile this world is, too.
    this.#lossRate = this.#random() * this.#random() * 0.4;
    const crashRate = this.#random() * this.#random() * 0.2;
    this.#slowRate = this.#random() * this.#random() * 0.4;
    this.#restMs = this.#random() * 30;
    this.#names = Array.from({ length: options.voters }, (_, at) => `v${at}`);
    const network: Network = {
      random: this.#random,
      now: () => this.#now,
      later: (delay, act) => this.#later(delay, act),
      transmit: (deliver) => this.#transmit(deliver),
      busy: () => this.#clients.some((client) => client.left > 0 || client.call !== undefined),
    };
    this.#voters = new Voters(this.#names, { network, crashRate, clients: options.clients, plant: options.plant });
    this.#clients = Array.from({ length: options.clients }, (_, index) => ({
      index,
      left: options.operations,
      generation: 0,
      operation: undefined,
      awaited: 0,
      call: undefined,
      known: undefined,
    }));
  }

  run(): { readonly history: readonly Call[]; readonly counters: Counters } {
    for (const client of this.#clients) this.#later(this.#random() * 20, () => this.#begin(client));
    for (let steps = 0; this.#agenda.length > 0; steps += 1) {
      if (steps > 200_000) throw new Error(`seed ${this.#options.seed}: the world does not come to rest`);
      const next = this.#takeNext();
      this.#now = next.at;
      next.act();
    }
    return { history: this.#history, counters: { ...this.#counters, ...this.#voters.counters } };
  }

  #takeNext(): { readonly at: number; readonly act: () => void } {
    let best = 0;
    for (let at = 1; at < this.#agenda.length; at += 1) {
      const [a, b] = [this.#agenda[at], this.#agenda[best]];
      if (a !== undefined && b !== undefined && (a.at < b.at || (a.at === b.at && a.order < b.order))) best = at;
    }
    const [next] = this.#agenda.splice(best, 1);
    if (next === undefined) throw new Error('empty agenda');
    return next;
  }

  #later(delay: number, act: () => void): void {
    this.#orders += 1;
    this.#agenda.push({ at: this.#now + delay, order: this.#orders, act });
  }

  #begin(client: Client): void {
    if (client.left === 0) return;
    client.left -= 1;
    client.generation += 1;
    this.#counters.operations += 1;
    const change = this.#drawChange(client);
    // A proposer that reuses ballots: every operation of every client starts over with the same name and counter.
    const proposer = this.#options.plant === 'ballotReuse' ? 'same' : `c${client.index}.${client.generation}`;
    const step = beginOperation(change, this.#names, proposer, 0);
    client.operation = step.operation;
    client.awaited = 0;
    const { generation } = client;
    this.#perform(client, step.effects);
    this.#later(150 + this.#random() * 250, () => {
      if (client.generation === generation) this.#feed(client, generation, { kind: 'expired' });
    });
  }

  #drawChange(client: Client): Change {
    const drawn = this.#random();
    const { known } = client;
    const base = { client: client.index, calledAt: this.#now, expects: 0, writes: 0 };
    if (drawn < 0.3 || (known === undefined && drawn < 0.5)) {
      client.call = { ...base, change: 'read' };
      return { kind: 'read' };
    }
    const writer = `c${client.index}`;
    if (known === undefined || drawn < 0.4) {
      const { content, value } = this.#newContent();
      client.call = { ...base, change: 'create', writes: content };
      return { kind: 'create', uid: `u${content}`, writer, value };
    }
    const { uid, version } = known;
    if (drawn < 0.55) {
      client.call = { ...base, change: 'delete', expects: known.content };
      return { kind: 'delete', uid, version, writer };
    }
    const { content, value } = this.#newContent();
    client.call = { ...base, change: 'update', writes: content, expects: known.content };
    return { kind: 'update', uid, version, writer, value };
  }

  #newContent(): { readonly content: number; readonly value: CellValue } {
    this.#contents += 1;
    return { content: this.#contents, value: { content: this.#contents } };
  }

  #feed(client: Client, generation: number, event: OperationEvent): void {
    if (client.operation === undefined || client.generation !== generation) return;
    const step = operationStep(client.operation, event);
    client.operation = step.operation;
    this.#perform(client, step.effects);
  }

  /** Feeds what the operation waited for, counting it once; then it must have ended, or wait for something else. */
  #awaiting(client: Client): (event: OperationEvent) => void {
    const { generation } = client;
    client.awaited += 1;
    let first = true;
    return (event) => {
      if (first && client.generation === generation) client.awaited -= 1;
      first = false;
      this.#feed(client, generation, event);
      const { operation, awaited } = client;
      if (client.generation === generation && awaited === 0 && operation !== undefined && operation.phase !== 'done') {
        throw new Error(`seed ${this.#options.seed}: an operation in phase ${operation.phase} waits for nothing`);
      }
    };
  }

  #perform(client: Client, effects: readonly OperationEffect[]): void {
    for (const effect of effects) {
      switch (effect.kind) {
        case 'send':
          this.#send(client, effect.voter, effect.round, effect.request);
          break;
        case 'patience': {
          const over = this.#awaiting(client);
          this.#later(8, () => over({ kind: 'patienceOver', round: effect.round }));
          break;
        }
        case 'backoff': {
          const over = this.#awaiting(client);
          this.#later(1 + this.#random() * 20 * effect.attempt, () => over({ kind: 'retry' }));
          break;
        }
        case 'done':
          this.#answer(client, effect.result);
      }
    }
  }

  #send(client: Client, voter: string, round: number, request: AcceptorRequest): void {
    const { generation } = client;
    const settle = this.#awaiting(client);
    // The answer to a duplicate arrives as well, but is none that a caller of HTTP would take for its answer.
    let copies = 0;
    let answered = false;
    this.#transmit(() => {
      copies += 1;
      const original = copies === 1;
      const reply = this.#voters.receive(voter, client.index, request);
      if (reply === undefined) return;
      this.#transmit(() => {
        const event = { kind: 'reply', round, voter, reply } as const;
        if (!original) return this.#feed(client, generation, event);
        answered = true;
        return settle(event);
      });
    });
    // What was lost is noticed by a timeout; the request, and the reply, may still arrive after it.
    this.#later(40, () => {
      if (!answered) settle({ kind: 'failed', round, voter });
    });
  }

  #transmit(deliver: () => void): void {
    if (this.#random() < this.#lossRate) this.#counters.lost += 1;
    else this.#later(this.#delay(), deliver);
    if (this.#random() < 0.1) {
      this.#counters.duplicated += 1;
      this.#later(this.#delay(), deliver);
    }
  }

  /** Mostly short, now and then so long that the message arrives in another epoch. */
  #delay(): number {
    return this.#random() < this.#slowRate ? this.#random() * 120 : 1 + this.#random() * 6;
  }

  #answer(client: Client, result: OperationResult): void {
    const { call } = client;
    if (call === undefined) throw new Error('an answer without a call');
    const cell = result.kind === 'decided' ? result.cell : null;
    const live = cell !== null && cell.value !== null;
    const found = live ? Number(cell.value['content']) : 0;
    // Voters of this world let everybody write, so none refuses.
    const outcome =
      result.kind === 'unreachable' ? 'noEffect' : result.kind === 'decided' ? result.decision : 'unknown';
    if (outcome === 'unknown') this.#counters.unknown += 1;
    this.#history.push({ ...call, answeredAt: this.#now, outcome, found });
    if (outcome === 'ok') {
      client.known = live ? { uid: cell.uid, version: cell.version, content: found } : undefined;
    } else if (outcome !== 'noEffect' && this.#random() < 0.7) client.known = undefined;
    client.call = undefined;
    const { generation } = client;
    // Late promises are still answered with an accept until the next operation begins.
    this.#later(this.#random() * this.#restMs, () => {
      if (client.generation === generation) this.#begin(client);
    });
  }
}
