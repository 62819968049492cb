// A voter's disk: one SQLite file of its own, one row a key. FULL synchronous and one commit for each batch of requests, so that
// every promise and every accepted cell is on disk before its answer is sent. Nothing is cached: what a read finds is what
// was committed. The file is locked for as long as it is open: two processes can never vote with one disk.

import { randomUUID } from 'node:crypto';
import { chmodSync, closeSync, fsyncSync, mkdirSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { messageOf, WeftError } from '#agent/errors.ts';
import type { RecordKind } from '#agent/registry/registry.ts';
import { recordKey, type ChangedKey } from '#agent/registry/peers/wire.ts';
import { emptyRegister, type Register } from '#ipam-peer/caspaxos/acceptor.ts';
import type { Cell } from '#ipam-peer/caspaxos/change.ts';
import type { Membership } from '#ipam-peer/caspaxos/join.ts';

export interface VoterStore extends Disposable {
  /** Made once with the file; tells whether a number of a change is one of this disk. */
  readonly diskId: string;
  readonly path: string;
  membership(): Membership;
  /** On disk on return, together with what `batch` writes. Throws WeftError('store'): then nothing was written. */
  keepMembership(membership: Membership, batch?: () => void): void;
  /** The highest counter that a register has promised. */
  highestCounter(): number;
  /** Registers by key, those after `after`. */
  registersAfter(after: string, limit: number): readonly KeyedRegister[];
  read(key: string): Register;
  /** Inside `commit` only. */
  write(key: string, register: Register): void;
  /** Runs `batch` in one transaction; what it wrote is on disk on return. Throws WeftError('store'): then nothing was written. */
  commit(batch: () => void): void;
  /** Number of the newest change of content. */
  lastChange(): number;
  /** Keys of one kind whose content changed after `after`, oldest change first. */
  changedKeys(kind: RecordKind, after: number, limit: number): readonly (ChangedKey & { readonly change: number })[];
}

export interface KeyedRegister {
  readonly key: string;
  readonly register: Register;
}

const formatVersion = 2;
/** `kind/` of a key. In this wording it is what the index holds. */
const kindOfKey = "substr(key, 1, instr(key, '/'))";
const schema = `
  CREATE TABLE IF NOT EXISTS voter (id TEXT NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS registers (
    key TEXT PRIMARY KEY,
    promised_counter INTEGER NOT NULL, promised_proposer TEXT NOT NULL,
    accepted_counter INTEGER NOT NULL, accepted_proposer TEXT NOT NULL,
    version TEXT NOT NULL, cell TEXT,
    change INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX IF NOT EXISTS registers_change ON registers (change);
  CREATE INDEX IF NOT EXISTS registers_kind ON registers (${kindOfKey}, change);
  CREATE TABLE IF NOT EXISTS membership (session TEXT NOT NULL, floor INTEGER NOT NULL, member INTEGER NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS sessions (voter TEXT PRIMARY KEY, session TEXT NOT NULL) STRICT, WITHOUT ROWID;
`;

interface Row {
  readonly key: string;
  readonly promised_counter: number;
  readonly promised_proposer: string;
  readonly accepted_counter: number;
  readonly accepted_proposer: string;
  readonly cell: string | null;
  readonly change: number;
}

/**
 * Makes the disk of a voter that has never voted; one that is there stays as it is. Only `weft init` and the restoring of a
 * registry may do that: a voter that finds no such disk takes it for lost. Throws WeftError('store').
 */
export function createVoterDisk(path: string): void {
  openVoterStore(path, 'member')[Symbol.dispose]();
}

/**
 * Opens the file (0600, directories 0700); one that is made now is no member's, unless that is asked for.
 * Throws WeftError('store').
 */
export function openVoterStore(path: string, whenMade: 'member' | 'new' = 'new'): VoterStore {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    const database = new DatabaseSync(path, { timeout: 2000 });
    try {
      return prepareStore(database, path, whenMade);
    } catch (error) {
      database.close();
      throw error;
    }
  } catch (error) {
    throw storeError(path, error);
  }
}

function prepareStore(database: DatabaseSync, path: string, whenMade: 'member' | 'new'): VoterStore {
  // Exclusive before WAL: then the WAL index lives in memory and the lock is held from the first write on.
  database.exec('PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL');
  chmodSync(path, 0o600);
  const format = (database.prepare('PRAGMA user_version').get() as { readonly user_version: number }).user_version;
  if (format > formatVersion) throw new Error(`format ${format} is newer than this version of weft knows`);
  // A page that is lost would be a promise forgotten.
  const check = database.prepare('PRAGMA quick_check(1)').get()?.['quick_check'];
  if (check !== 'ok') {
    throw new Error(
      `damaged (${String(check).replaceAll('\n', ' ')}); move it away, and this voter takes every record over from the others`,
    );
  }
  database.exec('BEGIN IMMEDIATE');
  database.exec(schema);
  let found = database.prepare('SELECT id FROM voter').get() as { readonly id: string } | undefined;
  if (found === undefined) {
    found = { id: randomUUID() };
    database.prepare('INSERT INTO voter (id) VALUES (?)').run(found.id);
  }
  if (database.prepare('SELECT 1 FROM membership').get() === undefined) {
    // The format before this one knew members only.
    const member = whenMade === 'member' || format === 1 ? 1 : 0;
    database.prepare('INSERT INTO membership VALUES (?, 0, ?)').run('0.new', member);
  }
  database.exec(`PRAGMA user_version = ${formatVersion}`);
  database.exec('COMMIT');
  syncDirectory(dirname(path));
  return storeOn(database, found.id, path);
}

function storeOn(database: DatabaseSync, diskId: string, path: string): VoterStore {
  const selectOne = database.prepare('SELECT * FROM registers WHERE key = ?');
  const selectChanged = database.prepare(
    `SELECT * FROM registers WHERE ${kindOfKey} = ? AND change > ? AND cell IS NOT NULL ORDER BY change LIMIT ?`,
  );
  const selectLast = database.prepare('SELECT coalesce(max(change), 0) AS change FROM registers');
  const upsert = database.prepare(
    `INSERT INTO registers VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET
       promised_counter = excluded.promised_counter, promised_proposer = excluded.promised_proposer,
       accepted_counter = excluded.accepted_counter, accepted_proposer = excluded.accepted_proposer,
       change = CASE WHEN version = excluded.version THEN change ELSE excluded.change END,
       version = excluded.version, cell = excluded.cell`,
  );
  const lastChange = (): number => (selectLast.get() as { readonly change: number }).change;
  const commit = (batch: () => void): void => {
    try {
      database.exec('BEGIN IMMEDIATE');
      batch();
      database.exec('COMMIT');
    } catch (error) {
      if (database.isTransaction) database.exec('ROLLBACK');
      throw storeError(path, error);
    }
  };
  return {
    diskId,
    path,
    ...membershipOn(database, commit),
    read: (key) => {
      const row = selectOne.get(key) as Row | undefined;
      return row === undefined ? emptyRegister : registerOf(row);
    },
    write: (key, { promised, accepted, cell }) => {
      const version = cell?.version ?? '';
      const content = cell === null ? null : JSON.stringify(cell);
      // A key without content is no change that anybody waits for.
      const change = cell === null ? 0 : lastChange() + 1;
      const { counter: acceptedCounter, proposer: acceptedProposer } = accepted;
      const numbers = [promised.counter, promised.proposer, acceptedCounter, acceptedProposer] as const;
      upsert.run(key, ...numbers, version, content, change);
    },
    commit,
    lastChange,
    changedKeys: (kind, after, limit) => {
      const prefix = recordKey(kind, '');
      return (selectChanged.all(prefix, after, limit) as unknown as readonly Row[]).flatMap((row) => {
        const { accepted, cell } = registerOf(row);
        return cell === null ? [] : [{ name: row.key.slice(prefix.length), accepted, cell, change: row.change }];
      });
    },
    [Symbol.dispose]: () => {
      if (database.isOpen) database.close();
    },
  };
}

function membershipOn(
  database: DatabaseSync,
  commit: VoterStore['commit'],
): Pick<VoterStore, 'membership' | 'keepMembership' | 'highestCounter' | 'registersAfter'> {
  const selectOwn = database.prepare('SELECT session, floor, member FROM membership');
  const updateOwn = database.prepare('UPDATE membership SET session = ?, floor = ?, member = ?');
  const selectSessions = database.prepare('SELECT voter, session FROM sessions');
  const putSession = database.prepare('INSERT OR REPLACE INTO sessions VALUES (?, ?)');
  const selectHighest = database.prepare('SELECT coalesce(max(promised_counter), 0) AS counter FROM registers');
  const selectPage = database.prepare('SELECT * FROM registers WHERE key > ? ORDER BY key LIMIT ?');
  return {
    membership: () => {
      const own = selectOwn.get() as { readonly session: string; readonly floor: number; readonly member: number };
      const rows = selectSessions.all() as unknown as readonly { readonly voter: string; readonly session: string }[];
      const sessions = Object.fromEntries(rows.map(({ voter, session }) => [voter, session]));
      return { session: own.session, floor: own.floor, member: own.member === 1, sessions };
    },
    keepMembership: ({ session, floor, member, sessions }, batch) =>
      commit(() => {
        batch?.();
        updateOwn.run(session, floor, member ? 1 : 0);
        for (const [voter, latest] of Object.entries(sessions)) putSession.run(voter, latest);
      }),
    highestCounter: () => (selectHighest.get() as { readonly counter: number }).counter,
    registersAfter: (after, limit) =>
      (selectPage.all(after, limit) as unknown as readonly Row[]).map((row) => ({
        key: row.key,
        register: registerOf(row),
      })),
  };
}

function registerOf(row: Row): Register {
  return {
    promised: { counter: row.promised_counter, proposer: row.promised_proposer },
    accepted: { counter: row.accepted_counter, proposer: row.accepted_proposer },
    cell: row.cell === null ? null : (JSON.parse(row.cell) as Cell),
  };
}

function syncDirectory(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function storeError(path: string, cause: unknown): WeftError {
  if (cause instanceof WeftError) return cause;
  const message = messageOf(cause);
  return new WeftError('store', `voter store ${path}: ${message}`, { details: path, cause });
}
