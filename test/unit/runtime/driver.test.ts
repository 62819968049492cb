// The driver when the disk fails: what was not committed is nobody's, whatever fails next.
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { WeftError } from '#agent/errors.ts';
import { makeDriver, type Outcome } from '#agent/runtime/driver.ts';
import { defaultTiming } from '#agent/runtime/start.ts';
import { openStore, type Store } from '#agent/runtime/store.ts';
import { families } from '#ipam-peer/address.ts';
import { parseCidr } from '#ipam-peer/cidr.ts';
import { viasLimit } from '#ipam-peer/records.ts';
import { briskTiming, IpamNodes, request, until } from '#test/support/ipam-nodes.ts';

/** A real store whose calls fail while told so. */
function failing(store: Store, fails: { persist: boolean; load: boolean }): Store {
  const refuse = (what: string): never => {
    throw new WeftError('store', `cannot ${what}: disk I/O error`);
  };
  return {
    ...store,
    persist: (deltas, sync) => (fails.persist ? refuse('write') : store.persist(deltas, sync)),
    load: () => (fails.load ? refuse('read') : store.load()),
  };
}

describe('a commit that fails on a disk that cannot be read either', () => {
  test('nothing happens until it can be read, and then the core is as the disk has it', async () => {
    await using nodes = await IpamNodes.create();
    const fails = { persist: false, load: false };
    const lines: string[] = [];
    const say = (text: string): void => void lines.push(text);
    const driver = makeDriver({
      registry: nodes.registry.client(),
      store: failing(openStore(nodes.statePath('node1')), fails),
      config: {
        ...defaultTiming,
        ...briskTiming,
        universe: 'default',
        joinOnUse: false,
        ownAddresses: families,
        ranges: [parseCidr('10.32.0.0/12')].flatMap((cidr) => cidr ?? []),
        reserved: [],
        self: 'node1.node1000',
        node: { name: 'node1', uid: 'node1000-0000' },
        session: 'first',
        mostVias: viasLimit,
        quarantineMs: 100,
      },
      underlay: ['192.0.2.1'],
      log: { debug: say, info: say, warn: say, error: say },
      survey: undefined,
      recoverLeases: undefined,
      cutLeases: undefined,
      nodeExists: undefined,
      nowMs: () => performance.now(),
      random: Math.random,
    });
    driver.start();
    await until('it owns the range', () => driver.state.durable.overlay.length > 0);
    let ticket = 0;
    const outcomes = new Map<string, Outcome['kind']>();
    const allocate = (containerId: string): void => {
      ticket += 1;
      driver.expect(ticket, ({ kind }) => void outcomes.set(containerId, kind));
      const { ifname, owner, addresses } = request(containerId);
      const wish = { containerId, ifname, owner, addresses, generation: containerId, sinceMs: 0, hostIfname: '' };
      driver.feed({ kind: 'allocate', ticket, wish });
    };
    allocate('a');
    expect(outcomes.get('a')).toBe('leased');
    fails.persist = true;
    fails.load = true;
    expect(() => allocate('b')).toThrow('cannot write');
    fails.persist = false;
    const written = nodes.registry.read('peer', 'node1.node1000')?.version;
    expect(() => allocate('c')).toThrow('cannot read');
    await delay(1200);
    expect(nodes.registry.read('peer', 'node1.node1000')?.version).toBe(written);
    fails.load = false;
    allocate('d');
    // What is on disk counts once the record says the same.
    await until('it serves again', () => outcomes.get('d') === 'leased');
    expect([...driver.state.leases.values()].map(({ containerId }) => containerId)).toEqual(['a', 'd']);
    await driver.close();
    const disk = openStore(nodes.statePath('node1'));
    expect(disk.load().leases.map(({ containerId }) => containerId)).toEqual(['a', 'd']);
    disk.close();
  });
});
