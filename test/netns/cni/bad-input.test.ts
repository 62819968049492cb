// Bad input through the real shim and a real agent: the CNI error with its code, the kernel and the leases as they were, and the agent
// still serving.

import { afterAll, beforeAll, expect, test } from 'vitest';

import type { AgentHost, CniCallOptions } from '#test/support/agent-host.ts';
import { createCniHost } from '#test/support/cni-host.ts';
import { type KernelDump, kernelDump } from '#test/support/kernel-dump.ts';
import { TestNetns } from '#test/support/netns.ts';

let host: AgentHost;
let hostNetns: TestNetns;
let pod: TestNetns;
let before: readonly KernelDump[];

const dumps = (): Promise<readonly KernelDump[]> => Promise.all([kernelDump(hostNetns), kernelDump(pod)]);

beforeAll(async () => {
  ({ host, hostNetns } = await createCniHost());
  pod = await TestNetns.create('pod');
  before = await dumps();
});

afterAll(async () => {
  await pod[Symbol.asyncDispose]();
  await host[Symbol.asyncDispose]();
});

const usual = { cniVersion: '1.1.0', name: 'weft', type: 'weft' };

test.each<[string, string, number, Partial<CniCallOptions>]>([
  ['a namespace that is not there', 'ADD', 8, { netns: '/run/netns/none' }],
  ['a relative path', 'ADD', 8, { netns: 'run/netns/none' }],
  ['a regular file', 'ADD', 8, { netns: '/etc/passwd' }],
  ['a directory', 'ADD', 8, { netns: '/run/netns' }],
  ['a device', 'ADD', 8, { netns: '/dev/null' }],
  ['a namespace of another kind', 'ADD', 8, { netns: '/proc/self/ns/mnt' }],
  ['a path of 5000 bytes', 'ADD', 8, { netns: `/${'x/'.repeat(2500)}x` }],
  ['no variables', 'ADD', 4, { env: { CNI_CONTAINERID: '', CNI_NETNS: '', CNI_IFNAME: '' } }],
  ['an unknown verb', 'REMOVE', 4, {}],
  ['a container id with a path', 'ADD', 4, { env: { CNI_CONTAINERID: '../../etc' } }],
  ['a container id of 300 letters', 'ADD', 4, { env: { CNI_CONTAINERID: 'x'.repeat(300) } }],
  ['an interface name of 16 letters', 'ADD', 4, { ifname: 'x'.repeat(16) }],
  ['an interface name that is a pattern', 'ADD', 4, { ifname: 'eth%d' }],
  ['an interface name with a colon', 'ADD', 4, { ifname: 'a:b' }],
  ['an interface name that is a folder', 'ADD', 4, { ifname: '..' }],
  ['an interface name with a slash', 'ADD', 4, { ifname: 'a/b' }],
  ['an interface name with a space', 'ADD', 4, { ifname: 'a b' }],
  ['an interface name that the pod has', 'ADD', 101, { ifname: 'lo' }],
  ['an interface name that the kernel keeps', 'ADD', 4, { ifname: 'all' }],
  ['malformed CNI_ARGS', 'ADD', 4, { env: { CNI_ARGS: '=;x' } }],
  ['nothing on stdin', 'ADD', 6, { conf: '' }],
  ['half a JSON', 'ADD', 6, { conf: '{"cniVersion":"1.1.0","na' }],
  ['a JSON list', 'ADD', 6, { conf: '[1]' }],
  ['bytes that are no text', 'ADD', 6, { conf: '\u0000\u0001' }],
  ['2 MiB of JSON', 'ADD', 6, { conf: JSON.stringify({ ...usual, x: 'y'.repeat(2 << 20) }) }],
  [
    'a deep JSON',
    'ADD',
    2,
    { conf: JSON.stringify(usual).replace('}', `,"x":${'['.repeat(5000)}${']'.repeat(5000)}}`) },
  ],
  ['cniVersion 9.9.9', 'ADD', 1, { conf: { cniVersion: '9.9.9' } }],
  ['cniVersion as a number', 'ADD', 1, { conf: { cniVersion: 1 } }],
  ['a network name with a path', 'ADD', 7, { conf: { name: '../x' } }],
  ['a key that weft does not know', 'ADD', 2, { conf: { bridge: 'cni0' } }],
  ['addresses of a plugin that is not there', 'ADD', 110, { conf: { ipam: { type: 'no-such-plugin' } } }],
  ['addresses of dhcp', 'ADD', 7, { conf: { ipam: { type: 'dhcp' } } }],
  ['a prevResult before there were lists', 'ADD', 7, { conf: { cniVersion: '0.2.0', prevResult: { ips: [] } } }],
  ['a prevResult that is none', 'ADD', 7, { conf: { prevResult: { cniVersion: '1.1.0', ips: 'all' } } }],
  ['CHECK at 0.3.1', 'CHECK', 1, { conf: { cniVersion: '0.3.1' } }],
  ['CHECK without prevResult', 'CHECK', 7, {}],
  ['CHECK of a pod without attachment', 'CHECK', 103, { conf: { prevResult: { cniVersion: '1.1.0' } } }],
  ['STATUS at 1.0.0', 'STATUS', 1, { conf: { cniVersion: '1.0.0' } }],
  ['GC at 1.0.0', 'GC', 1, { conf: { cniVersion: '1.0.0', 'cni.dev/attachments': [] } }],
  ['GC without a list', 'GC', 7, {}],
  ['DEL with half a JSON', 'DEL', 6, { conf: '{' }],
])('%s', async (_name, verb, code, options) => {
  const answer = await host.cni(verb, { netns: pod.path, ...options });
  expect(answer).toMatchObject({ code: 1, json: { code } });
  expect(String(answer.json?.['msg']).length).toBeGreaterThan(20);
  expect(answer.json?.['cniVersion']).toMatch(/^\d\.\d\.\d$/);
  await expect.poll(dumps, { timeout: 15_000 }).toEqual(before);
  expect(await host.cni('STATUS', { netns: '' })).toMatchObject({ code: 0, stdout: '' });
});

test('none of it is leased', async () => {
  expect(await host.leasedAddresses()).toBe(0);
});

test('the host’s own namespace is refused by the agent, the shim’s own by the shim', async () => {
  expect(await host.cni('ADD', { netns: hostNetns.path })).toMatchObject({ code: 1, json: { code: 8 } });
  const prefix = ['nsenter', `--net=${pod.path}`, '--'];
  for (const verb of ['ADD', 'CHECK', 'DEL']) {
    const answer = await host.cni(verb, { netns: pod.path, prefix });
    expect(answer).toMatchObject({ code: 1, json: { code: 8 } });
  }
  expect(await dumps()).toEqual(before);
});

test('an interface that is there already is left as it is', async () => {
  await pod.exec(['ip', 'link', 'add', 'eth0', 'type', 'bridge']);
  const there = await dumps();
  expect(await host.cni('ADD', { netns: pod.path })).toMatchObject({ code: 1, json: { code: 101 } });
  await expect.poll(dumps, { timeout: 15_000 }).toEqual(there);
  await pod.exec(['ip', 'link', 'del', 'eth0']);
  expect(await host.leasedAddresses()).toBe(0);
});

test('ADD twice fails and leaves the first intact', async () => {
  const first = await host.cni('ADD', { netns: pod.path });
  expect(first).toMatchObject({ code: 0 });
  const between = await dumps();
  expect(await host.cni('ADD', { netns: pod.path })).toMatchObject({ code: 1, json: { code: 100 } });
  expect(await dumps()).toEqual(between);
  await pod.exec(['ping', '-c', '1', '-W', '2', '192.168.50.1']);
  expect(await host.cni('CHECK', { netns: pod.path, conf: { prevResult: first.json } })).toMatchObject({ code: 0 });
  await host.cni('DEL', { netns: pod.path });
  await expect.poll(dumps, { timeout: 15_000 }).toEqual(before);
});
