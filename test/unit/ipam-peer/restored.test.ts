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
