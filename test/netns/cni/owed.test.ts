// DEL where the IPAM plugin that gave the address cannot be told: the pod goes, the plugin is told when it is back, and until then the
// address is nobody's.

import { chmod, mkdir, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';

import type { AgentHost } from '#test/support/agent-host.ts';
import { createCniHost } from '#test/support/cni-host.ts';
import { referencePlugins } from '#test/support/conf-list.ts';
import { kernelDump } from '#test/support/kernel-dump.ts';
import { run, TestNetns } from '#test/support/netns.ts';
import type { ShimRun } from '#test/support/shim.ts';

let host: AgentHost;
let hostNetns: TestNetns;
let binDir = '';
let dataDir = '';

beforeAll(async () => {
  ({ host, hostNetns } = await createCniHost());
  binDir = join(host.directory, 'opt');
  dataDir = join(host.directory, 'networks');
  await mkdir(binDir);
});

afterAll(() => host[Symbol.asyncDispose]());

const soon = { timeout: 40_000, interval: 200 } as const;
const install = (): Promise<void> => symlink(join(referencePlugins, 'host-local'), join(binDir, 'host-local'));
const call = (verb: string, pod: TestNetns, env: Readonly<Record<string, string>> = {}): Promise<ShimRun> =>
  host.cni(verb, {
    netns: pod.path,
    env: { CNI_PATH: binDir, ...env },
    conf: { ipam: { type: 'host-local', ranges: [[{ subnet: '10.99.0.0/24' }]], dataDir } },
  });
const kept = async (): Promise<readonly string[]> =>
  (await readdir(join(dataDir, 'weft'))).filter((name) => /^\d/.test(name));
const findings = async (): Promise<readonly { name: string; message: string }[]> => {
  const { findings: all } = await host.status();
  return all.filter(({ name }) => name === 'pluginOwed');
};

test('its program is gone: DEL succeeds, all of ours goes, it is told when it is back', async () => {
  await using pod = await TestNetns.create('pod');
  await using other = await TestNetns.create('pod');
  const before = [await kernelDump(hostNetns), await kernelDump(pod)];
  await install();
  expect(await call('ADD', pod)).toMatchObject({ code: 0, json: { ips: [{ address: '10.99.0.2/32' }] } });
  await rm(join(binDir, 'host-local'));
  for (let time = 0; time < 2; time++) expect(await call('DEL', pod)).toMatchObject({ code: 0, stdout: '' });
  await expect.poll(async () => [await kernelDump(hostNetns), await kernelDump(pod)], soon).toEqual(before);
  expect(await host.leasedAddresses()).toBe(0);
  expect(await kept()).toEqual(['10.99.0.2']);
  expect((await host.log()).match(/could not be told DEL/g)).toHaveLength(1);
  expect(await findings()).toMatchObject([{ message: expect.stringMatching(/1 pods that are gone \(10\.99\.0\.2\)/) }]);

  await host.stop('SIGKILL');
  await host.start();
  expect(await findings()).toHaveLength(1);
  // The id again: the old DEL must not come after the new ADD.
  expect(await call('ADD', pod)).toMatchObject({ code: 1, json: { code: 110 } });
  // Beside it the plugin works on, and gives nobody the address.
  const elsewhere = { CNI_PATH: referencePlugins };
  expect(await call('ADD', other, elsewhere)).toMatchObject({ code: 0, json: { ips: [{ address: '10.99.0.3/32' }] } });
  await install();
  await expect.poll(kept, soon).toEqual(['10.99.0.3']);
  await expect.poll(findings, soon).toEqual([]);
  expect(await call('ADD', pod)).toMatchObject({ code: 0 });
  for (const [one, env] of [
    [pod, {}],
    [other, elsewhere],
  ] as const)
    expect(await call('DEL', one, env)).toMatchObject({ code: 0 });
  expect(await kept()).toEqual([]);
  await rm(join(binDir, 'host-local'));
});

test('it is told by the ADD that uses the id again; a further DEL says by which path it is reached now', async () => {
  await using pod = await TestNetns.create('pod');
  const owe = async (): Promise<void> => {
    await install();
    expect(await call('ADD', pod)).toMatchObject({ code: 0 });
    await rm(join(binDir, 'host-local'));
    expect(await call('DEL', pod)).toMatchObject({ code: 0 });
    expect(await kept()).toHaveLength(1);
  };
  await owe();
  await install();
  expect(await call('ADD', pod)).toMatchObject({ code: 0 });
  expect(await kept()).toHaveLength(1);
  expect(await findings()).toEqual([]);
  expect(await call('DEL', pod)).toMatchObject({ code: 0 });
  await rm(join(binDir, 'host-local'));
  await owe();
  expect(await call('DEL', pod, { CNI_PATH: referencePlugins })).toMatchObject({ code: 0 });
  await expect.poll(kept, soon).toEqual([]);
  await expect.poll(findings, soon).toEqual([]);
});

test('a DEL of another network with the same plugin, id and interface does not stand for the one that is owed', async () => {
  await using pod = await TestNetns.create('pod');
  await install();
  expect(await call('ADD', pod)).toMatchObject({ code: 0 });
  const another = { netns: pod.path, env: { CNI_PATH: referencePlugins } };
  const ipam = { type: 'host-local', ranges: [[{ subnet: '10.99.0.0/24' }]], dataDir };
  // Beside the attachment that plugin is told, for the other network; the pod stays.
  expect(await host.cni('DEL', { ...another, conf: { name: 'another', ipam } })).toMatchObject({ code: 0 });
  expect(await kept()).toHaveLength(1);
  expect(await host.leasedAddresses()).toBe(1);
  await rm(join(binDir, 'host-local'));
  expect(await call('DEL', pod)).toMatchObject({ code: 0 });
  expect(await host.cni('DEL', { ...another, conf: { name: 'another', ipam } })).toMatchObject({ code: 0 });
  expect(await findings()).toHaveLength(1);
  await install();
  await expect.poll(findings, soon).toEqual([]);
  expect(await kept()).toEqual([]);
  await rm(join(binDir, 'host-local'));
});

test('it hangs: a DEL takes less time than a shim gives it, a further one none, and the agent stops at once', async () => {
  await using pod = await TestNetns.create('pod');
  const path = join(binDir, 'host-local');
  const script = `#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0"]}' ;;
ADD) echo '{"cniVersion":"1.0.0","ips":[{"address":"10.99.0.77/24"}]}' ;;
DEL) exec sleep 600 ;;
esac
`;
  await writeFile(path, script);
  await chmod(path, 0o755);
  expect(await call('ADD', pod)).toMatchObject({ code: 0 });
  const del = await call('DEL', pod);
  expect(del).toMatchObject({ code: 0, stdout: '' });
  expect(del.durationMs).toBeGreaterThan(15_000);
  const again = await call('DEL', pod);
  expect(again).toMatchObject({ code: 0 });
  expect(again.durationMs).toBeLessThan(25_000);
  expect(await findings()).toMatchObject([{ message: expect.stringContaining('did not end within') }]);
  // While it is told once more.
  await expect.poll(() => run(['sh', '-c', 'pgrep -fx "sleep 600" || true']), soon).not.toBe('');
  await host.stop('SIGTERM');
  expect(host.ended).toBe('exit 0');
  await rm(path);
  await install();
  await host.start();
  await expect.poll(findings, soon).toEqual([]);
  await rm(path);
});

test('it fails, at ADD and at DEL: no pod waits for it, and its words are in the finding', async () => {
  await using pod = await TestNetns.create('pod');
  const script = `#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0"]}' ;;
*) echo '{"code":11,"msg":"the books are locked"}'; exit 1 ;;
esac
`;
  const path = join(binDir, 'host-local');
  await writeFile(path, script);
  await chmod(path, 0o755);
  expect(await call('ADD', pod)).toMatchObject({ code: 1, json: { code: 110 } });
  expect(await call('DEL', pod)).toMatchObject({ code: 0, stdout: '' });
  expect(await findings()).toMatchObject([{ message: expect.stringContaining('the books are locked') }]);
  await rm(path);
  await install();
  await expect.poll(findings, soon).toEqual([]);
  await rm(path);
});
