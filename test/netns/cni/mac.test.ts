// MACs asked for by name where pods are ports of a bridge: one that is somebody's already would take that one's frames.

import { afterAll, beforeAll, expect, test } from 'vitest';

import type { AgentHost } from '#test/support/agent-host.ts';
import { awaitNoPodLinks, createCniHost } from '#test/support/cni-host.ts';
import { kernelDump } from '#test/support/kernel-dump.ts';
import { TestNetns } from '#test/support/netns.ts';
import type { ShimRun } from '#test/support/shim.ts';

let host: AgentHost;
let hostNetns: TestNetns;

beforeAll(async () => {
  ({ host, hostNetns } = await createCniHost({ podLink: 'bridge' }));
});

afterAll(() => host[Symbol.asyncDispose]());

const add = (pod: TestNetns, mac?: string): Promise<ShimRun> =>
  host.cni('ADD', { netns: pod.path, conf: mac === undefined ? {} : { runtimeConfig: { mac } } });
const addressOf = (run: ShimRun): string =>
  (run.json as { ips?: readonly { address: string }[] }).ips?.[0]?.address.split('/')[0] ?? '';
const macOf = (run: ShimRun, at: 0 | 1): string =>
  (run.json as { interfaces: readonly { mac: string }[] }).interfaces[at]?.mac ?? '';
const reaches = (from: TestNetns, to: string): Promise<string> => from.exec(['ping', '-c', '1', '-W', '2', to]);

test('of another pod or of the bridge: refused, and everybody is reached as before', async () => {
  await using named = await TestNetns.create('pod');
  await using usual = await TestNetns.create('pod');
  await using thief = await TestNetns.create('pod');
  const mac = '02:00:00:00:00:07';
  const [first, second] = [await add(named, mac), await add(usual)];
  const before = await kernelDump(hostNetns);
  for (const taken of [mac, macOf(second, 1), macOf(first, 0)]) {
    const refused = await add(thief, taken);
    expect(refused).toMatchObject({ code: 1, json: { code: 7, details: 'mac' } });
    expect(refused.json?.['msg']).toContain(`the MAC ${taken} is in use on this node's bridge`);
    await expect.poll(() => kernelDump(hostNetns), { timeout: 15_000 }).toEqual(before);
    await reaches(hostNetns, addressOf(first));
    await reaches(usual, addressOf(first));
    await reaches(usual, '192.168.50.1');
  }
  // Free with its pod: a pod that is made anew has its MAC at once.
  expect(await host.cni('DEL', { netns: named.path })).toMatchObject({ code: 0 });
  const again = await add(thief, mac);
  expect(again).toMatchObject({ code: 0, json: { interfaces: [{}, { mac }] } });
  await reaches(usual, addressOf(again));
  for (const pod of [usual, thief]) expect(await host.cni('DEL', { netns: pod.path })).toMatchObject({ code: 0 });
  await awaitNoPodLinks(hostNetns);
});
