// Addresses of another plugin (`ipam.type`) on Weft's links: Debian's host-local and static through the real shim and agent.

import { mkdir, readdir, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';

import type { AgentHost } from '#test/support/agent-host.ts';
import { awaitNoPodLinks, createCniHost, createOutside } from '#test/support/cni-host.ts';
import { referencePlugins } from '#test/support/conf-list.ts';
import { type KernelDump, kernelDump } from '#test/support/kernel-dump.ts';
import { run, TestNetns } from '#test/support/netns.ts';
import type { ShimRun } from '#test/support/shim.ts';

let host: AgentHost;
let hostNetns: TestNetns;
let outside: TestNetns;
let dataDir = '';

beforeAll(async () => {
  ({ host, hostNetns } = await createCniHost());
  dataDir = join(host.directory, 'networks');
  outside = await createOutside(hostNetns);
});

afterAll(async () => {
  await host[Symbol.asyncDispose]();
  await outside[Symbol.asyncDispose]();
});

beforeEach(() => awaitNoPodLinks(hostNetns));

const env = { CNI_PATH: `/nowhere:${referencePlugins}` };
const hostLocal = (subnet = '10.99.0.0/24'): Record<string, unknown> => ({
  ipam: { type: 'host-local', ranges: [[{ subnet }]], dataDir },
});
const call = (verb: string, pod: TestNetns, conf: Record<string, unknown>): Promise<ShimRun> =>
  host.cni(verb, { netns: pod.path, env, conf });
const addressOf = (run: ShimRun): string =>
  (run.json as { ips?: readonly { address: string }[] }).ips?.[0]?.address.split('/')[0] ?? '';
const kept = async (): Promise<readonly string[]> =>
  (await readdir(join(dataDir, 'weft'))).filter((name) => /^\d/.test(name));
const dump = (): Promise<KernelDump> => kernelDump(hostNetns);

test('host-local: reached, masqueraded off the node, checked, kept over a restart, given back', async () => {
  await using pod = await TestNetns.create('pod');
  await using own = await TestNetns.create('pod');
  const ownAdded = await host.cni('ADD', { netns: own.path });
  const before = await dump();
  const added = await call('ADD', pod, hostLocal());
  expect(added).toMatchObject({
    code: 0,
    json: { ips: [{ address: '10.99.0.2/32', gateway: '169.254.1.1' }], routes: [{ dst: '0.0.0.0/0' }] },
  });
  expect(await kept()).toEqual(['10.99.0.2']);
  expect(await host.log()).toContain('addresses of another plugin');
  await hostNetns.exec(['ping', '-c', '1', '-W', '2', '10.99.0.2']);
  await own.exec(['ping', '-c', '1', '-W', '2', '10.99.0.2']);
  await pod.exec(['ping', '-c', '1', '-W', '2', addressOf(ownAdded)]);
  await pod.exec(['ping', '-c', '1', '-W', '2', '203.0.113.2']);
  const conf = { ...hostLocal(), prevResult: added.json };
  expect(await call('CHECK', pod, conf)).toMatchObject({ code: 0, stdout: '' });
  expect(await call('ADD', pod, hostLocal())).toMatchObject({ code: 1, json: { code: 100 } });
  expect(await kept()).toEqual(['10.99.0.2']);

  const during = await dump();
  await host.stop('SIGKILL');
  await host.start();
  expect(await dump()).toEqual(during);
  await pod.exec(['ping', '-c', '1', '-W', '2', '203.0.113.2']);
  expect(await call('CHECK', pod, conf)).toMatchObject({ code: 0, stdout: '' });

  await run(['rm', join(dataDir, 'weft/10.99.0.2')]);
  expect(await call('CHECK', pod, conf)).toMatchObject({ code: 1, json: { code: 110 } });
  for (let time = 0; time < 2; time++) expect(await call('DEL', pod, conf)).toMatchObject({ code: 0, stdout: '' });
  await expect.poll(dump, { timeout: 15_000 }).toEqual(before);
  expect(await host.cni('DEL', { netns: own.path })).toMatchObject({ code: 0 });
});

test('where pods are ports of a bridge, such a pod is routed, and all reach each other', async () => {
  const other = await createCniHost({ podLink: 'bridge' });
  await using bridgeHost = other.host;
  await using pod = await TestNetns.create('pod');
  await using own = await TestNetns.create('pod');
  const reaches = (from: TestNetns, to: string): Promise<string> => from.exec(['ping', '-c', '1', '-W', '2', to]);
  const ownAdded = await bridgeHost.cni('ADD', { netns: own.path });
  const before = await kernelDump(other.hostNetns);
  const conf = { ...hostLocal('10.94.0.0/24'), name: 'bridged' };
  const added = await bridgeHost.cni('ADD', { netns: pod.path, env, conf });
  expect(added).toMatchObject({ code: 0, json: { ips: [{ address: '10.94.0.2/32', gateway: '169.254.1.1' }] } });
  const all = async (): Promise<void> => {
    await reaches(other.hostNetns, '10.94.0.2');
    await reaches(own, '10.94.0.2');
    await reaches(pod, addressOf(ownAdded));
    expect(
      await bridgeHost.cni('CHECK', { netns: pod.path, env, conf: { ...conf, prevResult: added.json } }),
    ).toMatchObject({ code: 0 });
  };
  await all();
  const during = await kernelDump(other.hostNetns);
  await bridgeHost.stop('SIGKILL');
  await bridgeHost.start();
  expect(await kernelDump(other.hostNetns)).toEqual(during);
  await all();
  expect(await bridgeHost.cni('DEL', { netns: pod.path, env, conf })).toMatchObject({ code: 0 });
  await expect.poll(() => kernelDump(other.hostNetns), { timeout: 15_000 }).toEqual(before);
  expect(await bridgeHost.cni('DEL', { netns: own.path })).toMatchObject({ code: 0 });
});

test('static, with both keys of dns, in the oldest version that has lists', async () => {
  await using pod = await TestNetns.create('pod');
  const conf = {
    cniVersion: '0.3.1',
    ipam: { type: 'static', addresses: [{ address: '10.98.7.6/24', gateway: '10.98.7.1' }], dns: { domain: 'x.test' } },
  };
  const added = await call('ADD', pod, conf);
  expect(added).toMatchObject({ code: 0, json: { ips: [{ version: '4', address: '10.98.7.6/32' }] } });
  expect(added.json?.['dns']).toMatchObject({ domain: 'x.test' });
  await hostNetns.exec(['ping', '-c', '1', '-W', '2', '10.98.7.6']);
  // The configuration has changed since: what gave the address is asked.
  expect(await host.cni('DEL', { netns: pod.path })).toMatchObject({ code: 0, stdout: '' });
  await expect(hostNetns.exec(['ping', '-c', '1', '-W', '1', '10.98.7.6'])).rejects.toThrow('ping');
});

test('a failure leaves neither address nor link', async () => {
  await using one = await TestNetns.create('pod');
  await using two = await TestNetns.create('pod');
  // Two addresses: the first is the gateway's.
  const tiny = hostLocal('10.97.0.0/30');
  expect(await call('ADD', one, tiny)).toMatchObject({ code: 0 });
  const before = await dump();
  const keptBefore = await kept();
  const full = await call('ADD', two, tiny);
  expect(full).toMatchObject({ code: 1, json: { code: 110 } });
  expect(full.json?.['msg']).toMatch(/host-local failed \(ADD\): .*no IP addresses available/);
  const inRange = await call('ADD', two, hostLocal('10.32.5.0/24'));
  expect(inRange).toMatchObject({ code: 1, json: { code: 7 } });
  expect(inRange.json?.['msg']).toMatch(/10\.32\.5\.2, which lies in 10\.32\.0\.0\/12/);
  const sets = {
    ipam: { type: 'host-local', dataDir, ranges: [[{ subnet: '10.96.0.0/24' }], [{ subnet: '10.95.0.0/24' }]] },
  };
  expect(await call('ADD', two, sets)).toMatchObject({ code: 1, json: { code: 7 } });
  await two.exec(['ip', 'link', 'add', 'eth0', 'type', 'bridge']);
  expect(await call('ADD', two, hostLocal())).toMatchObject({ code: 1, json: { code: 101 } });
  await expect.poll(dump, { timeout: 15_000 }).toEqual(before);
  expect(await kept()).toEqual(keptBefore);
  expect(await call('DEL', one, tiny)).toMatchObject({ code: 0 });
});

test('a DEL kept while no agent ran is forwarded, and one for a pod that no ADD finished', async () => {
  await using pod = await TestNetns.create('pod');
  const before = await dump();
  expect(await call('ADD', pod, hostLocal())).toMatchObject({ code: 0 });
  const [address] = await kept();
  await host.stop('SIGKILL');
  expect(await call('DEL', pod, hostLocal())).toMatchObject({ code: 0, stdout: '' });
  expect(await kept()).toEqual([address]);
  await host.start();
  await expect.poll(kept, { timeout: 10_000 }).toEqual([]);
  await expect.poll(dump, { timeout: 15_000 }).toEqual(before);

  // As after a crash between the plugin's ADD and the lease.
  const conf = JSON.stringify({ cniVersion: '1.0.0', name: 'weft', type: 'weft', ...hostLocal() });
  const variables = [
    `CNI_CONTAINERID=${pod.name}`,
    `CNI_NETNS=${pod.path}`,
    'CNI_IFNAME=eth0',
    `CNI_PATH=${referencePlugins}`,
  ];
  const script = `env ${variables.join(' ')} CNI_COMMAND=ADD ${referencePlugins}/host-local <<'end'\n${conf}\nend`;
  await run(['sh', '-ec', script]);
  expect(await kept()).toHaveLength(1);
  expect(await call('DEL', pod, hostLocal())).toMatchObject({ code: 0, stdout: '' });
  expect(await kept()).toEqual([]);
});

test('STATUS and GC reach a plugin that has them, in its own version', async () => {
  const binDir = join(host.directory, 'plugins');
  await mkdir(binDir, { recursive: true });
  const log = join(host.directory, 'asked');
  const script = `#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.1.0"]}' ;;
STATUS) echo '{"cniVersion":"1.1.0","code":50,"msg":"no server"}'; exit 1 ;;
*) echo "$CNI_COMMAND $(cat)" >>${log} ;;
esac
`;
  await run(['sh', '-ec', 'cat >"$0" <<\'end\'\n' + script + '\nend\nchmod 755 "$0"', join(binDir, 'far')]);
  await symlink('far', join(binDir, 'again'));
  const asked = (verb: string, conf: Record<string, unknown>): Promise<ShimRun> =>
    host.cni(verb, { netns: '', env: { CNI_PATH: binDir }, conf });
  const status = await asked('STATUS', { ipam: { type: 'far' } });
  expect(status).toMatchObject({ code: 1, json: { code: 110 } });
  expect(status.json?.['msg']).toContain('no server (code 50)');
  expect(await asked('GC', { ipam: { type: 'again' }, 'cni.dev/valid-attachments': [] })).toMatchObject({ code: 0 });
  expect(await run(['cat', log])).toMatch(/^GC \{.*"cni\.dev\/valid-attachments":\[\]/);
  // Debian's host-local has neither.
  expect(await host.cni('STATUS', { netns: '', env, conf: hostLocal() })).toMatchObject({ code: 0, stdout: '' });
});
