// `weft clean`: takes Weft off this node. Kernel objects by their names and marks, files by theirs; what somebody else put into our
// directories stays and is named. Refuses while an agent serves here: it would put everything back.

import { existsSync } from 'node:fs';
import { lstat, readdir, rm, rmdir } from 'node:fs/promises';
import { connect } from 'node:net';
import { basename, dirname, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';

import type { Config } from '#agent/config.ts';
import { cleanKernel } from '#agent/datapath/clean.ts';
import { datapathSettings } from '#agent/datapath/from-config.ts';
import { toWeftError, WeftError } from '#agent/errors.ts';

/** Whoever cleans at the same time holds the lock for a moment, an agent for as long as it runs. */
const lockWaitMs = 500;

/** What the agent and the plugin leave in the state directory. */
const stateNames =
  /^(?:(?:state|voter|delegated)\.db(?:-wal|-shm|-journal)?|node-identity\.json|node-uid|peers\.json|pools\.json|pools|spool)$/;
/** And in the run directory: the socket, one that is being published, the mark of the first ADD. */
const runNames = /^(?:cni\.sock(?:\.\d+)?|served)$/;

/** Lines that say what was removed, or with `dryRun` would be. Throws WeftError `io` while an agent runs. */
export async function clean(config: Config, dryRun: boolean): Promise<readonly string[]> {
  if (await isServed(config.socket)) {
    throw new WeftError('io', `an agent serves ${config.socket}; stop it first, or it puts everything back`);
  }
  // One that is only starting has no socket yet.
  if (isInUse(join(config.stateDir, 'state.db')) || isInUse(join(config.stateDir, 'voter.db'))) {
    throw new WeftError('io', `an agent has ${config.stateDir} open; stop it first, or it puts everything back`);
  }
  const lines = [...(await cleanKernel(datapathSettings(config, ''), dryRun))];
  // First what starts pods here: a runtime that finds the configuration calls the plugin.
  for (const path of [config.conflistPath, join(config.cniBinDir, 'weft')]) {
    if (!(await exists(path))) continue;
    if (!dryRun) await rm(path, { force: true });
    lines.push(`file ${path}`);
  }
  lines.push(...(await cleanDirectory(config.runDir, runNames, dryRun)));
  if (dirname(config.spoolDir) !== config.stateDir) {
    lines.push(
      ...(await cleanDirectory(dirname(config.spoolDir), new RegExp(`^${basename(config.spoolDir)}$`), dryRun)),
    );
  }
  lines.push(...(await cleanDirectory(config.stateDir, stateNames, dryRun)));
  return lines;
}

/** Removes the entries with our names, then the directory when nothing else is in it. */
async function cleanDirectory(directory: string, ours: RegExp, dryRun: boolean): Promise<readonly string[]> {
  const names = await readdir(directory).catch(() => undefined);
  if (names === undefined) return [];
  const lines: string[] = [];
  for (const name of names.filter((candidate) => ours.test(candidate))) {
    if (!dryRun) await rm(join(directory, name), { recursive: true, force: true });
    lines.push(`file ${join(directory, name)}`);
  }
  const others = names.filter((candidate) => !ours.test(candidate));
  if (others.length > 0) return [...lines, `kept: ${directory} holds ${others.join(', ')}`];
  if (!dryRun) await rmdir(directory).catch(() => undefined);
  return [...lines, `directory ${directory}`];
}

async function exists(path: string): Promise<boolean> {
  return await lstat(path).then(
    () => true,
    () => false,
  );
}

/** True where another process has locked the database, as an agent does from the first to the last. */
function isInUse(path: string): boolean {
  if (!existsSync(path)) return false;
  try {
    using database = new DatabaseSync(path, { timeout: lockWaitMs });
    database.exec('BEGIN IMMEDIATE; ROLLBACK');
    return false;
  } catch (error) {
    return /locked|busy/.test(toWeftError(error).message);
  }
}

async function isServed(path: string): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connect(path);
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
}
