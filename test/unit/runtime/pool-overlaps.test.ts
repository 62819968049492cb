// Pools that overlap: whatever each agent has heard and in whatever order, no address is of two pools, and whoever was there first is
// not hurt.
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { toWeftError } from '#agent/errors.ts';
import type { LeaseRequest, PoolView } from '#agent/runtime/ipam.ts';
import type { RunningIpam } from '#agent/runtime/start.ts';
import { IpamNodes, request, soon, until } from '#test/support/ipam-nodes.ts';

const brief = { allocateWaitMs: 300 };

/** The address, or why there is none, once it is as expected. An address is never asked for again. */
async function lease(ipam: RunningIpam, wish: LeaseRequest, expected: RegExp): Promise<string> {
  const endMs = performance.now() + 10_000;
  for (;;) {
    const text = await ipam.lease(wish, soon()).then(
      ({ addresses }) => addresses.join(),
      (error: unknown) => `${toWeftError(error).kind}: ${toWeftError(error).message}`,
    );
    if (expected.test(text)) return text;
    if (!text.includes(': ') || performance.now() > endMs) throw new Error(`${text}, not ${String(expected)}`);
    await delay(50);
  }
}

function addUniverse(nodes: IpamNodes, name: string, ranges: readonly string[]): void {
  nodes.registry.put('universe', name, { schema: 1, reserved: [], ranges });
}

async function start(nodes: IpamNodes, name: string): Promise<RunningIpam> {
  const ipam = await nodes.startPools(name, brief);
  await ipam.whenReady(soon());
  return ipam;
}

const inPool = (containerId: string, pool: string): LeaseRequest => ({ ...request(containerId), pool });
const poolOf = (ipam: RunningIpam, name: string): PoolView | undefined =>
  ipam.view().pools?.find((pool) => pool.name === name);

describe('pools that overlap', () => {
  test('of two that two nodes heard in another order neither is founded', async () => {
    await using nodes = await IpamNodes.create();
    const one = await start(nodes, 'node1');
    addUniverse(nodes, 'green', ['10.64.0.0/16']);
    await until('node1 serves green', () => poolOf(one, 'green') !== undefined);
    addUniverse(nodes, 'blue', ['10.64.0.0/16']);
    nodes.registry.behaviour.fault = ({ operation, kind }) =>
      operation === 'list' && kind === 'universe' ? 'away' : 'none';
    const other = await nodes.startPools('node2', brief);
    addUniverse(nodes, 'blue', ['10.64.0.0/16']);
    nodes.registry.behaviour.fault = () => 'none';
    await until('node2 serves one of them', () => (other.view().pools?.length ?? 0) > 1);
    const taken = /10\.64\.0\.0\/16 is the pool (blue|green)'s/;
    await Promise.all([
      lease(one, inPool('a', 'green'), taken),
      lease(one, inPool('b', 'blue'), taken),
      lease(other, inPool('c', 'green'), taken),
      lease(other, inPool('d', 'blue'), taken),
    ]);
    for (const name of ['green', 'blue']) {
      expect(nodes.registry.read('universe', name)?.value['founder']).toBeUndefined();
    }
  });

  test('one that is founded takes the place of one that is not, whichever was heard first', async () => {
    await using nodes = await IpamNodes.create();
    const one = await start(nodes, 'node1');
    addUniverse(nodes, 'green', ['10.64.0.0/16']);
    await lease(one, inPool('a', 'green'), /^10\.64\./);
    const green = nodes.registry.read('universe', 'green');
    nodes.registry.remove('universe', 'green');
    addUniverse(nodes, 'blue', ['10.64.0.0/15']);
    const other = await start(nodes, 'node2');
    await until('node2 serves blue', () => poolOf(other, 'blue') !== undefined);
    nodes.registry.put('universe', 'green', green?.value ?? {});
    await until('node2 serves green', () => poolOf(other, 'green') !== undefined);
    expect(poolOf(other, 'blue')).toBeUndefined();
    await lease(other, inPool('b', 'blue'), /10\.64\.0\.0\/16 is the pool green's/);
    await lease(other, inPool('c', 'green'), /^10\.64\./);
  });

  test('a new one on the range of one that was deleted while pods have its addresses', async () => {
    await using nodes = await IpamNodes.create();
    const one = await start(nodes, 'node1');
    addUniverse(nodes, 'blue', ['10.64.0.0/16']);
    await lease(one, inPool('a', 'blue'), /^10\.64\.0\.1$/);
    nodes.registry.remove('universe', 'blue');
    await until('node1 heard of it', () => poolOf(one, 'blue')?.ended !== undefined);
    addUniverse(nodes, 'green', ['10.64.0.0/16']);
    // A node that never knew of blue.
    const other = await start(nodes, 'node2');
    await lease(other, inPool('b', 'green'), /10\.64\.0\.0\/16 is node1's in the pool blue/);
    await lease(one, inPool('c', 'green'), /10\.64\.0\.0\/16 is the pool blue's/);
    one.release(request('a'));
    nodes.registry.remove('peer', 'node1.node1000.pool-blue');
    await until('node1 serves green once blue is no more', () => poolOf(one, 'green') !== undefined);
  });

  test('a default range that is made anew leaves out what a further pool has', async () => {
    await using nodes = await IpamNodes.create();
    const one = await start(nodes, 'node1');
    addUniverse(nodes, 'blue', ['10.64.0.0/16']);
    await lease(one, inPool('a', 'blue'), /^10\.64\.0\.1$/);
    nodes.registry.remove('universe', 'default');
    addUniverse(nodes, 'default', ['10.64.0.0/12']);
    nodes.registry.remove('peer', 'node1.node1000');
    await until('it is founded', () => nodes.registry.read('universe', 'default')?.value['founder'] !== undefined);
    await until('node1 is in it', () => poolOf(one, 'default')?.ready === true);
    expect(poolOf(one, 'default')?.reserved).toEqual(['10.64.0.0/16']);
    await lease(one, request('b'), /^10\.(6[5-9]|7)/);
    // What the default pool leaves to blue is pods' space all the same.
    expect(one.view()).toMatchObject({ ranges: ['10.64.0.0/12', '10.64.0.0/16'], reserved: [] });
    await nodes.stop(one);
    const again = await start(nodes, 'node1');
    const other = await start(nodes, 'node2');
    expect(again.find(request('a'))?.addresses).toEqual(['10.64.0.1']);
    await lease(other, inPool('c', 'blue'), /^10\.64\./);
  });

  test('one whose ranges are edited into the default pool’s hurts nobody there', async () => {
    await using nodes = await IpamNodes.create();
    const one = await start(nodes, 'node1');
    addUniverse(nodes, 'blue', ['10.64.0.0/16']);
    await until('blue is served', () => poolOf(one, 'blue') !== undefined);
    addUniverse(nodes, 'blue', ['10.32.0.0/16']);
    await until('it is refused', () => nodes.lines.some((line) => line.includes('the pool blue is not served')));
    await lease(one, request('a', ['10.32.0.77']), /^10\.32\.0\.77$/);
    await lease(one, inPool('b', 'blue'), /10\.32\.0\.0\/12 is the pool default's/);
  });
});

describe('a pool that this node cannot serve', () => {
  test('has its namespaces all the same: their pods get no address of another until its Universe is gone', async () => {
    await using nodes = await IpamNodes.create();
    const one = await start(nodes, 'node1');
    nodes.registry.put('universe', 'blue', { schema: 1, reserved: [], ranges: ['10.40.0.0/16'], namespaces: ['team'] });
    await until('it is refused', () => nodes.lines.some((line) => line.includes('the pool blue is not served')));
    const ofTeam = (containerId: string): LeaseRequest => ({
      ...request(containerId),
      owner: { ...request(containerId).owner, podNamespace: 'team' },
    });
    await lease(one, ofTeam('a'), /^unknownPool: no pool "blue": .*10\.32\.0\.0\/12 is the pool default's/);
    nodes.registry.behaviour.fault = () => 'away';
    await lease(one, ofTeam('a'), /^unknownPool: no pool "blue": .*10\.32\.0\.0\/12 is the pool default's/);
    await lease(one, request('b'), /^10\.32\./);
    nodes.registry.behaviour.fault = () => 'none';
    nodes.registry.remove('universe', 'blue');
    await lease(one, ofTeam('a'), /^10\.32\./);
  });

  test('hurts no other: the node becomes ready and serves the rest', async () => {
    await using nodes = await IpamNodes.create();
    const label = 'a'.repeat(60);
    const name = `${label}.${label}.${label}.node1`;
    const pool = 'p'.repeat(63);
    addUniverse(nodes, pool, ['10.64.0.0/16']);
    addUniverse(nodes, 'zed', ['10.65.0.0/16']);
    const one = await start(nodes, name);
    await lease(one, inPool('a', 'zed'), /^10\.65\.0\.1$/);
    await lease(one, inPool('b', pool), /^unknownPool: .* makes no record name$/);
  });
});

describe('the file of known pools', () => {
  test.each([
    ['is damaged', async (path: string) => await writeFile(path, '[{"name":"blue"')],
    ['is gone', async (path: string) => await rm(path)],
  ])('%s: a pool with leases is served from its store, also while the registry is away', async (_, hurt) => {
    await using nodes = await IpamNodes.create();
    const one = await start(nodes, 'node1');
    addUniverse(nodes, 'blue', ['10.64.0.0/16']);
    await lease(one, inPool('a', 'blue'), /^10\.64\.0\.1$/);
    one.leases().forEach((made) => one.activate(made));
    await nodes.stop(one);
    await hurt(join(nodes.directory, 'node1', 'pools.json'));
    nodes.registry.behaviour.fault = () => 'away';
    const again = await nodes.startPools('node1', brief);
    expect(again.leases()).toMatchObject([{ containerId: 'a', addresses: ['10.64.0.1'], state: 'active' }]);
    expect(poolOf(again, 'blue')?.ranges).toEqual(['10.64.0.0/16']);
    await lease(again, inPool('b', 'blue'), /^10\.64\./);
  });

  test('is written once the disk takes it, without another change', async () => {
    await using nodes = await IpamNodes.create();
    const one = await start(nodes, 'node1');
    const path = join(nodes.directory, 'node1', 'pools.json');
    await mkdir(path);
    addUniverse(nodes, 'blue', ['10.64.0.0/16']);
    await until('blue is served', () => poolOf(one, 'blue') !== undefined);
    await until('it could not be written', () => nodes.lines.some((line) => line.includes('the watch on pools ended')));
    await rm(path, { recursive: true });
    await until('it is written', () => existsSync(path));
    expect(await readFile(path, 'utf8')).toContain('10.64.0.0/16');
  });
});
