// Removes what a state names, and nothing else: processes by the lab's mark in their environment, namespaces by name, the lab's
// own folder. Mounts go with the processes whose namespace they are in.

import { execFile } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { markName } from '#test/lab/run.ts';
import { claimPlace, forgetState, ownIdentity, readState, startTicksOf } from '#test/lab/state.ts';
import type { LabState } from '#test/lab/state.ts';

const execute = promisify(execFile);
const netnsFolder = '/run/netns';

/**
 * Takes the place and removes a dead predecessor. Returns what there was to remove; throws in plain words when one is still running.
 */
export async function succeed(): Promise<string | undefined> {
  const claimed = await claimPlace();
  const state = await readState();
  if (state === undefined) {
    if (!claimed) throw new Error('a lab is starting or ending already; try again when it has');
    return undefined;
  }
  const own = await ownIdentity();
  if (state.bootId === own.bootId && state.pidNamespace !== own.pidNamespace) {
    throw new Error('a lab was started in another pid namespace (a container?); end it there first');
  }
  if (!claimed || (state.bootId === own.bootId && startTicksOf(state.pid) === state.startTicks)) {
    throw new Error(`a lab is running already (pid ${state.pid}); end it with Ctrl-C there, or kill ${state.pid}`);
  }
  const processes = markedProcesses(state.mark).length;
  await cleanUp(state);
  return `${state.netns.length} namespaces and ${processes} processes of a lab that was killed`;
}

/** Kills, deletes, removes. May be called again after a failure. */
export async function cleanUp(state: LabState): Promise<void> {
  await killMarked(state.mark);
  const present = state.netns.filter((name) => existsSync(join(netnsFolder, name)));
  for (const name of present) await deleteNetns(name);
  if (state.madeNetnsMount && existsSync(netnsFolder) && readdirSync(netnsFolder).length === 0) {
    // Fails when somebody else uses it by now, and may.
    await execute('umount', [netnsFolder]).catch(() => undefined);
  }
  await forgetState();
}

async function deleteNetns(name: string): Promise<void> {
  // A kill between `ip netns add` making the file and mounting on it leaves a plain file, which `delete` removes all the same.
  await execute('ip', ['netns', 'delete', name]).catch((error: Error) => {
    if (existsSync(join(netnsFolder, name))) throw error;
  });
}

function markedProcesses(mark: string): readonly number[] {
  const wanted = `${markName}=${mark}`;
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => environmentOf(pid).includes(wanted));
}

function environmentOf(pid: number): readonly string[] {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0');
  } catch {
    return [];
  }
}

/** SIGTERM first, so that agents stop as they do in service; SIGKILL after two seconds; fails when one survives ten. */
async function killMarked(mark: string): Promise<void> {
  const start = performance.now();
  const told = new Set<number>();
  for (;;) {
    const alive = markedProcesses(mark);
    if (alive.length === 0) return;
    const late = performance.now() - start > 2000;
    for (const pid of alive) {
      if (!late && told.has(pid)) continue;
      told.add(pid);
      signal(pid, late ? 'SIGKILL' : 'SIGTERM');
    }
    if (performance.now() - start > 10_000)
      throw new Error(`these processes of the lab do not end: ${alive.join(', ')}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function signal(pid: number, name: 'SIGTERM' | 'SIGKILL'): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
