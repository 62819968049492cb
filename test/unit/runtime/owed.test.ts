// DELs that another plugin is owed, in the store of delegated leases: durable, in the place of the lease, told apart from it.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';

import { owedFindings } from '#agent/cni/owed-dels.ts';
import { type IpamWithDelegated, withDelegatedLeases } from '#agent/runtime/delegated.ts';
import type { Delegate, Lease, OwedDel } from '#agent/runtime/ipam.ts';
import type { RunningIpam } from '#agent/runtime/start.ts';

const delegate: Delegate = { type: 'host-local', env: { CNI_PATH: '/opt/cni/bin' }, stdin: '{}' };
const { signal } = new AbortController();
let directory = '';
let ipam: IpamWithDelegated;

function open(): IpamWithDelegated {
  const core = {
    find: () => undefined,
    leases: () => [],
    release: () => undefined,
    view: () => ({ ranges: ['10.32.0.0/12'], peers: [] }),
    close: () => Promise.resolve(),
  } as unknown as RunningIpam;
  return withDelegatedLeases(core, join(directory, 'delegated.db'));
}

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'weft-owed-'));
  ipam = open();
});

afterEach(async () => {
  await ipam.close();
  await rm(directory, { recursive: true, force: true });
});

async function lease(containerId: string, address: string): Promise<Lease> {
  const owner = { network: 'n', netnsPath: '/x', netnsInode: 1n };
  return await ipam.lease({ containerId, ifname: 'eth0', owner, addresses: [address], delegate }, signal);
}

const owedBy = (containerId: string, addresses: readonly string[], why = 'gone'): OwedDel => ({
  containerId,
  ifname: 'eth0',
  delegate,
  addresses,
  why,
  sinceMs: 5,
});

test('takes the lease’s place, outlives the process, and is no lease any more', async () => {
  await lease('a', '10.99.0.2');
  await lease('b', '10.99.0.3');
  ipam.owed.owe(owedBy('a', ['10.99.0.2']));
  for (let time = 0; time < 2; time++) {
    expect(ipam.leases().map(({ containerId }) => containerId)).toEqual(['b']);
    expect(ipam.find({ containerId: 'a', ifname: 'eth0' })).toBe(undefined);
    expect(ipam.owed.all()).toMatchObject([owedBy('a', ['10.99.0.2'])]);
    await ipam.close();
    ipam = open();
  }
  ipam.owed.settle({ containerId: 'a', ifname: 'eth0' });
  ipam.owed.settle({ containerId: 'a', ifname: 'eth0' });
  await ipam.close();
  ipam = open();
  expect(ipam.owed.all()).toEqual([]);
  expect(ipam.leases()).toHaveLength(1);
});

test('what was tried last comes last; of what may never have had an address the oldest of a thousand goes', () => {
  for (const id of ['a', 'b']) ipam.owed.owe(owedBy(id, ['10.99.0.2']));
  ipam.owed.owe(owedBy('a', ['10.99.0.2'], 'gone again'));
  expect(ipam.owed.all().map(({ containerId }) => containerId)).toEqual(['b', 'a']);
  for (let at = 0; at < 1005; at++) ipam.owed.owe(owedBy(`c${at}`, []));
  const ids = ipam.owed.all().map(({ containerId }) => containerId);
  expect(ids).toHaveLength(1002);
  expect(ids.slice(0, 3)).toEqual(['b', 'a', 'c5']);
});

test('one finding for each plugin, with its last words and some of the addresses', () => {
  const many = Array.from({ length: 7 }, (_, at) => owedBy(`p${at}`, [`10.99.0.${at}`], `why ${at}`));
  const other = { ...owedBy('q', []), delegate: { ...delegate, type: 'far' } };
  expect(owedFindings([...many, other])).toEqual([
    {
      name: 'pluginOwed',
      subject: 'IPAM plugin host-local',
      message:
        'it could not be told of 7 pods that are gone (10.99.0.0, 10.99.0.1, 10.99.0.2, 10.99.0.3, 10.99.0.4, …): why 6',
    },
    { name: 'pluginOwed', subject: 'IPAM plugin far', message: 'it could not be told of 1 pods that are gone: gone' },
  ]);
});
