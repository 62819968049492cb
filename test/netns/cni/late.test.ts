// DELs that come late, disks that are full, and the shim where it is replaced or locked in, through the real shim and a real agent.

import { copyFile, mkdir, readdir, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeAll, beforeEach, expect, test } from 'vitest';

import { installPlugin } from '#agent/cli/install.ts';
import { AgentHost } from '#test/support/agent-host.ts';
import { kernelDump } from '#test/support/kernel-dump.ts';
import { run, TestNetns } from '#test/support/netns.ts';
import { runShim, type ShimRun } from '#test/support/shim.ts';
import { shimLimits } from '#test/support/shim-case.ts';
import { buildShim, ensureShim, shimPath } from '../../../cni-shim/build.ts';

let host: AgentHost;
let hostNetns: TestNetns;

beforeAll(() => ensureShim());

beforeEach(async () => {
  host = await AgentHost.create('own netns', { restTimeMs: 0 });
  if (host.netns === undefined) throw new Error('the host has no namespace of its own');
  hostNetns = host.netns;
});

afterEach(async () => {
  await host.stop('SIGKILL');
  // The full disk's, where there is one.
  await run(['sh', '-c', 'umount -l "$0" 2>/dev/null; true', join(host.directory, 'state')]);
  await host[Symbol.asyncDispose]();
});

/** ADD as a runtime has it: tried again while the agent is away. */
async function added(pod: TestNetns, env: Record<string, string>): Promise<ShimRun> {
  for (;;) {
    const run = await host.cni('ADD', { netns: pod.path, env });
    if (run.code === 0) return run;
    expect(run).toMatchObject({ json: { code: 11 } });
  }
}

const check = (pod: TestNetns, added: ShimRun, env: Record<string, string> = {}): Promise<ShimRun> =>
  host.cni('CHECK', { netns: pod.path, conf: { prevResult: added.json }, env });

test(
  'a container id used again: a DEL kept for the first container leaves the second alone, however late it is found',
  { timeout: 120_000 },
  async () => {
    await host.start();
    const first = await TestNetns.create('pod');
    await using second = await TestNetns.create('pod');
    const id = { CNI_CONTAINERID: 'the-same-id' };
    expect(await host.cni('ADD', { netns: first.path, env: id })).toMatchObject({ code: 0 });
    await host.stop('SIGKILL');
    expect(await host.cni('DEL', { netns: first.path, env: id })).toMatchObject({ code: 0, stdout: '' });
    const kept = join(host.spoolDir, 'the-same-id@eth0.json');
    const copy = join(host.directory, 'copy.json');
    await copyFile(kept, copy);
    const { mtime } = await stat(kept);
    await first[Symbol.asyncDispose]();
    // The runtime goes on at once, and again where the agent takes longer than an ADD waits for it.
    const adding = added(second, id);
    await host.start();
    const again = await adding;
    expect(await readdir(host.spoolDir)).toEqual([]);
    await utimes(copy, mtime, mtime);
    await rename(copy, kept);
    await expect.poll(() => readdir(host.spoolDir), { timeout: 20_000 }).toEqual([]);
    expect(await check(second, again, id)).toMatchObject({ code: 0, stdout: '' });
    expect(await host.leasedAddresses()).toBe(1);
    expect(await host.cni('DEL', { netns: second.path, env: id })).toMatchObject({ code: 0 });
    expect(await host.leasedAddresses()).toBe(0);
  },
);

test(
  'a DEL that timed out at an agent that stood still does not take the ADD that came after it',
  { timeout: 120_000 },
  async () => {
    await host.start();
    const hasty = join(host.directory, 'hasty');
    // Only DEL hurries: the ADD behind it must outlive the standstill.
    const limits = { ...shimLimits, ADD: 60_000, ADD_CONNECT: 10_000 };
    buildShim({ output: hasty, defines: Object.entries(limits).map(([name, ms]) => `${name}_MS=${ms}`) });
    await using pod = await TestNetns.create('pod');
    const before = await kernelDump(hostNetns);
    const call = (verb: string): Promise<ShimRun> =>
      runShim({
        binary: hasty,
        env: {
          CNI_COMMAND: verb,
          CNI_CONTAINERID: pod.name,
          CNI_NETNS: pod.path,
          CNI_IFNAME: 'eth0',
          WEFT_SOCKET: host.socketPath,
          WEFT_SPOOL_DIR: host.spoolDir,
        },
        stdin: JSON.stringify({ cniVersion: '1.1.0', name: 'weft', type: 'weft' }),
      });
    expect(await call('ADD')).toMatchObject({ code: 0 });
    // nsenter has become the agent.
    const pid = host.pid ?? 0;
    process.kill(pid, 'SIGSTOP');
    let adding: Promise<ShimRun>;
    try {
      expect(await call('DEL')).toMatchObject({ code: 1, json: { code: 11 } });
      expect(await readdir(host.spoolDir)).toEqual([]);
      const late = await waitingAtSocket();
      adding = call('ADD');
      await expect.poll(() => waitingAtSocket(), { timeout: 10_000 }).toBeGreaterThan(late);
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    const added = await adding;
    // Whether the DEL was still carried out or dropped because its caller was gone: what stands now is whole.
    if (added.code === 0) expect(await check(pod, added)).toMatchObject({ code: 0, stdout: '' });
    else expect(added).toMatchObject({ json: { code: 100 } });
    expect(await host.leasedAddresses()).toBe(1);
    expect(await call('DEL').then(({ code }) => code)).toBe(0);
    await expect.poll(() => kernelDump(hostNetns), { timeout: 10_000 }).toEqual(before);
  },
);

/** Connections to the agent's socket that have come from this namespace and not been taken in; the path is that of `bind`. */
async function waitingAtSocket(): Promise<number> {
  return (await run(['cat', '/proc/net/unix'])).split('\n').filter((line) => line.includes('run/cni.sock')).length;
}

test(
  'a full disk: ADD and DEL fail with the cause, nothing stays, and all is well when there is room again',
  { timeout: 120_000 },
  async () => {
    const state = join(host.directory, 'state');
    const script = 'cp -a "$0" "$0.kept"; mount -t tmpfs -o size=8m,mode=0700 tmpfs "$0"; cp -a "$0.kept/." "$0"';
    await run(['sh', '-ec', script, state]);
    await host.start();
    await using pod = await TestNetns.create('pod');
    await using other = await TestNetns.create('pod');
    const added = await host.cni('ADD', { netns: pod.path });
    expect(added).toMatchObject({ code: 0 });
    const before = await kernelDump(hostNetns);
    await run(['sh', '-c', `cat /dev/zero >"$0" 2>/dev/null; test -s "$0"`, join(state, 'filler')]);
    const failed = await host.cni('ADD', { netns: other.path });
    expect(failed).toMatchObject({ code: 1, json: { code: 104 } });
    expect(failed.json?.['msg']).toMatch(/full/);
    await expect.poll(() => kernelDump(hostNetns), { timeout: 10_000 }).toEqual(before);
    expect(await host.cni('STATUS', { netns: '' })).toMatchObject({ code: 0 });
    expect(await check(pod, added)).toMatchObject({ code: 0 });
    await host.stop('SIGKILL');
    // A DEL that cannot be kept must not be believed.
    expect(await host.cni('DEL', { netns: pod.path })).toMatchObject({ code: 1, json: { code: 5 } });
    await rm(join(state, 'filler'));
    await host.start();
    await expect.poll(async () => (await host.cni('ADD', { netns: other.path })).code, { timeout: 20_000 }).toBe(0);
    for (const one of [pod, other]) expect(await host.cni('DEL', { netns: one.path })).toMatchObject({ code: 0 });
    expect(await host.leasedAddresses()).toBe(0);
  },
);

test('replaced under load: no call meets a busy or half-written file', { timeout: 120_000 }, async () => {
  const directory = join(host.directory, 'opt');
  await installPlugin(directory, shimPath);
  let replacing = true;
  const replaced = (async () => {
    let count = 0;
    for (; replacing; count++) await installPlugin(directory, shimPath);
    return count;
  })();
  const binary = join(directory, 'weft');
  for (let round = 0; round < 10; round++) {
    const calls = Array.from({ length: 8 }, () => runShim({ binary, env: { CNI_COMMAND: 'VERSION' } }));
    expect((await Promise.all(calls)).map(({ code }) => code)).toEqual(calls.map(() => 0));
  }
  replacing = false;
  expect(await replaced).toBeGreaterThan(1);
  expect(await readdir(directory)).toEqual(['weft']);
});

test(
  'locked into the host’s root, as multus runs it: default paths, no /proc, no library',
  { timeout: 120_000 },
  async () => {
    const root = join(host.directory, 'root');
    for (const folder of ['opt/cni/bin', 'run/weft', 'var/lib']) await mkdir(join(root, folder), { recursive: true });
    await copyFile(shimPath, join(root, 'opt/cni/bin/weft'));
    const chrooted = (verb: string): Promise<ShimRun> =>
      runShim({
        prefix: ['chroot', root],
        binary: '/opt/cni/bin/weft',
        env: { CNI_COMMAND: verb, CNI_CONTAINERID: 'c1', CNI_NETNS: '/var/run/netns/c1', CNI_IFNAME: 'eth0' },
        stdin: '{"cniVersion":"1.0.0","name":"weft","type":"weft"}',
      });
    expect(await chrooted('VERSION')).toMatchObject({ code: 0 });
    expect(await chrooted('DEL')).toMatchObject({ code: 0, stdout: '' });
    expect(await readdir(join(root, 'var/lib/weft/spool'))).toEqual(['c1@eth0.json']);
    await host.start();
    // The agent's own socket, seen inside.
    await writeFile(join(root, 'run/weft/cni.sock'), '');
    await run(['mount', '--bind', host.socketPath, join(root, 'run/weft/cni.sock')]);
    try {
      expect(await chrooted('ADD')).toMatchObject({ code: 1, json: { code: 8 } });
      expect(await chrooted('DEL')).toMatchObject({ code: 0, stdout: '' });
    } finally {
      await run(['umount', join(root, 'run/weft/cni.sock')]);
    }
  },
);
