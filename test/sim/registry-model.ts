// A model of the registry: linearizable because each request is executed in one piece at the moment it arrives. Versions are
// never used twice. What the write came to is counted by comparing the record before and after. It also holds what the nodes are:
// a node that was deleted never comes back with the same uid.
import { families } from '#ipam-peer/address.ts';
import { contains, formatCidr } from '#ipam-peer/cidr.ts';
import type { Answer, Effect, RecordKind, StoredRecord } from '#ipam-peer/events.ts';
import {
  isDeadSource,
  isIncarnation,
  isVia,
  parsePeer,
  parseUniverse,
  type PeerRecord,
  sameRef,
  type UniverseRecord,
} from '#ipam-peer/records.ts';
import { formatSession, parseSession } from '#ipam-peer/session-record.ts';
import { spaceOf } from '#ipam-peer/invariants.ts';
import type { Known } from '#ipam-peer/state.ts';
import type { Counters } from './counters.ts';

export type RegistryRequest = Extract<
  Effect,
  { readonly kind: 'get' | 'list' | 'create' | 'update' | 'delete' | 'node' }
>;

export interface Change {
  readonly record: RecordKind;
  readonly name: string;
  readonly stored: StoredRecord | undefined;
}

export interface Backup {
  readonly peers: ReadonlyMap<string, Known<PeerRecord>>;
  readonly sessions: ReadonlyMap<string, StoredRecord>;
  readonly universe: Known<UniverseRecord> | undefined;
}

export class RegistryModel {
  readonly peers: Map<string, Known<PeerRecord>> = new Map<string, Known<PeerRecord>>();
  readonly sessions: Map<string, StoredRecord> = new Map<string, StoredRecord>();
  /** Uids of nodes that were deleted, for good. */
  readonly goneNodes: Set<string> = new Set<string>();
  /** When each session was last written, by the world's clock. */
  readonly renewedMs: Map<string, readonly number[]> = new Map<string, readonly number[]>();
  /** As it was founded: by this it is checked who owns what. */
  universe: Known<UniverseRecord> | undefined;
  /** A person deleted it; and what the peers have made in its place. */
  isUniverseGone = false;
  remade: Known<UniverseRecord> | undefined;
  /** Names of the records that were written since the world was last checked. */
  readonly changedPeers: Set<string> = new Set<string>();
  /** Counts the writes. */
  revision = 0;
  /** What was read before the registry went back may be acted on after it: until all is written back that is no breach. */
  isRestoring: () => boolean = () => false;
  nowMs: () => number = () => 0;
  onPeerWritten: (stored: StoredRecord, before: PeerRecord | undefined, after: PeerRecord) => void = () => undefined;
  onSessionWritten: (name: string, sessionId: string, before: string) => void = () => undefined;
  /** Heirs written while the session moved a moment ago are breaches; 0: not checked. */
  sessionTermMs = 0;
  requestTimeoutMs = 0;
  readonly #earlier = new Map<string, StoredRecord | undefined>();
  readonly #counters: Counters;
  readonly #changed: (change: Change) => void;
  readonly #lostByHand = new Map<string, string>();
  #unfounded: { readonly from: UniverseRecord; readonly record: UniverseRecord } | undefined;
  /** Breaches of what may be written at all. */
  readonly breaches: string[] = [];

  constructor(counters: Counters, changed: (change: Change) => void) {
    this.#counters = counters;
    this.#changed = changed;
  }

  /** `stale`: a read sees the record as it was before its last write, which no registry may do. */
  execute(request: RegistryRequest, stale = false): Answer {
    switch (request.kind) {
      case 'get':
        if (stale) return { kind: 'record', record: this.#earlier.get(`${request.record} ${request.name}`) };
        return { kind: 'record', record: this.#stored(request.record, request.name) };
      case 'list':
        return { kind: 'list', records: [...this.peers.values()].map((peer) => peer.stored) };
      case 'node':
        return { kind: 'node', exists: !this.goneNodes.has(request.node.uid) };
      case 'create': {
        if (this.#stored(request.record, request.name) !== undefined) return this.#conflict();
        return this.#write(request.record, request.name, `u${this.revision + 1}`, request.value);
      }
      case 'update':
      case 'delete': {
        const { name, uid, version } = request.stored;
        const current = this.#stored(request.record, name);
        if (current === undefined) return { kind: 'notFound' };
        if (current.uid !== uid || current.version !== version) return this.#conflict();
        if (request.kind === 'update') return this.#write(request.record, name, uid, request.value);
        this.#checkDeleted(name);
        this.remove(name);
        return { kind: 'deleted' };
      }
    }
  }

  /** As a person would, past every rule. */
  remove(name: string): void {
    this.revision++;
    this.#earlier.set(`peer ${name}`, this.peers.get(name)?.stored);
    this.peers.delete(name);
    this.changedPeers.add(name);
    this.#changed({ record: 'peer', name, stored: undefined });
  }

  /** A person deletes a record. */
  loseByHand(name: string): void {
    const known = this.peers.get(name);
    const founder = this.universe?.record.founder;
    if (known !== undefined && !known.record.seeded) {
      this.#lostByHand.set(known.stored.uid, name);
      if (founder !== undefined && isIncarnation(founder, known.stored, known.record.was))
        this.#lostByHand.set(founder.uid, name);
    }
    this.remove(name);
  }

  /** Only the disk of this node tells that it is the founder, or may be so soon: without it a person is needed (docs/open.md). */
  isLostFounding(name: string): boolean {
    return this.counted?.founder === undefined && [...this.#lostByHand.values()].includes(name);
  }

  /** The Universe as far as it counts: not founded while its founder's record, which had nothing yet, is deleted by hand and not made again. */
  get counted(): UniverseRecord | undefined {
    const record = this.universe?.record;
    const { founder } = record ?? {};
    if (record === undefined || founder === undefined || !this.#lostByHand.has(founder.uid)) return record;
    const again = this.peers.get(founder.name);
    if (
      again !== undefined &&
      again.record.suspect !== true &&
      isIncarnation(founder, again.stored, again.record.was)
    ) {
      this.#lostByHand.delete(founder.uid);
      return record;
    }
    if (this.#unfounded?.from !== record) {
      const { founder: _lost, ...rest } = record;
      this.#unfounded = { from: record, record: rest };
    }
    return this.#unfounded?.record;
  }

  /** A person gave what a lost founder would have had to somebody else. */
  closeFounding(): void {
    this.#lostByHand.clear();
  }

  /** The same of the Universe. */
  removeUniverse(): void {
    this.revision++;
    this.isUniverseGone = true;
    this.remade = undefined;
    this.#changed({ record: 'universe', name: this.universe?.stored.name ?? '', stored: undefined });
  }

  /** `weft peers remove` marks the session; in Kubernetes the Node object goes. */
  deleteNode(name: string, uid: string, mark: boolean): void {
    this.revision++;
    this.goneNodes.add(uid);
    const session = this.sessions.get(name);
    const known = parseSession(session?.value);
    if (mark && session !== undefined && known.ok) {
      const value = formatSession({ ...known.record, removed: true });
      this.sessions.set(name, { ...session, version: `v${this.revision}`, value });
    }
  }

  backup(): Backup {
    return { peers: new Map(this.peers), sessions: new Map(this.sessions), universe: this.universe };
  }

  /** etcd is restored from a backup: everything is as it was then, under versions that were never seen. */
  restore(backup: Backup): void {
    for (const name of this.peers.keys()) if (!backup.peers.has(name)) this.remove(name);
    for (const [name, known] of backup.peers) {
      const now = this.peers.get(name)?.stored;
      if (now?.version === known.stored.version && now.uid === known.stored.uid) continue;
      this.revision++;
      const stored: StoredRecord = { ...known.stored, version: `v${this.revision}` };
      this.peers.set(name, { stored, record: known.record });
      this.changedPeers.add(name);
      this.#changed({ record: 'peer', name, stored });
    }
    this.sessions.clear();
    for (const [name, stored] of backup.sessions) {
      this.revision++;
      this.sessions.set(name, { ...stored, version: `v${this.revision}` });
    }
  }

  #conflict(): Answer {
    this.#counters.count('conflict');
    return { kind: 'conflict' };
  }

  #stored(record: RecordKind, name: string): StoredRecord | undefined {
    if (record === 'peer') return this.peers.get(name)?.stored;
    if (record === 'session') return this.sessions.get(name);
    const universe = this.isUniverseGone ? this.remade : this.universe;
    return universe?.stored.name === name ? universe.stored : undefined;
  }

  #write(record: RecordKind, name: string, uid: string, value: unknown): Answer {
    this.revision++;
    this.#earlier.set(`${record} ${name}`, this.#stored(record, name));
    const stored: StoredRecord = { name, uid, version: `v${this.revision}`, value };
    if (record === 'peer') this.#writePeer(stored);
    else if (record === 'session') this.#writeSession(stored);
    else this.#writeUniverse(stored);
    this.#changed({ record, name, stored });
    return { kind: 'ok', record: stored };
  }

  #writeSession(stored: StoredRecord): void {
    const before = parseSession(this.sessions.get(stored.name)?.value);
    const after = parseSession(stored.value);
    if (!after.ok) {
      this.breaches.push(`malformed session written: ${after.reason}`);
      return;
    }
    if (before.ok && before.record.removed && !after.record.removed)
      this.breaches.push(`${stored.name} was removed and is back`);
    const same = before.ok && processOf(before.record.sessionId) === processOf(after.record.sessionId);
    this.#counters.count(same ? 'sessionRenewed' : 'sessionTaken');
    const times = this.renewedMs.get(stored.name) ?? [];
    this.onSessionWritten(stored.name, after.record.sessionId, before.ok ? before.record.sessionId : '');
    this.renewedMs.set(stored.name, [...times, this.nowMs()].slice(-8));
    this.sessions.set(stored.name, stored);
  }

  #writeUniverse(stored: StoredRecord): void {
    const parsed = parseUniverse(stored.value);
    if (!parsed.ok) {
      this.breaches.push(`malformed Universe written: ${parsed.reason}`);
      return;
    }
    const before = (this.isUniverseGone ? this.remade : this.universe)?.record.founder;
    const after = parsed.record.founder;
    if (before !== undefined && before.uid !== after?.uid) this.breaches.push('founder changed after it was written');
    if (before === undefined && after !== undefined) this.#counters.count('found');
    const known = { stored, record: parsed.record };
    if (this.isUniverseGone) this.remade = known;
    else this.universe = known;
  }

  #writePeer(stored: StoredRecord): void {
    const parsed = parsePeer(stored.value);
    if (!parsed.ok) {
      this.breaches.push(`malformed Peer written: ${parsed.reason}`);
      return;
    }
    const before = this.peers.get(stored.name)?.record;
    this.peers.set(stored.name, { stored, record: parsed.record });
    this.changedPeers.add(stored.name);
    if (before?.heir !== undefined || parsed.record.heir !== undefined) this.#checkDead(stored, before, parsed.record);
    else this.#countPeer(stored, before, parsed.record);
    this.onPeerWritten(stored, before, parsed.record);
  }

  /** Invariant 3, and that an heir is written only when everything speaks for it. */
  #checkDead(stored: StoredRecord, before: PeerRecord | undefined, after: PeerRecord): void {
    const { name } = stored;
    const counters = this.#counters;
    const [old, heir] = [before?.heir, after.heir];
    if (heir === undefined) this.breaches.push(`the heir of ${name} was taken away`);
    if (!sameRef(old, heir)) {
      const oldHeir = old === undefined ? undefined : this.peers.get(old.name);
      const valid = old !== undefined && oldHeir !== undefined && oldHeir.stored.uid === old.uid;
      if (valid && oldHeir.record.heir === undefined) this.breaches.push(`the valid heir of ${name} was replaced`);
      counters.count(old === undefined ? 'heir' : valid ? 'heirOfHeir' : 'voidHeir');
      if (!this.goneNodes.has(after.node.uid)) this.breaches.push(`${name} has an heir though its node exists`);
      if (old === undefined && !this.#stoodStill(name)) {
        this.breaches.push(`${name} has an heir though its session had not stood still`);
      }
    }
    if (before === undefined) return;
    this.#checkLeft(stored, before, after);
    counters.count('settleDead', before.granting.length - after.granting.length);
    for (const grant of before.granting) {
      if (after.granting.some((one) => one.id === grant.id)) continue;
      const target = this.peers.get(grant.to.name);
      const taken = target?.record.blocks.some((block) => isVia(block.via, stored, grant.id, after.was)) === true;
      const alive = target !== undefined && target.stored.uid === grant.to.uid;
      const carried = [...this.peers.values()].some(({ record }) =>
        record.blocks.some((block) => isDeadSource(block.via, stored, after.was)),
      );
      if (!taken && (alive || !carried)) this.breaches.push(`grant ${grant.id} of the dead ${name} was dropped`);
    }
  }

  /** Blocks leave a dead record only once another one carries them; those of a founder that died early are the ranges. */
  #checkLeft({ name, uid }: StoredRecord, before: PeerRecord, after: PeerRecord): void {
    const seeds =
      after.seeded && !before.seeded && isIncarnation(this.universe?.record.founder, { name, uid }, after.was);
    const held = seeds ? spaceOf(this.universe?.record).map((cidr) => ({ cidr })) : before.blocks;
    const texts = new Set(after.blocks.map((block) => JSON.stringify(block, text)));
    const left = held.filter((block) => !texts.has(JSON.stringify(block, text)));
    if (left.length + after.blocks.length !== held.length || (after.seeded !== before.seeded && !seeds))
      this.breaches.push(`the blocks of the dead ${name} changed`);
    this.#counters.count('shed', left.length);
    const carriers = [...this.peers.values()].flatMap(({ record }) => record.blocks);
    for (const { cidr } of left) {
      if (
        !carriers.some(({ via, ...block }) => isDeadSource(via, { name, uid }, after.was) && contains(block.cidr, cidr))
      )
        this.breaches.push(`the dead ${name} lost ${formatCidr(cidr)}, which nobody carries`);
    }
  }

  /** It may have moved again between the heir's look and its write, no longer than a request may take. */
  #stoodStill(name: string): boolean {
    const nowMs = this.nowMs();
    const times = [-Infinity, ...(this.renewedMs.get(name) ?? []), nowMs];
    return times.some((atMs, index) => {
      const previousMs = times[index - 1] ?? atMs;
      return atMs - previousMs >= this.sessionTermMs && atMs >= nowMs - this.requestTimeoutMs;
    });
  }

  #checkDeleted(name: string): void {
    this.#counters.count('deleteDead');
    if (this.peers.get(name)?.record.heir === undefined) this.breaches.push(`${name} was deleted without an heir`);
  }

  #countPeer(stored: StoredRecord, before: PeerRecord | undefined, after: PeerRecord): void {
    const counters = this.#counters;
    counters.count('write');
    if (before === undefined) {
      counters.count('join');
      counters.count('want', newWants(undefined, after));
      return;
    }
    if (after.seq <= before.seq) this.breaches.push(`${stored.name} wrote seq ${after.seq} over ${before.seq}`);
    counters.count('want', newWants(before, after));
    if (after.seeded && !before.seeded) counters.count('seed');
    const newGrants = after.granting.filter((grant) => !before.granting.some((one) => one.id === grant.id));
    counters.count('grant', newGrants.length);
    for (const grant of before.granting) {
      if (after.granting.some((one) => one.id === grant.id)) continue;
      const target = this.peers.get(grant.to.name);
      const alive = target !== undefined && target.stored.uid === grant.to.uid;
      const taken = alive && target.record.blocks.some((block) => isVia(block.via, stored, grant.id, after.was));
      counters.count(taken ? 'settle' : 'takeBack');
      const believed = before.suspect !== true && after.suspect !== true && !this.isRestoring();
      if (alive && !taken && believed)
        this.breaches.push(`${stored.name} withdrew grant ${grant.id} while ${grant.to.name} exists`);
    }
    const gained = after.blocks.filter(
      ({ via }) => via !== undefined && !before.blocks.some((one) => one.via?.uid === via.uid && one.via.id === via.id),
    );
    counters.count('receive', gained.filter(({ via }) => via?.id !== undefined).length);
    counters.count('carry', gained.filter(({ via }) => via?.id === undefined).length);
    counters.count('clearVia', Math.max(0, countVias(before) + gained.length - countVias(after)));
    if (before.suspect === true && after.suspect !== true) counters.count('writtenBack');
    const spares = (record: PeerRecord): number => record.blocks.filter((block) => block.spare === true).length;
    counters.count('spare', Math.max(0, spares(after) - spares(before)));
    counters.count('pull', after.pulls !== undefined && before.pulls === undefined ? 1 : 0);
    // Blocks that were there before and were not given became fewer: they were joined.
    const joined = after.blocks.filter(
      ({ cidr }) =>
        before.blocks.filter((block) => contains(cidr, block.cidr) && block.cidr.prefix > cidr.prefix).length > 1,
    );
    counters.count('merge', joined.length);
    counters.count('quarantine', Math.max(0, countQuarantined(after) - countQuarantined(before)));
    counters.count('quarantineLifted', Math.max(0, countQuarantined(before) - countQuarantined(after)));
  }
}

function text(_: string, value: unknown): unknown {
  return typeof value === 'bigint' ? String(value) : value;
}

/** A session's id without the count of its renewals. */
function processOf(sessionId: string): string {
  return sessionId.slice(0, sessionId.lastIndexOf('-'));
}

function newWants(before: PeerRecord | undefined, after: PeerRecord): number {
  return families.filter((family) => after.wants[family] && after.wants[family].uid !== before?.wants[family]?.uid)
    .length;
}

function countVias(record: PeerRecord): number {
  return record.blocks.filter((block) => block.via !== undefined).length;
}

function countQuarantined(record: PeerRecord): number {
  return record.blocks.filter((block) => block.quarantine === true).length;
}
