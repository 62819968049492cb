// Bandwidth limits through the real shim and a real agent: measured in both directions, and restored whatever a hand removes. And a
// MAC asked for by name, which is the other thing that a pod's link can have.

import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';

import type { AgentHost } from '#test/support/agent-host.ts';
import { awaitNoPodLinks, createCniHost, faultsOnDisk } from '#test/support/cni-host.ts';
import { kernelDump } from '#test/support/kernel-dump.ts';
import { TestNetns } from '#test/support/netns.ts';
import type { ShimRun } from '#test/support/shim.ts';
import { Talker } from '#test/support/talker.ts';

let host: AgentHost;
let hostNetns: TestNetns;

beforeAll(async () => {
  ({ host, hostNetns } = await createCniHost());
});

afterAll(() => host[Symbol.asyncDispose]());

beforeEach(() => awaitNoPodLinks(hostNetns));

const mbit = 1_000_000;
const confOf = (runtimeConfig: object): Readonly<Record<string, unknown>> => ({ runtimeConfig });
const limits = { ingressRate: 16 * mbit, ingressBurst: 2 * mbit, egressRate: 8 * mbit, egressBurst: 4_294_967_295 };

async function added(pod: TestNetns, runtimeConfig: object): Promise<ShimRun> {
  const run = await host.cni('ADD', { netns: pod.path, conf: confOf(runtimeConfig) });
  if (run.code !== 0) throw new Error(`ADD failed: ${run.stdout}\n${await host.log()}`);
  return run;
}

const addressOf = (run: ShimRun): string =>
  (run.json as { ips: { address: string }[] }).ips[0]?.address.replace('/32', '') ?? '';

/** Qdiscs and filters of our links in tc's words, without what counts and what is numbered anew. */
async function trafficControl(): Promise<readonly string[]> {
  const qdiscs = await hostNetns.exec(['tc', 'qdisc', 'show']);
  const shaped = qdiscs.split('\n').filter((line) => /weft[pb]/.test(line) && / (tbf|clsact) /.test(line));
  const lines = shaped.map((line) =>
    line
      .replace(/ (tbf|clsact) [0-9a-f]+:/, ' $1')
      .replace(/refcnt \d+ /, '')
      .trim(),
  );
  for (const line of lines.filter((one) => one.includes('clsact'))) {
    const filters = await hostNetns.exec(['tc', 'filter', 'show', 'dev', /dev (\S+)/.exec(line)?.[1] ?? '', 'ingress']);
    lines.push(...(filters.match(/Egress Redirect to device \w+/g) ?? []));
  }
  return lines.toSorted();
}

test('both directions are limited, each to its own rate; other pods are not', async () => {
  await using pod = await TestNetns.create('pod');
  await using free = await TestNetns.create('pod');
  const [address, freeAddress] = [addressOf(await added(pod, { bandwidth: limits })), addressOf(await added(free, {}))];
  await using inPod = new Talker(pod.path);
  await using inFree = new Talker(free.path);
  const bytes = 1_500_000;
  await inPod.serve('tcp', 5001, '', bytes);
  await inFree.serve('tcp', 5001, '', bytes);
  const [fromPod, toPod, between] = [
    await inFree.download({ address, port: 5001 }),
    await inPod.download({ address: freeAddress, port: 5001 }),
    await new Talker(hostNetns.path).download({ address: freeAddress, port: 5001 }),
  ];
  expect([fromPod.bytes, toPod.bytes, between.bytes]).toEqual([bytes, bytes, bytes]);
  const mbitPerSecond = ({ ms }: { readonly ms: number }, burstBytes: number): number =>
    ((bytes - burstBytes) * 8) / 1000 / ms;
  // Never faster than the limit; how much slower is the machine's business.
  expect(mbitPerSecond(fromPod, 64 << 10)).toBeLessThan(8.1);
  expect(mbitPerSecond(toPod, 250_000)).toBeLessThan(16.2);
  expect(mbitPerSecond(fromPod, 0)).toBeGreaterThan(1);
  expect(mbitPerSecond(toPod, 0)).toBeGreaterThan(1);
  expect(between.ms).toBeLessThan(fromPod.ms);
  for (const one of [pod, free]) expect(await host.cni('DEL', { netns: one.path })).toMatchObject({ code: 0 });
});

test('nothing of the limits is left after DEL', async () => {
  const before = [await kernelDump(hostNetns), await trafficControl()];
  await using pod = await TestNetns.create('pod');
  await added(pod, { bandwidth: limits });
  const digits = /weftp([0-9a-f]+)/.exec(await hostNetns.exec(['ip', '-o', 'link']))?.[1];
  expect(await trafficControl()).toEqual([
    `Egress Redirect to device weftb${digits}`,
    `qdisc clsact dev weftp${digits} parent ffff:fff1`,
    `qdisc tbf dev weftb${digits} root rate 8Mbit burst 64Kb lat 25ms`,
    `qdisc tbf dev weftp${digits} root rate 16Mbit burst 250000b lat 25ms`,
  ]);
  expect(await host.cni('DEL', { netns: pod.path })).toMatchObject({ code: 0 });
  const now = async (): Promise<unknown> => [await kernelDump(hostNetns), await trafficControl()];
  await expect.poll(now, { timeout: 10_000 }).toEqual(before);
});

describe('what a hand removes or changes', () => {
  const link = 'dev=$(ls /sys/class/net | grep weftp); ifb=$(ls /sys/class/net | grep weftb);';
  test.each<[string, string, RegExp, boolean]>([
    ['the limit towards the pod', 'tc qdisc del dev $dev root', /^ingress/, true],
    ['its rate', 'tc qdisc replace dev $dev root tbf rate 1gbit burst 1mb latency 25ms', /^ingress/, false],
    ['the limit from the pod', 'tc qdisc del dev $ifb root', /^egress/, true],
    ['the way there', 'tc filter del dev $dev ingress', /^egress/, true],
    ['the place of the filter', 'tc qdisc del dev $dev clsact', /^egress/, true],
    ['the ifb', 'ip link del $ifb', /^egress/, true],
    ['the ifb being up', 'ip link set $ifb down', /^egress/, false],
  ])('%s: CHECK sees it, it is back at once or with the next start', async (_name, command, fault, notified) => {
    await using pod = await TestNetns.create('pod');
    await added(pod, { bandwidth: limits });
    const before = [await kernelDump(hostNetns), await trafficControl()];
    const now = async (): Promise<unknown> => [await kernelDump(hostNetns), await trafficControl()];
    // sysfs shows the links of the namespace that it was mounted in.
    const inside = ['unshare', '--mount', 'sh', '-ec', `mount -t sysfs sysfs /sys; ${link} ${command}`];
    await host.stop('SIGKILL');
    await hostNetns.exec(inside);
    expect(await faultsOnDisk({ host, hostNetns }, pod)).toMatch(fault);
    await host.start();
    await expect.poll(now, { timeout: 15_000 }).toEqual(before);
    if (notified) {
      await hostNetns.exec(inside);
      await expect.poll(now, { timeout: 5000 }).toEqual(before);
    }
    expect(await host.cni('DEL', { netns: pod.path })).toMatchObject({ code: 0 });
  });
});

test('a MAC asked for by name is the pod’s, from its first packet on', async () => {
  await using pod = await TestNetns.create('pod');
  const mac = '02:00:5e:10:20:30';
  const run = await added(pod, { mac });
  expect(run.json).toMatchObject({ interfaces: [{}, { name: 'eth0', mac }] });
  expect(await pod.json(['ip', '-j', 'link', 'show', 'eth0'])).toMatchObject([{ address: mac }]);
  await hostNetns.exec(['ping', '-c', '1', '-W', '2', addressOf(run)]);
  const conf = { ...confOf({ mac }), prevResult: run.json };
  expect(await host.cni('CHECK', { netns: pod.path, conf })).toMatchObject({ code: 0 });
  expect(await host.cni('DEL', { netns: pod.path })).toMatchObject({ code: 0 });
});
