// A voter's disk out of copies of voters' disks: the newest accepted cell of each key. For a registry that has lost a majority of
// its voters, or whose number of voters changes. Only sound while no voter runs: what a missing voter alone knew is lost, as in
// every restore from a backup.

import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { WeftError } from '#agent/errors.ts';
import { createVoterDisk, openVoterStore } from '#agent/registry/peers/store.ts';
import { emptyRegister, type Register } from '#ipam-peer/caspaxos/acceptor.ts';
import { newestRegister } from '#ipam-peer/caspaxos/join.ts';
import { sessionCounter } from '#ipam-peer/caspaxos/session.ts';

const pageLimit = 500;

/**
 * Puts the disk at `path`; one that was there is renamed. No `files`: a registry without records. Throws WeftError('store'), also when a
 * file is in use.
 */
export function restoreVoterDisk(
  path: string,
  files: readonly string[],
): { readonly records: number; readonly before: string | undefined } {
  const registers = new Map<string, Register>();
  let floor = 0;
  let starts = 0;
  for (const file of files) {
    const read = readDisk(file, registers);
    floor = Math.max(floor, read.floor);
    starts = Math.max(starts, read.starts);
  }
  requireUnused(path);
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const fresh = `${path}.restored-${process.pid}`;
  for (const leftover of withJournal(fresh)) rmSync(leftover, { force: true });
  createVoterDisk(fresh);
  {
    using store = openVoterStore(fresh);
    const membership = { session: `${starts + 1}.restored`, floor, sessions: {}, member: true };
    store.keepMembership(membership, () => {
      for (const [key, register] of registers) store.write(key, register);
    });
  }
  const before = existsSync(path) ? `${path}.before-restore-${Date.now()}` : undefined;
  if (before !== undefined) {
    for (const [at, old] of withJournal(path).entries()) {
      if (existsSync(old)) renameSync(old, withJournal(before)[at] ?? before);
    }
  }
  renameSync(fresh, path);
  return { records: [...registers.values()].filter(({ cell }) => cell?.value).length, before };
}

const withJournal = (path: string): readonly string[] => [path, `${path}-wal`, `${path}-shm`];

/** An agent that runs would go on with the disk that is moved away. One that is damaged may be replaced. */
function requireUnused(path: string): void {
  if (!existsSync(path)) return;
  try {
    using database = new DatabaseSync(path, { timeout: 2000 });
    database.exec('PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; ROLLBACK');
  } catch (cause) {
    const { message } = cause as Error;
    if (!/locked/.test(message)) return;
    throw new WeftError('store', `${path} is in use (${message}): stop the agent first`, { details: path, cause });
  }
}

/** To open another file, or an empty one, as a voter's would make it one. */
function requireVoterDisk(file: string): void {
  try {
    using database = new DatabaseSync(file, { timeout: 2000 });
    if (database.prepare('SELECT id FROM voter').get() === undefined) throw new Error('it has no voter');
  } catch (cause) {
    const text = `${file} is no voter's disk: ${(cause as Error).message}`;
    throw new WeftError('store', text, { details: file, cause });
  }
}

/** A file that is open elsewhere is locked: its agent runs. */
function readDisk(file: string, registers: Map<string, Register>): { readonly floor: number; readonly starts: number } {
  if (!existsSync(file)) throw new WeftError('store', `there is no voter's disk ${file}`, { details: file });
  requireVoterDisk(file);
  using store = openVoterStore(file);
  for (let after = '', more = true; more;) {
    const page = store.registersAfter(after, pageLimit);
    for (const { key, register } of page) {
      registers.set(key, newestRegister(registers.get(key) ?? emptyRegister, register));
    }
    more = page.length === pageLimit;
    after = page.at(-1)?.key ?? after;
  }
  const { floor, session } = store.membership();
  return { floor: Math.max(floor, store.highestCounter()), starts: sessionCounter(session) };
}
