// Allocate, free and rest in the core: what is answered, what is persisted before it, who waits and for how long.
import { describe, expect, test } from 'vitest';
import { Bench, cidrs, type Hand } from './harness.ts';

function founder(change: Parameters<Bench['peer']>[1] = {}): { readonly bench: Bench; readonly one: Hand } {
  const bench = new Bench();
  const one = bench.peer('n1', change).start();
  bench.settle();
  return { bench, one };
}

describe('allocate', () => {
  test('the row is durable before the answer, and no registry is asked', () => {
    const { one } = founder();
    one.effects.length = 0;
    const { lease } = one.allocate('pod');
    expect(lease).toMatchObject({ containerId: 'pod', addresses: ['10.32.0.2'], state: 'pending' });
    expect(one.effects.map((effect) => effect.kind).filter((kind) => kind !== 'timer')).toEqual(['persist', 'leased']);
  });

  test('a key that has a lease is refused, whatever its state', () => {
    const { one } = founder();
    one.allocate('pod');
    expect(one.allocate('pod').refusal).toEqual({
      reason: 'exists',
      text: 'container pod interface eth0 already has a lease',
    });
  });

  test('never the network or broadcast address, nor the own one', () => {
    const { one } = founder({ ranges: cidrs('10.32.0.0/29') });
    const got = Array.from({ length: 5 }, (_, index) => one.allocate(`pod-${index}`).lease?.addresses[0]);
    expect(got).toEqual(['10.32.0.2', '10.32.0.3', '10.32.0.4', '10.32.0.5', '10.32.0.6']);
    expect(one.allocate('more').refusal?.reason).toBe('exhausted');
  });

  test('an address rests before it is used again', () => {
    const { bench, one } = founder({ ranges: cidrs('10.32.0.0/30'), restMs: 5000 });
    expect(one.allocate('a').lease?.addresses).toEqual(['10.32.0.2']);
    one.free('a');
    const waiting = one.ask('b');
    bench.settle(4000);
    expect(one.outcomes.get(waiting)).toBeUndefined();
    bench.settle(1500);
    expect(one.outcomes.get(waiting)?.lease?.addresses).toEqual(['10.32.0.2']);
  });

  test('a rest begins anew after a restart', () => {
    const { bench, one } = founder({ ranges: cidrs('10.32.0.0/30'), restMs: 5000 });
    one.allocate('a');
    one.free('a');
    bench.settle(4500);
    one.sim.crash();
    one.start();
    const waiting = one.ask('b');
    bench.settle(4500);
    expect(one.outcomes.get(waiting)).toBeUndefined();
    bench.settle(1000);
    expect(one.outcomes.get(waiting)?.lease?.addresses).toEqual(['10.32.0.2']);
  });

  test('who waits is served in order once space comes', () => {
    const bench = new Bench();
    bench.peer('n1').start();
    bench.settle();
    const two = bench.peer('n2').start();
    const tickets = [two.ask('a'), two.ask('b'), two.ask('c')];
    two.feed({ kind: 'cancel', ticket: tickets[1] ?? 0 });
    expect(two.outcomes.size).toBe(0);
    bench.settle();
    expect(tickets.map((ticket) => two.outcomes.get(ticket)?.lease?.addresses[0])).toEqual([
      '10.40.0.1',
      undefined,
      '10.40.0.2',
    ]);
  });

  test('a wait ends in time, saying what was waited for', () => {
    const bench = new Bench();
    const one = bench.peer('n1', { allocateWaitMs: 3000 });
    one.holding = () => true;
    one.start();
    const ticket = one.ask('pod');
    bench.settle(2900);
    expect(one.outcomes.get(ticket)).toBeUndefined();
    bench.settle(200);
    expect(one.outcomes.get(ticket)?.refusal).toEqual({
      reason: 'notReady',
      text: 'this node has no block of the pool yet, after 3 s: the registry has not answered yet',
    });
  });
});

describe('an address asked for by name', () => {
  test('is given, and not twice', () => {
    const { one } = founder();
    expect(one.allocate('a', '10.32.7.7').lease?.addresses).toEqual(['10.32.7.7']);
    expect(one.allocate('b', '10.32.7.7').refusal).toEqual({
      reason: 'inUse',
      address: '10.32.7.7',
      text: '10.32.7.7 is in use by pod default/a',
    });
    one.free('a');
    expect(one.allocate('b', '10.32.7.7').refusal?.text).toMatch(/rests before it is used again/);
  });

  test.for([
    ['10.32.0.1', 'inUse', /in use by the node itself/],
    ['10.32.0.0', 'invalid', /network or broadcast/],
    ['10.47.255.255', 'invalid', /network or broadcast/],
    ['10.43.0.10', 'invalid', /reserved/],
    ['10.48.0.1', 'invalid', /outside the pool 10\.32\.0\.0\/12/],
    ['10.32.0.1/24', 'invalid', /is no address/],
    ['fd00::1', 'invalid', /outside the pool/],
  ] as const)('%s is refused', ([address, reason, text]) => {
    const { one } = founder({ reserved: cidrs('10.43.0.0/16') });
    expect(one.allocate('a', address).refusal).toMatchObject({ reason, text: expect.stringMatching(text) as string });
  });

  test('of another node is refused at once, naming the node', () => {
    const { bench, one } = founder();
    bench.peer('n2').start();
    bench.settle();
    expect(one.allocate('a', '10.41.0.5').refusal).toEqual({
      reason: 'notOurs',
      address: '10.41.0.5',
      text: '10.41.0.5 belongs to node n2, not to this node',
    });
  });

  test('two at once are refused: the pool has one family', () => {
    const { one } = founder();
    expect(one.allocate('a', '10.32.0.9', '10.32.0.10').refusal?.reason).toBe('invalid');
  });
});

describe('free and activate', () => {
  test('act only on the generation named, and any number of times', () => {
    const { one } = founder();
    const first = one.allocate('pod').lease;
    one.free('pod', 'another');
    expect(one.sim.state?.leases.size).toBe(1);
    one.free('pod', first?.generation);
    one.free('pod', first?.generation);
    one.free('never');
    expect(one.sim.state?.leases.size).toBe(0);
    expect(one.sim.disk.leases.size).toBe(0);
    expect([...one.sim.disk.resting]).toEqual(['10.32.0.2']);
  });

  test('an active lease stands on disk as active', () => {
    const { one } = founder();
    const lease = one.allocate('pod').lease;
    if (lease === undefined) throw new Error('no lease');
    one.feed({ kind: 'activate', ...lease, generation: 'another' });
    expect(one.sim.disk.leases.get('pod\0eth0')?.state).toBe('pending');
    one.feed({ kind: 'activate', ...lease });
    expect(one.sim.disk.leases.get('pod\0eth0')?.state).toBe('active');
  });

  test('rows of ended rests leave the disk with the next lease', () => {
    const { bench, one } = founder();
    one.allocate('a');
    one.free('a');
    bench.settle(40_000);
    expect(one.sim.disk.resting.size).toBe(1);
    one.allocate('b');
    expect(one.sim.disk.resting.size).toBe(0);
  });
});
