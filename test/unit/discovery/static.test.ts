// The static list: one identity, kept as long as the state directory is.

import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { startStaticDiscovery } from '#agent/discovery/static.ts';

const nodes = [
  { name: 'host1', addresses: ['192.0.2.1', '2001:db8::1'] },
  { name: 'host2', addresses: ['192.0.2.2'] },
];
const log = { info: () => undefined } as never;
let stateDir: string;

beforeEach(async () => {
  stateDir = join(await mkdtemp(join(tmpdir(), 'weft-discovery-')), 'state');
});
afterEach(() => rm(join(stateDir, '..'), { recursive: true, force: true }));

it('knows the nodes of the list, and itself by a uid that stays', async () => {
  const first = await startStaticDiscovery({ nodeName: 'host1', nodes, stateDir, log });
  expect(first.self).toMatchObject({ nodeName: 'host1', underlayAddresses: ['192.0.2.1', '2001:db8::1'] });
  expect(first.self.nodeUid).toMatch(/^[0-9a-f-]{36}$/);
  expect(first.nodes().map(({ nodeName, nodeUid }) => [nodeName, nodeUid])).toEqual([
    ['host1', first.self.nodeUid],
    ['host2', ''],
  ]);
  const second = await startStaticDiscovery({ nodeName: 'host1', nodes, stateDir, log });
  expect(second.self.nodeUid).toBe(first.self.nodeUid);
  const path = join(stateDir, 'node-uid');
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  expect((await readFile(path, 'utf8')).trim()).toBe(first.self.nodeUid);
});

it('refuses a list without itself, and a damaged uid instead of making a new one', async () => {
  await expect(startStaticDiscovery({ nodeName: 'host3', nodes, stateDir, log })).rejects.toMatchObject({
    kind: 'invalidSetting',
    message: expect.stringContaining('host3'),
  });
  await startStaticDiscovery({ nodeName: 'host1', nodes, stateDir, log });
  await writeFile(join(stateDir, 'node-uid'), '');
  await expect(startStaticDiscovery({ nodeName: 'host1', nodes, stateDir, log })).rejects.toMatchObject({
    kind: 'store',
  });
});

it('says which path cannot be written', async () => {
  await writeFile(stateDir, 'a file where the directory should be');
  await expect(startStaticDiscovery({ nodeName: 'host1', nodes, stateDir, log })).rejects.toMatchObject({
    kind: 'store',
    message: expect.stringContaining('node-uid'),
  });
});
