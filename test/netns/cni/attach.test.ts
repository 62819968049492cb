// ADD, CHECK, DEL and GC through the real shim and a real agent, against what `ip -d -j` and `nft -j` say.

import { readdir } from 'node:fs/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';

import type { AgentHost } from '#test/support/agent-host.ts';
import { awaitNoPodLinks, createCniHost } from '#test/support/cni-host.ts';
import { kernelDump } from '#test/support/kernel-dump.ts';
import { run, TestNetns } from '#test/support/netns.ts';
import type { ShimRun } from '#test/support/shim.ts';

interface Result {
  readonly interfaces: readonly [
    { readonly name: string; readonly mac: string; readonly mtu: number },
    { readonly name: string; readonly mac: string; readonly mtu: number; readonly sandbox: string },
  ];
  readonly ips: readonly [{ readonly address: string; readonly gateway: string }];
}

let host: AgentHost;
let hostNetns: TestNetns;

beforeAll(async () => {
  ({ host, hostNetns } = await createCniHost());
});

afterAll(() => host[Symbol.asyncDispose]());

beforeEach(() => awaitNoPodLinks(hostNetns));

const resultOf = (added: ShimRun): Result => added.json as unknown as Result;
const addressOf = (added: ShimRun): string => resultOf(added).ips[0].address.replace('/32', '');

async function added(pod: TestNetns): Promise<ShimRun> {
  const run = await host.cni('ADD', { netns: pod.path });
  if (run.code !== 0) throw new Error(`ADD failed: ${run.stdout}\n${await host.log()}`);
  return run;
}

test('ADD builds what its result says, and the pod is reached', async () => {
  await using pod = await TestNetns.create('pod');
  await pod.exec(['ip', 'link', 'set', 'lo', 'down']);
  const run = await added(pod);
  const [hostEnd, podEnd] = resultOf(run).interfaces;
  const address = addressOf(run);

  const [eth0] = await pod.json(['ip', '-d', '-j', 'address', 'show', 'eth0']);
  expect(eth0).toMatchObject({
    mtu: podEnd.mtu,
    address: podEnd.mac,
    operstate: 'UP',
    linkinfo: { info_kind: 'veth' },
  });
  expect(eth0?.['addr_info']).toContainEqual(expect.objectContaining({ local: address, prefixlen: 32 }));
  const routes = await pod.json(['ip', '-j', 'route']);
  expect(routes).toContainEqual(expect.objectContaining({ dst: 'default', gateway: '169.254.1.1', dev: 'eth0' }));
  expect((await pod.json(['ip', '-j', 'link', 'show', 'lo']))[0]?.['flags']).toContain('UP');

  const [hostLink] = await hostNetns.json(['ip', '-d', '-j', 'link', 'show', hostEnd.name]);
  expect(hostLink).toMatchObject({ mtu: hostEnd.mtu, address: hostEnd.mac, operstate: 'UP' });
  const hostRoutes = await hostNetns.json(['ip', '-j', 'route', 'show', address]);
  expect(hostRoutes).toEqual([expect.objectContaining({ dst: address, dev: hostEnd.name })]);
  const table = JSON.stringify(await hostNetns.json(['nft', '-j', 'list', 'table', 'inet', 'weft']));
  expect(table).toContain(`"${hostEnd.name}","${address}"`);

  await hostNetns.exec(['ping', '-c', '1', '-W', '2', address]);
  await pod.exec(['ping', '-c', '1', '-W', '2', '192.168.50.1']);
  expect(await host.cni('DEL', { netns: pod.path })).toMatchObject({ code: 0 });
});

test('a namespace that nothing was done in yet, as runtimes make it, gets its routes', async () => {
  // The kernel makes the main table with the first route or when a link comes up: here there is none.
  const id = `untouched-${process.pid}`;
  const netns = `/run/netns/${id}`;
  await run(['ip', 'netns', 'add', id]);
  try {
    const made = await host.cni('ADD', { netns });
    expect(made).toMatchObject({ code: 0, json: { routes: [{ dst: '0.0.0.0/0', gw: '169.254.1.1' }] } });
    await hostNetns.exec(['ping', '-c', '1', '-W', '2', addressOf(made)]);
    expect(await host.cni('CHECK', { netns, conf: { prevResult: made.json } })).toMatchObject({ code: 0 });
    expect(await host.cni('DEL', { netns })).toMatchObject({ code: 0 });
  } finally {
    await run(['ip', 'netns', 'delete', id]);
  }
});

test('DEL leaves the host and the pod as they were, however often and without the namespace', async () => {
  const before = await kernelDump(hostNetns);
  const pod = await TestNetns.create('pod');
  const podBefore = await kernelDump(pod);
  await added(pod);
  for (let time = 0; time < 3; time++)
    expect(await host.cni('DEL', { netns: pod.path })).toMatchObject({ code: 0, stdout: '' });
  await expect.poll(() => kernelDump(hostNetns), { timeout: 15_000 }).toEqual(before);
  await expect.poll(() => kernelDump(pod), { timeout: 15_000 }).toEqual(podBefore);

  await added(pod);
  await pod[Symbol.asyncDispose]();
  const env = { CNI_CONTAINERID: pod.name, CNI_NETNS: '' };
  expect(await host.cni('DEL', { netns: '', env })).toMatchObject({ code: 0, stdout: '' });
  await expect.poll(() => kernelDump(hostNetns), { timeout: 15_000 }).toEqual(before);
});

test('DEL and CHECK of another network with the same id and interface leave the attachment alone', async () => {
  await using pod = await TestNetns.create('pod');
  const run = await added(pod);
  const before = [await kernelDump(hostNetns), await kernelDump(pod)];
  const another = { netns: pod.path, conf: { name: 'another', prevResult: run.json } };
  expect(await host.cni('CHECK', another)).toMatchObject({ code: 1, json: { code: 103, details: 'lease' } });
  expect(await host.cni('DEL', another)).toMatchObject({ code: 0, stdout: '' });
  await host.stop('SIGTERM');
  expect(await host.cni('DEL', another)).toMatchObject({ code: 0, stdout: '' });
  await host.start();
  await expect.poll(() => readdir(host.spoolDir), { timeout: 10_000 }).toEqual([]);
  expect([await kernelDump(hostNetns), await kernelDump(pod)]).toEqual(before);
  await hostNetns.exec(['ping', '-c', '1', '-W', '2', addressOf(run)]);
  expect(await host.leasedAddresses()).toBe(1);
  expect(await host.cni('CHECK', { netns: pod.path, conf: { prevResult: run.json } })).toMatchObject({ code: 0 });
  expect(await host.cni('DEL', { netns: pod.path })).toMatchObject({ code: 0 });
  expect(await host.leasedAddresses()).toBe(0);
});

test('a second interface that cannot be had leaves the first alone', async () => {
  await using pod = await TestNetns.create('pod');
  const first = addressOf(await added(pod));
  await pod.exec(['ip', 'link', 'add', 'net1', 'type', 'veth', 'peer', 'name', 'other']);
  const before = [await kernelDump(hostNetns), await kernelDump(pod)];
  const second = await host.cni('ADD', { netns: pod.path, ifname: 'net1', conf: { name: 'second' } });
  expect(second).toMatchObject({ code: 1, json: { code: 101 } });
  expect(await host.cni('DEL', { netns: pod.path, ifname: 'net1' })).toMatchObject({ code: 0 });
  await expect
    .poll(async () => [await kernelDump(hostNetns), await kernelDump(pod)], { timeout: 15_000 })
    .toEqual(before);
  await hostNetns.exec(['ping', '-c', '1', '-W', '2', first]);
  expect(await host.cni('DEL', { netns: pod.path })).toMatchObject({ code: 0 });
});

describe('a second interface in one pod', () => {
  const rules = (pod: TestNetns): Promise<string> => pod.exec(['ip', 'rule']);
  const call = (verb: string, pod: TestNetns, conf: object = {}): Promise<ShimRun> =>
    host.cni(verb, { netns: pod.path, ifname: 'net1', conf: { name: 'second', ...conf } });
  const also = (pod: TestNetns): Promise<ShimRun> => call('ADD', pod);

  test('leaves the default route where it is, and both addresses are reached from host and pods', async () => {
    await using pod = await TestNetns.create('pod');
    await using other = await TestNetns.create('pod');
    // As hosts with systemd have it; a new namespace inherits it.
    for (const name of ['all', 'default'])
      await pod.exec(['sh', '-c', `echo 1 > /proc/sys/net/ipv4/conf/${name}/rp_filter`]);
    const first = await added(pod);
    await added(other);
    const rulesBefore = await rules(pod);
    const before = [await kernelDump(hostNetns), await kernelDump(pod)];
    const second = await also(pod);
    expect(second).toMatchObject({ code: 0 });
    const routes = await pod.json(['ip', '-j', 'route']);
    expect(routes.filter(({ dst }) => dst === 'default')).toEqual([expect.objectContaining({ dev: 'eth0' })]);
    const table = Number((second.json as { routes: readonly { table: number }[] }).routes[0]?.table);
    expect(second.json).toMatchObject({ routes: [{ dst: '0.0.0.0/0', gw: '169.254.1.1', table }] });
    expect(await pod.json(['ip', '-j', 'route', 'show', 'table', String(table)])).toEqual([
      expect.objectContaining({ dst: 'default', gateway: '169.254.1.1', dev: 'net1', prefsrc: addressOf(second) }),
    ]);
    for (const run of [first, second]) {
      await hostNetns.exec(['ping', '-c', '1', '-W', '2', addressOf(run)]);
      await other.exec(['ping', '-c', '1', '-W', '2', addressOf(run)]);
    }
    await pod.exec(['ping', '-c', '1', '-W', '2', '-I', 'net1', '192.168.50.1']);
    await pod.exec(['ping', '-c', '1', '-W', '2', '-I', addressOf(second), '192.168.50.1']);

    const checkFirst = (): Promise<ShimRun> => host.cni('CHECK', { netns: pod.path, conf: { prevResult: first.json } });
    const checkSecond = (): Promise<ShimRun> => call('CHECK', pod, { prevResult: second.json });
    expect(await checkFirst()).toMatchObject({ code: 0 });
    expect(await checkSecond()).toMatchObject({ code: 0 });
    await pod.exec(['ip', 'rule', 'del', 'oif', 'net1']);
    expect(await checkSecond()).toMatchObject({ code: 1, json: { details: 'pod rule oif net1' } });
    await pod.exec(['ip', 'route', 'flush', 'table', String(table)]);
    expect((await checkSecond()).stdout).toContain('pod default route');
    expect(await checkFirst()).toMatchObject({ code: 0 });

    expect(await call('DEL', pod)).toMatchObject({ code: 0 });
    expect(await rules(pod)).toBe(rulesBefore);
    await expect
      .poll(async () => [await kernelDump(hostNetns), await kernelDump(pod)], { timeout: 15_000 })
      .toEqual(before);
    expect(await checkFirst()).toMatchObject({ code: 0 });
    for (const ns of [pod, other]) expect(await host.cni('DEL', { netns: ns.path })).toMatchObject({ code: 0 });
  });

  test('outlives the first, and can be had again', async () => {
    await using pod = await TestNetns.create('pod');
    await added(pod);
    const second = await also(pod);
    expect(await host.cni('DEL', { netns: pod.path })).toMatchObject({ code: 0 });
    await expect.poll(() => pod.exec(['ip', '-o', 'link']), { timeout: 15_000 }).not.toContain('eth0');
    await hostNetns.exec(['ping', '-c', '1', '-W', '2', addressOf(second)]);
    expect(await call('CHECK', pod, { prevResult: second.json })).toMatchObject({ code: 0 });
    await added(pod);
    expect(await call('DEL', pod)).toMatchObject({ code: 0 });
    const again = await also(pod);
    await hostNetns.exec(['ping', '-c', '1', '-W', '2', addressOf(again)]);
    expect(await call('DEL', pod)).toMatchObject({ code: 0 });
    expect(await host.cni('DEL', { netns: pod.path })).toMatchObject({ code: 0 });
  });

  test('is the second too where another plugin made the first', async () => {
    await using pod = await TestNetns.create('pod');
    await pod.exec(['ip', 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'far']);
    await pod.exec(['sh', '-ec', 'ip link set far up; ip addr add 10.77.0.2/24 dev eth0; ip link set eth0 up']);
    await pod.exec(['ip', 'route', 'add', 'default', 'via', '10.77.0.1', 'metric', '100']);
    const second = await also(pod);
    expect(second).toMatchObject({ code: 0 });
    expect(await pod.exec(['ip', 'route', 'show', 'default'])).toMatch(/^default via 10\.77\.0\.1 dev eth0 metric 100/);
    await hostNetns.exec(['ping', '-c', '1', '-W', '2', addressOf(second)]);
    expect(await call('DEL', pod)).toMatchObject({ code: 0 });
  });
});

test('sixteen at once have sixteen addresses, and nothing stays after their DEL', async () => {
  const before = await kernelDump(hostNetns);
  const pods = await Promise.all(Array.from({ length: 16 }, () => TestNetns.create('pod')));
  const runs = await Promise.all(pods.map((pod) => added(pod)));
  expect(new Set(runs.map((run) => addressOf(run))).size).toBe(16);
  const deleted = await Promise.all(pods.map((pod) => host.cni('DEL', { netns: pod.path })));
  expect(deleted.map(({ code }) => code)).toEqual(pods.map(() => 0));
  await expect.poll(() => kernelDump(hostNetns), { timeout: 15_000 }).toEqual(before);
  await Promise.all(pods.map((pod) => pod[Symbol.asyncDispose]()));
});

test('an address that was freed serves another pod', async () => {
  await using first = await TestNetns.create('pod');
  await using second = await TestNetns.create('pod');
  const one = await added(first);
  await host.cni('DEL', { netns: first.path });
  const two = await added(second);
  await hostNetns.exec(['ping', '-c', '1', '-W', '2', addressOf(two)]);
  expect(resultOf(two).interfaces[0].name).not.toBe(resultOf(one).interfaces[0].name);
  await host.cni('DEL', { netns: second.path });
});

test('an address out of the ranges that the runtime offers, without those that are taken or rest', async () => {
  await using one = await TestNetns.create('pod');
  await using two = await TestNetns.create('pod');
  await using three = await TestNetns.create('pod');
  const subnet = '10.32.0.0/16';
  const ranged = (pod: TestNetns, ...sets: readonly (readonly object[])[]): Promise<ShimRun> =>
    host.cni('ADD', { netns: pod.path, conf: { runtimeConfig: { ipRanges: sets } } });
  // What the pool never gives out lies before them.
  const range = { subnet, rangeStart: '10.32.9.1', rangeEnd: '10.32.9.2', gateway: '10.32.0.1' };
  const [first, second] = [await ranged(one, [range]), await ranged(two, [range])];
  expect([addressOf(first), addressOf(second)]).toEqual(['10.32.9.1', '10.32.9.2']);
  await hostNetns.exec(['ping', '-c', '1', '-W', '2', '10.32.9.2']);
  const full = await ranged(three, [range]);
  expect(full).toMatchObject({ code: 1, json: { code: 11 } });
  expect(full.json?.['msg']).toMatch(/no address of 10\.32\.9\.1-10\.32\.9\.2 is free/);
  expect(await ranged(three, [{ subnet: '172.16.0.0/24' }])).toMatchObject({ code: 1, json: { code: 7 } });
  expect(await ranged(three, [range], [{ subnet }])).toMatchObject({ code: 1, json: { code: 7 } });
  expect(await host.cni('DEL', { netns: one.path })).toMatchObject({ code: 0 });
  expect(addressOf(await ranged(three, [{ subnet: '172.16.0.0/24' }, range]))).toBe('10.32.9.1');
  for (const pod of [two, three]) expect(await host.cni('DEL', { netns: pod.path })).toMatchObject({ code: 0 });
});

describe('CHECK', () => {
  test('directly after ADD is content, and so it is after what chained plugins change', async () => {
    await using pod = await TestNetns.create('pod');
    const conf = { prevResult: (await added(pod)).json };
    expect(await host.cni('CHECK', { netns: pod.path, conf })).toMatchObject({ code: 0, stdout: '' });
    await pod.exec(['ip', 'link', 'set', 'eth0', 'mtu', '1400']);
    await pod.exec(['ip', 'address', 'add', '10.9.9.9/24', 'dev', 'eth0']);
    await pod.exec(['ip', 'link', 'set', 'eth0', 'promisc', 'on']);
    expect(await host.cni('CHECK', { netns: pod.path, conf })).toMatchObject({ code: 0, stdout: '' });
    await host.cni('DEL', { netns: pod.path });
  });

  test.each<[string, (pod: TestNetns, run: ShimRun) => Promise<unknown>]>([
    ['its address', (pod, run) => pod.exec(['ip', 'address', 'del', `${addressOf(run)}/32`, 'dev', 'eth0'])],
    ['its default route', (pod) => pod.exec(['ip', 'route', 'del', 'default'])],
    ['its link being up', (pod) => pod.exec(['ip', 'link', 'set', 'eth0', 'down'])],
    ['its link', (pod) => pod.exec(['ip', 'link', 'del', 'eth0'])],
    ['the host’s link', (_pod, run) => hostNetns.exec(['ip', 'link', 'del', resultOf(run).interfaces[0].name])],
  ])('misses %s', async (_name, remove) => {
    await using pod = await TestNetns.create('pod');
    const run = await added(pod);
    await remove(pod, run);
    const checked = await host.cni('CHECK', { netns: pod.path, conf: { prevResult: run.json } });
    expect(checked).toMatchObject({ code: 1, json: { code: 103 } });
    expect(await host.cni('DEL', { netns: pod.path })).toMatchObject({ code: 0 });
  });
});

test('GC takes what the runtime has forgotten, and only that', async () => {
  await using kept = await TestNetns.create('pod');
  const run = await added(kept);
  const before = await kernelDump(hostNetns);
  await using forgotten = await TestNetns.create('pod');
  await added(forgotten);
  const conf = { 'cni.dev/valid-attachments': [{ containerID: kept.name, ifname: 'eth0' }] };
  expect(await host.cni('GC', { netns: '', conf: { ...conf, name: 'another' } })).toMatchObject({ code: 0 });
  await hostNetns.exec(['ping', '-c', '1', '-W', '2', addressOf(run)]);
  expect(await host.cni('GC', { netns: '', conf })).toMatchObject({ code: 0, stdout: '' });
  await expect.poll(() => kernelDump(hostNetns), { timeout: 15_000 }).toEqual(before);
  await hostNetns.exec(['ping', '-c', '1', '-W', '2', addressOf(run)]);
  await host.cni('DEL', { netns: kept.path });
});
