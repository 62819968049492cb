// IPAM plugins that misbehave, behind the real shim and agent: what each gives or leaves behind, and that it costs nobody else anything.

import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';

import type { AgentHost } from '#test/support/agent-host.ts';
import { createCniHost } from '#test/support/cni-host.ts';
import { kernelDump } from '#test/support/kernel-dump.ts';
import { TestNetns } from '#test/support/netns.ts';
import type { ShimRun } from '#test/support/shim.ts';

let host: AgentHost;
let hostNetns: TestNetns;
let binDir = '';

beforeAll(async () => {
  ({ host, hostNetns } = await createCniHost());
  binDir = join(host.directory, 'odd');
  await mkdir(binDir);
});

afterAll(() => host[Symbol.asyncDispose]());

/** A plugin that knows every verb, and says `lines` for ADD. */
async function plugin(name: string, lines: string): Promise<void> {
  const versions = '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}';
  const script = `#!/bin/sh\ncase $CNI_COMMAND in VERSION) echo '${versions}' ;; ADD) ${lines} ;; esac\n`;
  await writeFile(join(binDir, name), script);
  await chmod(join(binDir, name), 0o755);
}

const gives = (address: string): string => `echo '{"cniVersion":"1.0.0","ips":[{"address":"${address}"}]}'`;
const call = (verb: string, pod: TestNetns, type: string): Promise<ShimRun> =>
  host.cni(verb, { netns: pod.path, env: { CNI_PATH: binDir }, conf: { name: type, ipam: { type } } });

test('what leaves a process behind that holds its output is not waited for', async () => {
  await using pod = await TestNetns.create('pod');
  await plugin('parent', `${gives('10.99.1.2/24')}; sleep 60 &`);
  const added = await call('ADD', pod, 'parent');
  expect(added).toMatchObject({ code: 0, json: { ips: [{ address: '10.99.1.2/32' }] } });
  expect(added.durationMs).toBeLessThan(20_000);
  expect(await call('DEL', pod, 'parent')).toMatchObject({ code: 0 });
});

test.each([
  ['the node’s own', '192.168.50.1/24', /192\.168\.50\.1, which the node itself has/],
  ['the gateway of all pods', '169.254.1.1/32', /link-local/],
  ['of no host', '0.0.0.0/0', /no address of a host/],
  ['a loopback address', '127.0.0.1/8', /loopback/],
])('an address that is %s is refused, and nothing of it stays', async (_name, address, why) => {
  await using pod = await TestNetns.create('pod');
  const before = await kernelDump(hostNetns);
  await plugin('giver', gives(address));
  const refused = await call('ADD', pod, 'giver');
  expect(refused).toMatchObject({ code: 1, json: { code: 7, details: 'ipam' } });
  expect(refused.json?.['msg']).toMatch(why);
  expect(await kernelDump(hostNetns)).toEqual(before);
  expect(await call('DEL', pod, 'giver')).toMatchObject({ code: 0 });
});

test('two networks that give one address: the second pod is told whose it is, the first keeps it', async () => {
  await using first = await TestNetns.create('pod');
  await using second = await TestNetns.create('pod');
  await plugin('one', gives('10.98.0.5/24'));
  await plugin('two', gives('10.98.0.5/24'));
  expect(await call('ADD', first, 'one')).toMatchObject({ code: 0 });
  const refused = await call('ADD', second, 'two');
  expect(refused).toMatchObject({ code: 1, json: { code: 7 } });
  expect(refused.json?.['msg']).toContain(`container ${first.name} on this node has already`);
  await hostNetns.exec(['ping', '-c', '1', '-W', '2', '10.98.0.5']);
  for (const [pod, type] of [
    [first, 'one'],
    [second, 'two'],
  ] as const)
    expect(await call('DEL', pod, type)).toMatchObject({ code: 0 });
});
