// The core of IPAM searched exhaustively for small sizes: a transfer, and the chain of taking over. Real cores over the registry's model:
// the requests of a few peers are executed in any order; an answer may leave open what it came to; processes die before and after their
// request arrives; a node is deleted at any moment. What differs in times only counts as one state: a timer goes off whenever its
// process waits for nothing else. Lists, the Universe and the own session are answered at once.
import type { Answer, CoreEvent, Stamp } from '#ipam-peer/events.ts';
import { durableViolations, effectiveOwners, ownershipViolations } from '#ipam-peer/invariants.ts';
import { emptyDurable, restore, type State } from '#ipam-peer/state.ts';
import { versionOf } from '#ipam-peer/session.ts';
import { step } from '#ipam-peer/step.ts';
import { Counters } from './counters.ts';
import { type Backup, RegistryModel, type RegistryRequest } from './registry-model.ts';
import type { SimPeer } from './peer.ts';
import { type Found, search } from './search.ts';

type Unstamped = CoreEvent extends infer E ? (E extends CoreEvent ? Omit<E, keyof Stamp> : never) : never;

export interface Bounds {
  readonly crashes: number;
  /** Answers that do not tell whether the write took effect. */
  readonly unknowns: number;
  /** Nodes that are deleted. */
  readonly deletions: number;
  readonly limit: number;
  /** A planted bug: changes what a peer asks of the registry. */
  readonly sabotage?: (request: RegistryRequest) => RegistryRequest;
}

export interface Actor {
  readonly config: State['config'];
  readonly disk: State['durable'];
  readonly state: State;
  readonly clockMs: number;
  readonly timerMs: number;
  readonly held: readonly RegistryRequest[];
  readonly isDead: boolean;
}

export interface Moment {
  readonly registry: Backup;
  readonly gone: readonly string[];
  readonly revision: number;
  readonly actors: readonly Actor[];
  readonly breaches: readonly string[];
  readonly crashes: number;
  readonly unknowns: number;
  readonly deletions: number;
}

/** `goal`: what must have been reached somewhere, over the names of the records that are left. */
export function searchIpam(start: Moment, bounds: Bounds, goal: (moment: Moment) => boolean): Found {
  return search(start, { key, violation, goal, next: (moment) => next(bounds, moment), limit: bounds.limit });
}

/** A moment while something happens to it. */
class Play {
  readonly registry: RegistryModel = new RegistryModel(new Counters(), () => undefined);
  readonly actors: { -readonly [K in keyof Actor]: Actor[K] }[];
  readonly #bounds: Bounds;
  /** Actors whose state is not shared with the moment before. */
  readonly #own = new Set<number>();

  constructor(moment: Moment, bounds: Bounds) {
    const { registry, gone, revision } = moment;
    for (const [name, known] of registry.peers) this.registry.peers.set(name, known);
    for (const [name, stored] of registry.sessions) this.registry.sessions.set(name, stored);
    for (const uid of gone) this.registry.goneNodes.add(uid);
    this.registry.universe = registry.universe;
    this.registry.revision = revision;
    this.actors = moment.actors.map((actor) => ({ ...actor }));
    this.#bounds = bounds;
  }

  end(moment: Moment): Moment {
    const { registry } = this;
    return {
      ...moment,
      registry: registry.backup(),
      gone: [...registry.goneNodes],
      revision: registry.revision,
      breaches: [...registry.breaches],
      actors: this.actors,
    };
  }

  /** The state is changed in place by a step: the one of the moment before is left as it was. */
  feed(index: number, ...events: readonly Unstamped[]): void {
    const actor = this.actors[index];
    if (actor === undefined || actor.isDead) return;
    if (!this.#own.has(index)) actor.state = structuredClone(actor.state);
    this.#own.add(index);
    const queue = [...events];
    for (let event = queue.shift(); event !== undefined; event = queue.shift()) {
      const { effects } = step(actor.state, { ...event, nowMs: actor.clockMs, random: 0.5 });
      for (const effect of effects) {
        if (effect.kind === 'persist') {
          for (const delta of effect.deltas) if (delta.kind === 'peer') actor.disk = delta.peer;
        } else if (effect.kind === 'timer') actor.timerMs = effect.atMs;
        else if (effect.kind === 'survey') queue.push({ kind: 'surveyed', inUse: [] });
        else if (effect.kind === 'recover') queue.push({ kind: 'recovered', leases: [] });
        else if ('request' in effect) {
          const asked = this.#bounds.sabotage?.(effect) ?? effect;
          if (isQuiet(asked, actor)) queue.push(answerTo(asked, this.registry.execute(asked)));
          else actor.held = [...actor.held, asked];
        }
      }
    }
  }

  start(index: number): void {
    const actor = this.actors[index];
    if (actor === undefined) return;
    const durable = { ...emptyDurable, peer: actor.disk };
    actor.state = restore(actor.config, durable, actor.clockMs, [`192.168.0.${index}`]);
    this.#own.add(index);
    actor.held = [];
    this.feed(index, { kind: 'wake' }, this.nodes());
  }

  nodes(): Unstamped {
    const known = [...this.registry.peers.values()].filter(({ record }) =>
      this.registry.goneNodes.has(record.node.uid),
    );
    return { kind: 'nodes', gone: known.map(({ stored }) => stored.name) };
  }
}

function isQuiet(request: RegistryRequest, { config }: Actor): boolean {
  if (request.kind === 'list') return true;
  if (request.kind === 'node') return false;
  if (request.record === 'universe') return request.kind === 'get';
  const name = 'name' in request ? request.name : request.stored.name;
  return request.record === 'session' && name === config.self;
}

function answerTo({ request }: RegistryRequest, answer: Answer): Unstamped {
  return { kind: 'answer', request, answer };
}

function* next(bounds: Bounds, moment: Moment): Iterable<readonly [string, Moment]> {
  const play = (act: (play: Play) => void, counts: Partial<Moment> = {}): Moment => {
    const one = new Play(moment, bounds);
    act(one);
    return one.end({ ...moment, ...counts });
  };
  for (const [index, actor] of moment.actors.entries()) {
    if (actor.isDead) continue;
    const { self } = actor.config;
    const [request, ...rest] = actor.held;
    const take = (one: Play): void => void Object.assign(one.actors[index] ?? {}, { held: rest });
    if (request === undefined) {
      if (actor.timerMs < Infinity) yield [`${self} wakes`, play((one) => ring(one, index))];
    } else {
      const what = `${self} ${request.kind} ${'name' in request ? request.name : ''}`;
      yield [
        what,
        play((one) => {
          take(one);
          one.feed(index, answerTo(request, one.registry.execute(request)));
        }),
      ];
      const isWrite = request.kind === 'create' || request.kind === 'update' || request.kind === 'delete';
      if (isWrite && moment.unknowns < bounds.unknowns) {
        const counts = { unknowns: moment.unknowns + 1 };
        for (const done of [false, true])
          yield [
            `${what}, ${done ? 'done' : 'not done'} and unknown`,
            play((one) => {
              take(one);
              if (done) one.registry.execute(request);
              one.feed(index, answerTo(request, { kind: 'unknown', reason: 'no answer' }));
            }, counts),
          ];
      }
      if (isWrite && moment.crashes < bounds.crashes) {
        const counts = { crashes: moment.crashes + 1 };
        for (const done of [false, true])
          yield [
            `${self} dies, its ${request.kind} ${done ? 'arrives' : 'does not arrive'}`,
            play((one) => {
              if (done) one.registry.execute(request);
              one.start(index);
            }, counts),
          ];
      }
    }
    const others = moment.actors.filter((other) => other !== actor && !other.isDead).length;
    if (others === 0 || moment.deletions >= bounds.deletions) continue;
    yield [`the node of ${self} is deleted`, play((one) => remove(one, index), { deletions: moment.deletions + 1 })];
  }
}

/** More than the timers between two requests of any peer here. */
const mostRings = 100;

/** Time passes until the peer asks for something again. */
function ring(play: Play, index: number): void {
  const actor = play.actors[index];
  for (let rings = 0; actor !== undefined && actor.held.length === 0 && rings < mostRings; rings++) {
    actor.clockMs = Math.max(actor.clockMs, actor.timerMs);
    actor.timerMs = Infinity;
    play.feed(index, { kind: 'wake' });
  }
}

function remove(play: Play, index: number): void {
  const actor = play.actors[index];
  if (actor === undefined) return;
  play.registry.deleteNode(actor.config.self, actor.config.node.uid, false);
  actor.isDead = true;
  for (const other of play.actors.keys()) play.feed(other, play.nodes());
}

/** Invariants 1 to 3. */
function violation({ registry, actors, breaches }: Moment): string {
  const universe = registry.universe?.record;
  const owned = effectiveOwners(universe, [...registry.peers.values()]);
  const disks = actors.flatMap(({ disk, isDead, config }) =>
    isDead ? [] : durableViolations(`the disk of ${config.self}`, disk.uid, disk.blocks, owned),
  );
  return [...breaches, ...ownershipViolations(universe, owned), ...disks].join('; ');
}

/** Versions by the order in which they appear: what differs in them only is one state. */
function key({ registry, gone, actors, crashes, unknowns, deletions }: Moment): string {
  const names = new Map<string, string>();
  const version = (text: string): string => {
    const known = names.get(text) ?? `#${names.size}`;
    names.set(text, known);
    return known;
  };
  const short = (_: string, value: unknown): unknown => {
    if (typeof value === 'bigint') return String(value);
    if (value instanceof Map) return [...(value as Map<string, unknown>)];
    return value;
  };
  const peers = [...registry.peers.values()].map(({ stored }) => ({ ...stored, version: version(stored.version) }));
  const ofActor = ({ state, disk, held, isDead, clockMs, config }: Actor): unknown => {
    if (isDead) return 'dead';
    const present = versionOf(registry.peers.get(config.self)?.stored);
    const { cycle } = state;
    const { session: _session, doubt, ...rest } = disk;
    return {
      disk: { ...rest, doubt: doubt === undefined ? undefined : version(doubt) },
      held: held.map((request) => ({
        ...request,
        request: 0,
        ...('stored' in request && { stored: [request.stored.name, version(request.stored.version)] }),
      })),
      phase: cycle?.phase,
      read:
        cycle && [...cycle.others].map(([name, one]) => [name, one && 'stored' in one && version(one.stored.version)]),
      own: cycle?.own && version(cycle.own.stored.version),
      nodes: cycle?.nodes,
      confirmed: state.confirmed && version(state.confirmed.stored.version),
      heard: [...state.peers].map(([name, known]) => [name, version(known.stored.version)]),
      gone: [...state.gone].map(([name, one]) => [name, one.session !== undefined, one.nextLookMs <= clockMs]),
      fences: state.fences,
      session: state.session.status,
      // Only the present version will be read again.
      known: state.session.knownVersion === present,
      // Once it was taken in, the disk's doubt stands for it.
      found: versionOf(state.confirmed?.stored) !== present && state.session.foundVersion === present,
      wants: [state.asks[4].from?.uid, state.asks[4].exhausted],
    };
  };
  return JSON.stringify([peers, gone, actors.map(ofActor), crashes, unknowns, deletions], short);
}

/** The moment at which these processes start on what their disks and the registry hold. */
export function startOf(registry: RegistryModel, peers: readonly SimPeer[]): Moment {
  const actors = peers.map(({ config, disk }): Actor => {
    const state = restore(config, emptyDurable, 0, []);
    return { config, disk: disk.peer, state, clockMs: 0, timerMs: Infinity, held: [], isDead: false };
  });
  const before: Moment = {
    registry: registry.backup(),
    gone: [...registry.goneNodes],
    revision: registry.revision,
    actors,
    breaches: [],
    crashes: 0,
    unknowns: 0,
    deletions: 0,
  };
  const play = new Play(before, { crashes: 0, unknowns: 0, deletions: 0, limit: 0 });
  for (const index of actors.keys()) play.start(index);
  return play.end(before);
}
