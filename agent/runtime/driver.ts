// Drives the pure core: feeds it events one at a time and executes the effects of each, in order, before the next. `persist`
// is a synchronous commit, so whatever follows it really comes after it; registry requests are sent and their answers come back
// as events. When a commit fails, nothing after it happens: the core is made anew from what is durable, as after a crash.
import { setTimeout as sleep } from 'node:timers/promises';
import type { PeerNode } from '#agent/discovery/discovery.ts';
import { WeftError, toWeftError } from '#agent/errors.ts';
import type { Registry, WatchEvent } from '#agent/registry/registry.ts';
import type { Config, CoreEvent, Effect, InUse, Lease, LogLevel, Refusal, Stamp } from '#ipam-peer/events.ts';
import type { PeerRecord, RecordRef } from '#ipam-peer/records.ts';
import { restore, type Known, type State } from '#ipam-peer/state.ts';
import { step } from '#ipam-peer/step.ts';
import { wardsOf } from '#ipam-peer/takeover.ts';
import { ask, type RegistryEffect } from './ask.ts';
import type { Store } from './store.ts';

/** What the runtime needs of a logger; pino's fits. */
export type Log = Readonly<Record<LogLevel, (message: string) => void>>;

export type Outcome =
  | { readonly kind: 'leased'; readonly lease: Lease }
  | { readonly kind: 'refused'; readonly refusal: Refusal }
  | { readonly kind: 'failed'; readonly error: WeftError };

type Unstamped = CoreEvent extends infer E ? (E extends CoreEvent ? Omit<E, keyof Stamp> : never) : never;

export interface DriverOptions {
  readonly registry: Registry;
  readonly store: Store;
  readonly config: Config;
  readonly underlay: readonly string[];
  readonly log: Log;
  /** What others use around this host, asked for before a universe is founded; undefined: nothing. */
  readonly survey: ((signal: AbortSignal) => Promise<readonly InUse[]>) | undefined;
  readonly recoverLeases: ((signal: AbortSignal, known: readonly Lease[]) => Promise<readonly Lease[]>) | undefined;
  readonly cutLeases: ((leases: readonly Lease[], signal: AbortSignal) => Promise<void>) | undefined;
  readonly nodeExists: ((node: RecordRef, signal: AbortSignal) => Promise<boolean>) | undefined;
  /** Monotonic milliseconds and randomness; replaced in tests. */
  readonly nowMs: () => number;
  readonly random: () => number;
}

export interface Driver {
  readonly state: State;
  /** Milliseconds since the epoch of the registry's last answer. */
  readonly registryAnsweredAtMs: number | undefined;
  /** Takes in one event; returns the lease that a `free` released. Throws WeftError('store') when a commit failed. */
  feed(event: Unstamped): Lease | undefined;
  /** Calls back once, with the outcome of the `allocate` that carries this ticket. */
  expect(ticket: number, settle: (outcome: Outcome) => void): void;
  onChange(listener: () => void): () => void;
  /** The uids of all nodes that exist. */
  setGone(uids: ReadonlySet<string>): void;
  peerNodes(): readonly PeerNode[];
  wards(turns: number): readonly PeerNode[];
  /** Starts cycles and watching. */
  start(): void;
  close(): Promise<void>;
}

export function makeDriver(options: DriverOptions): Driver {
  return new LiveDriver(options);
}

class LiveDriver implements Driver {
  state: State;
  registryAnsweredAtMs: number | undefined;
  readonly #options: DriverOptions;
  readonly #stop = new AbortController();
  readonly #tickets = new Map<number, (outcome: Outcome) => void>();
  readonly #listeners = new Set<() => void>();
  readonly #running = new Set<Promise<void>>();
  #timer: NodeJS.Timeout | undefined;
  #changed = false;
  #notifiedMs = -Infinity;
  #freed: Lease | undefined;
  #goneUids: ReadonlySet<string> = new Set();
  #gone = '';
  /** Answers to requests of an earlier core are not for this one. */
  #epoch = 0;
  /** What is in memory goes beyond the disk: a commit failed, and the disk could not be read since. */
  #isStale = false;

  constructor(options: DriverOptions) {
    this.#options = options;
    this.state = this.#restore(options.underlay);
  }

  #restore(underlay: readonly string[]): State {
    const { config, store, nowMs } = this.#options;
    return restore(config, store.load(), nowMs(), underlay);
  }

  start(): void {
    const { universe } = this.#options.config;
    this.#run(this.#watch('peer', ({ name, record }) => ({ kind: 'hint', name, ...(record && { record }) })));
    this.#run(
      this.#watch('universe', ({ name, record }) =>
        name === universe ? { kind: 'universe', ...(record && { record }) } : undefined,
      ),
    );
    this.feed({ kind: 'wake' });
  }

  feed(event: Unstamped): Lease | undefined {
    if (this.#stop.signal.aborted) throw new WeftError('interrupted', 'the agent is stopping');
    if (this.#isStale) this.#restart();
    const stamped = { ...event, nowMs: this.#options.nowMs(), random: this.#options.random() } as CoreEvent;
    const effects = this.#step(stamped);
    this.#freed = undefined;
    for (const [index, effect] of effects.entries()) {
      try {
        this.#execute(effect);
      } catch (error) {
        this.#reload(effects.slice(index + 1), error);
        throw toWeftError(error);
      }
    }
    return this.#freed;
  }

  /** A defect in the core may leave its state half changed: it starts again from the disk, and the defect is told in full. */
  #step(event: CoreEvent): readonly Effect[] {
    try {
      return step(this.state, event).effects;
    } catch (error) {
      const stack = error instanceof Error ? error.stack : String(error);
      this.#options.log.error(`defect in the IPAM core at event ${event.kind}; it restarts from disk: ${stack}`);
      this.#reload([], error);
      throw toWeftError(error);
    }
  }

  /** Feeds an event that nobody waits for: a failed commit is logged. */
  #feedQuietly(event: Unstamped): void {
    if (this.#stop.signal.aborted) return;
    try {
      this.feed(event);
    } catch (error) {
      this.#options.log.error(toWeftError(error).message);
    }
  }

  #execute(effect: Effect): void {
    const { log, store } = this.#options;
    switch (effect.kind) {
      case 'persist':
        store.persist(effect.deltas, effect.sync);
        return;
      case 'get':
      case 'list':
      case 'create':
      case 'update':
      case 'delete':
      case 'node':
        this.#run(this.#request(effect, this.#epoch));
        return;
      case 'leased':
        this.#settle(effect.ticket, { kind: 'leased', lease: effect.lease });
        return;
      case 'refused':
        this.#settle(effect.ticket, { kind: 'refused', refusal: effect.refusal });
        return;
      case 'freed':
        this.#freed = effect.lease;
        return;
      case 'survey':
        this.#run(this.#survey());
        return;
      case 'recover':
        this.#run(this.#recover());
        return;
      case 'cut':
        this.#run(this.#cut(effect.leases));
        return;
      case 'changed':
        this.#notify();
        return;
      case 'timer':
        this.#setTimer(effect.atMs);
        return;
      case 'log':
        log[effect.level](effect.text);
    }
  }

  /** After a failed commit: callers whose answers were not given hear of it, and the core restarts from the disk. */
  #reload(skipped: readonly Effect[], cause: unknown): void {
    const error = toWeftError(cause);
    for (const settle of this.#tickets.values()) settle({ kind: 'failed', error });
    this.#tickets.clear();
    for (const effect of skipped) if (effect.kind === 'log') this.#execute(effect);
    this.#epoch++;
    this.#gone = '';
    this.#isStale = true;
    try {
      this.#restart();
    } catch (loading) {
      this.#options.log.error(toWeftError(loading).message);
    }
    this.#setTimer(this.#options.nowMs() + reloadPauseMs);
    this.#notify();
  }

  /** Throws WeftError('store') while the disk cannot be read: until then nothing is concluded from what was not committed. */
  #restart(): void {
    try {
      this.state = this.#restore(this.state.underlay);
    } catch (error) {
      this.#setTimer(this.#options.nowMs() + reloadPauseMs);
      throw toWeftError(error);
    }
    this.#isStale = false;
    this.state.notBeforeMs = this.#options.nowMs() + reloadPauseMs;
  }

  #settle(ticket: number, outcome: Outcome): void {
    const settle = this.#tickets.get(ticket);
    this.#tickets.delete(ticket);
    settle?.(outcome);
  }

  expect(ticket: number, settle: (outcome: Outcome) => void): void {
    this.#tickets.set(ticket, settle);
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** Listeners are called after the event's effects, once, however many changes it brought; in a burst now and then. */
  #notify(): void {
    if (this.#changed) return;
    this.#changed = true;
    const waitMs = this.#notifiedMs + notifyEveryMs - this.#options.nowMs();
    if (waitMs <= 0) queueMicrotask(() => this.#tellListeners());
    else setTimeout(() => this.#tellListeners(), waitMs);
  }

  #tellListeners(): void {
    this.#changed = false;
    this.#notifiedMs = this.#options.nowMs();
    this.#tellGone();
    for (const listener of this.#listeners) listener();
  }

  setGone(uids: ReadonlySet<string>): void {
    this.#goneUids = new Set(uids);
    this.#tellGone();
  }

  peerNodes(): readonly PeerNode[] {
    return [...this.state.peers.values()].map(nodeOf);
  }

  wards(turns: number): readonly PeerNode[] {
    return wardsOf(this.state, turns).map(nodeOf);
  }

  /** Tells the core whose nodes seem to be gone, when that has changed. */
  #tellGone(): void {
    const gone = goneOf(this.state, this.#goneUids);
    const text = gone.join(' ');
    if (text === this.#gone) return;
    this.#gone = text;
    this.#feedQuietly({ kind: 'nodes', gone });
  }

  #setTimer(atMs: number): void {
    clearTimeout(this.#timer);
    if (this.#stop.signal.aborted || atMs === Infinity) return;
    const delayMs = Math.min(Math.max(0, Math.ceil(atMs - this.#options.nowMs())), 2 ** 31 - 1);
    this.#timer = setTimeout(() => this.#feedQuietly({ kind: 'wake' }), delayMs);
  }

  #run(work: Promise<void>): void {
    this.#running.add(work);
    void work.finally(() => this.#running.delete(work));
  }

  async #request(effect: RegistryEffect, epoch: number): Promise<void> {
    const signal = AbortSignal.any([this.#stop.signal, AbortSignal.timeout(this.#options.config.requestTimeoutMs)]);
    const answer = await ask(this.#options, effect, signal);
    if (this.#stop.signal.aborted || epoch !== this.#epoch) return;
    if (answer.kind !== 'failed' && answer.kind !== 'unknown') this.registryAnsweredAtMs = Date.now();
    this.#feedQuietly({ kind: 'answer', request: effect.request, answer });
  }

  /** A failure leaves the universe unfounded: the core asks again. */
  async #survey(): Promise<void> {
    const { survey, log } = this.#options;
    try {
      const inUse = (await survey?.(this.#stop.signal)) ?? [];
      this.#feedQuietly({ kind: 'surveyed', inUse });
    } catch (error) {
      if (!this.#stop.signal.aborted)
        log.warn(`cannot tell what of the range is in use: ${toWeftError(error).message}`);
    }
  }

  /** Asks the kernel what leases there were; without a way to ask there were none. Until it tells, nothing is allocated. */
  async #recover(): Promise<void> {
    const { recoverLeases, log } = this.#options;
    const { signal } = this.#stop;
    while (!signal.aborted) {
      try {
        const leases = (await recoverLeases?.(signal, [...this.state.leases.values()])) ?? [];
        this.#feedQuietly({ kind: 'recovered', leases });
        return;
      } catch (error) {
        if (signal.aborted) return;
        log.error(`cannot find the leases of the lost state directory, trying again: ${toWeftError(error).message}`);
        await pause(reloadPauseMs, signal);
      }
    }
  }

  /** Until it is done nothing is allocated and this node shows itself to nobody. */
  async #cut(leases: readonly Lease[]): Promise<void> {
    const { cutLeases, log } = this.#options;
    const { signal } = this.#stop;
    for (;;) {
      try {
        await cutLeases?.(leases, signal);
        break;
      } catch (error) {
        if (signal.aborted) return;
        log.error(
          `cannot cut the leases of this machine's earlier identity, trying again: ${toWeftError(error).message}`,
        );
        await pause(reloadPauseMs, signal);
      }
    }
    this.#feedQuietly({ kind: 'cut', leases });
  }

  /** Hints for as long as the driver lives; a watch that ends by an error is begun again. */
  async #watch(kind: 'peer' | 'universe', hintOf: (event: WatchEvent) => Unstamped | undefined): Promise<void> {
    const { registry, log } = this.#options;
    const { signal } = this.#stop;
    while (!signal.aborted) {
      try {
        for await (const event of registry.watch(kind, signal)) {
          if (signal.aborted) return;
          const hint = hintOf(event);
          if (hint !== undefined) this.#feedQuietly(hint);
        }
      } catch (error) {
        if (!signal.aborted) log.warn(`the watch on ${kind} records ended: ${toWeftError(error).message}`);
      }
      await pause(watchPauseMs, signal);
    }
  }

  async close(): Promise<void> {
    clearTimeout(this.#timer);
    this.#stop.abort();
    const error = new WeftError('interrupted', 'the agent is stopping');
    for (const settle of this.#tickets.values()) settle({ kind: 'failed', error });
    this.#tickets.clear();
    await Promise.allSettled(this.#running);
    this.#options.store.close();
  }
}

/** Names of the records whose nodes are not in the list, or that a person has declared gone. */
function goneOf(state: State, uids: ReadonlySet<string>): readonly string[] {
  const gone: string[] = [];
  for (const [name, { record }] of state.peers) {
    if (record.removed === true || uids.has(record.node.uid)) gone.push(name);
  }
  if (uids.has(state.config.node.uid)) gone.push(state.config.self);
  return gone;
}

function nodeOf({ record }: Known<PeerRecord>): PeerNode {
  return { ...record.node, underlay: record.underlay, takenOver: record.heir !== undefined };
}

const reloadPauseMs = 1000;
const watchPauseMs = 1000;
/** A start brings one change for each of perhaps thousands of peers. */
const notifyEveryMs = 20;

/** Ends early by the signal. */
async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => undefined);
}
