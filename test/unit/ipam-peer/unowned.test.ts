// Space in no record: told after a long time, given to a node at a person's word only.
import { expect, test } from 'vitest';
import { formatCidrs } from '#ipam-peer/cidr.ts';
import { effectiveOwners, ownershipViolations } from '#ipam-peer/invariants.ts';
import { formatPeer } from '#ipam-peer/records.ts';
import { planReclaim, type Reclaim } from '#ipam-peer/unowned.ts';
import { summary } from '#ipam-peer/view.ts';
import { Bench, type Hand, cidr } from './harness.ts';

const longMs = 4_000_000;

/** n2's record is deleted by hand and its disk lost: what it had is nobody's. */
function forsaken(): { readonly bench: Bench; readonly one: Hand; readonly two: Hand } {
  const bench = new Bench();
  const one = bench.peer('n1').start();
  bench.settle();
  const two = bench.peer('n2').start();
  bench.settle(20_000);
  expect([one.blocks(), two.blocks()]).toEqual([['10.32.0.0/13'], ['10.40.0.0/13']]);
  two.sim.loseDisk();
  bench.registry.remove('n2.x');
  bench.settle(5000);
  return { bench, one, two };
}

function plan(bench: Bench, name: string): Reclaim {
  return planReclaim(bench.registry.universe?.record, [...bench.registry.peers.values()], `${name}.x`);
}

const told = ({ sim }: Hand): unknown => sim.state && summary(sim.state).unowned;

test('it is told once it has been so for long, and nobody takes it', () => {
  const { bench, one } = forsaken();
  bench.settle(600_000);
  expect(told(one)).toEqual([]);
  bench.settle(longMs);
  expect(told(one)).toEqual(['10.40.0.0/13']);
  expect(one.blocks()).toEqual(['10.32.0.0/13']);
});

test('at a person’s word a node takes it, in quarantine first, and nothing is missing any more', () => {
  const { bench, one } = forsaken();
  bench.settle(longMs);
  const reclaim = plan(bench, 'n1');
  if (reclaim.kind !== 'take') throw new Error(reclaim.kind);
  expect(formatCidrs(reclaim.space)).toBe('10.40.0.0/13');
  const stored = bench.registry.peers.get('n1.x')?.stored ?? expect.unreachable();
  const value = formatPeer(reclaim.record);
  bench.registry.execute({ kind: 'update', request: 0, record: 'peer', stored, value });
  bench.settle(10_000);
  expect(one.allocate('early', '10.40.0.9').refusal?.reason).toBe('notOurs');
  bench.settle(800_000);
  expect(one.blocks()).toEqual(['10.32.0.0/12']);
  expect(one.allocate('pod', '10.40.0.9').lease).toBeDefined();
  expect(told(one)).toEqual([]);
  const universe = bench.registry.universe?.record;
  expect(ownershipViolations(universe, effectiveOwners(universe, [...bench.registry.peers.values()]))).toEqual([]);
  expect(plan(bench, 'n1')).toEqual({ kind: 'none' });
});

test('what somebody may still write back is not taken', () => {
  const { bench } = forsaken();
  bench.edit('n1', { suspect: true });
  expect(plan(bench, 'n1')).toEqual({ kind: 'wait', why: 'n1.x is still writing its record back' });
  expect(plan(bench, 'n7')).toMatchObject({ kind: 'wait' });
});

test('neither one without a record nor one that was removed takes it, and a full record has no room', () => {
  const { bench } = forsaken();
  expect(plan(bench, 'n2')).toEqual({ kind: 'wait', why: 'n2.x has no record yet' });
  bench.edit('n1', { removed: true });
  expect(plan(bench, 'n1')).toEqual({ kind: 'wait', why: 'n1.x was removed' });
  const blocks = Array.from({ length: 128 }, (_, index) => ({ cidr: cidr(`10.32.${index}.0/24`) }));
  bench.edit('n1', { removed: false, blocks });
  expect(plan(bench, 'n1')).toMatchObject({ kind: 'wait', why: /^the record of n1.x has no room for/ });
});

// Seed 26 of mood `forsaken`: the record was made again, empty, and the disk that would have filled it was lost.
test('a record that nobody writes back any more does not go on saying so', () => {
  const { bench, two } = forsaken();
  two.holding = (request) => request.kind === 'update' && request.record === 'peer';
  two.start();
  bench.settle(400_000);
  two.feed({ kind: 'recovered', leases: [] });
  bench.settle(20_000);
  bench.edit('n2', { suspect: true, seeded: true });
  two.sim.loseDisk();
  two.holding = () => false;
  two.start();
  bench.settle(400_000);
  two.feed({ kind: 'recovered', leases: [] });
  bench.settle(20_000);
  expect(bench.record('n2').suspect).toBeUndefined();
});

test('a founder that has not written the ranges yet owns them', () => {
  const bench = new Bench();
  const one = bench.peer('n1');
  one.holding = (request) => request.kind === 'update' && request.record === 'peer';
  one.start();
  bench.settle();
  expect(bench.registry.universe?.record.founder?.name).toBe('n1.x');
  expect(plan(bench, 'n1')).toEqual({ kind: 'none' });
  // Its record is deleted by hand and its disk is lost: a person need not delete the Universe.
  one.sim.loseDisk();
  bench.registry.remove('n1.x');
  bench.peer('n2').start();
  bench.settle(20_000);
  expect(plan(bench, 'n2')).toMatchObject({ kind: 'take' });
});
