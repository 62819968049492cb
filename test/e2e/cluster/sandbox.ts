// Where a test cluster lives: a child process in its own mount, network and pid namespaces. When it or its parent dies, however
// it dies, the kernel takes every process, link, route and mount along. What hangs on no namespace (cgroup directories, two
// inotify limits, the work directory) is put back at the end, and by the next start after a kill -9.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { removeCgroups } from './cgroups.ts';
import { lockFile, until } from './host.ts';
import { cacheDirectory } from './programs.ts';
import { clusterName } from './settings.ts';

const stateDirectory = `/run/${clusterName}`;
export const sandboxPidFile: string = join(stateDirectory, 'sandbox.pid');
const savedLimits = join(stateDirectory, 'limits.json');

/** 128 inotify instances are too few for several kubelets on one kernel. */
const limits: Readonly<Record<string, number>> = {
  '/proc/sys/fs/inotify/max_user_instances': 8192,
  '/proc/sys/fs/inotify/max_user_watches': 1_048_576,
};

/** Directory for keys, node disks and the like of the one running cluster. */
export function workDirectory(): string {
  return join(cacheDirectory(), `${clusterName}-run`);
}

/**
 * Runs a script on this Node inside fresh namespaces and resolves to its exit code. One cluster per machine at a time; `onWait`
 * is called when another one runs. SIGTERM and SIGHUP are handed on; Ctrl-C reaches the child by itself.
 */
export async function runInSandbox(
  script: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  onWait: () => void,
): Promise<number> {
  await using _lock = await lockFile(join(stateDirectory, 'lock'), onWait);
  await cleanUp();
  await raiseLimits();
  await mkdir(workDirectory(), { recursive: true, mode: 0o700 });
  try {
    return await spawnSandbox(script, args, env);
  } finally {
    await cleanUp();
  }
}

async function spawnSandbox(
  script: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<number> {
  const namespaces = ['--mount', '--net', '--pid', '--fork', '--kill-child', '--propagation', 'private'];
  const setup = 'mount -t proc proc /proc && mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && exec "$@"';
  const node = [process.execPath, '--disable-warning=ExperimentalWarning', script, ...args];
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', 'unshare', ...namespaces, 'sh', '-c', setup, 'sh', ...node], {
    stdio: 'inherit',
    env: { ...process.env, ...env },
  });
  const handOn = (signal: NodeJS.Signals): void => {
    void forwardSignal(child.pid, signal);
  };
  const ignore = (): void => undefined;
  process.on('SIGINT', ignore).on('SIGTERM', handOn).on('SIGHUP', handOn);
  const ended = new Promise<number>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve(code ?? 137));
  });
  try {
    await Promise.race([ended, recordPid(child.pid)]);
    return await ended;
  } finally {
    process.off('SIGINT', ignore).off('SIGTERM', handOn).off('SIGHUP', handOn);
  }
}

/** unshare waits for the sandbox's pid 1, its only child; the signal goes to that one. */
async function forwardSignal(unsharePid: number | undefined, signal: NodeJS.Signals): Promise<void> {
  const pid = await firstChild(unsharePid);
  if (pid !== undefined) process.kill(pid, signal);
}

async function firstChild(pid: number | undefined): Promise<number | undefined> {
  if (pid === undefined) return undefined;
  const children = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '');
  return Number(children.trim().split(' ')[0]) || undefined;
}

/** Leaves the pid of the sandbox's first process, as the machine sees it, for `cli.ts exec`. */
async function recordPid(unsharePid: number | undefined): Promise<void> {
  const pid = await until('the sandbox starts', 10_000, async () => await firstChild(unsharePid));
  await writeFile(sandboxPidFile, String(pid));
}

async function cleanUp(): Promise<void> {
  await removeCgroups();
  await rm(workDirectory(), { recursive: true, force: true });
  if (!existsSync(savedLimits)) return;
  const saved = JSON.parse(await readFile(savedLimits, 'utf8')) as Readonly<Record<string, string>>;
  for (const [path, value] of Object.entries(saved)) await writeFile(path, value);
  await rm(savedLimits);
}

async function raiseLimits(): Promise<void> {
  const saved: Record<string, string> = {};
  for (const path of Object.keys(limits)) saved[path] = (await readFile(path, 'utf8')).trim();
  await writeFile(savedLimits, JSON.stringify(saved));
  for (const [path, wanted] of Object.entries(limits)) {
    if (Number(saved[path]) < wanted) await writeFile(path, String(wanted));
  }
}
