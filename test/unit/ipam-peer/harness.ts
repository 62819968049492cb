// Peers stepped by hand over the simulator's registry model: every request is answered at once unless a test holds it back, time
// moves only when a test moves it.
import type { Config, CoreEvent, Durable, Effect, InUse, Lease, Refusal, Stamp } from '#ipam-peer/events.ts';
import { formatCidr, parseCidr, type Cidr } from '#ipam-peer/cidr.ts';
import { formatPeer, type PeerRecord, viasLimit } from '#ipam-peer/records.ts';
import { step } from '#ipam-peer/step.ts';
import { Counters } from '#test/sim/counters.ts';
import { SimPeer } from '#test/sim/peer.ts';
import { type Change, RegistryModel, type RegistryRequest } from '#test/sim/registry-model.ts';

type Unstamped = CoreEvent extends infer E ? (E extends CoreEvent ? Omit<E, keyof Stamp> : never) : never;

export function cidr(text: string): Cidr {
  const block = parseCidr(text);
  if (block === undefined) throw new Error(`"${text}" is no CIDR block`);
  return block;
}

export function cidrs(...texts: readonly string[]): readonly Cidr[] {
  return texts.map(cidr);
}

/** More wakes than any scenario needs while time stands still. */
const maxRounds = 10_000;

export interface Outcome {
  lease?: Lease;
  refusal?: Refusal;
}

export class Bench {
  readonly counters: Counters = new Counters();
  readonly registry: RegistryModel = new RegistryModel(this.counters, (change) => this.#tell(change));
  readonly peers: Hand[] = [];
  nowMs = 0;

  peer(name: string, change: Partial<Config> = {}): Hand {
    const hand = new Hand(this, name, this.peers.length, change);
    this.peers.push(hand);
    return hand;
  }

  /** Delivers hints and timers until nothing is left to do, at most to the given time from now. */
  settle(forMs = 2000): void {
    const endMs = this.nowMs + forMs;
    for (let rounds = 0; ; rounds++) {
      for (let again = true; again;) again = this.peers.map((peer) => peer.deliver()).includes(true);
      const nextMs = Math.min(...this.peers.map((peer) => peer.dueMs()));
      if (nextMs > endMs) break;
      if (nextMs > this.nowMs) rounds = 0;
      // A core that asks to be woken at once for ever: a failure with a name, not a hang.
      if (rounds > maxRounds) throw new Error(`a peer is woken without end at ${this.nowMs} ms`);
      this.nowMs = Math.max(this.nowMs, nextMs);
      for (const peer of this.peers) peer.ring();
    }
    this.nowMs = endMs;
  }

  record(name: string): PeerRecord {
    const known = this.registry.peers.get(`${name}.x`);
    if (known === undefined) throw new Error(`no record of ${name}`);
    return known.record;
  }

  /** The Node object goes; everybody hears of it. */
  deleteNode(name: string): void {
    this.registry.deleteNode(`${name}.x`, `x-${name}`, false);
    for (const peer of this.peers) peer.feed({ kind: 'nodes', gone: [`${name}.x`] });
  }

  /** Overwrites a record as a person might. */
  edit(name: string, change: Partial<PeerRecord>): void {
    const known = this.registry.peers.get(`${name}.x`);
    if (known === undefined) throw new Error(`no record of ${name}`);
    const value = formatPeer({ ...known.record, seq: known.record.seq + 1, ...change });
    this.registry.execute({ kind: 'update', request: 0, record: 'peer', stored: known.stored, value });
  }

  #tell(change: Change): void {
    if (change.record === 'peer') for (const peer of this.peers) peer.hints.push(change);
  }
}

export class Hand {
  readonly bench: Bench;
  readonly sim: SimPeer;
  readonly hints: Change[] = [];
  /** Requests that are not answered while `holding`. */
  readonly held: RegistryRequest[] = [];
  holding: (request: RegistryRequest) => boolean = () => false;
  readonly log: string[] = [];
  /** Addresses whose leases are to be cut off. */
  readonly cuts: string[] = [];
  readonly effects: Effect[] = [];
  readonly outcomes: Map<number, Outcome> = new Map();
  random = 0.5;
  /** What a survey finds. */
  inUse: readonly InUse[] = [];
  answersSurveys = true;
  /** What the kernel tells of pods while there is no record; else, and with `undefined`, a test tells it itself. */
  inKernel: readonly Lease[] | undefined = [];
  #ticket = 1;
  #depth = 0;
  readonly #answers: Unstamped[] = [];

  constructor(bench: Bench, name: string, index: number, change: Partial<Config>) {
    this.bench = bench;
    const config: Config = {
      universe: 'default',
      joinOnUse: false,
      ownAddresses: [4, 6],
      ranges: cidrs('10.32.0.0/12'),
      reserved: [],
      self: `${name}.x`,
      node: { name, uid: `x-${name}` },
      restMs: 30_000,
      allocateWaitMs: 10_000,
      requestTimeoutMs: 10_000,
      answerTimeoutMs: 5000,
      serveDelayMs: 250,
      pollMs: 5000,
      resyncMs: 600_000,
      lowWater: 32,
      session: `${name}-1`,
      sessionRenewMs: 60_000,
      sessionTermMs: 180_000,
      sessionWaitMs: 2000,
      takeOverAfterMs: 300_000,
      takeOverStepMs: 30_000,
      quarantineMs: 30_000,
      spareAfterMs: 3_600_000,
      suspicionMs: 1_200_000,
      mostVias: viasLimit,
      ...change,
    };
    // Another machine of one name has sessions of its own.
    this.sim = new SimPeer(index, config, change.session);
  }

  /** The process starts with what is on its disk. */
  start(disk?: Durable): this {
    if (disk !== undefined) {
      this.sim.persist([{ kind: 'peer', peer: disk.peer }], 'full');
      for (const lease of disk.leases) this.sim.persist([{ kind: 'lease', lease }], 'full');
    }
    this.sim.start(this.bench.nowMs);
    this.feed({ kind: 'wake' });
    return this;
  }

  feed(event: Unstamped): void {
    const { state } = this.sim;
    if (state === undefined) return;
    const { effects } = step(state, { ...event, nowMs: this.bench.nowMs, random: this.random });
    this.#depth++;
    for (const effect of effects) this.#execute(effect);
    this.#depth--;
    if (this.#depth === 0) this.#drain();
  }

  /** An answer comes after all effects of the step that asked. */
  #drain(): void {
    for (let next = this.#answers.shift(); next !== undefined; next = this.#answers.shift()) this.feed(next);
  }

  #execute(effect: Effect): void {
    this.effects.push(effect);
    switch (effect.kind) {
      case 'persist':
        this.sim.persist(effect.deltas, effect.sync);
        return;
      case 'get':
      case 'list':
      case 'create':
      case 'update':
      case 'delete':
      case 'node':
        if (this.holding(effect)) this.held.push(effect);
        else this.answer(effect);
        return;
      case 'leased':
        this.outcomes.set(effect.ticket, { lease: effect.lease });
        return;
      case 'refused':
        this.outcomes.set(effect.ticket, { refusal: effect.refusal });
        return;
      case 'timer':
        this.sim.timerMs = effect.atMs;
        return;
      case 'log':
        this.log.push(effect.text);
        return;
      case 'survey':
        if (this.answersSurveys) this.#answers.push({ kind: 'surveyed', inUse: this.inUse });
        return;
      case 'cut':
        this.cuts.push(...effect.leases.flatMap((lease) => lease.addresses));
        return;
      case 'recover':
        if (this.inKernel !== undefined && !this.#hasSpace())
          this.#answers.push({ kind: 'recovered', leases: this.inKernel });
        return;
      case 'freed':
      case 'changed':
    }
  }

  #hasSpace(): boolean {
    return (this.bench.registry.peers.get(this.sim.name)?.record.blocks.length ?? 0) > 0;
  }

  /** Executes a request and gives its answer back. */
  answer(request: RegistryRequest): void {
    const answer = this.bench.registry.execute(request);
    this.#answers.push({ kind: 'answer', request: request.request, answer });
    if (this.#depth === 0) this.#drain();
  }

  /** Answers what was held back, in order, and holds no more. */
  release(): void {
    this.holding = () => false;
    for (const request of this.held.splice(0)) this.answer(request);
  }

  deliver(): boolean {
    const hints = this.hints.splice(0);
    for (const { name, stored } of hints) this.feed({ kind: 'hint', name, ...(stored && { record: stored }) });
    return hints.length > 0;
  }

  dueMs(): number {
    return this.sim.state === undefined ? Infinity : this.sim.timerMs;
  }

  /** A timer goes off once: a core that has nothing more to wait for sets none, and is not woken again. */
  ring(): void {
    if (this.dueMs() > this.bench.nowMs) return;
    this.sim.timerMs = Infinity;
    this.feed({ kind: 'wake' });
  }

  allocate(containerId: string, ...addresses: readonly string[]): Outcome {
    return this.outcomes.get(this.ask(containerId, ...addresses)) ?? {};
  }

  /** Asks and returns the ticket, for outcomes that come later. */
  ask(containerId: string, ...addresses: readonly string[]): number {
    const ticket = this.#ticket++;
    const owner = { podNamespace: 'default', podName: containerId, network: 'weft', netnsPath: '', netnsInode: 0n };
    const wish = {
      containerId,
      ifname: 'eth0',
      generation: `g${ticket}`,
      sinceMs: 0,
      hostIfname: '',
      owner,
      addresses,
    };
    this.feed({ kind: 'allocate', ticket, wish });
    return ticket;
  }

  free(containerId: string, generation?: string): void {
    this.feed({ kind: 'free', containerId, ifname: 'eth0', ...(generation !== undefined && { generation }) });
  }

  blocks(): readonly string[] {
    return this.bench
      .record(this.sim.config.node.name)
      .blocks.map((block) => `${formatCidr(block.cidr)}${block.via === undefined ? '' : ' via'}`);
  }
}
