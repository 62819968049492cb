// The simulated world: peers that run the real core against a model of the registry, over a network that loses, delays, doubles
// and reorders, with processes that die between any two effects. One agenda in virtual time, one generator: a seed replays.
import { families } from '#ipam-peer/address.ts';
import type { Answer, CoreEvent, Effect, Lease, Stamp } from '#ipam-peer/events.ts';
import type { State } from '#ipam-peer/state.ts';
import { isObserving } from '#ipam-peer/state.ts';
import { step } from '#ipam-peer/step.ts';
import { checkLeased, checkWorld, isCounted, makeChecks, type Checks } from './checks.ts';
import { Counters } from './counters.ts';
import { isGone } from './gone.ts';
import { Agenda } from './heap.ts';
import { type Disk, SimPeer } from './peer.ts';
import type { Random } from './random.ts';
import { type Change, type Backup as RegistryBackup, RegistryModel, type RegistryRequest } from './registry-model.ts';
import type { Faults, Scenario } from './scenario.ts';
import { configOf, slowestClock, timing } from './settings.ts';
import { aim, arrive, hint, hintAll, send, tellAll } from './network.ts';
import { returnToLight, sessionWritten, unplug } from './twins.ts';
import {
  ambush,
  checkPublished,
  deleteNode,
  feedNodes,
  reinstall,
  reRegister,
  retire,
  tellNodes,
  tellNodesSoon,
  wereCut,
} from './hosts.ts';
import { crash } from './crash.ts';
import { forgetForsaken } from './forsaken.ts';
import { reclaim } from './restore.ts';
import { calmDown, deleteIdle, fault, heal, save, scheduleFault, switchHalves } from './weather.ts';
import { free, work } from './work.ts';

type Unstamped = CoreEvent extends infer E ? (E extends CoreEvent ? Omit<E, keyof Stamp> : never) : never;

/** What can be due. */
export type Happening =
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
  | { readonly kind: 'surveyed'; readonly peer: SimPeer; readonly epoch: number }
  | { readonly kind: 'nodes'; readonly peer: SimPeer; readonly gone: ReadonlySet<string> }
  | { readonly kind: 'cut'; readonly peer: SimPeer; readonly epoch: number; readonly leases: readonly Lease[] }
  | { readonly kind: 'reRegister'; readonly peer: SimPeer }
  | { readonly kind: 'retire'; readonly peer: SimPeer }
  | { readonly kind: 'recovered'; readonly peer: SimPeer; readonly epoch: number }
  | { readonly kind: 'activate'; readonly peer: SimPeer; readonly epoch: number; readonly lease: Lease }
  | { readonly kind: 'doom'; readonly peer: SimPeer }
  | { readonly kind: 'snatch'; readonly peer: SimPeer }
  | { readonly kind: 'unplug'; readonly twin: SimPeer }
  | { readonly kind: 'reinstall'; readonly peer: SimPeer }
  | { readonly kind: 'save' }
  | { readonly kind: 'reclaim' }
  | { readonly kind: 'fault' }
  | { readonly kind: 'heal'; readonly peer: SimPeer }
  | { readonly kind: 'halves'; readonly side: number }
  | { readonly kind: 'calm' };

export interface Backup {
  readonly identity: string;
  readonly disk: Disk;
}

export class World {
  readonly scenario: Scenario;
  readonly random: Random;
  readonly counters: Counters = new Counters();
  readonly registry: RegistryModel;
  readonly peers: readonly SimPeer[];
  /** Further machines that go by the name of one of the peers. */
  readonly twins: Set<SimPeer> = new Set<SimPeer>();
  /** Until then a write of the session by one that was stopped may arrive. */
  twinsHeardUntilMs: number = -Infinity;
  /** Machines to which something happened in this step. */
  readonly touched: Set<SimPeer> = new Set<SimPeer>();
  readonly checks: Checks;
  faults: Faults;
  nowMs = 0;
  steps = 0;
  calm = false;
  /** Addresses that pods use now, by the peer that leased them. */
  readonly inUse: Map<string, SimPeer> = new Map<string, SimPeer>();
  readonly freedAtMs: Map<string, number> = new Map<string, number>();
  /** The registry as it was some time ago, and how many nodes were gone then. */
  backup: { readonly registry: RegistryBackup; readonly gone: number } | undefined;
  /** The registry went back, and not every peer has written its record back yet. */
  restoring: boolean = false;
  /** Space may be nobody's, until a person gives it to somebody. */
  forsaken: boolean = false;
  /** Copies of disks, some time ago. */
  readonly backups: Map<SimPeer, readonly Backup[]> = new Map<SimPeer, readonly Backup[]>();
  readonly #notes: { readonly atMs: number; readonly text: string }[] = [];
  readonly #keepTrace: boolean;
  readonly agenda: Agenda<Happening> = new Agenda();

  constructor(scenario: Scenario, random: Random, keepTrace = false) {
    this.scenario = scenario;
    this.random = random;
    this.#keepTrace = keepTrace;
    this.faults = scenario.faults;
    this.registry = new RegistryModel(this.counters, (change) => tellAll(this, change));
    this.registry.nowMs = () => this.nowMs;
    this.registry.onPeerWritten = (stored, before, after) => ambush(this, stored, before, after);
    this.registry.onSessionWritten = (name, session, before) => sessionWritten(this, name, session, before);
    this.registry.isRestoring = () => this.restoring;
    this.registry.requestTimeoutMs = 2000;
    this.registry.sessionTermMs = timing.sessionTermMs * slowestClock;
    this.peers = Array.from({ length: scenario.peers }, (_, index) => new SimPeer(index, configOf(scenario, index)));
    this.checks = makeChecks();
    for (const peer of this.peers) {
      this.agenda.add(this.random.between(0, scenario.bootWithinMs), { kind: 'start', peer });
      this.agenda.add(this.random.between(0, 1000), { kind: 'work', peer });
    }
    this.agenda.add(scenario.busyMs, { kind: 'calm' });
    if (scenario.faults.faultEveryMs < Infinity) {
      scheduleFault(this);
      this.agenda.add(1000, { kind: 'save' });
    }
    if (scenario.halves) this.agenda.add(0, { kind: 'halves', side: 0 });
  }

  /** The peer whose record has this name now. */
  peerNamed(name: string): SimPeer | undefined {
    const peer = this.peers[Number(/^n(\d+)\./.exec(name)?.[1]) - 1];
    return peer?.name === name ? peer : undefined;
  }

  /** Every machine: the peers, then those that go by the name of one. */
  machines(): readonly SimPeer[] {
    return this.twins.size === 0 ? this.peers : [...this.peers, ...this.twins];
  }

  /** Runs until so long after the faults ended; may be called again with a later end. */
  run(quietMs: number): void {
    const endMs = this.scenario.busyMs + quietMs;
    for (;;) {
      const next = this.agenda.next();
      if (next === undefined) return;
      if (next.atMs > endMs) {
        this.agenda.add(next.atMs, next.value);
        return;
      }
      this.nowMs = Math.max(this.nowMs, next.atMs);
      this.steps++;
      this.#happen(next.value);
      forgetForsaken(this);
      checkWorld(this);
    }
  }

  note(text: string): void {
    this.#notes.push({ atMs: this.nowMs, text });
    if (!this.#keepTrace && this.#notes.length > 2000) this.#notes.splice(0, 1000);
  }

  /** The last lines of what happened; all of them when `keepTrace`. */
  get trace(): readonly string[] {
    return this.#notes.map(({ atMs, text }) => `${atMs.toFixed(1)} ${text}`);
  }

  #happen(what: Happening): void {
    switch (what.kind) {
      case 'start':
        this.#start(what.peer);
        return;
      case 'request':
        arrive(this, what.peer, what.epoch, what.request);
        return;
      case 'reply':
        if (what.epoch === what.peer.epoch)
          this.feed(what.peer, { kind: 'answer', request: what.id, answer: what.answer });
        return;
      case 'hint':
        hint(this, what.peer, what.change);
        return;
      case 'wake':
        if (what.epoch === what.peer.epoch && what.atMs === what.peer.timerMs) this.feed(what.peer, { kind: 'wake' });
        return;
      case 'activate':
        if (what.epoch !== what.peer.epoch) return;
        this.counters.count('activate');
        this.feed(what.peer, { kind: 'activate', ...what.lease });
        return;
      case 'surveyed':
        if (what.epoch === what.peer.epoch) this.feed(what.peer, { kind: 'surveyed', inUse: this.scenario.inUse });
        return;
      case 'recovered': {
        if (what.epoch !== what.peer.epoch) return;
        const alive = [...what.peer.pods.values()].filter((pod) => !pod.ending);
        this.feed(what.peer, { kind: 'recovered', leases: alive.map((pod) => pod.lease) });
        return;
      }
      case 'nodes':
        feedNodes(this, what.peer, what.gone);
        return;
      case 'cut':
        if (what.epoch === what.peer.epoch) wereCut(this, what.peer, what.leases);
        return;
      case 'reRegister':
        reRegister(this, what.peer);
        return;
      case 'retire':
        retire(this, what.peer);
        return;
      case 'work':
        work(this, what.peer);
        return;
      case 'doom':
        deleteNode(this, what.peer, 0.85);
        return;
      case 'snatch':
        deleteIdle(this, what.peer);
        return;
      case 'unplug':
        unplug(this, what.twin);
        return;
      case 'reinstall':
        reinstall(this, what.peer);
        return;
      case 'reclaim':
        reclaim(this);
        return;
      case 'save':
        save(this);
        return;
      case 'fault':
        fault(this);
        return;
      case 'heal':
        heal(this, what.peer);
        return;
      case 'halves':
        switchHalves(this, what.side);
        return;
      case 'calm':
        calmDown(this);
    }
  }

  #start(peer: SimPeer): void {
    if (peer.state !== undefined || peer.retired) return;
    if (peer.epoch > 0) this.counters.count('restart');
    const { clockSkew } = this.faults;
    const rate = clockSkew === 0 ? 1 : 1 + clockSkew * (2 * this.random.next() - 1);
    if (clockSkew > 0) this.counters.count('clockSkewed');
    peer.start(this.nowMs, rate, Math.floor(this.random.between(0, 1e6)));
    this.note(`${peer.label} starts`);
    this.feed(peer, { kind: 'wake' });
    hintAll(this, peer);
    tellNodes(this, peer);
    // What no pod uses was cut short between lease and answer: it is undone.
    if (peer.doubtful && peer.tag === '') return;
    for (const lease of leasesOf(peer)) if (!peer.pods.has(lease.containerId)) free(this, peer, lease);
  }

  feed(peer: SimPeer, event: Unstamped): void {
    const state = peer.state;
    if (state === undefined) return;
    this.touched.add(peer);
    const restingBefore = restingIn(state);
    if (peer.doubtful && peer.tag === '' && (state.session.status === 'held' || isObserving(state)))
      peer.doubtful = false;
    const { effects } = step(state, { ...event, nowMs: peer.clockMs(this.nowMs), random: this.random.next() });
    if (event.kind !== 'free') this.counters.count('restEnded', Math.max(0, restingBefore - restingIn(state)));
    const doctored = this.scenario.sabotage?.(effects, state) ?? effects;
    for (const effect of doctored) {
      if (this.random.chance(this.faults.crashPerEffect * (changesRecords(effect) ? 5 : 1))) {
        crash(this, peer, 'crashBetweenEffects');
        return;
      }
      this.#execute(peer, effect);
    }
    if (peer.eclipsed) returnToLight(this, peer, state);
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
      case 'delete':
      case 'node':
        this.note(`${peer.label} ${effect.kind} ${aim(effect)}`);
        if (effect.kind === 'create' && effect.record === 'peer') checkPublished(peer);
        send(this, peer, effect);
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
        this.agenda.add(Math.max(this.nowMs, peer.worldMs(effect.atMs)), {
          kind: 'wake',
          peer,
          epoch: peer.epoch,
          atMs: effect.atMs,
        });
        return;
      case 'log':
        this.note(`${peer.label} ${effect.level}: ${effect.text}`);
        return;
      case 'survey':
        this.agenda.add(this.nowMs + this.random.between(1, 500), { kind: 'surveyed', peer, epoch: peer.epoch });
        return;
      case 'recover':
        this.agenda.add(this.nowMs + this.random.between(1, 500), { kind: 'recovered', peer, epoch: peer.epoch });
        return;
      case 'cut':
        this.agenda.add(this.nowMs + this.random.between(1, 300), {
          kind: 'cut',
          peer,
          epoch: peer.epoch,
          leases: effect.leases,
        });
        return;
      case 'changed':
        tellNodesSoon(this, peer);
        return;
      case 'freed':
    }
  }

  #leased(peer: SimPeer, ticket: number, lease: Lease): void {
    this.counters.count(peer.tickets.get(ticket) === true ? 'allocateNamed' : 'allocate');
    peer.tickets.delete(ticket);
    checkLeased(this, peer, lease);
    // A node that does not know yet that it was deleted: the others take no packets of its pods.
    if (!isGone(this, peer) && isCounted(peer)) for (const address of lease.addresses) this.inUse.set(address, peer);
    peer.pods.set(lease.containerId, { lease, identity: peer.name, ending: false });
    if (this.random.chance(0.9)) {
      this.agenda.add(this.nowMs + this.random.between(1, 50), { kind: 'activate', peer, epoch: peer.epoch, lease });
    }
  }
}

function restingIn(state: State): number {
  return families.reduce((sum, family) => sum + state.spaces[family].restingCount, 0);
}

function leasesOf(peer: SimPeer): readonly Lease[] {
  return [...(peer.state?.leases.values() ?? [])];
}

/** Where a crash is most telling: before a commit of the peer's copy and before a write. */
function changesRecords(effect: Effect): boolean {
  return effect.kind === 'update' || effect.kind === 'create' || (effect.kind === 'persist' && effect.sync === 'full');
}
