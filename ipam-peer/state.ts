// The core's state. It is updated in place (a /12 full of leases is not copied for each ADD), which stays replayable: the same
// durable copy, configuration and events give the same state and effects. Only `restore` makes one.
import { addressBits, families, type Family, familyOf, parseAddress, type PerFamily, perFamily } from './address.ts';
import { type Cidr, coalesce, intersect, lastAddress, sameCidrs } from './cidr.ts';
import type {
  Config,
  Delta,
  Durable,
  DurablePeer,
  Effect,
  InUse,
  Lease,
  LeaseWish,
  LogLevel,
  StoredRecord,
} from './events.ts';
import type { PeerRecord, RecordRef, UniverseRecord } from './records.ts';
import { makeSession, mayLease, type Session } from './session-state.ts';
import { makeSpace, rest, setUsable, type Space, takeThis } from './space.ts';
import { type Conflict, trackUniverse, type UniverseTrack, type Unowned } from './universe-state.ts';

/** A record that was read and understood. */
export interface Known<T> {
  readonly stored: StoredRecord;
  readonly record: T;
}

export interface Waiting {
  readonly ticket: number;
  readonly wish: LeaseWish;
  readonly deadlineMs: number;
}

/** Where a cycle (read own record, read others', write own) stands. */
export interface Cycle {
  /** `self`: the own node is asked for before another's record gets an heir. */
  phase: 'universe' | 'list' | 'own' | 'others' | 'self' | 'write';
  readonly deadlineMs: number;
  /** Requests without an answer yet, and the record each is about. */
  readonly pending: Map<number, Asked>;
  /** Sessions and nodes of dead peers as read in this cycle. */
  readonly sessions: Map<string, StoredRecord | undefined>;
  readonly nodes: Map<string, boolean>;
  own: Known<PeerRecord> | undefined;
  /** Others' records as read in this cycle; `undefined`: there is none. */
  readonly others: Map<string, Known<PeerRecord> | StoredRecord | undefined>;
  /** What was heard of them when they were asked for: no answer may be older. */
  readonly heard: Map<string, Known<PeerRecord>>;
  /** Whose records hints told of since the list was asked for: it may be older. */
  readonly news: Set<string>;
  /** All records were listed in this cycle. */
  listed?: boolean;
  /** What is being done to a dead peer's record. */
  foreign: Foreign | undefined;
  /** What is being written, to log and apply once it succeeded. */
  writing: Writing | undefined;
}

/** A write to a dead peer's record. */
export type Foreign =
  | {
      readonly kind: 'heir';
      readonly dead: Known<PeerRecord>;
      readonly record: PeerRecord;
      /** True: no valid heir was there, and the own node is looked at before. */
      readonly first: boolean;
    }
  | { readonly kind: 'settle'; readonly dead: Known<PeerRecord>; readonly record: PeerRecord }
  | { readonly kind: 'delete'; readonly dead: Known<PeerRecord> };

export interface Asked {
  readonly about: 'record' | 'session' | 'node';
  readonly name: string;
}

/** A peer whose node seems to be gone. */
export interface Gone {
  readonly sinceMs: number;
  /** Its session as first seen at this version (absent: no session), and when. */
  session: { readonly version: string; readonly sinceMs: number } | undefined;
  /** Its session and node are looked at no sooner. */
  nextLookMs: number;
}

export interface Writing {
  /** `foreign`: a dead peer's record. `back`, `backDone`: the own one after the registry went back, in part and in full. */
  readonly kind: 'create' | 'update' | 'found' | 'universe' | 'foreign' | 'back' | 'backDone';
  /** Said once the write succeeded. */
  readonly news: readonly string[];
  readonly record: PeerRecord | undefined;
}

/** How asking for space of one family stands. */
export interface Ask {
  /** The want under way, as this process remembers it. */
  from: RecordRef | undefined;
  sinceMs: number;
  /** Donors that did not answer in this round of asking. */
  readonly silent: Set<string>;
  /** True while no other peer has space to give. */
  exhausted: boolean;
}

/** What others want of this peer and have granted to it, as last heard. */
export interface Heard {
  /** Of the interest that this was worked out for. */
  readonly version: number;
  /** Peers whose want is heard and not answered by a pending grant. */
  readonly wanters: readonly string[];
  /** Peers that pull a spare block of this one. */
  readonly pullers: readonly string[];
  /** True when somebody grants what is not taken yet. */
  readonly grants: boolean;
}

export interface State {
  readonly config: Config;
  durable: DurablePeer;
  universe: Known<UniverseRecord> | undefined;
  readonly universeTrack: UniverseTrack;
  /** The own record as last read or written; undefined: not read since the start. */
  confirmed: Known<PeerRecord> | undefined;
  /** The addresses of each family; empty for one that the universe does not have. */
  readonly spaces: PerFamily<Space>;
  readonly leases: Map<string, Lease>;
  readonly waiting: Waiting[];
  /** Others' records as last heard: hints. */
  readonly peers: Map<string, Known<PeerRecord>>;
  /** Records that could not be understood: name to reason, so that each is reported once. */
  readonly malformed: Map<string, string>;
  /** Peers whose hint grants to this peer or wants from it. */
  readonly interest: Set<string>;
  /** Changes with the set and with the records of those in it, and with the own record. */
  interestVersion: number;
  /** What the records of those in `interest` come to, so that it is not worked out again at each event. */
  heard: Heard;
  listed: boolean;
  /** True once the own record was read, there or not. */
  looked: boolean;
  nextListMs: number;
  cycle: Cycle | undefined;
  /** No cycle starts before this. */
  notBeforeMs: number;
  /** Cycles in a row that ended badly or without a need to write. */
  fruitless: number;
  nextRequest: number;
  readonly asks: PerFamily<Ask>;
  /** When the first of the wants that wait to be served was heard of. */
  wantsSinceMs: number | undefined;
  /** When pending grants and vias were last looked at. */
  polledMs: number;
  /** What keeps this peer from taking part; '' when nothing does. */
  trouble: string;
  /** What the survey before founding found in use; undefined: to be asked. */
  survey: readonly InUse[] | undefined;
  /** Why this peer may neither allocate nor write; '' when it may. One of `fences`. */
  fenced: string;
  readonly fences: Map<FenceSource, string>;
  readonly session: Session;
  /** Peers whose nodes seem to be gone. */
  readonly gone: Map<string, Gone>;
  /** Dead peers whose records name this peer as their heir, as far as was heard. */
  readonly heirOf: Set<string>;
  /** The registry holds a record of this node that its disk does not know of. */
  hasRecord: boolean;
  /** Time of the event that is being taken in. */
  nowMs: number;
  /** Until then the records are not believed: the registry went back; and peers that say so of theirs, since when. */
  suspectUntilMs: number;
  readonly suspects: Map<string, number>;
  /** Incarnations that something of this peer's hangs on and that are missing: since when. And those that their heirs have deleted. */
  readonly vanished: Map<string, number>;
  readonly buried: Set<string>;
  /** Since when the own record waits to be written back; Infinity: it does not. And for whom it waits. */
  backSinceMs: number;
  conflicts: readonly Conflict[];
  /** Space in no record by the last lists, since when, and what of it was so for long. */
  unowned: Unowned;
  /** Peers that were heard to have spare blocks. */
  readonly spares: Set<string>;
  /** Blocks that hold no lease and no rest, by CIDR text: since when; and what that was computed from. */
  readonly emptySince: Map<string, number>;
  emptyKey: string;
  readonly pull: { sinceMs: number; notBeforeMs: number };
  /** Blocks in quarantine, by CIDR text: since when. */
  readonly quarantined: Map<string, number>;
  /** `cut` effects that were not answered yet. */
  cutAsked: boolean;
  underlay: readonly string[];
  /** Rests that ended; their rows go with the next lease transaction. */
  rested: string[];
  /** Memo of the free count worth publishing. */
  readonly published: PerFamily<{ key: string; free: number }>;
  /** True when a hint shows the own record changed by someone else. */
  ownChanged: boolean;
  timerMs: number;
  /** `asked`: the disk was lost and its leases are asked for; `done`: they are back. */
  recovery: 'none' | 'asked' | 'done';
  /** Findings already reported. */
  readonly said: Set<string>;
  effects: Effect[];
}

/** What can fence: another holder of the session, the own node gone, the own record, the Universe. */
export type FenceSource = 'session' | 'node' | 'own' | 'universe';

const noPeer: DurablePeer = {
  uid: undefined,
  seq: 0,
  blocks: [],
  doubt: undefined,
  overlay: [],
  universe: undefined,
};

/** What a disk without a state holds. */
export const emptyDurable: Durable = { peer: noPeer, leases: [], resting: [] };

/** The state of a process that starts with what its disk holds. Rests begin anew. */
export function restore(config: Config, durable: Durable, nowMs: number, underlay: readonly string[]): State {
  const state: State = {
    config,
    durable: durable.peer,
    universe: undefined,
    universeTrack: trackUniverse(),
    confirmed: undefined,
    spaces: perFamily(makeSpace),
    leases: new Map(durable.leases.map((lease) => [leaseKey(lease), lease])),
    waiting: [],
    peers: new Map(),
    malformed: new Map(),
    interest: new Set(),
    interestVersion: 0,
    heard: { version: -1, wanters: [], pullers: [], grants: false },
    listed: false,
    looked: false,
    nextListMs: nowMs,
    cycle: undefined,
    notBeforeMs: nowMs,
    fruitless: 0,
    nextRequest: 1,
    asks: perFamily(() => ({ from: undefined, sinceMs: nowMs, silent: new Set<string>(), exhausted: false })),
    wantsSinceMs: undefined,
    polledMs: nowMs,
    trouble: '',
    survey: undefined,
    fenced: '',
    fences: new Map(),
    session: makeSession(nowMs, durable.peer.uid === undefined ? Infinity : config.sessionWaitMs),
    gone: new Map(),
    heirOf: new Set(),
    hasRecord: false,
    nowMs,
    suspectUntilMs: -Infinity,
    suspects: new Map(),
    vanished: new Map(),
    buried: new Set(),
    backSinceMs: Infinity,
    conflicts: [],
    unowned: { cidrs: [], sinceMs: nowMs, told: [] },
    spares: new Set(),
    emptySince: new Map(),
    emptyKey: '',
    pull: { sinceMs: nowMs, notBeforeMs: nowMs },
    quarantined: new Map(),
    cutAsked: false,
    underlay,
    rested: [],
    published: perFamily(() => ({ key: '', free: 0 })),
    ownChanged: false,
    timerMs: Infinity,
    recovery: 'none',
    said: new Set(),
    effects: [],
  };
  refreshUsable(state);
  const taken = new Set([...durable.peer.overlay, ...durable.leases.flatMap((lease) => lease.addresses)]);
  for (const text of taken) takeThis(state.spaces[familyOf(text)], valueOf(text));
  for (const text of durable.resting) {
    // A lease that was found in the kernel after the disk went back holds what by this disk has been freed.
    if (taken.has(text)) continue;
    rest(state.spaces[familyOf(text)], valueOf(text), nowMs + config.restMs);
  }
  return state;
}

export function leaseKey(key: { readonly containerId: string; readonly ifname: string }): string {
  return `${key.containerId}\0${key.ifname}`;
}

function valueOf(text: string): bigint {
  const address = parseAddress(text);
  if (address === undefined) throw new Error(`the durable copy holds "${text}", which is no address`);
  return address.value;
}

/** Usable = durable ∩ confirmed; without a confirmed record (offline start) the durable copy stands for both. */
export function usableBlocks(state: State): readonly Cidr[] {
  if (state.fenced !== '' || !mayLease(state.session) || state.durable.cutting === true) return [];
  if (state.confirmed === undefined) return state.durable.blocks;
  return coalesce(intersect(state.durable.blocks, leasableBlocks(state.confirmed.record)));
}

/** The blocks of a record that may be leased from: not those in quarantine. */
export function leasableBlocks(record: PeerRecord): readonly Cidr[] {
  return coalesce(record.blocks.filter((block) => block.quarantine !== true).map((block) => block.cidr));
}

/** True while this peer only follows the others' records. */
export function isObserving(state: State): boolean {
  const { config, durable, waiting, hasRecord, session } = state;
  // A session once begun goes on.
  if (session.status !== 'asking' && session.status !== 'offline') return false;
  if (durable.lastKnown !== undefined || (durable.founding ?? []).length > 0) return false;
  return config.joinOnUse && durable.uid === undefined && waiting.length === 0 && !hasRecord;
}

/** The families of the universe, as far as the disk knows it; IPv4 first. */
export function familiesOf(state: State): readonly Family[] {
  const ranges = state.durable.universe?.ranges ?? [];
  return families.filter((family) => ranges.some((range) => range.family === family));
}

/** ` IPv6` in a universe of both families, where a text has to say which; else ''. */
export function familyWord(state: State, family: Family): string {
  return familiesOf(state).length > 1 ? ` IPv${family}` : '';
}

/** Never handed out: the first and last address of each range of the universe (in IPv6 the first is the routers' anycast). */
export function edgesOf(ranges: readonly Cidr[], family: Family): ReadonlySet<bigint> {
  const edges = ranges.filter((range) => range.family === family && range.prefix < addressBits(family) - 1);
  return new Set(edges.flatMap((range) => [range.base, lastAddress(range)]));
}

/** Brings the space into line after the durable copy or the confirmed record changed. */
export function refreshUsable(state: State): void {
  const usable = usableBlocks(state);
  let changed = false;
  for (const family of families) {
    const space = state.spaces[family];
    const blocks = usable.filter((block) => block.family === family);
    const edges = edgesOf(state.durable.universe?.ranges ?? [], family);
    if (sameCidrs(blocks, space.usable) && edges.symmetricDifference(space.excluded).size === 0) continue;
    setUsable(space, blocks, edges);
    changed = true;
  }
  if (changed) emit(state, { kind: 'changed' });
}

/** Raises or (with '') lifts a fence. What fences is told once. */
export function setFence(state: State, source: FenceSource, problem: string): void {
  if ((state.fences.get(source) ?? '') === problem) return;
  state.fences.set(source, problem);
  state.fenced = [...state.fences.values()].find((text) => text !== '') ?? '';
  if (problem !== '') sayOnce(state, `${problem}; nothing is allocated`);
  emit(state, { kind: 'changed' });
  refreshUsable(state);
}

export function emit(state: State, effect: Effect): void {
  state.effects.push(effect);
}

export function say(state: State, level: LogLevel, text: string): void {
  state.effects.push({ kind: 'log', level, text });
}

/** Reports a finding the first time only. */
export function sayOnce(state: State, text: string): void {
  if (state.said.has(text)) return;
  if (state.said.size > 1000) state.said.clear();
  state.said.add(text);
  say(state, 'error', text);
}

/** Changes the durable copy; effects emitted later happen only once it is on disk. */
export function persistPeer(state: State, change: Partial<DurablePeer>): void {
  state.durable = { ...state.durable, ...change };
  const deltas: readonly Delta[] = [{ kind: 'peer', peer: state.durable }];
  emit(state, { kind: 'persist', sync: 'full', deltas });
}

export function selfRef(state: State): RecordRef | undefined {
  const uid = state.confirmed?.stored.uid;
  return uid === undefined ? undefined : { name: state.config.self, uid };
}

/** An address that was taken is free again once it has rested. */
export function release(state: State, text: string): void {
  rest(state.spaces[familyOf(text)], valueOf(text), state.nowMs + state.config.restMs);
}
