// A model of the registry: linearizable because each request is executed in one piece at the moment it arrives. Versions are
// never used twice. What the write came to is counted by comparing the record before and after.
import { families } from '#ipam-peer/address.ts';
import type { Answer, Effect, RecordKind, StoredRecord } from '#ipam-peer/events.ts';
import { isVia, parsePeer, parseUniverse, type PeerRecord, type UniverseRecord } from '#ipam-peer/records.ts';
import type { Known } from '#ipam-peer/state.ts';
import type { Counters } from './counters.ts';

export type RegistryRequest = Extract<Effect, { readonly kind: 'get' | 'list' | 'create' | 'update' }>;

export interface Change {
  readonly record: RecordKind;
  readonly name: string;
  readonly stored: StoredRecord | undefined;
}

export class RegistryModel {
  readonly peers: Map<string, Known<PeerRecord>> = new Map<string, Known<PeerRecord>>();
  universe: Known<UniverseRecord> | undefined;
  /** Counts the writes. */
  revision = 0;
  readonly #earlier = new Map<string, StoredRecord | undefined>();
  readonly #counters: Counters;
  readonly #changed: (change: Change) => void;
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
      case 'create': {
        if (this.#stored(request.record, request.name) !== undefined) return this.#conflict();
        return this.#write(request.record, request.name, `u${this.revision + 1}`, request.value);
      }
      case 'update': {
        const { name, uid, version } = request.stored;
        const current = this.#stored(request.record, name);
        if (current === undefined) return { kind: 'notFound' };
        if (current.uid !== uid || current.version !== version) return this.#conflict();
        return this.#write(request.record, name, uid, request.value);
      }
    }
  }

  /** As a person would, past every rule. */
  remove(name: string): void {
    this.revision++;
    this.peers.delete(name);
    this.#changed({ record: 'peer', name, stored: undefined });
  }

  #conflict(): Answer {
    this.#counters.count('conflict');
    return { kind: 'conflict' };
  }

  #stored(record: RecordKind, name: string): StoredRecord | undefined {
    if (record === 'peer') return this.peers.get(name)?.stored;
    return this.universe?.stored.name === name ? this.universe.stored : undefined;
  }

  #write(record: RecordKind, name: string, uid: string, value: unknown): Answer {
    this.revision++;
    this.#earlier.set(`${record} ${name}`, this.#stored(record, name));
    const stored: StoredRecord = { name, uid, version: `v${this.revision}`, value };
    if (record === 'peer') this.#writePeer(stored);
    else this.#writeUniverse(stored);
    this.#changed({ record, name, stored });
    return { kind: 'ok', record: stored };
  }

  #writeUniverse(stored: StoredRecord): void {
    const parsed = parseUniverse(stored.value);
    if (!parsed.ok) {
      this.breaches.push(`malformed Universe written: ${parsed.reason}`);
      return;
    }
    const before = this.universe?.record.founder;
    const after = parsed.record.founder;
    if (before !== undefined && before.uid !== after?.uid) this.breaches.push('founder changed after it was written');
    if (before === undefined && after !== undefined) this.#counters.count('found');
    this.universe = { stored, record: parsed.record };
  }

  #writePeer(stored: StoredRecord): void {
    const parsed = parsePeer(stored.value);
    if (!parsed.ok) {
      this.breaches.push(`malformed Peer written: ${parsed.reason}`);
      return;
    }
    const before = this.peers.get(stored.name)?.record;
    this.peers.set(stored.name, { stored, record: parsed.record });
    this.#countPeer(stored, before, parsed.record);
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
      const taken = alive && target.record.blocks.some((block) => isVia(block.via, stored, grant.id));
      counters.count(taken ? 'settle' : 'takeBack');
      if (alive && !taken)
        this.breaches.push(`${stored.name} withdrew grant ${grant.id} while ${grant.to.name} exists`);
    }
    const gained = after.blocks.filter(
      ({ via }) => via !== undefined && !before.blocks.some((one) => one.via?.uid === via.uid && one.via.id === via.id),
    ).length;
    counters.count('receive', gained);
    counters.count('clearVia', countVias(before) + gained - countVias(after));
  }
}

function newWants(before: PeerRecord | undefined, after: PeerRecord): number {
  return families.filter((family) => after.wants[family] && after.wants[family].uid !== before?.wants[family]?.uid)
    .length;
}

function countVias(record: PeerRecord): number {
  return record.blocks.filter((block) => block.via !== undefined).length;
}
