// Several pools on the nodes of one cluster, over a registry in memory: chosen by name or namespace, added while agents run, each for
// itself in fullness and refusal.
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { WeftError } from '#agent/errors.ts';
import type { Lease, LeaseRequest, PoolView } from '#agent/runtime/ipam.ts';
import type { RunningIpam } from '#agent/runtime/start.ts';
import { IpamNodes, request, soon, until } from '#test/support/ipam-nodes.ts';

async function failure(promise: Promise<unknown>): Promise<WeftError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof WeftError) return error;
    throw error;
  }
  throw new Error('did not fail');
}

function addUniverse(nodes: IpamNodes, name: string, value: Readonly<Record<string, unknown>>): void {
  nodes.registry.put('universe', name, { schema: 1, reserved: [], ...value });
}

async function two(nodes: IpamNodes): Promise<readonly [RunningIpam, RunningIpam]> {
  const one = await nodes.startPools('node1');
  await one.whenReady(soon());
  const other = await nodes.startPools('node2');
  await other.whenReady(soon());
  return [one, other];
}

const inPool = (containerId: string, pool: string): LeaseRequest => ({ ...request(containerId), pool });
const poolOf = (ipam: RunningIpam, name: string): PoolView | undefined =>
  ipam.view().pools?.find((pool) => pool.name === name);
const inNamespace = (containerId: string, podNamespace: string): LeaseRequest => {
  const plain = request(containerId);
  return { ...plain, owner: { ...plain.owner, podNamespace } };
};

describe('a pool added to a running cluster', () => {
  test('is served without a restart; a node joins it with its first pod', async () => {
    await using nodes = await IpamNodes.create();
    const [one, other] = await two(nodes);
    addUniverse(nodes, 'blue', { ranges: ['10.64.0.0/16'] });
    const lease = await one.lease(inPool('a', 'blue'), soon());
    expect(lease).toMatchObject({ pool: 'blue', addresses: [expect.stringMatching(/^10\.64\./) as string] });
    expect(nodes.registry.read('peer', 'node1.node1000.pool-blue')?.value).toMatchObject({
      universe: 'blue',
      overlay: [],
    });
    await until('node2 knows the way', () => {
      const peer = other.view().peers.find(({ name }) => name === 'node1.node1000');
      return peer?.blocks.join(' ') === '10.32.0.0/13 10.64.0.0/16';
    });
    expect(nodes.registry.read('peer', 'node2.node2000.pool-blue')).toBeUndefined();
    expect(poolOf(other, 'blue')?.ranges).toEqual(['10.64.0.0/16']);
    await until('node2 knows that it is founded', () => other.view().ranges.join() === '10.32.0.0/12,10.64.0.0/16');
    expect(other.view()).toMatchObject({ ready: true });
    expect(poolOf(other, 'blue')).toMatchObject({ freeAddresses: 0, waitingFor: '', ready: false });

    await other.lease(inPool('b', 'blue'), soon());
    expect(poolOf(other, 'blue')).toMatchObject({ leasedAddresses: 1, ready: true });
    expect(other.view().peers.map((peer) => peer.overlayAddresses.length)).toEqual([1, 1]);
  });

  test('takes the pods of the namespaces that it names, which may change', async () => {
    await using nodes = await IpamNodes.create();
    const [one] = await two(nodes);
    addUniverse(nodes, 'blue', { ranges: ['10.64.0.0/16'], namespaces: ['team-a'] });
    await until('blue is served', () => poolOf(one, 'blue') !== undefined);
    const inTeam = await one.lease(inNamespace('a', 'team-a'), soon());
    const elsewhere = await one.lease(inNamespace('b', 'team-b'), soon());
    const named = await one.lease({ ...inNamespace('c', 'team-a'), pool: 'default' }, soon());
    expect([inTeam, elsewhere, named].map((lease) => lease.pool)).toEqual(['blue', undefined, undefined]);
    expect(elsewhere.addresses[0]).toMatch(/^10\.3[2-9]\./);

    const { founder } = nodes.registry.read('universe', 'blue')?.value ?? {};
    addUniverse(nodes, 'blue', { ranges: ['10.64.0.0/16'], namespaces: ['team-b'], founder });
    nodes.registry.put('universe', 'blue', nodes.registry.read('universe', 'blue')?.value ?? {});
    await until('the change is heard', () => poolOf(one, 'blue')?.namespaces.join() === 'team-b');
    expect((await one.lease(inNamespace('d', 'team-b'), soon())).pool).toBe('blue');
  });

  test('may be declared by one node’s settings; what is there already stays as it is', async () => {
    await using nodes = await IpamNodes.create();
    addUniverse(nodes, 'green', { ranges: ['10.65.0.0/16'] });
    const one = await nodes.startPools('node1');
    await one.whenReady(soon());
    nodes.registry.behaviour.fault = ({ operation, kind }) =>
      operation === 'create' && kind === 'universe' ? 'lost' : 'none';
    const declared = [
      { name: 'green', ranges: ['10.66.0.0/16'] },
      { name: 'blue', ranges: ['10.64.0.0/16'] },
    ];
    const other = await nodes.startPools('node2', {}, declared);
    await other.whenReady(soon());
    nodes.registry.behaviour.fault = () => 'none';
    await until(
      'node1 serves what node2 declared',
      () =>
        one
          .view()
          .pools?.flatMap(({ ranges }) => ranges)
          .join() === '10.32.0.0/12,10.65.0.0/16,10.64.0.0/16',
      20_000,
    );
    // Nobody has founded the two: until then their ranges are the host's.
    expect(one.view().ranges).toEqual(['10.32.0.0/12']);
    expect((await one.lease(inPool('a', 'blue'), soon())).addresses[0]).toMatch(/^10\.64\./);
  }, 30_000);

  test('of the other family gives the node an address of that family', async () => {
    await using nodes = await IpamNodes.create();
    const [one] = await two(nodes);
    addUniverse(nodes, 'six', { ranges: ['fd00:64::/64'] });
    expect((await one.lease(inPool('a', 'six'), soon())).addresses).toEqual(['fd00:64::2']);
    expect(one.view().overlayAddresses).toEqual(['10.32.0.1', 'fd00:64::1']);
  });
});

describe('addresses asked for by name', () => {
  test('choose the pool that has them; one that cannot be had says why', async () => {
    await using nodes = await IpamNodes.create();
    const [one, other] = await two(nodes);
    addUniverse(nodes, 'blue', { ranges: ['10.64.0.0/23'], reserved: ['10.64.0.64/26'] });
    await until('both serve blue', () => [one, other].every((ipam) => poolOf(ipam, 'blue') !== undefined));
    const lease = await one.lease(request('a', ['10.64.0.9']), soon());
    expect(lease).toMatchObject({ pool: 'blue', addresses: ['10.64.0.9'] });
    const why = async (ipam: RunningIpam, address: string, pool?: string): Promise<string> => {
      const wish = { ...request('b', [address]), ...(pool !== undefined && { pool }) };
      return (await failure(ipam.lease(wish, soon()))).message;
    };
    expect(await why(one, '10.64.0.9')).toBe('10.64.0.9 is in use by pod default/pod-a');
    expect(await why(one, '10.64.0.65')).toBe('10.64.0.65 is reserved in this pool');
    expect(await why(one, '10.64.1.255')).toBe('10.64.1.255 is the network or broadcast address of the pool');
    expect(await why(one, '10.64.0.9', 'default')).toBe('10.64.0.9 is outside the pool 10.32.0.0/12');
    expect(await why(one, '192.0.2.1')).toBe('192.0.2.1 is outside the pool 10.32.0.0/12');
    one.release(lease, lease.generation);
    expect(await why(one, '10.64.0.9')).toBe('10.64.0.9 was freed a moment ago and rests before it is used again');
    const away = await other.lease(inPool('c', 'blue'), soon());
    await until(
      'node1 knows node2’s block',
      () => poolOf(one, 'blue')?.peers.some((peer) => !peer.self && peer.blocks.length > 0) === true,
    );
    expect(await why(one, away.addresses[0] ?? '')).toMatch(/belongs to node node2, not to this node$/);
  });
});

describe('what cannot be served', () => {
  test('an unknown pool is a clear error, and costs no lease', async () => {
    await using nodes = await IpamNodes.create();
    const [one] = await two(nodes);
    const error = await failure(one.lease(inPool('a', 'green'), soon()));
    expect(error).toMatchObject({
      kind: 'unknownPool',
      message: 'no pool "green": there is no Universe of that name',
      retryable: true,
    });
    expect((await failure(one.lease(inPool('a', '../etc'), soon()))).kind).toBe('unknownPool');
    nodes.registry.behaviour.fault = () => 'away';
    expect((await failure(one.lease(inPool('a', 'green'), soon()))).message).toMatch(/the registry does not tell/);
    expect(one.leases()).toEqual([]);
  });

  test('ranges that overlap another pool', async () => {
    await using nodes = await IpamNodes.create();
    const [one] = await two(nodes);
    addUniverse(nodes, 'blue', { ranges: ['10.40.0.0/16'] });
    expect((await failure(one.lease(inPool('a', 'blue'), soon()))).message).toBe(
      `no pool "blue": 10.32.0.0/12 is the pool default's, and its own ranges overlap it`,
    );
    expect(nodes.registry.read('universe', 'blue')?.value['founder']).toBeUndefined();
    addUniverse(nodes, 'red', { ranges: 'everything' });
    expect((await failure(one.lease(inPool('a', 'red'), soon()))).message).toMatch(/cannot be understood: ranges/);
    const told = nodes.lines.filter((line) => line.startsWith('node1 error the pool'));
    expect(told).toHaveLength(2);
  });

  test('a full pool says who holds it and leaves the others alone', async () => {
    await using nodes = await IpamNodes.create();
    const [one, other] = await two(nodes);
    addUniverse(nodes, 'tiny', { ranges: ['10.64.0.0/30'] });
    await one.lease(inPool('a', 'tiny'), soon());
    await one.lease(inPool('b', 'tiny'), soon());
    const error = await failure(one.lease(inPool('c', 'tiny'), soon()));
    expect(error.kind).toBe('noAddress');
    await until('node2 knows who holds it', () => (poolOf(other, 'tiny')?.peers.length ?? 0) > 0);
    expect((await failure(other.lease(inPool('d', 'tiny'), soon()))).message).toMatch(/held by node1 4/);
    await other.lease(request('e'), soon());
    expect(poolOf(one, 'tiny')).toMatchObject({ freeAddresses: 0, availableAddresses: 0 });
  });
});

describe('restart', () => {
  test('while the registry is away every pool serves from what it owns, and knows its namespaces', async () => {
    await using nodes = await IpamNodes.create();
    const one = await nodes.startPools('node1');
    await one.whenReady(soon());
    addUniverse(nodes, 'blue', { ranges: ['10.64.0.0/16'], namespaces: ['team-a'] });
    const before = await one.lease(inPool('a', 'blue'), soon());
    one.activate(before);
    await until('kept', () => poolOf(one, 'blue')?.namespaces.join() === 'team-a');
    await nodes.stop(one);
    nodes.registry.behaviour.fault = () => 'away';
    const again = await nodes.startPools('node1');
    expect(again.find(before)).toMatchObject({ pool: 'blue', state: 'active', addresses: before.addresses });
    expect((await again.lease(inNamespace('b', 'team-a'), soon())).addresses[0]).toMatch(/^10\.64\./);
    expect((await failure(again.lease(inPool('a', 'blue'), soon()))).kind).toBe('attachmentExists');
    expect((await failure(again.lease(request('a'), soon()))).kind).toBe('attachmentExists');
    expect(again.release(before, before.generation)?.addresses).toEqual(before.addresses);
    expect(again.leases().map((lease) => lease.containerId)).toEqual(['b']);
    expect(await readdir(join(nodes.directory, 'node1'))).toEqual(
      expect.arrayContaining(['blue', 'default', 'pools.json']),
    );
  });

  test('after a lost disk each pool finds its own leases', async () => {
    await using nodes = await IpamNodes.create();
    const one = await nodes.startPools('node1');
    await one.whenReady(soon());
    addUniverse(nodes, 'blue', { ranges: ['10.64.0.0/16'] });
    const made = [await one.lease(inPool('a', 'blue'), soon()), await one.lease(request('b'), soon())];
    await nodes.stop(one);
    await nodes.wipe('node1');
    const inKernel = made.map((lease): Lease => ({ ...lease, state: 'active' }));
    const again = await nodes.startPools('node1', { recoverLeases: async () => inKernel });
    await again.whenReady(soon());
    expect(again.leases().map(({ pool, addresses }) => [pool, ...addresses])).toEqual(
      expect.arrayContaining([
        ['blue', ...(made[0]?.addresses ?? [])],
        [undefined, ...(made[1]?.addresses ?? [])],
      ]),
    );
    // What rested was lost with the disk: the blocks are in quarantine first.
    await until('all of it has rested', () => poolOf(again, 'blue')?.ready === true);
    expect(poolOf(again, 'blue')).toMatchObject({ leasedAddresses: 1 });
  });
});

describe('a Universe that goes away under running agents', () => {
  test('of a further pool: no pod gets an address any more, and when all that was of it is gone the pool is forgotten', async () => {
    await using nodes = await IpamNodes.create();
    const [one, other] = await two(nodes);
    addUniverse(nodes, 'blue', { ranges: ['10.64.0.0/16'] });
    const lease = await one.lease(inPool('a', 'blue'), soon());
    await until('node2 knows the pool', () => poolOf(other, 'blue')?.peers.length === 1);
    nodes.registry.remove('universe', 'blue');
    await until('node1 heard of it', () => poolOf(one, 'blue')?.ended?.name === 'universeDeleted');
    expect((await failure(one.lease(inPool('b', 'blue'), soon()))).message).toBe(
      'the Universe blue was deleted: its pods keep their addresses, no other pod gets one',
    );
    expect(one.find(lease)).toEqual(lease);
    expect((await one.lease(request('c'), soon())).pool).toBeUndefined();
    one.release(lease);
    nodes.registry.remove('peer', 'node1.node1000.pool-blue');
    await until('nobody knows it', () => (poolOf(one, 'blue') ?? poolOf(other, 'blue')) === undefined);
    expect((await failure(one.lease(inPool('b', 'blue'), soon()))).kind).toBe('unknownPool');
    addUniverse(nodes, 'blue', { ranges: ['10.80.0.0/16'] });
    await until('it is known anew', () => poolOf(one, 'blue') !== undefined);
    expect((await one.lease(inPool('d', 'blue'), soon())).addresses[0]).toMatch(/^10\.80\./);
  });

  test('of a further pool, and another one in its place: a pod that waits is told of that one', async () => {
    await using nodes = await IpamNodes.create();
    const one = await nodes.startPools('node1', { allocateWaitMs: 3000 });
    await one.whenReady(soon());
    addUniverse(nodes, 'blue', { ranges: ['10.64.0.0/16'] });
    await one.lease(inPool('a', 'blue'), soon());
    nodes.registry.remove('universe', 'blue');
    await until('node1 heard of it', () => poolOf(one, 'blue')?.ended?.name === 'universeDeleted');
    addUniverse(nodes, 'blue', { ranges: ['10.80.0.0/16'] });
    await until('node1 heard of the other', () => poolOf(one, 'blue')?.ended?.name === 'universeReplaced');
    expect((await failure(one.lease(inPool('b', 'blue'), soon()))).message).toBe(
      'the Universe blue has the ranges 10.80.0.0/16, this node holds 10.64.0.0/16 of an earlier one (10.64.0.0/16)',
    );
  });

  test('the default one is made again, and what there was goes on', async () => {
    await using nodes = await IpamNodes.create();
    const [one] = await two(nodes);
    const before = nodes.registry.read('universe', 'default')?.value['ranges'];
    nodes.registry.remove('universe', 'default');
    await until('node1 heard of it', () => poolOf(one, 'default')?.ended?.name === 'universeDeleted');
    await one.lease(request('a'), soon());
    await until(
      'it is there, founded',
      () => nodes.registry.read('universe', 'default')?.value['founder'] !== undefined,
    );
    expect(nodes.registry.read('universe', 'default')?.value['ranges']).toEqual(before);
    await until('node1 heard of that', () => poolOf(one, 'default')?.ended === undefined);
    const third = await nodes.startPools('node3');
    await third.whenReady(soon());
    const owned = third.view().peers.flatMap(({ blocks }) => blocks);
    expect(new Set(owned).size).toBe(owned.length);
  });
});
