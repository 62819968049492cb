// The spool's rules without a server: to which attachment a kept DEL applies, what a damaged or foreign file does, what failures do.

import { mkdir, mkdtemp, readdir, rm, symlink, truncate, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { AttachmentQueue } from '#agent/cni/attachments.ts';
import { Spool } from '#agent/cni/spool.ts';
import type { Lease } from '#agent/runtime/ipam.ts';
import { fails } from '#test/support/cni-case.ts';
import { FakeDatapath, FakeIpam, FakeOwedDels } from '#test/support/cni-fakes.ts';

const bootId = '11111111-2222-3333-4444-555555555555';

let directory = '';
let ipam: FakeIpam;
let datapath: FakeDatapath;
let errors: string[];
let spool: Spool;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'weft-spool-'));
  ipam = new FakeIpam();
  datapath = new FakeDatapath();
  errors = [];
  const log = pino({ level: 'error' }, { write: (line: string) => errors.push(line) });
  const inspectNetns = (): never => {
    throw new Error('a kept DEL needs no namespace');
  };
  spool = new Spool(
    directory,
    { ipam, owed: new FakeOwedDels(), datapath, inspectNetns, openNetns: inspectNetns, log },
    new AttachmentQueue(),
    bootId,
  );
});

afterEach(async () => {
  await spool.stop();
  await rm(directory, { recursive: true, force: true });
});

async function lease(containerId = 'pod1', netnsInode = 100n): Promise<Lease> {
  const owner = { network: 'weft', netnsPath: '/ns/x', netnsInode };
  return await ipam.lease({ containerId, ifname: 'eth0', owner, addresses: [] }, new AbortController().signal);
}

function ofNetwork(name: string): object {
  const env = { CNI_COMMAND: 'DEL', CNI_CONTAINERID: 'pod1', CNI_IFNAME: 'eth0' };
  return { env, stdin: JSON.stringify({ cniVersion: '1.1.0', name, type: 'weft' }) };
}

async function keep(name: string, content: object | string, ageMs = 0): Promise<void> {
  const path = join(directory, name);
  await writeFile(path, typeof content === 'string' ? content : JSON.stringify(content));
  const at = (Date.now() - ageMs) / 1000;
  await utimes(path, at, at);
}

test.each<[string, object | string, number, boolean]>([
  ['same namespace', { netnsInode: '100', bootId }, -5, true],
  ['namespace not known', { netnsInode: '', bootId }, -5, true],
  ['an earlier boot, written after the lease', { netnsInode: '7', bootId: 'other' }, -5, true],
  ['damaged content', '{"env"', -5, true],
  ['empty content', '', -5, true],
  ['its network', { netnsInode: '100', bootId, ...ofNetwork('weft') }, -5, true],
  ['another network', { netnsInode: '100', bootId, ...ofNetwork('another') }, -5, false],
  ['another namespace', { netnsInode: '101', bootId }, -5, false],
  ['written before the lease', { netnsInode: '100', bootId }, 60_000, false],
  ['written before the lease, namespace not known', { netnsInode: '', bootId }, 60_000, false],
])('a kept DEL and a lease: %s', async (_name, content, ageMs, applies) => {
  await lease();
  await keep('pod1@eth0.json', content, ageMs);
  await spool.drain();
  expect(ipam.leases()).toHaveLength(applies ? 0 : 1);
  expect(datapath.calls).toEqual(applies ? ['detach pod1'] : []);
  expect(await readdir(directory)).toEqual([]);
});

test.each<[string, number, string, boolean]>([
  ['the clock went back since the lease', 3_600_000, bootId, true],
  [
    'the lease is of an earlier boot, and the clock stood wrong when the DEL was kept',
    -40 * 365 * 86_400_000,
    bootId,
    true,
  ],
  ['the DEL is of an earlier boot, and so is the lease', -40 * 365 * 86_400_000, 'other', false],
])('a kept DEL that is older than the lease by the clock: %s', async (_name, leasedAheadMs, ofBoot, applies) => {
  const nowMs = Date.now();
  vi.setSystemTime(nowMs + leasedAheadMs);
  await lease();
  vi.useRealTimers();
  await keep('pod1@eth0.json', { netnsInode: '', bootId: ofBoot }, 50 * 365 * 86_400_000);
  await spool.drain();
  expect(ipam.leases()).toHaveLength(applies ? 0 : 1);
});

test('a file that is larger than any shim writes still names its pod', async () => {
  await lease();
  await keep('pod1@eth0.json', '', -5);
  await truncate(join(directory, 'pod1@eth0.json'), 3_000_000_000);
  await utimes(join(directory, 'pod1@eth0.json'), Date.now() / 1000 + 5, Date.now() / 1000 + 5);
  await spool.drain();
  expect(ipam.leases()).toEqual([]);
  expect(await readdir(directory)).toEqual([]);
});

test('a file of no lease goes, one that fails stays and is tried again, said once', async () => {
  await lease('pod2');
  await keep('pod1@eth0.json', '{}', -5);
  await keep('pod2@eth0.json', '{}', -5);
  datapath.beforeDetach = fails('kernel');
  await spool.drain();
  await spool.drain();
  expect(await readdir(directory)).toEqual(['pod2@eth0.json']);
  expect(errors).toHaveLength(1);
  datapath.beforeDetach = () => Promise.resolve();
  await spool.drain();
  expect(await readdir(directory)).toEqual([]);
  expect(ipam.leases()).toEqual([]);
});

test('foreign files are left alone and named; what no ADD can have named goes; unfinished ones go only when old', async () => {
  await keep('README', 'x');
  await keep('..@eth0.json', 'x');
  await keep('pod1@a b.json', '{}');
  await mkdir(join(directory, 'pod9@eth0.json'));
  await symlink('/etc/passwd', join(directory, 'pod8@eth0.json'));
  await keep('.pod1@eth0.json.77', 'x');
  await keep('.pod2@eth0.json.78', 'x', 3_600_000);
  await spool.drain();
  expect((await readdir(directory)).toSorted()).toEqual(['.pod1@eth0.json.77', 'README', 'pod9@eth0.json'].toSorted());
  expect(errors).toHaveLength(2);
});

test('a hundred are drained, with calls merged', async () => {
  for (let at = 0; at < 100; at++) {
    await lease(`pod${at}`);
    await keep(`pod${at}@eth0.json`, '{}', -5);
  }
  await Promise.all([spool.drain(), spool.drain(), spool.drain()]);
  expect(ipam.leases()).toEqual([]);
  expect(await readdir(directory)).toEqual([]);
});
