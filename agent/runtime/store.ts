// The agent's durable state in one SQLite file: the peer's own copy (one small row), leases, and addresses that rest. WAL; one
// transaction per `persist` effect. The peer's copy is fsynced before anything depends on it. Lease rows survive the process
// and, because a power loss ends every pod of the node, need not survive that: they commit without fsync (docs/decisions).
import { chmodSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { messageOf, WeftError } from '#agent/errors.ts';
import { formatCidr, parseCidr, type Cidr } from '#ipam-peer/cidr.ts';
import type { Delta, Durable, DurablePeer, Lease } from '#ipam-peer/events.ts';
import { emptyDurable } from '#ipam-peer/state.ts';

/** Version of the tables; a store of a later one is refused. */
const storeSchema = 1;

export interface Store {
  readonly path: string;
  /** Everything, as the last committed transaction left it. Throws WeftError('store'). */
  load(): Durable;
  /** One transaction. Throws WeftError('store'); then nothing of it is stored. */
  persist(deltas: readonly Delta[], sync: 'full' | 'normal'): void;
  close(): void;
}

const tables = `
  CREATE TABLE IF NOT EXISTS peer (id INTEGER PRIMARY KEY CHECK (id = 1), value TEXT NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS leases (
    container_id TEXT NOT NULL, ifname TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (container_id, ifname)
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS resting (address TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
`;

function storeError(path: string, doing: string, cause: unknown): WeftError {
  const detail = messageOf(cause);
  return new WeftError('store', `${doing} ${path}: ${detail}`, { details: path, cause });
}

/**
 * Opens or makes the store; its directory gets mode 0700. An agent that still holds it (one that is just ending) is waited for.
 * Throws WeftError('store') naming the path.
 */
export function openStore(path: string, lockWaitMs: number = 5000): Store {
  const database = openDatabase(path, lockWaitMs);
  try {
    return prepare(database, path);
  } catch (error) {
    database.close();
    throw error instanceof WeftError ? error : storeError(path, 'cannot use the state in', error);
  }
}

function openDatabase(path: string, lockWaitMs: number): DatabaseSync {
  try {
    const directory = dirname(path);
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    chmodSync(directory, 0o700);
    const database = new DatabaseSync(path, { timeout: lockWaitMs });
    // SQLite gives the journal the same mode.
    chmodSync(path, 0o600);
    return database;
  } catch (error) {
    throw storeError(path, 'cannot open the state in', error);
  }
}

function prepare(database: DatabaseSync, path: string): Store {
  // One agent per state directory; the lock also keeps a second process from writing.
  database.exec('PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL');
  const found = database.prepare('PRAGMA user_version').get()?.['user_version'];
  const version = typeof found === 'number' ? found : 0;
  if (version > storeSchema) {
    const told = `it has version ${version}, this weft knows ${storeSchema}`;
    throw storeError(path, 'cannot use the state in', new Error(told));
  }
  const check = database.prepare('PRAGMA quick_check(1)').get()?.['quick_check'];
  if (check !== 'ok') throw storeError(path, 'damaged state in', new Error(String(check)));
  database.exec(`BEGIN IMMEDIATE; ${tables} PRAGMA user_version = ${storeSchema}; COMMIT`);
  const statements = prepareStatements(database);
  let fullSync = true;
  return {
    path,
    load: () => {
      try {
        return load(database);
      } catch (error) {
        throw storeError(path, 'cannot read the state in', error);
      }
    },
    persist: (deltas, sync) => {
      try {
        if (fullSync !== (sync === 'full')) {
          fullSync = sync === 'full';
          database.exec(`PRAGMA synchronous = ${fullSync ? 'FULL' : 'NORMAL'}`);
        }
        transact(database, statements, deltas);
      } catch (error) {
        throw storeError(path, 'cannot write the state in', error);
      }
    },
    close: () => database.close(),
  };
}

interface Statements {
  readonly begin: StatementSync;
  readonly commit: StatementSync;
  readonly setPeer: StatementSync;
  readonly setLease: StatementSync;
  readonly dropLease: StatementSync;
  readonly setResting: StatementSync;
  readonly dropResting: StatementSync;
}

function prepareStatements(database: DatabaseSync): Statements {
  return {
    begin: database.prepare('BEGIN IMMEDIATE'),
    commit: database.prepare('COMMIT'),
    setPeer: database.prepare('INSERT OR REPLACE INTO peer (id, value) VALUES (1, ?)'),
    setLease: database.prepare('INSERT OR REPLACE INTO leases (container_id, ifname, value) VALUES (?, ?, ?)'),
    dropLease: database.prepare('DELETE FROM leases WHERE container_id = ? AND ifname = ?'),
    setResting: database.prepare('INSERT OR REPLACE INTO resting (address) VALUES (?)'),
    dropResting: database.prepare('DELETE FROM resting WHERE address = ?'),
  };
}

function transact(database: DatabaseSync, statements: Statements, deltas: readonly Delta[]): void {
  const [only] = deltas;
  // One statement is a transaction by itself; each pod's start waits for two of these.
  if (only?.kind === 'lease' && deltas.length === 1) return apply(statements, only);
  statements.begin.run();
  try {
    for (const delta of deltas) apply(statements, delta);
    statements.commit.run();
  } catch (error) {
    if (database.isTransaction) database.exec('ROLLBACK');
    throw error;
  }
}

function apply(statements: Statements, delta: Delta): void {
  switch (delta.kind) {
    case 'peer':
      statements.setPeer.run(peerToJson(delta.peer));
      return;
    case 'lease':
      statements.setLease.run(delta.lease.containerId, delta.lease.ifname, leaseToJson(delta.lease));
      return;
    case 'unlease':
      statements.dropLease.run(delta.lease.containerId, delta.lease.ifname);
      for (const address of delta.lease.addresses) statements.setResting.run(address);
      return;
    case 'rested':
      for (const address of delta.addresses) statements.dropResting.run(address);
  }
}

function load(database: DatabaseSync): Durable {
  const peer = database.prepare('SELECT value FROM peer WHERE id = 1').get()?.['value'];
  const leases = database.prepare('SELECT value FROM leases').all();
  const resting = database.prepare('SELECT address FROM resting').all();
  return {
    peer: typeof peer === 'string' ? peerFromJson(peer) : emptyDurable.peer,
    leases: leases.map((row) => leaseFromJson(String(row['value']))),
    resting: resting.map((row) => String(row['address'])),
  };
}

interface PeerJson extends Omit<DurablePeer, 'uid' | 'doubt' | 'blocks' | 'universe'> {
  readonly uid: string | null;
  readonly doubt: string | null;
  readonly blocks: readonly string[];
  readonly universe: {
    readonly name: string;
    readonly uid: string;
    readonly ranges: readonly string[];
    readonly reserved: readonly string[];
  } | null;
}

function peerToJson(peer: DurablePeer): string {
  const { universe } = peer;
  const json: PeerJson = {
    ...peer,
    uid: peer.uid ?? null,
    doubt: peer.doubt ?? null,
    blocks: peer.blocks.map(formatCidr),
    universe: universe
      ? { ...universe, ranges: universe.ranges.map(formatCidr), reserved: universe.reserved.map(formatCidr) }
      : null,
  };
  return JSON.stringify(json);
}

function cidr(text: string): Cidr {
  const block = parseCidr(text);
  if (block === undefined) throw new Error(`"${text}" is no CIDR block`);
  return block;
}

function peerFromJson(text: string): DurablePeer {
  const json = JSON.parse(text) as PeerJson;
  const { universe } = json;
  return {
    ...json,
    uid: json.uid ?? undefined,
    blocks: json.blocks.map(cidr),
    doubt: json.doubt ?? undefined,
    overlay: json.overlay,
    universe: universe
      ? { ...universe, ranges: universe.ranges.map(cidr), reserved: universe.reserved.map(cidr) }
      : undefined,
  };
}

function leaseToJson(lease: Lease): string {
  return JSON.stringify({ ...lease, owner: { ...lease.owner, netnsInode: String(lease.owner.netnsInode) } });
}

function leaseFromJson(text: string): Lease {
  const lease = JSON.parse(text) as Omit<Lease, 'owner'> & {
    readonly owner: Omit<Lease['owner'], 'netnsInode'> & { readonly netnsInode: string };
  };
  const texts: readonly unknown[] = [lease.containerId, lease.ifname, lease.generation, lease.hostIfname];
  const isAddresses = Array.isArray(lease.addresses) && lease.addresses.every((one) => typeof one === 'string');
  if (!isAddresses || texts.some((one) => typeof one !== 'string'))
    throw new Error(`${text.slice(0, 100)} is no lease`);
  return { ...lease, owner: { ...lease.owner, netnsInode: BigInt(lease.owner.netnsInode) } };
}
