// The registry went back: what the simulator found.
import { expect, test } from 'vitest';
import { effectiveOwners, ownershipViolations } from '#ipam-peer/invariants.ts';
import { Bench } from './harness.ts';

// Seed 2011615: the taker had written its record back, read the donor's, which did not tell of the grant yet, and cleared `via`; then the
// donor wrote its record back, with the grant.
test('a taker keeps via while the donor may still write its grant back', () => {
  const bench = new Bench();
  const one = bench.peer('n1').start();
  bench.settle();
  one.holding = () => true;
  const two = bench.peer('n2').start();
  bench.settle(1000);
  const backup = bench.registry.backup();
  expect(bench.record('n2').wants[4]?.name).toBe('n1.x');
  // The donor grants, and then hears nothing more.
  one.holding = (request) =>
    request.kind === 'get' && request.name === 'n2.x' && bench.record('n1').granting.length > 0;
  for (const request of one.held.splice(0)) one.answer(request);
  bench.settle(10_000);
  expect(two.blocks()).toEqual(['10.40.0.0/13 via']);
  // It makes its record smaller, so that the taker can write its own back, and is slow to go on.
  one.holding = () => bench.record('n1').suspect === true;
  one.held.length = 0;
  bench.registry.restore(backup);
  bench.settle(60_000);
  expect(two.log).toContain('wrote the record of this node back');
  expect(two.blocks()).toEqual(['10.40.0.0/13 via']);
  one.release();
  bench.settle(3_000_000);
  expect([one.blocks(), two.blocks()]).toEqual([['10.32.0.0/13'], ['10.40.0.0/13']]);
  const universe = bench.registry.universe?.record;
  expect(ownershipViolations(universe, effectiveOwners(universe, [...bench.registry.peers.values()]))).toEqual([]);
});

// Seed 9000046: its heir had inherited the range and deleted its record; it started before it heard that its node was gone, took that for
// a registry that went back, and claimed the range as the founder that it still was by its disk.
test('a founder that had seeded nothing claims nothing when it comes back after its heir', () => {
  const bench = new Bench();
  const one = bench.peer('n1');
  one.holding = (request) => request.kind === 'update' && request.record === 'peer';
  one.start();
  bench.settle();
  expect(bench.registry.universe?.record.founder?.name).toBe('n1.x');
  one.sim.crash();
  const two = bench.peer('n2').start();
  bench.registry.deleteNode('n1.x', 'x-n1', false);
  two.feed({ kind: 'nodes', gone: ['n1.x'] });
  bench.settle(1_000_000);
  expect(two.blocks()).toEqual(['10.32.0.0/12']);
  expect(bench.registry.peers.has('n1.x')).toBe(false);
  one.holding = () => false;
  one.start();
  bench.settle(10_000);
  expect(one.log).toContainEqual(expect.stringMatching(/the registry went back/));
  for (const afterMs of [0, 10_000, 4_000_000]) {
    bench.settle(afterMs);
    const universe = bench.registry.universe?.record;
    expect(ownershipViolations(universe, effectiveOwners(universe, [...bench.registry.peers.values()]))).toEqual([]);
  }
});
