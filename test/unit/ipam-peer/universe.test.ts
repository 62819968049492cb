// A Universe that is deleted or made anew under running peers: nobody's pods suffer, nothing is ever given out twice, and who joins later
// does not found a second network over the first.
import { describe, expect, test } from 'vitest';
import type { StoredRecord } from '#ipam-peer/events.ts';
import { formatCidr } from '#ipam-peer/cidr.ts';
import { effectiveOwners, ownershipViolations } from '#ipam-peer/invariants.ts';
import { formatUniverse, type UniverseRecord } from '#ipam-peer/records.ts';
import { summary } from '#ipam-peer/view.ts';
import { Bench, cidrs, type Hand } from './harness.ts';

/** Two nodes that share the default range. */
function pair(change: Parameters<Bench['peer']>[1] = {}): {
  readonly bench: Bench;
  readonly one: Hand;
  readonly two: Hand;
} {
  const bench = new Bench();
  const one = bench.peer('n1', change).start();
  bench.settle();
  const two = bench.peer('n2', change).start();
  bench.settle(60_000);
  expectSound(bench);
  return { bench, one, two };
}

function remove(bench: Bench): void {
  bench.registry.universe = undefined;
  for (const peer of bench.peers) peer.feed({ kind: 'universe' });
}

/** Read anew, whatever was assigned to it before. */
function universeOf(bench: Bench): Bench['registry']['universe'] {
  return bench.registry.universe;
}

function make(bench: Bench, ...ranges: readonly string[]): void {
  const value: UniverseRecord = { ranges: cidrs(...ranges), reserved: [], namespaces: [], extra: {} };
  const made = {
    kind: 'create',
    request: 0,
    record: 'universe',
    name: 'default',
    value: formatUniverse(value),
  } as const;
  expect(bench.registry.execute(made).kind).toBe('ok');
  const record: StoredRecord | undefined = universeOf(bench)?.stored;
  for (const peer of bench.peers) peer.feed({ kind: 'universe', ...(record && { record }) });
}

function expectSound({ registry }: Bench): void {
  const universe = registry.universe?.record;
  expect(ownershipViolations(universe, effectiveOwners(universe, [...registry.peers.values()]))).toEqual([]);
}

const ended = (hand: Hand): string | undefined => hand.sim.state?.universeTrack.ended?.name;
const rangesOf = (hand: Hand): readonly string[] | undefined => hand.sim.state && summary(hand.sim.state).ranges;

describe('the default Universe is deleted', () => {
  test('pods go on to start, it is made again as it was, and a new node joins instead of founding another', () => {
    const { bench, one, two } = pair({ reserved: cidrs('10.43.0.0/16') });
    remove(bench);
    bench.settle(1000);
    expect([ended(one), ended(two)]).toEqual(['universeDeleted', 'universeDeleted']);
    expect(bench.registry.universe).toBeUndefined();
    expect(one.allocate('a').lease).toBeDefined();
    bench.settle(120_000);
    const made = bench.registry.universe?.record;
    expect([made?.ranges.map(formatCidr), made?.reserved.map(formatCidr)]).toEqual([
      ['10.32.0.0/12'],
      ['10.43.0.0/16'],
    ]);
    expect(made?.founder).toBeDefined();
    expect([ended(one), ended(two)]).toEqual([undefined, undefined]);
    const three = bench.peer('n3', { ranges: cidrs('10.96.0.0/12') }).start();
    bench.settle(120_000);
    expect(three.allocate('b').lease?.addresses[0]).toMatch(/^10\.(3[2-9]|4[0-7])\./);
    expect(bench.registry.universe?.record.founder).toEqual(made?.founder);
    expectSound(bench);
  });

  test('a person who puts it back first is not in the way; who founds it again owns nothing new', () => {
    const { bench, one, two } = pair();
    remove(bench);
    bench.settle(1000);
    make(bench, '10.32.0.0/12');
    bench.settle(60_000);
    expect(bench.registry.universe?.record.founder).toBeDefined();
    expect([one.blocks(), two.blocks()]).toEqual([['10.32.0.0/13'], ['10.40.0.0/13']]);
    expectSound(bench);
  });

  test('a node that never knew it, with other ranges in its settings, founds nothing over the others', () => {
    const { bench, one, two } = pair();
    for (const hand of [one, two]) hand.sim.crash();
    bench.registry.universe = undefined;
    const three = bench.peer('n3').start();
    bench.settle(60_000);
    expect(bench.registry.universe).toMatchObject({ record: { founder: { name: 'n3.x' } } });
    expect(three.blocks()).toEqual([]);
    expect(bench.record('n3').seeded).toBe(true);
    for (const hand of [one, two]) hand.start();
    bench.settle(60_000);
    expect(three.allocate('b').lease).toBeDefined();
    expectSound(bench);
  });

  test('a whole cluster that starts again after it serves from its disks meanwhile', () => {
    const { bench, one, two } = pair();
    for (const hand of [one, two]) hand.sim.crash();
    bench.registry.universe = undefined;
    for (const hand of [one, two]) hand.start();
    bench.settle(5000);
    expect(one.allocate('a').lease).toBeDefined();
    expect(one.sim.state && summary(one.sim.state)).toMatchObject({ founded: true, ranges: ['10.32.0.0/12'] });
    bench.settle(120_000);
    expect(universeOf(bench)?.record.ranges.map(formatCidr)).toEqual(['10.32.0.0/12']);
    expectSound(bench);
  });
});

describe('another Universe is put in its place', () => {
  function replaced(): ReturnType<typeof pair> {
    const made = pair();
    made.one.allocate('a');
    remove(made.bench);
    make(made.bench, '10.96.0.0/12');
    made.bench.settle(120_000);
    return made;
  }

  test('the nodes go on in the one that they know and say so; nobody founds the other', () => {
    const { bench, one, two } = replaced();
    expect([ended(one), ended(two)]).toEqual(['universeReplaced', 'universeReplaced']);
    expect(one.log).toContain(
      'the Universe default has the ranges 10.96.0.0/12, this node holds 10.32.0.0/13 of an earlier one (10.32.0.0/12)',
    );
    expect(two.allocate('b').lease?.addresses).toEqual(['10.40.0.1']);
    const three = bench.peer('n3').start();
    bench.settle(60_000);
    expect(three.blocks()).toEqual([]);
    expect(three.sim.state?.trouble).toBe(
      'the Universe default (10.96.0.0/12) cannot be founded: n1, n2 hold 10.32.0.0/12 of an earlier one',
    );
    expect(bench.registry.universe?.record.founder).toBeUndefined();
  });

  test('put back, all is as it was', () => {
    const { bench, one, two } = replaced();
    remove(bench);
    make(bench, '10.32.0.0/12');
    bench.settle(60_000);
    expect([ended(one), ended(two)]).toEqual([undefined, undefined]);
    expectSound(bench);
  });

  test('once the records are gone each node begins anew when its last pod has gone, and gives nothing out before', () => {
    const { bench, one, two } = replaced();
    bench.registry.remove('n1.x');
    bench.registry.remove('n2.x');
    bench.settle(120_000);
    expect(two.blocks()).toEqual(['10.96.0.0/12']);
    expect(two.allocate('b').lease?.addresses).toEqual(['10.96.0.2']);
    expect(bench.registry.peers.has('n1.x')).toBe(false);
    expect(one.allocate('c').refusal).toMatchObject({
      reason: 'fenced',
      text: expect.stringMatching(/1 pods here still have addresses of it/) as string,
    });
    one.free('a');
    bench.settle(120_000);
    expect(one.blocks()).toEqual(['10.104.0.0/13']);
    expect(rangesOf(one)).toEqual(['10.96.0.0/12']);
    expect(one.allocate('d').lease?.addresses).toEqual(['10.104.0.1']);
    expectSound(bench);
  });

  test('also when the agent was away while it happened', () => {
    const { bench, one, two } = pair();
    for (const hand of [one, two]) hand.sim.crash();
    bench.registry.universe = undefined;
    make(bench, '10.96.0.0/12');
    bench.registry.remove('n1.x');
    bench.registry.remove('n2.x');
    one.start();
    two.start();
    bench.settle(200_000);
    expect([...one.blocks(), ...two.blocks()].toSorted()).toEqual(['10.104.0.0/13', '10.96.0.0/13']);
    expectSound(bench);
  });

  test('a larger range that holds everybody’s space is taken; what is new of it stays unused', () => {
    const { bench, one, two } = pair();
    remove(bench);
    make(bench, '10.32.0.0/11');
    bench.settle(60_000);
    expect([ended(one), ended(two)]).toEqual([undefined, undefined]);
    expect([one.blocks(), two.blocks()]).toEqual([['10.32.0.0/13'], ['10.40.0.0/13']]);
  });
});

describe('a further pool', () => {
  const further = { joinOnUse: true, ranges: [], universe: 'blue', ownAddresses: [] };
  function blue(): { readonly bench: Bench; readonly one: Hand } {
    const bench = new Bench();
    const value: UniverseRecord = { ranges: cidrs('10.64.0.0/16'), reserved: [], namespaces: [], extra: {} };
    bench.registry.execute({
      kind: 'create',
      request: 0,
      record: 'universe',
      name: 'blue',
      value: formatUniverse(value),
    });
    const one = bench.peer('n1', further).start();
    const ticket = one.ask('a');
    bench.settle(10_000);
    expect(one.outcomes.get(ticket)?.lease?.addresses).toEqual(['10.64.0.1']);
    return { bench, one };
  }

  test('that was deleted gives out nothing more; its pods keep what they have, and it is not made again', () => {
    const { bench, one } = blue();
    remove(bench);
    bench.settle(200_000);
    expect(bench.registry.universe).toBeUndefined();
    expect(one.allocate('b').refusal?.text).toBe(
      'the Universe blue was deleted: its pods keep their addresses, no other pod gets one',
    );
    expect(one.sim.state?.leases.size).toBe(1);
  });

  test('is forgotten when its record is deleted and its last pod has gone', () => {
    const { bench, one } = blue();
    remove(bench);
    bench.registry.remove('n1.x');
    bench.settle(200_000);
    expect(one.sim.state?.durable.uid).toBeDefined();
    one.free('a');
    bench.settle(200_000);
    expect(one.sim.state?.durable).toMatchObject({ uid: undefined, blocks: [] });
    expect(bench.registry.peers.size).toBe(0);
  });
});
