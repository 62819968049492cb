// The simulated world: peers that run the real core against a model of the registry, over a network that loses, delays, doubles
// and reorders, with processes that die between any two effects. One agenda in virtual time, one generator: a seed replays.
import { addressBits, formatAddress, parseAddress } from '#ipam-peer/address.ts';
import type { Answer, CoreEvent, Effect, Lease, Stamp } from '#ipam-peer/events.ts';
import { step } from '#ipam-peer/step.ts';
import { checkLeased, checkWorld, makeChecks, type Checks } from './checks.ts';
import { Counters } from './counters.ts';
import { Agenda } from './heap.ts';
import { SimPeer } from './peer.ts';
import type { Random } from './random.ts';
import { type Change, RegistryModel, type RegistryRequest } from './registry-model.ts';
import { type Faults, noFaults, type Scenario } from './scenario.ts';

type Unstamped = CoreEvent extends infer E ? (E extends CoreEvent ? Omit<E, keyof Stamp> : never) : never;

type Happening =
  | { readonly kind: 'start'; readonly peer: SimPeer }
  | { readonly kind: 'request'; readonly peer: SimPeer; readonly epoch: number; readonly request: RegistryRequest }
  | {
      readonly kind: 'reply';
      readonly peer: SimPeer;
      readonly epoch: number;
      readonly id: number;
      readonly answer: Answer;
    }
  | { readonly kind: 'hint'; readonly peer: SimPeer; readonly change: Change }
  | { readonly kind: 'wake'; readonly peer: SimPeer; readonly epoch: number; readonly atMs: number }
  | { readonly kind: 'work'; readonly peer: SimPeer }
  | { readonly kind: 'fault' }
  | { readonly kind: 'heal'; readonly peer: SimPeer }
  | { readonly kind: 'halves'; readonly side: number }
  | { readonly kind: 'calm' };

export class World {
  readonly scenario: Scenario;
  readonly random: Random;
  readonly counters: Counters = new Counters();
  readonly registry: RegistryModel;
  readonly peers: readonly SimPeer[];
  readonly checks: Checks;
  faults: Faults;
  nowMs = 0;
  steps = 0;
  calm = false;
  /** Addresses that pods use now, by the peer that leased them. */
  readonly inUse: Map<string, SimPeer> = new Map<string, SimPeer>();
  readonly freedAtMs: Map<string, number> = new Map<string, number>();
  /** The last lines of what happened; all of them when `keepTrace`. */
  readonly trace: string[] = [];
  readonly #keepTrace: boolean;
  readonly #agenda = new Agenda<Happening>();

  constructor(scenario: Scenario, random: Random, keepTrace = false) {
    this.scenario = scenario;
    this.random = random;
    this.#keepTrace = keepTrace;
    this.faults = scenario.faults;
    this.registry = new RegistryModel(this.counters, (change) => this.#tellAll(change));
    this.peers = Array.from({ length: scenario.peers }, (_, index) => new SimPeer(index, configOf(scenario, index)));
    this.checks = makeChecks();
    for (const peer of this.peers) {
      this.#agenda.add(this.random.between(0, scenario.bootWithinMs), { kind: 'start', peer });
      this.#agenda.add(this.random.between(0, 1000), { kind: 'work', peer });
    }
    this.#agenda.add(scenario.busyMs, { kind: 'calm' });
    if (scenario.faults.faultEveryMs < Infinity) this.#scheduleFault();
    if (scenario.halves) this.#agenda.add(0, { kind: 'halves', side: 0 });
  }

  /** Runs to the end of the quiet time that follows the faults. */
  run(quietMs = 60_000): void {
    const endMs = this.scenario.busyMs + quietMs;
    for (;;) {
      const next = this.#agenda.next();
      if (next === undefined || next.atMs > endMs) return;
      this.nowMs = Math.max(this.nowMs, next.atMs);
      this.steps++;
      this.#happen(next.value);
      checkWorld(this);
    }
  }

  note(text: string): void {
    this.trace.push(`${this.nowMs.toFixed(1)} ${text}`);
    if (!this.#keepTrace && this.trace.length > 2000) this.trace.splice(0, 1000);
  }

  #happen(what: Happening): void {
    switch (what.kind) {
      case 'start':
        this.#start(what.peer);
        return;
      case 'request':
        this.#arrive(what.peer, what.epoch, what.request);
        return;
      case 'reply':
        if (what.epoch === what.peer.epoch)
          this.#feed(what.peer, { kind: 'answer', request: what.id, answer: what.answer });
        return;
      case 'hint':
        this.#hint(what.peer, what.change);
        return;
      case 'wake':
        if (what.epoch === what.peer.epoch && what.atMs === what.peer.timerMs) this.#feed(what.peer, { kind: 'wake' });
        return;
      case 'work':
        this.#work(what.peer);
        return;
      case 'fault':
        this.#fault();
        return;
      case 'heal':
        this.#heal(what.peer);
        return;
      case 'halves':
        this.#switchHalves(what.side);
        return;
      case 'calm':
        this.#calmDown();
    }
  }

  #start(peer: SimPeer): void {
    if (peer.state !== undefined) return;
    if (peer.epoch > 0) this.counters.count('restart');
    peer.start(this.nowMs);
    this.note(`${peer.name} starts`);
    this.#feed(peer, { kind: 'wake' });
    this.#hintAll(peer);
    // What no pod uses was cut short between lease and answer: it is undone.
    for (const lease of leasesOf(peer)) if (!peer.pods.has(lease.containerId)) this.#free(peer, lease);
  }

  #feed(peer: SimPeer, event: Unstamped): void {
    const state = peer.state;
    if (state === undefined) return;
    const restingBefore = state.space.restingCount;
    const { effects } = step(state, { ...event, nowMs: this.nowMs, random: this.random.next() } as CoreEvent);
    if (event.kind !== 'free') this.counters.count('restEnded', Math.max(0, restingBefore - state.space.restingCount));
    const doctored = this.scenario.sabotage?.(effects, state) ?? effects;
    for (const effect of doctored) {
      if (this.random.chance(this.faults.crashPerEffect * (changesRecords(effect) ? 5 : 1))) {
        this.#crash(peer, 'crashBetweenEffects');
        return;
      }
      this.#execute(peer, effect);
    }
  }

  #execute(peer: SimPeer, effect: Effect): void {
    switch (effect.kind) {
      case 'persist':
        peer.persist(effect.deltas, effect.sync);
        return;
      case 'get':
      case 'list':
      case 'create':
      case 'update':
        this.note(`${peer.name} ${effect.kind} ${'name' in effect ? effect.name : ''}`);
        this.#send(peer, effect);
        return;
      case 'leased':
        this.#leased(peer, effect.ticket, effect.lease);
        return;
      case 'refused':
        peer.tickets.delete(effect.ticket);
        this.counters.count(effect.refusal.reason === 'exhausted' ? 'exhausted' : 'refuse');
        return;
      case 'timer':
        peer.timerMs = effect.atMs;
        this.#agenda.add(effect.atMs, { kind: 'wake', peer, epoch: peer.epoch, atMs: effect.atMs });
        return;
      case 'log':
        this.note(`${peer.name} ${effect.level}: ${effect.text}`);
        return;
      case 'freed':
      case 'changed':
    }
  }

  #leased(peer: SimPeer, ticket: number, lease: Lease): void {
    this.counters.count(peer.tickets.get(ticket) === true ? 'allocateNamed' : 'allocate');
    peer.tickets.delete(ticket);
    checkLeased(this, peer, lease);
    for (const address of lease.addresses) this.inUse.set(address, peer);
    peer.pods.set(lease.containerId, { lease, ending: false });
    if (this.random.chance(0.9)) {
      this.counters.count('activate');
      this.#feed(peer, { kind: 'activate', ...lease });
    }
  }

  #send(peer: SimPeer, request: RegistryRequest): void {
    const { random, faults, counters } = this;
    const isWrite = request.kind === 'create' || request.kind === 'update';
    if (!peer.reachable || random.chance(faults.requestLost)) {
      counters.count('requestLost');
      // The caller may learn that something went wrong, or hear nothing.
      if (random.chance(0.5)) this.#reply(peer, peer.epoch, request.request, silence(isWrite));
      return;
    }
    const happening: Happening = { kind: 'request', peer, epoch: peer.epoch, request };
    let delayMs = random.between(0.5, 10);
    if (random.chance(faults.requestLate)) {
      counters.count('requestLate');
      delayMs = random.between(50, 8000);
    }
    this.#agenda.add(this.nowMs + delayMs, happening);
    if (isWrite && random.chance(faults.requestTwice)) {
      counters.count('requestTwice');
      this.#agenda.add(this.nowMs + random.between(0.5, 5000), happening);
    }
  }

  #arrive(peer: SimPeer, epoch: number, request: RegistryRequest): void {
    const isWrite = request.kind === 'create' || request.kind === 'update';
    const doubtful = this.random.chance(this.faults.unknown);
    if (doubtful && (!isWrite || this.random.chance(0.5))) {
      if (isWrite) this.counters.count('unknownNotDone');
      this.#reply(peer, epoch, request.request, silence(isWrite));
      return;
    }
    const stale = this.scenario.staleReads === true && this.random.chance(0.3);
    const answer = this.registry.execute(request, stale);
    if (isWrite) this.note(`registry: ${peer.name} ${request.kind} ${answer.kind}`);
    if (doubtful) this.counters.count('unknownButDone');
    this.#reply(peer, epoch, request.request, doubtful ? silence(true) : answer);
  }

  #reply(peer: SimPeer, epoch: number, id: number, answer: Answer): void {
    const { random, faults, counters } = this;
    if (random.chance(faults.replyLost)) {
      counters.count('replyLost');
      return;
    }
    const happening: Happening = { kind: 'reply', peer, epoch, id, answer };
    let delayMs = random.between(0.5, 10);
    if (random.chance(faults.replyLate)) {
      counters.count('replyLate');
      delayMs = random.between(50, 5000);
    }
    this.#agenda.add(this.nowMs + delayMs, happening);
    if (random.chance(faults.replyTwice)) {
      counters.count('replyTwice');
      this.#agenda.add(this.nowMs + random.between(1, 3000), happening);
    }
  }

  #tellAll(change: Change): void {
    if (change.record !== 'peer') return;
    for (const peer of this.peers) this.#tell(peer, change);
  }

  #tell(peer: SimPeer, change: Change): void {
    const { random, faults, counters } = this;
    if (random.chance(faults.hintLost)) {
      counters.count('hintLost');
      return;
    }
    let delayMs = random.between(0.5, 20);
    if (random.chance(faults.hintLate)) {
      counters.count('hintLate');
      delayMs = random.between(50, 10_000);
    }
    this.#agenda.add(this.nowMs + delayMs, { kind: 'hint', peer, change });
    if (random.chance(faults.hintTwice)) {
      counters.count('hintTwice');
      this.#agenda.add(this.nowMs + random.between(1, 10_000), { kind: 'hint', peer, change });
    }
  }

  #hint(peer: SimPeer, change: Change): void {
    if (!peer.reachable) return;
    this.#feed(peer, { kind: 'hint', name: change.name, ...(change.stored && { record: change.stored }) });
  }

  /** A watch begins with what exists. */
  #hintAll(peer: SimPeer): void {
    for (const { stored } of this.registry.peers.values()) {
      this.#tell(peer, { record: 'peer', name: stored.name, stored });
    }
  }

  #work(peer: SimPeer): void {
    const everyMs = this.calm ? this.scenario.workEveryMs * 10 : this.scenario.workEveryMs;
    this.#agenda.add(this.nowMs + this.random.between(0, 2 * everyMs), { kind: 'work', peer });
    if (peer.state === undefined) return;
    const wanted = this.scenario.podsPerPeer;
    if (this.random.chance(peer.pods.size < wanted ? 0.7 : 0.3)) this.#allocate(peer);
    else if (peer.pods.size > 0) this.#end(peer, this.random.pick([...peer.pods.keys()]));
  }

  #allocate(peer: SimPeer): void {
    const ticket = peer.nextTicket++;
    const named = this.random.chance(0.1) ? this.#someAddress(peer) : undefined;
    const repeated = this.random.chance(0.02) && peer.pods.size > 0;
    const containerId = repeated ? this.random.pick([...peer.pods.keys()]) : `${peer.name}-${peer.nextContainer++}`;
    peer.tickets.set(ticket, named !== undefined);
    const wish = {
      ...{ containerId, ifname: 'eth0', generation: String(ticket), sinceMs: 0, hostIfname: '' },
      ...{ addresses: named === undefined ? [] : [named], owner: { network: 'weft', netnsPath: '', netnsInode: 0n } },
    };
    this.#feed(peer, { kind: 'allocate', ticket, wish });
  }

  /** An address of the own blocks, or of anybody's. */
  #someAddress(peer: SimPeer): string {
    const block = this.random.pick(peer.disk.peer.blocks.length > 0 ? peer.disk.peer.blocks : this.scenario.ranges);
    const offset = this.random.below(Math.min(300, 2 ** (addressBits(block.family) - block.prefix)));
    return formatAddress(block.family, block.base + BigInt(offset));
  }

  #end(peer: SimPeer, containerId: string): void {
    const pod = peer.pods.get(containerId);
    if (pod === undefined) return;
    for (const address of pod.lease.addresses) {
      this.inUse.delete(address);
      if (!pod.ending) this.freedAtMs.set(address, this.nowMs);
    }
    pod.ending = true;
    this.#free(peer, pod.lease);
    // A DEL that the process did not survive is asked for again.
    if (peer.state !== undefined) peer.pods.delete(containerId);
  }

  #free(peer: SimPeer, lease: Lease): void {
    this.counters.count('free');
    this.#feed(peer, { kind: 'free', ...lease });
  }

  #crash(peer: SimPeer, how: 'crash' | 'crashBetweenEffects' | 'powerLoss'): void {
    this.counters.count(how);
    this.note(`${peer.name} ${how}`);
    if (how === 'powerLoss') {
      for (const pod of peer.pods.values()) {
        for (const address of pod.lease.addresses) {
          if (this.inUse.get(address) === peer) this.inUse.delete(address);
        }
      }
      for (const address of [...this.freedAtMs.keys()]) if (ownsOnDisk(peer, address)) this.freedAtMs.delete(address);
      peer.losePower();
    } else {
      peer.crash();
    }
    this.#agenda.add(this.nowMs + this.random.between(1, this.random.chance(0.3) ? 10_000 : 500), {
      kind: 'start',
      peer,
    });
  }

  #scheduleFault(): void {
    this.#agenda.add(this.nowMs + this.random.between(0, 2 * this.faults.faultEveryMs), { kind: 'fault' });
  }

  #fault(): void {
    if (this.calm) return;
    this.#scheduleFault();
    const peer = this.random.pick(this.peers);
    const choice = this.random.next();
    if (choice < 0.35) {
      if (peer.state !== undefined) this.#crash(peer, this.random.chance(0.25) ? 'powerLoss' : 'crash');
    } else if (choice < 0.65) {
      if (!peer.reachable) return;
      peer.reachable = false;
      this.counters.count('partition');
      this.#agenda.add(this.nowMs + this.random.between(10, 10_000), { kind: 'heal', peer });
    } else {
      this.#deleteIdle(peer);
    }
  }

  /** Somebody deletes the record of a peer that holds nothing: grants on their way to it become void. */
  #deleteIdle(peer: SimPeer): void {
    const record = this.registry.peers.get(peer.name)?.record;
    // Not before the founding: a founder deleted while it writes itself in is a case for taking over.
    const founder = this.registry.universe?.record.founder?.name ?? peer.name;
    if (record === undefined || founder === peer.name || record.blocks.length + record.granting.length > 0) return;
    if (peer.disk.peer.blocks.length > 0) return;
    this.counters.count('recordDeleted');
    this.note(`record of ${peer.name} deleted`);
    this.registry.remove(peer.name);
  }

  #heal(peer: SimPeer): void {
    if (peer.reachable) return;
    peer.reachable = true;
    this.counters.count('heal');
    this.#hintAll(peer);
  }

  #switchHalves(side: number): void {
    if (this.calm) return;
    for (const peer of this.peers) {
      if (peer.index % 2 === side) this.#heal(peer);
      else if (peer.reachable) {
        peer.reachable = false;
        this.counters.count('partition');
      }
    }
    this.#agenda.add(this.nowMs + this.random.between(500, 8000), { kind: 'halves', side: 1 - side });
  }

  #calmDown(): void {
    this.note('faults end');
    this.calm = true;
    this.faults = noFaults;
    for (const peer of this.peers) {
      this.#heal(peer);
      this.#agenda.add(this.nowMs, { kind: 'start', peer });
    }
  }
}

function leasesOf(peer: SimPeer): readonly Lease[] {
  return [...(peer.state?.leases.values() ?? [])];
}

/** Where a crash is most telling: before a commit of the peer's copy and before a write. */
function changesRecords(effect: Effect): boolean {
  return effect.kind === 'update' || effect.kind === 'create' || (effect.kind === 'persist' && effect.sync === 'full');
}

function silence(isWrite: boolean): Answer {
  return isWrite ? { kind: 'unknown', reason: 'no answer' } : { kind: 'failed', reason: 'no answer' };
}

function ownsOnDisk(peer: SimPeer, text: string): boolean {
  const value = parseAddress(text)?.value ?? 0n;
  return peer.disk.peer.blocks.some(
    (block) => value >= block.base && value < block.base + (1n << BigInt(addressBits(block.family) - block.prefix)),
  );
}

function configOf(scenario: Scenario, index: number): SimPeer['config'] {
  const name = `n${index + 1}`;
  return {
    ...{ universe: 'default', ranges: scenario.ranges, reserved: scenario.reserved },
    ...{ self: `${name}.${name}`, node: { name, uid: name } },
    ...{ restMs: scenario.peersRestMs ?? scenario.restMs, allocateWaitMs: 3000, requestTimeoutMs: 2000 },
    ...{ answerTimeoutMs: 1500, serveDelayMs: 20, pollMs: 1000, resyncMs: 8000, lowWater: scenario.lowWater },
  };
}
