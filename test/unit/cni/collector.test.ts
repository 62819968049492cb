// The collector takes back only what is provably gone, and only at the second look.

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { AttachmentQueue } from '#agent/cni/attachments.ts';
import { Collector } from '#agent/cni/collector.ts';
import type { CniParts } from '#agent/cni/parts.ts';
import type { Lease } from '#agent/runtime/ipam.ts';

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'weft-collector-'));
});
afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

function leaseOf(containerId: string, owner: Partial<Lease['owner']>, changes: Partial<Lease> = {}): Lease {
  return {
    containerId,
    ifname: 'eth0',
    generation: `generation-${containerId}`,
    addresses: ['10.32.0.2'],
    owner: { network: 'weft', netnsPath: join(folder, containerId), netnsInode: 7n, ...owner },
    state: 'active',
    sinceMs: 0,
    hostIfname: `weftp-${containerId}`,
    ...changes,
  };
}

interface World {
  readonly collector: Collector;
  readonly links: Set<string>;
  /** What a path is seen as, where it is not looked up for real. */
  readonly seen: Map<string, () => { readonly isNetns: boolean; readonly inode: bigint }>;
  readonly detached: string[];
  readonly left: () => readonly string[];
  readonly replace: (lease: Lease) => void;
}

function world(...given: readonly Lease[]): World {
  const leases = new Map(given.map((lease) => [lease.containerId, lease]));
  const links = new Set<string>();
  const seen: World['seen'] = new Map();
  const detached: string[] = [];
  const parts = {
    ipam: {
      leases: () => [...leases.values()],
      find: ({ containerId }: Lease) => leases.get(containerId),
      release: ({ containerId }: Lease, generation: string) => {
        const lease = leases.get(containerId);
        if (lease?.generation !== generation) return undefined;
        leases.delete(containerId);
        return lease;
      },
    },
    datapath: { detach: async ({ containerId }: Lease) => void detached.push(containerId) },
    inspectNetns: (path: string) => {
      const look = seen.get(path);
      if (look !== undefined) return look();
      throw Object.assign(new Error('ENOENT'), { code: 'ENOENT' });
    },
    log: { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined },
  } as unknown as CniParts;
  const collector = new Collector({ everyMs: 60_000, hostLinks: async () => links }, parts, new AttachmentQueue());
  const left = (): readonly string[] => [...leases.keys()];
  return { collector, links, seen, detached, left, replace: (lease) => void leases.set(lease.containerId, lease) };
}

describe('the collector', () => {
  it('takes back what was gone at two looks, and not what came back in between', async () => {
    const { collector, left, links, detached } = world(leaseOf('a', {}), leaseOf('b', {}));
    expect(await collector.look()).toBe(0);
    links.add('weftp-b');
    expect(await collector.look()).toBe(1);
    expect([left(), detached]).toEqual([['b'], ['a']]);
    links.clear();
    expect(await collector.look()).toBe(0);
    expect(await collector.look()).toBe(1);
    expect(left()).toEqual([]);
  });

  it('leaves a later attachment of the same container alone', async () => {
    const { collector, left, replace } = world(leaseOf('a', {}));
    await collector.look();
    replace(leaseOf('a', {}, { generation: 'the next one' }));
    expect(await collector.look()).toBe(0);
    expect(left()).toEqual(['a']);
  });

  it.for<
    readonly [
      string,
      Partial<Lease['owner']>,
      Partial<Lease>,
      (() => never) | { isNetns: boolean; inode: bigint } | undefined,
    ]
  >([
    ['whose namespace is there', {}, {}, { isNetns: true, inode: 7n }],
    ['whose ADD is at work', {}, { state: 'pending' }, undefined],
    ['whose path is a plain file', {}, {}, { isNetns: false, inode: 99n }],
    [
      'whose path cannot be read',
      {},
      {},
      () => {
        throw Object.assign(new Error('no'), { code: 'EACCES' });
      },
    ],
    ['whose folder is not seen here', { netnsPath: '/nowhere/at/all/a' }, {}, undefined],
    ['that another plugin linked, without a path', { netnsPath: '', linkedBy: 'bridge' }, {}, undefined],
  ])('leaves a lease %s', async ([, owner, changes, view]) => {
    const lease = leaseOf('a', owner, changes);
    const { collector, left, seen } = world(lease);
    if (view !== undefined) seen.set(lease.owner.netnsPath, typeof view === 'function' ? view : () => view);
    for (let look = 0; look < 3; look += 1) expect(await collector.look()).toBe(0);
    expect(left()).toEqual(['a']);
  });

  it('takes back a lease whose path leads to another namespace by now, and one that was rebuilt from a link that went', async () => {
    const reused = leaseOf('a', {});
    const { collector, left, seen } = world(reused, leaseOf('b', { netnsPath: '', netnsInode: 0n }));
    await writeFile(reused.owner.netnsPath, '');
    seen.set(reused.owner.netnsPath, () => ({ isNetns: true, inode: 8n }));
    await collector.look();
    expect(await collector.look()).toBe(2);
    expect(left()).toEqual([]);
  });

  it('goes on after a take-down that fails', async () => {
    const { collector, left, detached } = world(leaseOf('a', {}), leaseOf('b', {}));
    await collector.look();
    const push = detached.push.bind(detached);
    detached.push = (...ids) => {
      if (ids[0] === 'a') throw new Error('the kernel is busy');
      return push(...ids);
    };
    expect(await collector.look()).toBe(1);
    expect(left()).toEqual(['a']);
    detached.push = push;
    expect(await collector.look()).toBe(1);
  });
});
