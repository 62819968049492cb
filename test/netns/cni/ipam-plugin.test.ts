// Weft as the IPAM plugin of Debian's reference plugins: they make the link, the address is the pool's.

import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';

import type { AgentHost } from '#test/support/agent-host.ts';
import { awaitNoPodLinks, createBinDir, createCniHost } from '#test/support/cni-host.ts';
import { type Attachment, ConfList, type Plugin, PluginError } from '#test/support/conf-list.ts';
import { kernelDump } from '#test/support/kernel-dump.ts';
import { TestNetns } from '#test/support/netns.ts';

let host: AgentHost;
let hostNetns: TestNetns;
let binDir = '';

beforeAll(async () => {
  ({ host, hostNetns } = await createCniHost());
  binDir = await createBinDir(host);
});

afterAll(() => host[Symbol.asyncDispose]());

function list(plugin: Plugin, cniVersion = '1.0.0'): ConfList {
  return new ConfList({
    name: `net-${plugin.type}`,
    cniVersion,
    plugins: [plugin],
    hostNetns: hostNetns.path,
    binDir,
    env: { WEFT_SOCKET: host.socketPath, WEFT_SPOOL_DIR: host.spoolDir },
  });
}

const at = (pod: TestNetns, ifname = 'eth0'): Attachment => ({ containerId: pod.name, netns: pod.path, ifname });
const addressIn = (result: Readonly<Record<string, unknown>>): string =>
  (result as { ips: readonly { address: string }[] }).ips[0]?.address ?? '';
const plain = (result: Readonly<Record<string, unknown>>): string => addressIn(result).split('/')[0] ?? '';
const reaches = (from: TestNetns, to: string): Promise<string> => from.exec(['ping', '-c', '1', '-W', '2', to]);
const routes = [{ dst: '0.0.0.0/0' }];

beforeEach(() => awaitNoPodLinks(hostNetns));

test('under bridge: pods of the bridge, Weft’s own pods, and the host reach each other', async () => {
  await using own = await TestNetns.create('pod');
  const ownAddress = plain((await host.cni('ADD', { netns: own.path })).json ?? {});
  const bridged = list({ type: 'bridge', bridge: 'cni7', isDefaultGateway: true, ipam: { type: 'weft' } });
  const before = await kernelDump(hostNetns);
  await using one = await TestNetns.create('pod');
  await using two = await TestNetns.create('pod');
  const [first, second] = [await bridged.add(at(one)), await bridged.add(at(two))];
  expect(addressIn(first)).toMatch(/^10\.32\.\d+\.\d+\/12$/);
  expect(await host.leasedAddresses()).toBe(3);
  await reaches(one, plain(second));
  await reaches(hostNetns, plain(first));
  await reaches(one, ownAddress);
  await reaches(own, plain(second));
  await bridged.check(at(one));

  const during = await kernelDump(hostNetns);
  await host.stop('SIGKILL');
  await host.start();
  await expect.poll(() => kernelDump(hostNetns), { timeout: 10_000 }).toEqual(during);
  await bridged.check(at(two));
  await reaches(own, plain(first));
  expect((await host.log()).match(/podLinkMissing/g) ?? []).toEqual([]);

  for (const pod of [one, two]) await bridged.del(at(pod));
  await bridged.del(at(one));
  expect(await host.leasedAddresses()).toBe(1);
  await hostNetns.exec(['ip', 'link', 'del', 'cni7']);
  await expect.poll(() => kernelDump(hostNetns), { timeout: 10_000 }).toEqual(before);
  expect(await host.cni('DEL', { netns: own.path })).toMatchObject({ code: 0 });
});

test('under ptp, with routes of the configuration', async () => {
  await using own = await TestNetns.create('pod');
  const ownAddress = plain((await host.cni('ADD', { netns: own.path })).json ?? {});
  await using pod = await TestNetns.create('pod');
  const ptp = list({ type: 'ptp', ipam: { type: 'weft', routes } });
  const before = await kernelDump(hostNetns);
  const added = await ptp.add(at(pod));
  await reaches(hostNetns, plain(added));
  await reaches(pod, '192.168.50.1');
  await reaches(pod, ownAddress);
  await reaches(own, plain(added));
  await ptp.check(at(pod));
  await ptp.del(at(pod));
  await expect.poll(() => kernelDump(hostNetns), { timeout: 10_000 }).toEqual(before);
  expect(await host.cni('DEL', { netns: own.path })).toMatchObject({ code: 0 });
});

test('under macvlan as a second interface of a Weft pod, as multus calls it', async () => {
  await using one = await TestNetns.create('pod');
  await using two = await TestNetns.create('pod');
  for (const pod of [one, two]) expect(await host.cni('ADD', { netns: pod.path })).toMatchObject({ code: 0 });
  await hostNetns.exec([
    'sh',
    '-ec',
    'ip link add lan0 type veth peer name lan1; ip link set lan0 up; ip link set lan1 up',
  ]);
  const macvlan = list({ type: 'macvlan', master: 'lan0', mode: 'bridge', ipam: { type: 'weft' } });
  const before = await kernelDump(hostNetns);
  const added = [];
  for (const pod of [one, two]) added.push(plain(await macvlan.add(at(pod, 'net1'))));
  expect(await host.leasedAddresses()).toBe(4);
  await one.exec(['ping', '-c', '1', '-W', '2', '-I', 'net1', added[1] ?? '']);
  await macvlan.check(at(one, 'net1'));
  for (const pod of [one, two]) {
    await macvlan.del(at(pod, 'net1'));
    expect(await host.cni('DEL', { netns: pod.path })).toMatchObject({ code: 0 });
  }
  expect(await host.leasedAddresses()).toBe(0);
  await hostNetns.exec(['ip', 'link', 'del', 'lan0']);
  expect(before.links.join()).toContain('lan0');
});

test.each(['0.1.0', '0.2.0', '0.3.1', '0.4.0', '1.0.0'])(
  'its result in CNI %s is one that ptp takes',
  async (version) => {
    await using pod = await TestNetns.create('pod');
    const ptp = list({ type: 'ptp', ipam: { type: 'weft', routes } }, version);
    const result = await ptp.add(at(pod));
    expect(JSON.stringify(result)).toMatch(/"10\.32\.\d+\.\d+\/12"/);
    await ptp.del(at(pod));
  },
);

test('what is wrong is refused, and nothing stays leased', async () => {
  await using pod = await TestNetns.create('pod');
  for (const [ipam, code] of [
    [{ type: 'weft', subnet: '10.0.0.0/8' }, 2],
    [{ type: 'weft', routes: [{ dst: 'everywhere' }] }, 7],
  ] as const) {
    const failed = await list({ type: 'ptp', ipam })
      .add(at(pod))
      .catch((error: unknown) => error);
    expect(failed).toBeInstanceOf(PluginError);
    expect((failed as PluginError).json).toMatchObject({ code });
  }
  const ptp = list({ type: 'ptp', ipam: { type: 'weft' } });
  await ptp.add(at(pod));
  await expect(ptp.add(at(pod))).rejects.toThrow(/already has eth0/);
  await ptp.del(at(pod));
  expect(await host.leasedAddresses()).toBe(0);
});

test('GC of its network takes the address, GC of another leaves it', async () => {
  await using pod = await TestNetns.create('pod');
  const ptp = list({ type: 'ptp', ipam: { type: 'weft' } });
  await ptp.add(at(pod));
  const conf = (name: string): Record<string, unknown> => ({
    name,
    type: 'ptp',
    ipam: { type: 'weft' },
    'cni.dev/valid-attachments': [],
  });
  expect(await host.cni('GC', { netns: '', conf: conf('another') })).toMatchObject({ code: 0 });
  expect(await host.leasedAddresses()).toBe(1);
  expect(await host.cni('GC', { netns: '', conf: conf('net-ptp') })).toMatchObject({ code: 0 });
  expect(await host.leasedAddresses()).toBe(0);
  await ptp.del(at(pod));
});
