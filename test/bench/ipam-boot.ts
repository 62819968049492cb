// A cluster that boots, in virtual time: thousands of real cores over one registry in memory. What tells one peer of another's record is
// a watch that all share: the record is put into everybody's knowledge at once, and only those whom it concerns (it grants to them,
// wants from them, or something of theirs hangs on it) get it as an event. So 5,000 peers cost seconds and not hours, and every
// want, grant, write and read is the core's own.
import { formatCidr, parseCidr } from '#ipam-peer/cidr.ts';
import type { Answer, Config, CoreEvent, Effect, RecordKind, Stamp, StoredRecord } from '#ipam-peer/events.ts';
import { parsePeer, type PeerRecord, viasLimit } from '#ipam-peer/records.ts';
import { emptyDurable, type Known, restore, type State } from '#ipam-peer/state.ts';
import { step } from '#ipam-peer/step.ts';
import { defaultTiming } from '#agent/runtime/start.ts';
import { Agenda } from '#test/sim/heap.ts';
import { Random } from '#test/sim/random.ts';

type Unstamped = CoreEvent extends infer E ? (E extends CoreEvent ? Omit<E, keyof Stamp> : never) : never;
type Knowledge = Map<string, Known<PeerRecord>>;

/** A request to the registry takes so long, and news of a write too, at least and at most. */
const latencyMs = [2, 20] as const;

/** The knowledge that all share, without the own record: what one peer's core takes for its own map. */
class Others extends Map<string, Known<PeerRecord>> {
  readonly #all: Knowledge;
  readonly #self: string;

  constructor(all: Knowledge, self: string) {
    super();
    this.#all = all;
    this.#self = self;
  }

  override get(name: string): Known<PeerRecord> | undefined {
    return name === this.#self ? undefined : this.#all.get(name);
  }

  override has(name: string): boolean {
    return this.get(name) !== undefined;
  }

  override set(): this {
    return this;
  }

  override delete(): boolean {
    return false;
  }

  override *keys(): MapIterator<string> {
    // Nothing to compare with a list: the shared watch has deleted what is gone.
  }

  override *values(): MapIterator<Known<PeerRecord>> {
    for (const [name, peer] of this.#all) if (name !== this.#self) yield peer;
  }
}

interface Peer {
  readonly name: string;
  readonly state: State;
  timerMs: number;
  done: boolean;
}

type Happening =
  | { readonly kind: 'event'; readonly peer: Peer; readonly event: Unstamped }
  | { readonly kind: 'request'; readonly peer: Peer; readonly effect: Request }
  | { readonly kind: 'wake'; readonly peer: Peer; readonly atMs: number }
  | { readonly kind: 'news'; readonly stored: StoredRecord };

type Request = Extract<Effect, { readonly kind: 'get' | 'list' | 'create' | 'update' }>;

/** What a boot came to. */
export interface Boot {
  readonly peers: number;
  /** Virtual time from the first start until every peer had space and nothing was under way. */
  readonly settledMs: number;
  /** Writes of Peer records. */
  readonly writes: number;
  /** Reads of single records. */
  readonly reads: number;
  /** Blocks of all peers: the routes on each node. */
  readonly routes: number;
  readonly mostBlocksOfOnePeer: number;
  /** JSON bytes of every version of every Peer: what each watcher is sent, without Kubernetes' own metadata. */
  readonly watchedBytes: number;
  /** JSON bytes of all Peers at the end: what a start lists. */
  readonly listBytes: number;
}

export class Cluster {
  readonly #random = new Random(1);
  readonly #agenda = new Agenda<Happening>();
  readonly #records = new Map<string, StoredRecord>();
  readonly #known: Knowledge = new Map();
  readonly #peers = new Map<string, Peer>();
  readonly #bytes = new Map<string, number>();
  #nowMs = 0;
  #version = 0;
  #writes = 0;
  #reads = 0;
  #watchedBytes = 0;
  #unsettled = 0;

  start(index: number): void {
    const config = configOf(index);
    const state = restore(config, emptyDurable, this.#nowMs, [`192.168.${index >> 8}.${index & 255}`]);
    const peer: Peer = { name: config.self, state, timerMs: Infinity, done: false };
    Object.assign(state, { peers: new Others(this.#known, config.self) });
    this.#peers.set(config.self, peer);
    this.#unsettled++;
    this.#feed(peer, { kind: 'wake' });
  }

  /** Runs until every peer that was started has space of its own and no transfer is under way. */
  settle(): void {
    while (this.#unsettled > 0 || this.#inTransit()) {
      const next = this.#agenda.next();
      if (next === undefined) throw new Error('nothing is due, but not every peer has space');
      this.#nowMs = Math.max(this.#nowMs, next.atMs);
      this.#happen(next.value);
    }
  }

  result(): Boot {
    const blocks = [...this.#known.values()].map(({ record }) => record.blocks.length);
    return {
      peers: this.#peers.size,
      settledMs: this.#nowMs,
      writes: this.#writes,
      reads: this.#reads,
      routes: blocks.reduce((sum, count) => sum + count, 0),
      mostBlocksOfOnePeer: Math.max(...blocks),
      watchedBytes: this.#watchedBytes,
      listBytes: [...this.#bytes.values()].reduce((sum, bytes) => sum + bytes, 0),
    };
  }

  #pending = new Set<string>();

  #inTransit(): boolean {
    return this.#pending.size > 0;
  }

  #later(): number {
    return this.#nowMs + this.#random.between(...latencyMs);
  }

  #happen(what: Happening): void {
    switch (what.kind) {
      case 'event':
        this.#feed(what.peer, what.event);
        return;
      case 'request':
        this.#answer(what.peer, what.effect);
        return;
      case 'wake':
        if (what.atMs === what.peer.timerMs) this.#feed(what.peer, { kind: 'wake' });
        return;
      case 'news':
        this.#tell(what.stored);
    }
  }

  #feed(peer: Peer, event: Unstamped): void {
    const { effects } = step(peer.state, { ...event, nowMs: this.#nowMs, random: this.#random.next() });
    for (const effect of effects) this.#execute(peer, effect);
    if (!peer.done && peer.state.spaces[4].total > 0) {
      peer.done = true;
      this.#unsettled--;
    }
  }

  #execute(peer: Peer, effect: Effect): void {
    const { kind } = effect;
    if (kind === 'get' || kind === 'list' || kind === 'create' || kind === 'update') {
      this.#agenda.add(this.#later(), { kind: 'request', peer, effect });
    } else if (kind === 'survey') {
      this.#agenda.add(this.#later(), { kind: 'event', peer, event: { kind: 'surveyed', inUse: [] } });
    } else if (kind === 'recover') {
      this.#agenda.add(this.#later(), { kind: 'event', peer, event: { kind: 'recovered', leases: [] } });
    } else if (kind === 'timer') {
      peer.timerMs = effect.atMs;
      if (effect.atMs < Infinity) this.#agenda.add(effect.atMs, { kind: 'wake', peer, atMs: effect.atMs });
    } else if (kind === 'delete' || kind === 'node') {
      throw new Error(`${peer.name} takes somebody for gone`);
    }
  }

  #answer(peer: Peer, effect: Request): void {
    const event: Unstamped = { kind: 'answer', request: effect.request, answer: this.#registry(effect) };
    this.#agenda.add(this.#later(), { kind: 'event', peer, event });
  }

  #registry(effect: Request): Answer {
    switch (effect.kind) {
      case 'get':
        if (effect.record === 'peer') this.#reads++;
        return { kind: 'record', record: this.#records.get(`${effect.record}/${effect.name}`) };
      case 'list':
        // Everything is known already.
        return { kind: 'list', records: [] };
      case 'create':
        if (this.#records.has(`${effect.record}/${effect.name}`)) return { kind: 'conflict' };
        return this.#write(effect.record, effect.name, `uid-${++this.#version}`, effect.value);
      case 'update': {
        const { name, uid, version } = effect.stored;
        const now = this.#records.get(`${effect.record}/${name}`);
        if (now?.version !== version || now.uid !== uid) return { kind: 'conflict' };
        return this.#write(effect.record, name, uid, effect.value);
      }
    }
  }

  #write(kind: RecordKind, name: string, uid: string, value: unknown): Answer {
    const stored: StoredRecord = { name, uid, version: `${++this.#version}`, value };
    this.#records.set(`${kind}/${name}`, stored);
    if (kind === 'peer') {
      const bytes = JSON.stringify(value).length;
      this.#writes++;
      this.#watchedBytes += bytes;
      this.#bytes.set(name, bytes);
      this.#agenda.add(this.#later(), { kind: 'news', stored });
    }
    return { kind: 'ok', record: stored };
  }

  #tell(stored: StoredRecord): void {
    const parsed = parsePeer(stored.value);
    if (!parsed.ok) throw new Error(parsed.reason);
    const before = this.#known.get(stored.name)?.record;
    if (before !== undefined && before.seq >= parsed.record.seq) return;
    const concerned = new Set([...concernedBy(before), ...concernedBy(parsed.record)]);
    for (const name of concerned) {
      const peer = this.#peers.get(name);
      if (peer !== undefined) this.#feed(peer, { kind: 'hint', name: stored.name, record: stored });
    }
    this.#known.set(stored.name, { stored, record: parsed.record });
    const moving = parsed.record.granting.length > 0 || parsed.record.blocks.some((block) => block.via !== undefined);
    if (moving) this.#pending.add(stored.name);
    else this.#pending.delete(stored.name);
    // Those who wait for anybody to have space look at what they know now.
    for (const name of concerned) {
      const peer = this.#peers.get(name);
      if (peer === undefined) continue;
      peer.state.interestVersion++;
      this.#feed(peer, { kind: 'wake' });
    }
  }
}

/** Names of the peers to which something in the record matters. */
function concernedBy(record: PeerRecord | undefined): readonly string[] {
  if (record === undefined) return [];
  const wanted = [record.wants[4]?.name, record.wants[6]?.name];
  const vias = record.blocks.map((block) => block.via?.name);
  return [...wanted, ...vias, ...record.granting.map((grant) => grant.to.name)].filter((name) => name !== undefined);
}

const range = parseCidr('10.32.0.0/12');

function configOf(index: number): Config {
  if (range === undefined) throw new Error('no range');
  const name = `node-${String(index).padStart(4, '0')}`;
  const uid = `${String(index).padStart(8, '0')}-0000-4000-8000-000000000000`;
  return {
    ...defaultTiming,
    session: name,
    quarantineMs: defaultTiming.restMs,
    mostVias: viasLimit,
    universe: 'default',
    joinOnUse: false,
    ownAddresses: [4, 6],
    ranges: [range],
    reserved: [],
    self: `${name}.${uid.slice(0, 8)}`,
    node: { name, uid },
  };
}

/** What the shared range is, for the figures. */
export const rangeText: string = range === undefined ? '' : formatCidr(range);
