// The registry went back: what the simulator found.
import { describe, expect, test } from 'vitest';
import { formatCidr } from '#ipam-peer/cidr.ts';
import { effectiveOwners, ownershipViolations } from '#ipam-peer/invariants.ts';
import { formatPeer } from '#ipam-peer/records.ts';
import { summary } from '#ipam-peer/view.ts';
import { Bench, cidr, type Hand } from './harness.ts';

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

test('a node that finds its record older writes it back as soon as it knows that its session is its own', () => {
  const bench = new Bench();
  const one = bench.peer('n1').start();
  bench.settle();
  const backup = bench.registry.backup();
  const before = bench.record('n1').seq;
  one.sim.underlay = ['192.168.9.9'];
  one.feed({ kind: 'underlay', addresses: one.sim.underlay });
  bench.settle(10_000);
  expect(bench.record('n1').seq).toBeGreaterThan(before);
  bench.registry.restore(backup);
  // It reads all records every ten minutes, and its own then.
  bench.settle(600_000);
  expect(one.log).toContain('wrote the record of this node back');
});

// Seed 3610096: what it had been granted it had given on; after the restore it took the grant once more, out of the old record of a donor
// that was slow to write its own back.
test('a taker that has given space on takes it no second time from a donor whose record is old', () => {
  const bench = new Bench();
  const one = bench.peer('n1').start();
  bench.settle();
  const three = bench.peer('n3').start();
  bench.settle(20_000);
  three.holding = () => true;
  const two = bench.peer('n2');
  two.holding = ({ kind }) => kind === 'update' && bench.record('n1').granting.length > 0;
  two.start();
  bench.settle(9000);
  const backup = bench.registry.backup();
  expect(bench.record('n1').granting.length).toBe(1);
  two.release();
  bench.settle(20_000);
  expect(two.blocks()).toEqual(['10.36.0.0/14']);
  one.holding = () => true;
  const to = { name: 'n3.x', uid: bench.registry.peers.get('n3.x')?.stored.uid ?? '' };
  bench.edit('n2', { blocks: [], overlay: [], granting: [{ id: 7, cidr: cidr('10.36.0.0/14'), to }] });
  bench.settle(5000);
  expect(two.sim.disk.peer.blocks).toEqual([]);
  bench.registry.restore(backup);
  bench.settle(700_000);
  expect(two.log).toContain('wrote the record of this node back');
  three.release();
  bench.settle(60_000);
  expect(three.blocks()).toContain('10.36.0.0/14');
  expect(two.blocks()).toEqual([]);
  one.release();
  bench.settle(4_000_000);
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

describe('a backup that is older than a takeover', () => {
  /** n3 was taken over by the one that is returned, which has a pod in what it inherited; then the registry went back. */
  function restored(): { readonly bench: Bench; readonly heir: Hand; readonly inherited: string } {
    const bench = new Bench();
    const hands = ['n1', 'n2', 'n3'].map((name) => {
      const hand = bench.peer(name).start();
      bench.settle(60_000);
      return hand;
    });
    const [inherited = ''] = hands[2]?.blocks() ?? [];
    const backup = bench.registry.backup();
    hands[2]?.sim.crash();
    bench.deleteNode('n3');
    bench.settle(2_000_000);
    expect(bench.registry.peers.has('n3.x')).toBe(false);
    const heir = hands.find((hand) => hand !== hands[2] && hand.blocks().some((block) => block === inherited));
    const { lease } = heir?.allocate('pod', inherited.replace(/0\/\d+$/, '9')) ?? {};
    expect(lease).toBeDefined();
    bench.registry.restore(backup);
    bench.settle(30_000);
    return { bench, heir: heir ?? expect.unreachable(), inherited };
  }

  const conflicts = ({ sim }: Hand): unknown => sim.state && summary(sim.state).conflicts;

  test('is told, with the record that stands against this node’s disk', () => {
    const { heir, inherited } = restored();
    expect(conflicts(heir)).toEqual([{ name: 'n3.x', nodeName: 'n3', gone: true, blocks: [inherited] }]);
    expect(heir.sim.state?.leases.size).toBe(1);
  });

  test('once the block has left that record the node has all of its space again, and no pod is cut off', () => {
    const { bench, heir, inherited } = restored();
    const before = bench.record('n3');
    bench.edit('n3', { blocks: before.blocks.filter(({ cidr: block }) => formatCidr(block) !== inherited) });
    bench.settle(60_000);
    expect(conflicts(heir)).toEqual([]);
    expect(heir.blocks()).toContain(inherited);
    bench.settle(8_000_000);
    expect(heir.cuts).toEqual([]);
    expect(heir.sim.state?.leases.size).toBe(1);
    expect(bench.registry.peers.has('n3.x')).toBe(false);
    const universe = bench.registry.universe?.record;
    expect(ownershipViolations(universe, effectiveOwners(universe, [...bench.registry.peers.values()]))).toEqual([]);
  });

  test('when nobody says so the pod is cut off in the end', () => {
    const { bench, heir } = restored();
    bench.settle(8_000_000);
    expect(heir.cuts).toHaveLength(1);
  });
});

// Seed 3500345: the heir's own record was deleted by hand and made again; the dead record named the earlier one, and nobody ended it.
test('an heir whose record was made again goes on with what it had inherited', () => {
  const bench = new Bench();
  const [one, two] = ['n1', 'n2'].map((name) => {
    const hand = bench.peer(name).start();
    bench.settle(10_000);
    return hand;
  });
  if (one === undefined || two === undefined) throw new Error('two peers');
  two.sim.crash();
  one.holding = (request) => request.kind === 'update' && bench.record('n2').heir !== undefined;
  bench.deleteNode('n2');
  bench.settle(700_000);
  expect(bench.record('n2').heir?.uid).toBe(bench.registry.peers.get('n1.x')?.stored.uid);
  bench.registry.remove('n1.x');
  one.holding = () => false;
  bench.settle(6_000_000);
  expect([...bench.registry.peers.keys()]).toEqual(['n1.x']);
  expect(one.blocks()).toEqual(['10.32.0.0/12']);
});

/** n2 has taken a grant of n1, which hears no answer about n2's record. */
function takenUnheard(): { readonly bench: Bench; readonly one: Hand; readonly two: Hand } {
  const bench = new Bench();
  const one = bench.peer('n1').start();
  bench.settle();
  const two = bench.peer('n2').start();
  one.holding = (request) =>
    request.kind === 'get' && request.name === 'n2.x' && bench.record('n1').granting.length > 0;
  bench.settle(10_000);
  expect(two.blocks()).toEqual(['10.40.0.0/13 via']);
  return { bench, one, two };
}

// Seed 3014504: the donor read that the taker's record was gone, waited for another answer of that cycle, and took the space back after the
// taker had written its record back: two owners.
test('a taker whose record was made again since it was read to be gone keeps its space', () => {
  const { bench, one, two } = takenUnheard();
  two.holding = () => true;
  bench.registry.remove('n2.x');
  const three = bench.peer('n3').start();
  one.holding = (request) => request.kind === 'get' && request.name === 'n3.x';
  one.held.length = 0;
  bench.settle(20_000);
  one.held.length = 0;
  for (let rounds = 0; rounds < 100 && one.held.length === 0; rounds++) bench.settle(200);
  const [late] = one.held;
  if (late === undefined) throw new Error('the donor reads nobody');
  two.holding = () => false;
  two.held.length = 0;
  two.sim.crash();
  two.start();
  bench.settle(8000);
  expect(two.log).toContain('wrote the record of this node back');
  one.holding = () => false;
  one.answer(late);
  bench.settle(3_000_000);
  const universe = bench.registry.universe?.record;
  expect(ownershipViolations(universe, effectiveOwners(universe, [...bench.registry.peers.values()]))).toEqual([]);
  expect(two.blocks()).toContain('10.40.0.0/13');
  expect(three.blocks()).not.toEqual([]);
});

// Seed 3053604: the donor's record was deleted by hand, so the taker cleared `via`; then the donor wrote its record back, with the grant.
test('a taker keeps via while a donor whose record was deleted may write it back, with its grant', () => {
  const { bench, one, two } = takenUnheard();
  one.holding = () => true;
  one.held.length = 0;
  bench.registry.remove('n1.x');
  bench.settle(60_000);
  expect(two.blocks()).toEqual(['10.40.0.0/13 via']);
  one.sim.crash();
  one.holding = () => false;
  one.held.length = 0;
  one.start();
  bench.settle(3_000_000);
  expect([one.blocks(), two.blocks()]).toEqual([['10.32.0.0/13'], ['10.40.0.0/13']]);
});

// Seed 3063564: deleted twice; a late duplicate of the first creation made a record that knew nothing of the one the grant was to.
function makeAnew(bench: Bench, name: string): void {
  const nobodys = { blocks: [], granting: [], wants: { 4: undefined, 6: undefined } };
  const value = formatPeer({ ...bench.record(name), ...nobodys });
  bench.registry.remove(`${name}.x`);
  bench.registry.execute({ kind: 'create', request: 0, record: 'peer', name: `${name}.x`, value });
}

test('a grant stays while a deleted record may be written back, also beside a record that knows nothing of it', () => {
  const { bench, one, two } = takenUnheard();
  two.sim.crash();
  makeAnew(bench, 'n2');
  one.holding = () => false;
  one.release();
  bench.settle(60_000);
  expect(bench.record('n2').blocks).toEqual([]);
  expect(bench.record('n1').granting).toHaveLength(1);
  two.start();
  bench.settle(3_000_000);
  expect([one.blocks(), two.blocks()]).toEqual([['10.32.0.0/13'], ['10.40.0.0/13']]);
});

test('a grant to a deleted record whose disk never comes back is taken back after the suspicion', () => {
  const bench = new Bench();
  const one = bench.peer('n1').start();
  bench.settle();
  const two = bench.peer('n2').start();
  two.holding = (request) => request.kind === 'update' && bench.record('n1').granting.length > 0;
  bench.settle(10_000);
  expect(bench.record('n1').granting).toHaveLength(1);
  two.sim.crash();
  makeAnew(bench, 'n2');
  bench.settle(1_100_000);
  expect(one.blocks()).toEqual(['10.32.0.0/13']);
  bench.settle(300_000);
  expect(one.log).toContainEqual(expect.stringMatching(/took 10\.40\.0\.0\/13 back/));
});
