// The runtime against a registry in memory: what a node does from its first start to its restart from disk.
import { rm } from 'node:fs/promises';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { WeftError } from '#agent/errors.ts';
import { peerName } from '#agent/registry/record-name.ts';
import { hostIfname, startIpam } from '#agent/runtime/start.ts';
import type { Lease } from '#agent/runtime/ipam.ts';
import { briskTiming, IpamNodes, pool, request, soon, until } from '#test/support/ipam-nodes.ts';

async function failure(promise: Promise<unknown>): Promise<WeftError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof WeftError) return error;
    throw error;
  }
  throw new Error('did not fail');
}

describe('a new cluster', () => {
  test('the founder owns the range, the next two get halves', async () => {
    await using nodes = await IpamNodes.create();
    const one = await nodes.start('node1');
    await one.whenReady(soon());
    const two = await nodes.start('node2');
    await two.whenReady(soon());
    const three = await nodes.start('node3');
    await three.whenReady(soon());
    await until('all three agree', () =>
      [one, two, three].every((ipam) => {
        const blocks = ipam.view().peers.map((peer) => peer.blocks.join(' '));
        return blocks.join(', ') === '10.32.0.0/13, 10.40.0.0/14, 10.44.0.0/14';
      }),
    );
    expect(one.view()).toMatchObject({ overlayAddresses: ['10.32.0.1'], ready: true, waitingFor: '' });
    expect(three.view().peers.map((peer) => peer.underlayAddress)).toEqual(['192.0.2.1', '192.0.2.2', '192.0.2.3']);
    expect(nodes.lines).toContain('node1 info founded the universe default: own all of 10.32.0.0/12');
    // The registry may tell the others before node2 has come to say so.
    await until('node2 says so', () => nodes.lines.includes('node2 info got 10.40.0.0/13 from node1.node1000'));
  });

  test('six at once, over a registry that conflicts, forgets and stays silent', async () => {
    await using nodes = await IpamNodes.create();
    let call = 0;
    nodes.registry.behaviour.fault = ({ operation }) => {
      call++;
      if (operation === 'list') return 'none';
      if (call % 11 === 0) return 'away';
      if (call % 7 === 0) return 'unanswered';
      return call % 5 === 0 ? 'conflict' : 'none';
    };
    nodes.registry.behaviour.delayMs = () => (call * 7) % 13;
    const names = ['node1', 'node2', 'node3', 'node4', 'node5', 'node6'];
    const all = await Promise.all(names.map(async (name) => await nodes.start(name)));
    await Promise.all(all.map(async (ipam) => await ipam.whenReady(soon(20_000))));
    const blocks = nodes.registry
      .all('peer')
      .flatMap((record) => record.value['blocks'] as readonly { cidr: string }[]);
    expect(new Set(blocks.map((block) => block.cidr)).size).toBe(blocks.length);
    const overlay = all.flatMap((ipam) => ipam.view().overlayAddresses);
    expect(new Set(overlay).size).toBe(6);
  }, 30_000);
});

describe('lease', () => {
  test('two at once get two addresses, each with a host interface named after its generation', async () => {
    await using nodes = await IpamNodes.create();
    const ipam = await nodes.start('node1');
    await ipam.whenReady(soon());
    const [a, b] = await Promise.all([ipam.lease(request('a'), soon()), ipam.lease(request('b'), soon())]);
    expect(new Set([...a.addresses, ...b.addresses]).size).toBe(2);
    expect(a.hostIfname).toBe(hostIfname(a.generation));
    expect(a.hostIfname).toMatch(/^weftp[0-9a-f]{10}$/);
    expect(b.hostIfname).not.toBe(a.hostIfname);
    expect(a.generation).toMatch(/^[0-9a-f]{16}$/);
    expect((await failure(ipam.lease(request('a'), soon()))).kind).toBe('attachmentExists');
    expect(ipam.view()).toMatchObject({ leasedAddresses: 2, restingAddresses: 0 });
  });

  test('needs no registry while there is a free address', async () => {
    await using nodes = await IpamNodes.create();
    const ipam = await nodes.start('node1');
    await ipam.whenReady(soon());
    await until('idle', () => nodes.registry.read('peer', 'node1.node1000') !== undefined);
    nodes.registry.behaviour.fault = () => 'away';
    for (let index = 0; index < 100; index++) {
      const lease = await ipam.lease(request(`c${index}`), soon());
      ipam.activate(lease);
      if (index % 2 === 0) ipam.release(lease, lease.generation);
    }
    expect(ipam.leases().length).toBe(50);
  });

  test('refused because the agent stops, leaves nothing that its caller’s going could set off', async () => {
    await using nodes = await IpamNodes.create();
    const ipam = await nodes.start('node1');
    await ipam.whenReady(soon());
    await nodes.stop(ipam);
    const caller = new AbortController();
    expect((await failure(ipam.lease(request('a'), caller.signal))).kind).toBe('interrupted');
    const thrown: unknown[] = [];
    const note = (error: unknown): void => void thrown.push(error);
    const others = process.listeners('uncaughtException');
    process.removeAllListeners('uncaughtException').on('uncaughtException', note);
    caller.abort();
    await new Promise((resolve) => setImmediate(resolve));
    process.removeListener('uncaughtException', note);
    for (const other of others) process.on('uncaughtException', other);
    expect(thrown).toEqual([]);
  });

  test('of an exhausted pool fails at once and says who holds the space', async () => {
    await using nodes = await IpamNodes.create();
    const universe = { ...pool, ranges: ['10.32.0.0/29'] };
    const ipam = await nodes.start('node1', { universe, restMs: 60_000 });
    await ipam.whenReady(soon());
    for (let index = 0; index < 5; index++) await ipam.lease(request(`c${index}`), soon());
    await until('exhaustion is known', () => ipam.view().waitingFor.includes('space to give'));
    const error = await failure(ipam.lease(request('more'), soon()));
    expect(error.kind).toBe('noAddress');
    expect(error.retryable).toBe(true);
    expect(error.message).toBe(
      'no address is free: no node of the pool 10.32.0.0/29 has space to give (addresses: this node 6, no other node holds any)',
    );
  });

  test('waits for the first block, and for no longer than it may', async () => {
    await using nodes = await IpamNodes.create();
    nodes.registry.behaviour.fault = () => 'away';
    const ipam = await nodes.start('node1', { allocateWaitMs: 300 });
    const error = await failure(ipam.lease(request('a'), soon()));
    expect(error).toMatchObject({ kind: 'notReady', retryable: true });
    const waiting = ipam.lease(request('b'), soon());
    nodes.registry.behaviour.fault = () => 'none';
    const lease = await waiting.catch(async () => {
      await ipam.whenReady(soon());
      return await ipam.lease(request('c'), soon());
    });
    expect(lease.addresses).toEqual(['10.32.0.2']);
  });

  test('whose caller goes away is not made', async () => {
    await using nodes = await IpamNodes.create();
    nodes.registry.behaviour.fault = () => 'away';
    const ipam = await nodes.start('node1');
    const gone = new AbortController();
    const waiting = failure(ipam.lease(request('a'), gone.signal));
    gone.abort();
    expect((await waiting).kind).toBe('interrupted');
    nodes.registry.behaviour.fault = () => 'none';
    await ipam.whenReady(soon());
    expect(ipam.leases()).toEqual([]);
    expect((await ipam.lease(request('a'), soon())).addresses).toEqual(['10.32.0.2']);
  });

  test('an address by name: given, refused when in use, refused when outside', async () => {
    await using nodes = await IpamNodes.create();
    const ipam = await nodes.start('node1');
    await ipam.whenReady(soon());
    expect((await ipam.lease(request('a', ['10.33.0.9']), soon())).addresses).toEqual(['10.33.0.9']);
    const inUse = await failure(ipam.lease(request('b', ['10.33.0.9']), soon()));
    expect(inUse).toMatchObject({ kind: 'noAddress', message: '10.33.0.9 is in use by pod default/pod-a' });
    const outside = await failure(ipam.lease(request('b', ['10.50.0.9']), soon()));
    expect(outside.kind).toBe('invalidConfig');
  });
});

describe('release', () => {
  test('acts on the generation named, is idempotent, and lets the address rest', async () => {
    await using nodes = await IpamNodes.create();
    const ipam = await nodes.start('node1', { universe: { ...pool, ranges: ['10.32.0.0/30'] }, restMs: 400 });
    await ipam.whenReady(soon());
    const lease = await ipam.lease(request('a'), soon());
    expect(ipam.release(lease, 'another')).toBeUndefined();
    const freedAtMs = performance.now();
    expect(ipam.release(lease, lease.generation)).toEqual(lease);
    expect(ipam.release(lease, lease.generation)).toBeUndefined();
    expect(ipam.view()).toMatchObject({ leasedAddresses: 0, restingAddresses: 1, freeAddresses: 0, ready: false });
    const again = await ipam.lease(request('b'), soon());
    expect(again.addresses).toEqual(lease.addresses);
    expect(performance.now() - freedAtMs).toBeGreaterThanOrEqual(400);
  });
});

describe('restart', () => {
  test('leases, pending ones too, and the own address come back from disk, without a registry', async () => {
    await using nodes = await IpamNodes.create();
    const first = await nodes.start('node1');
    await first.whenReady(soon());
    const pending = await first.lease(request('pending'), soon());
    const active = await first.lease(request('active'), soon());
    first.activate(active);
    const before = first.view();
    await nodes.stop(first);

    nodes.registry.behaviour.fault = () => 'away';
    const second = await nodes.start('node1');
    await second.whenReady(soon());
    expect(second.leases()).toEqual(expect.arrayContaining([pending, { ...active, state: 'active' }]));
    expect(second.find(pending)?.state).toBe('pending');
    expect(second.view()).toMatchObject({ overlayAddresses: before.overlayAddresses, registryAnsweredAtMs: undefined });
    expect(second.view().peers).toMatchObject([{ name: 'node1.node1000', self: true, blocks: ['10.32.0.0/12'] }]);
    const next = await second.lease(request('next'), soon());
    expect([...pending.addresses, ...active.addresses, ...before.overlayAddresses]).not.toContain(next.addresses[0]);

    nodes.registry.behaviour.fault = () => 'none';
    await until('the registry answers again', () => second.view().registryAnsweredAtMs !== undefined);
    expect(second.view().ready).toBe(true);
  });

  test('killed between persisting what it gives and writing the grant: no address is lost or doubled', async () => {
    await using nodes = await IpamNodes.create();
    const first = await nodes.start('node1');
    await first.whenReady(soon());
    // The grant never leaves the process.
    nodes.registry.behaviour.fault = ({ operation, name }) =>
      operation === 'update' && name === 'node1.node1000' ? 'away' : 'none';
    const two = await nodes.start('node2');
    await until('the half has left the usable set', () => first.view().freeAddresses < 600_000);
    expect(nodes.registry.read('peer', 'node1.node1000')?.value).toMatchObject({ granting: [] });
    await nodes.stop(first);

    nodes.registry.behaviour.fault = () => 'none';
    const again = await nodes.start('node1');
    await two.whenReady(soon());
    await until('the space is whole', () => {
      const peers = again.view().peers.map((peer) => peer.blocks.join(' '));
      return peers.join(', ') === '10.32.0.0/13, 10.40.0.0/13';
    });
  });

  test('a disk that cannot be written fails the lease, and a later one works', async () => {
    await using nodes = await IpamNodes.create();
    const ipam = await nodes.start('node1');
    await ipam.whenReady(soon());
    await ipam.lease(request('a'), soon());
    await nodes.stop(ipam);
    const database = new DatabaseSync(nodes.statePath('node1'));
    database.exec(
      "CREATE TRIGGER full BEFORE INSERT ON leases WHEN NEW.container_id = 'b' BEGIN SELECT RAISE(ABORT, 'disk full'); END",
    );
    database.close();

    const again = await nodes.start('node1');
    const error = await failure(again.lease(request('b'), soon()));
    expect(error).toMatchObject({ kind: 'store', retryable: true });
    expect(error.message).toMatch(/state\.sqlite.*disk full/);
    expect(again.leases().map((lease) => lease.containerId)).toEqual(['a']);
    expect((await again.lease(request('c'), soon())).addresses).toEqual(['10.32.0.3']);
  });
});

describe('settings', () => {
  test('a node name that makes no record name is refused', () => {
    const node = { nodeUid: 'ABCDEF0123', underlayAddresses: [] };
    expect(peerName({ ...node, nodeName: 'Node1' })).toBe('node1.abcdef01');
    expect(() => peerName({ ...node, nodeName: 'node_1' })).toThrow(WeftError);
    expect(() => peerName({ ...node, nodeName: 'n'.repeat(250) })).toThrow(WeftError);
  });

  test('a range that is no block is refused before anything is opened', async () => {
    await using nodes = await IpamNodes.create();
    const error = await failure(nodes.start('node1', { universe: { ...pool, ranges: ['10.32.0.1/12'] } }));
    expect(error).toMatchObject({ kind: 'invalidSetting' });
  });

  test('an underlay address that changes reaches the others', async () => {
    await using nodes = await IpamNodes.create();
    const one = await nodes.start('node1');
    await one.whenReady(soon());
    const two = await nodes.start('node2');
    await two.whenReady(soon());
    one.setUnderlay(['198.51.100.7']);
    await until('node2 sees it', () => two.view().peers[0]?.underlayAddress === '198.51.100.7');
  });

  test('close ends what waits', async () => {
    await using nodes = await IpamNodes.create();
    nodes.registry.behaviour.fault = () => 'away';
    const registry = nodes.registry.client();
    const node = { nodeName: 'node9', nodeUid: 'node9', underlayAddresses: [] };
    const log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
    const ipam = await startIpam({
      registry,
      node,
      log,
      universe: pool,
      statePath: nodes.statePath('node9'),
      timing: briskTiming,
    });
    const waiting = failure(ipam.lease(request('a'), soon()));
    await ipam.close();
    expect((await waiting).kind).toBe('interrupted');
    expect((await failure(ipam.lease(request('b'), soon()))).kind).toBe('interrupted');
  });
});

test('a lost state directory is healed from the leases that the kernel knows', async () => {
  await using nodes = await IpamNodes.create();
  const first = await nodes.start('node1');
  await first.whenReady(soon());
  const old = await first.lease(request('old'), soon());
  first.activate(old);
  const two = await nodes.start('node2');
  await two.whenReady(soon());
  await nodes.stop(first);
  await rm(nodes.statePath('node1'));

  const recoverNothing = async (signal: AbortSignal): Promise<readonly Lease[]> => await sleep(600_000, [], { signal });
  const stuck = await nodes.start('node1', { recoverLeases: recoverNothing });
  await until('it is noticed', () => stuck.view().waitingFor.includes('the state directory was lost'));
  expect((await failure(stuck.lease(request('new'), soon()))).kind).toBe('notReady');
  await nodes.stop(stuck);

  const recoverLeases = async (): Promise<readonly Lease[]> => [{ ...old, state: 'active' }];
  const healed = await nodes.start('node1', { recoverLeases });
  await healed.whenReady(soon());
  expect(healed.view()).toMatchObject({ overlayAddresses: ['10.32.0.1'], leasedAddresses: 1 });
  expect((await healed.lease(request('new'), soon())).addresses).not.toEqual(old.addresses);
  expect(healed.release(old, old.generation)?.addresses).toEqual(old.addresses);
});
