// The agent may die, packets may not: killed with -9 under a running ping, in the middle of ADDs and DELs, and away while pods go.

import { spawn } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { afterEach, beforeAll, beforeEach, expect, test } from 'vitest';

import { AgentHost } from '#test/support/agent-host.ts';
import { kernelDump } from '#test/support/kernel-dump.ts';
import { TestNetns } from '#test/support/netns.ts';
import type { ShimRun } from '#test/support/shim.ts';
import { ensureShim } from '../../../cni-shim/build.ts';

let host: AgentHost;
let hostNetns: TestNetns;

beforeAll(() => ensureShim());

beforeEach(async () => {
  host = await AgentHost.create('own netns');
  if (host.netns === undefined) throw new Error('the host has no namespace of its own');
  hostNetns = host.netns;
  await host.start();
});

afterEach(() => host[Symbol.asyncDispose]());

function addressIn(json: Readonly<Record<string, unknown>> | undefined): string {
  return (json as { ips: readonly { address: string }[] }).ips[0]?.address.replace('/32', '') ?? '';
}

/** ADD as a runtime has it: tried again while the agent is away for longer than one ADD waits. */
async function addedInTheEnd(pod: TestNetns): Promise<ShimRun> {
  for (;;) {
    const run = await host.cni('ADD', { netns: pod.path });
    if (run.code === 0) return run;
    expect(run).toMatchObject({ json: { code: 11 } });
  }
}

/** Pings from a namespace 200 times a second until stopped; resolves to what was sent and what came back. */
function pinging(from: TestNetns, to: string): { stop: () => Promise<{ sent: number; received: number }> } {
  const child = spawn('nsenter', [`--net=${from.path}`, '--', 'ping', '-i', '0.005', '-W', '1', to]);
  let out = '';
  child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
  const ended = new Promise((resolve) => child.once('close', resolve));
  return {
    stop: async () => {
      child.kill('SIGINT');
      await ended;
      const match = /(\d+) packets transmitted, (\d+) received/.exec(out);
      if (match === null) throw new Error(`ping said:\n${out}`);
      return { sent: Number(match[1]), received: Number(match[2]) };
    },
  };
}

test('killed with -9 and started again: no packet lost, STATUS fine all the time, DEL kept, ADD works', async () => {
  await using one = await TestNetns.create('pod');
  await using two = await TestNetns.create('pod');
  await using gone = await TestNetns.create('pod');
  await using later = await TestNetns.create('pod');
  await host.cni('ADD', { netns: one.path });
  const target = addressIn((await host.cni('ADD', { netns: two.path })).json);
  await hostNetns.exec(['ping', '-c', '1', '-W', '2', target]);
  const before = await kernelDump(hostNetns);
  const leaving = await host.cni('ADD', { netns: gone.path });
  expect(leaving).toMatchObject({ code: 0 });

  const ping = pinging(one, target);
  await host.stop('SIGKILL');
  expect(await host.cni('STATUS', { netns: '' })).toMatchObject({ code: 0, stdout: '' });
  expect(await host.cni('DEL', { netns: gone.path })).toMatchObject({ code: 0, stdout: '' });
  expect(await readdir(host.spoolDir)).toEqual([`${gone.name}@eth0.json`]);
  const adding = addedInTheEnd(later);
  await host.start();
  expect(await adding).toMatchObject({ code: 0 });
  const { sent, received } = await ping.stop();
  expect(sent).toBeGreaterThan(20);
  expect(received).toBe(sent);

  expect(await readdir(host.spoolDir)).toEqual([]);
  expect(await host.cni('DEL', { netns: later.path })).toMatchObject({ code: 0 });
  await expect.poll(() => kernelDump(hostNetns), { timeout: 15_000 }).toEqual(before);
  await one.exec(['ping', '-c', '1', '-W', '2', target]);
});

test('killed with -9 in the middle of ADDs, then of DELs: a later DEL leaves nothing behind', async () => {
  const before = await kernelDump(hostNetns);
  const pods = await Promise.all(Array.from({ length: 12 }, () => TestNetns.create('pod')));
  for (const verb of ['ADD', 'DEL']) {
    let ended = 0;
    const calls = pods.map(async (pod) => {
      const run = await host.cni(verb, { netns: pod.path });
      ended += 1;
      return run.code;
    });
    await expect.poll(() => ended, { interval: 1, timeout: 60_000 }).toBeGreaterThan(3);
    await host.stop('SIGKILL');
    const starting = host.start();
    const codes = await Promise.all(calls);
    if (verb === 'DEL') expect(codes).toEqual(pods.map(() => 0));
    else expect(codes.filter((code) => code === 0).length).toBeGreaterThan(3);
    await starting;
  }
  for (const pod of pods) expect(await host.cni('DEL', { netns: pod.path })).toMatchObject({ code: 0 });
  await expect.poll(() => kernelDump(hostNetns), { timeout: 15_000 }).toEqual(before);
  for (const pod of pods) expect(await host.cni('ADD', { netns: pod.path })).toMatchObject({ code: 0 });
  await Promise.all(pods.map((pod) => pod[Symbol.asyncDispose]()));
});

test('a stop in good order leaves pods, links and the network configuration in place', async () => {
  await using pod = await TestNetns.create('pod');
  const added = await host.cni('ADD', { netns: pod.path });
  const before = await kernelDump(hostNetns);
  await host.stop();
  expect(await kernelDump(hostNetns)).toEqual(before);
  expect(await readdir(`${host.directory}/net.d`)).toEqual(['05-weft.conflist']);
  await hostNetns.exec(['ping', '-c', '1', '-W', '2', addressIn(added.json)]);
  await host.start();
  expect(await host.cni('CHECK', { netns: pod.path, conf: { prevResult: added.json } })).toMatchObject({ code: 0 });
  expect(await kernelDump(hostNetns)).toEqual(before);
});

test('pods that went while the agent was away are no findings when it starts, and their addresses are free', async () => {
  await using stays = await TestNetns.create('pod');
  const gone = await Promise.all(Array.from({ length: 3 }, () => TestNetns.create('pod')));
  const before = await kernelDump(hostNetns);
  expect(await host.cni('ADD', { netns: stays.path })).toMatchObject({ code: 0 });
  for (const pod of gone) expect(await host.cni('ADD', { netns: pod.path })).toMatchObject({ code: 0 });
  await host.stop('SIGKILL');
  for (const pod of gone) {
    await pod[Symbol.asyncDispose]();
    const env = { CNI_CONTAINERID: pod.name, CNI_NETNS: '' };
    expect(await host.cni('DEL', { netns: '', env })).toMatchObject({ code: 0, stdout: '' });
  }
  expect(await readdir(host.spoolDir)).toHaveLength(3);
  await host.start();
  await expect.poll(async () => (await host.log()).split('every part runs').length, { timeout: 10_000 }).toBe(3);
  expect((await host.log()).split('weft agent starts')[2]).not.toContain('podLinkMissing');
  expect(await readdir(host.spoolDir)).toEqual([]);
  expect(await host.leasedAddresses()).toBe(1);
  expect(await host.cni('DEL', { netns: stays.path })).toMatchObject({ code: 0 });
  await expect.poll(() => kernelDump(hostNetns), { timeout: 15_000 }).toEqual(before);
});
