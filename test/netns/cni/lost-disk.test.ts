// The state directory is lost while pods run that are not wholly Weft's: links of Debian's reference plugins with addresses of the pool, and
// Weft's links with addresses of host-local. No address is given out twice, no route of a running pod goes, and what pods held comes back
// once they are gone.

import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';

import type { AgentHost } from '#test/support/agent-host.ts';
import { createBinDir, createCniHost } from '#test/support/cni-host.ts';
import { type Attachment, ConfList, type Plugin, referencePlugins } from '#test/support/conf-list.ts';
import { kernelDump } from '#test/support/kernel-dump.ts';
import { TestNetns } from '#test/support/netns.ts';

let host: AgentHost;
let hostNetns: TestNetns;
let binDir = '';

beforeAll(async () => {
  ({ host, hostNetns } = await createCniHost({ sessionTermMs: 1000, restTimeMs: 500, collectMs: 1000 }));
  binDir = await createBinDir(host);
  await hostNetns.exec([
    'sh',
    '-ec',
    'ip link add lan0 type veth peer name lan1; ip link set lan0 up; ip link set lan1 up',
  ]);
});

afterAll(() => host[Symbol.asyncDispose]());

function list(plugin: Plugin): ConfList {
  const env = { WEFT_SOCKET: host.socketPath, WEFT_SPOOL_DIR: host.spoolDir };
  return new ConfList({
    name: `net-${plugin.type}`,
    cniVersion: '1.0.0',
    plugins: [plugin],
    hostNetns: hostNetns.path,
    binDir,
    env,
  });
}

const at = (pod: TestNetns, ifname = 'eth0'): Attachment => ({ containerId: pod.name, netns: pod.path, ifname });
const addressOf = (result: unknown): string =>
  (result as { ips?: readonly { address: string }[] }).ips?.[0]?.address.split('/')[0] ?? '';
const reaches = (from: TestNetns, to: string): Promise<string> => from.exec(['ping', '-c', '1', '-W', '2', to]);

test('what pods have on others’ links is found in their namespaces', { timeout: 120_000 }, async () => {
  await using own = await TestNetns.create('pod');
  await using first = await TestNetns.create('pod');
  await using second = await TestNetns.create('pod');
  await using local = await TestNetns.create('pod');
  await using later = await TestNetns.create('pod');
  const bridged = await TestNetns.create('pod');
  const dataDir = join(host.directory, 'networks');
  await mkdir(dataDir);
  const env = { CNI_PATH: `/nowhere:${referencePlugins}` };
  const conf = { ipam: { type: 'host-local', ranges: [[{ subnet: '10.99.0.0/24' }]], dataDir } };

  const ownAddress = addressOf((await host.cni('ADD', { netns: own.path })).json);
  const bridge = list({ type: 'bridge', bridge: 'cni7', isDefaultGateway: true, ipam: { type: 'weft' } });
  const onBridge = addressOf(await bridge.add(at(bridged)));
  const ptp = list({ type: 'ptp', ipam: { type: 'weft', routes: [{ dst: '0.0.0.0/0' }] } });
  const onPtp = addressOf(await ptp.add(at(first)));
  const macvlan = list({ type: 'macvlan', master: 'lan0', mode: 'bridge', ipam: { type: 'weft' } });
  const onLan = addressOf(await macvlan.add(at(second, 'net1')));
  const localAddress = addressOf((await host.cni('ADD', { netns: local.path, env, conf })).json);
  expect(localAddress).toBe('10.99.0.2');
  const held = [ownAddress, onBridge, onPtp, onLan];
  expect(await host.leasedAddresses()).toBe(5);
  const before = await kernelDump(hostNetns);

  await host.stop('SIGKILL');
  const state = join(host.directory, 'state');
  for (const name of await readdir(state)) if (/^(state|delegated)\.db/.test(name)) await rm(join(state, name));
  await host.start();
  await expect.poll(() => host.leasedAddresses(), { timeout: 20_000 }).toBe(5);
  await expect.poll(() => kernelDump(hostNetns), { timeout: 20_000 }).toEqual(before);
  for (const address of [onBridge, onPtp, localAddress]) await reaches(own, address);
  await reaches(bridged, ownAddress);
  const added = await host.cni('ADD', { netns: later.path });
  expect(added.code).toBe(0);
  expect(held).not.toContain(addressOf(added.json));
  expect(
    (await host.cni('ADD', { netns: later.path, ifname: 'eth1', conf: { args: { cni: { ips: [onLan] } } } })).code,
  ).not.toBe(0);

  expect(await host.cni('DEL', { netns: local.path, env, conf })).toMatchObject({ code: 0 });
  expect((await readdir(join(dataDir, 'weft'))).filter((name) => /^\d/.test(name))).toEqual([]);
  await bridge.del(at(bridged));
  expect(await host.leasedAddresses()).toBe(5);
  await bridged[Symbol.asyncDispose]();
  await expect.poll(() => host.leasedAddresses(), { timeout: 20_000 }).toBe(4);
  expect(await hostNetns.exec(['ip', 'route', 'show', 'proto', '88'])).toBe('');
  await expect.poll(() => host.log()).toMatch(/taken back: the pod is gone/);
  for (const pod of [own, later]) expect((await host.cni('DEL', { netns: pod.path })).code).toBe(0);
});
