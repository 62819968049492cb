// Found, join and the transfer rule, step by step: who owns what after each write, and what a crash, an unknown outcome or a
// stranger's record does to it.
import { describe, expect, test } from 'vitest';
import { formatCidr } from '#ipam-peer/cidr.ts';
import type { Effect } from '#ipam-peer/events.ts';
import { effectiveOwners, ownershipViolations } from '#ipam-peer/invariants.ts';
import type { RegistryRequest } from '#test/sim/registry-model.ts';
import { Bench, cidrs, type Hand } from './harness.ts';

function isOwnWrite(request: RegistryRequest): boolean {
  return request.kind === 'update' && request.record === 'peer';
}

function hasGrant(request: RegistryRequest): boolean {
  return request.kind === 'update' && Array.isArray(request.value['granting']) && request.value['granting'].length > 0;
}

function disk(hand: Hand): readonly string[] {
  return hand.sim.disk.peer.blocks.map(formatCidr);
}

function usable(hand: Hand): readonly string[] {
  return hand.sim.state?.spaces[4].usable.map(formatCidr) ?? [];
}

function expectOwned(bench: Bench): void {
  const universe = bench.registry.universe?.record;
  const owned = effectiveOwners(universe, [...bench.registry.peers.values()]);
  expect(ownershipViolations(universe, owned)).toEqual([]);
}

describe('found', () => {
  test('the first peer owns the ranges minus what is reserved, and picks the first address as its own', () => {
    const bench = new Bench();
    const one = bench.peer('n1', { reserved: cidrs('10.43.0.0/16') }).start();
    bench.settle();
    expect(one.blocks()).toEqual(['10.32.0.0/13', '10.40.0.0/15', '10.42.0.0/16', '10.44.0.0/14']);
    expect(bench.record('n1')).toMatchObject({ seeded: true, overlay: ['10.32.0.1'], underlay: ['192.168.0.0'] });
    expectOwned(bench);
  });

  test('the founder adds what only it knows to be reserved', () => {
    const bench = new Bench();
    const value = { schema: 1, ranges: ['10.32.0.0/12'], reserved: ['10.44.0.0/16'] };
    bench.registry.execute({ kind: 'create', request: 0, record: 'universe', name: 'default', value });
    bench.peer('n1', { reserved: cidrs('10.43.0.0/16') }).start();
    bench.settle();
    const universe = bench.registry.universe?.record;
    expect(universe?.reserved.map(formatCidr)).toEqual(['10.44.0.0/16', '10.43.0.0/16']);
    expectOwned(bench);
  });

  test.for([1, 2, 3, 4, 5, 6])('a founder that dies at its write number %i goes on after its restart', (deathAt) => {
    const bench = new Bench();
    const one = bench.peer('n1');
    let writes = 0;
    one.holding = (request) => request.kind !== 'get' && request.kind !== 'list' && ++writes === deathAt;
    one.start();
    bench.settle();
    // The write arrives although its writer is dead.
    one.sim.crash();
    for (const request of one.held.splice(0)) bench.registry.execute(request);
    one.holding = () => false;
    one.start();
    const two = bench.peer('n2').start();
    bench.settle(20_000);
    expect([one.blocks(), two.blocks()]).toEqual([['10.32.0.0/13'], ['10.40.0.0/13']]);
    expectOwned(bench);
  });

  test('without ranges in its configuration a peer waits for the manifest and says so', () => {
    const bench = new Bench();
    const one = bench.peer('n1', { ranges: [] }).start();
    bench.settle();
    expect(one.log).toContain('the registry has no Universe "default": apply the manifest');
    const value = { schema: 1, ranges: ['10.0.0.0/16'], reserved: [] };
    bench.registry.execute({ kind: 'create', request: 0, record: 'universe', name: 'default', value });
    bench.settle(20_000);
    expect(one.blocks()).toEqual(['10.0.0.0/16']);
  });
});

describe('join', () => {
  test('the founder owns the range, the next two get halves', () => {
    const bench = new Bench();
    const hands = ['n1', 'n2', 'n3'].map((name) => {
      const hand = bench.peer(name).start();
      bench.settle();
      return hand;
    });
    expect(hands.map((hand) => hand.blocks())).toEqual([['10.32.0.0/13'], ['10.40.0.0/14'], ['10.44.0.0/14']]);
    for (const name of ['n1', 'n2', 'n3']) expect(bench.record(name).granting).toEqual([]);
    expect(hands.map((hand) => usable(hand))).toEqual(hands.map((hand) => disk(hand)));
    expectOwned(bench);
  });

  test('two that join at once are served in one write, evenly', () => {
    const bench = new Bench();
    const hands = ['n1', 'n2', 'n3'].map((name) => bench.peer(name).start());
    bench.settle();
    expect(hands.map((hand) => hand.blocks())).toEqual([['10.32.0.0/13'], ['10.40.0.0/14'], ['10.44.0.0/14']]);
    expect(bench.counters.get('grant')).toBe(2);
    expectOwned(bench);
  });

  test('sixteen are served in one write', () => {
    const bench = new Bench();
    bench.peer('n0').start();
    bench.settle();
    const before = bench.record('n0').seq;
    const hands = Array.from({ length: 16 }, (_, index) => bench.peer(`m${index}`));
    for (const hand of hands) hand.start();
    bench.settle(300);
    expect(bench.record('n0').seq).toBeLessThanOrEqual(before + 2);
    bench.settle(5000);
    expect(hands.map((hand) => hand.blocks()[0]?.split('/')[1])).toEqual(Array.from({ length: 16 }, () => '17'));
    expectOwned(bench);
  });

  test('nothing smaller than /25 travels, and the donor keeps enough for itself', () => {
    const bench = new Bench();
    const ranges = cidrs('10.32.0.0/24');
    const one = bench.peer('n1', { ranges }).start();
    bench.settle();
    const two = bench.peer('n2', { ranges }).start();
    bench.settle();
    expect([one.blocks(), two.blocks()]).toEqual([['10.32.0.0/25'], ['10.32.0.128/25']]);
    const three = bench.peer('n3', { ranges }).start();
    bench.settle(10_000);
    expect(three.blocks()).toEqual([]);
    const { refusal } = three.allocate('pod');
    expect(refusal).toEqual({
      reason: 'exhausted',
      text: 'no address is free: no node of the pool 10.32.0.0/24 has space to give (addresses: held by n1 128, n2 128)',
    });
  });

  test('a peer that runs low asks for more before it has none', () => {
    const bench = new Bench();
    const ranges = cidrs('10.32.0.0/22');
    const one = bench.peer('n1', { ranges }).start();
    bench.settle();
    const two = bench.peer('n2', { ranges }).start();
    bench.settle();
    expect(two.blocks()).toEqual(['10.32.2.0/23']);
    for (let index = 0; index < 500; index++) expect(two.allocate(`pod-${index}`).lease).toBeDefined();
    bench.settle();
    expect(two.blocks()).toEqual(['10.32.1.0/24', '10.32.2.0/23']);
    expect(one.blocks()).toEqual(['10.32.0.0/24']);
    expectOwned(bench);
  });

  test('a donor that does not answer is passed over; its late grant is taken all the same', () => {
    const bench = new Bench();
    const one = bench.peer('n1').start();
    bench.settle();
    const two = bench.peer('n2').start();
    bench.settle();
    // n2, which n3 asks first, holds its grant back.
    two.holding = hasGrant;
    const three = bench.peer('n3').start();
    bench.settle(8000);
    expect(three.log).toContain('joined as n3.x, asked n2.x for space');
    expect(three.log).toContain('asked n1.x for space');
    expect(three.blocks()).toEqual(['10.36.0.0/14']);
    two.release();
    bench.settle(10_000);
    expect(one.blocks()).toEqual(['10.32.0.0/14']);
    expect(three.blocks()).toEqual(['10.36.0.0/14', '10.44.0.0/14']);
    expectOwned(bench);
  });
});

describe('giving', () => {
  function twoJoining(): { readonly bench: Bench; readonly one: Hand; readonly two: Hand } {
    const bench = new Bench();
    const one = bench.peer('n1').start();
    bench.settle();
    one.holding = hasGrant;
    const two = bench.peer('n2').start();
    bench.settle();
    expect(one.held.length).toBe(1);
    return { bench, one, two };
  }

  test('what is given leaves disk and usable set before the write is sent', () => {
    const { one } = twoJoining();
    expect(disk(one)).toEqual(['10.32.0.0/13']);
    expect(usable(one)).toEqual(['10.32.0.0/13']);
    const kinds = one.effects.map((effect: Effect) => effect.kind);
    expect(kinds.slice(kinds.lastIndexOf('persist')).filter((kind) => kind !== 'changed' && kind !== 'timer')).toEqual([
      'persist',
      'update',
    ]);
  });

  test('a donor that dies with its grant unwritten gets the space back only by a write of its own', () => {
    const { bench, one, two } = twoJoining();
    one.sim.crash();
    two.sim.crash();
    one.holding = isOwnWrite;
    one.start();
    bench.settle(50);
    // The grant of the dead process may still be under way: the space stays out.
    expect(usable(one)).toEqual(['10.32.0.0/13']);
    const late = one.held[0];
    if (late !== undefined) bench.registry.execute(late);
    one.held.splice(0, 1);
    one.release();
    bench.settle(20_000);
    expectOwned(bench);
    expect(usable(one)).toEqual(one.blocks());
  });

  test('an unknown outcome is looked up, not guessed', () => {
    const { bench, one, two } = twoJoining();
    const grant = one.held.splice(0)[0];
    if (grant === undefined) throw new Error('no grant');
    bench.registry.execute(grant);
    one.holding = () => false;
    one.feed({ kind: 'answer', request: grant.request, answer: { kind: 'unknown', reason: 'connection reset' } });
    bench.settle(10_000);
    expect([one.blocks(), two.blocks()]).toEqual([['10.32.0.0/13'], ['10.40.0.0/13']]);
    expect(bench.counters.get('grant')).toBe(1);
  });

  test('a block with a lease or a resting address does not travel, nor does the own address', () => {
    const bench = new Bench();
    const ranges = cidrs('10.32.0.0/24');
    const one = bench.peer('n1', { ranges }).start();
    bench.settle();
    expect(one.allocate('pod', '10.32.0.200').lease?.addresses).toEqual(['10.32.0.200']);
    one.free('pod');
    const two = bench.peer('n2', { ranges }).start();
    bench.settle(15_000);
    expect(two.blocks()).toEqual([]);
    // The rest is over: now the half may go.
    bench.settle(60_000);
    expect(two.blocks()).toEqual(['10.32.0.128/25']);
    expect(bench.record('n1').overlay).toEqual(['10.32.0.1']);
  });

  test('a grant comes back when its target is gone, and not before', () => {
    const { bench, one, two } = twoJoining();
    two.sim.crash();
    one.release();
    bench.settle(30_000);
    expect(bench.record('n1').granting.length).toBe(1);
    bench.registry.remove('n2.x');
    bench.settle(30_000);
    // Its node exists as far as anybody knows: its agent may still write the record back.
    expect(bench.record('n1').granting.length).toBe(1);
    bench.settle(1_300_000);
    expect(one.blocks()).toEqual(['10.32.0.0/12']);
    expect(usable(one)).toEqual(['10.32.0.0/12']);
    expect(one.log).toContain('took 10.40.0.0/13 back: n2.x is gone and had not taken it');
    // The same name again is another incarnation: it asks anew.
    two.start();
    bench.settle(10_000);
    expect(two.blocks()).toEqual(['10.40.0.0/13']);
    expectOwned(bench);
  });
});

describe('taking', () => {
  test('space is used only once the own record has it and the disk too', () => {
    const bench = new Bench();
    bench.peer('n1').start();
    bench.settle();
    const two = bench.peer('n2');
    two.holding = isOwnWrite;
    two.start();
    bench.settle();
    expect(two.held.length).toBe(1);
    expect([usable(two), disk(two)]).toEqual([[], []]);
    // Written, the answer lost with the process: the next one reads, persists, uses.
    for (const request of two.held.splice(0)) bench.registry.execute(request);
    two.sim.crash();
    two.holding = () => false;
    two.start();
    bench.settle(10_000);
    expect([usable(two), disk(two)]).toEqual([['10.40.0.0/13'], ['10.40.0.0/13']]);
    expect(two.sim.disk.peer.overlay).toEqual(['10.40.0.0']);
    expectOwned(bench);
  });

  test('while via stands, the block is leased from but not given on', () => {
    const bench = new Bench();
    const one = bench.peer('n1').start();
    bench.settle();
    const two = bench.peer('n2').start();
    // n1 cannot drop its grant.
    one.holding = (request) => isOwnWrite(request) && !hasGrant(request);
    bench.settle();
    expect(two.blocks()).toEqual(['10.40.0.0/13 via']);
    expect(two.allocate('pod').lease?.addresses).toEqual(['10.40.0.1']);
    const three = bench.peer('n3').start();
    bench.settle();
    expect(bench.record('n2').granting).toEqual([]);
    one.release();
    bench.settle(20_000);
    expect(three.blocks().length).toBeGreaterThan(0);
    expectOwned(bench);
  });

  test.for([
    ['space of another universe', ['192.168.0.0/24'], /which is not space of this universe/],
    ['space that the target owns already', ['10.40.0.0/16'], /which overlaps space of this node/],
  ] as const)('a grant of %s is not taken, and reported once', ([, granted, reason]) => {
    const bench = new Bench();
    bench.peer('n1').start();
    bench.settle();
    const two = bench.peer('n2').start();
    bench.settle();
    const target = bench.registry.peers.get('n2.x')?.stored;
    const to = { name: 'n2.x', uid: target?.uid ?? '' };
    bench.peers[0]?.sim.crash();
    bench.edit('n1', { granting: cidrs(...granted).map((block, index) => ({ id: 9000 + index, cidr: block, to })) });
    bench.settle(60_000);
    expect(two.blocks()).toEqual(['10.40.0.0/13']);
    expect(two.log.filter((line) => reason.test(line)).length).toBe(1);
  });

  test('a grant may lie in two ranges of the universe that are side by side, as merged blocks do', () => {
    const bench = new Bench();
    const one = bench.peer('n1', { ranges: cidrs('10.32.0.0/14', '10.36.0.0/14', '10.40.0.0/13') }).start();
    bench.settle();
    const two = bench.peer('n2').start();
    bench.settle(20_000);
    expect([one.blocks(), two.blocks()]).toEqual([['10.32.0.0/13'], ['10.40.0.0/13']]);
    const to = { name: 'n2.x', uid: bench.registry.peers.get('n2.x')?.stored.uid ?? '' };
    one.sim.crash();
    bench.edit('n1', { blocks: [], granting: cidrs('10.32.0.0/13').map((cidr) => ({ id: 9000, cidr, to })) });
    bench.settle(60_000);
    expect(two.blocks()).toEqual(['10.32.0.0/13 via', '10.40.0.0/13']);
    expectOwned(bench);
  });
});

test('news that overtake the answer to a read are no sign that the registry went back', () => {
  const bench = new Bench();
  const one = bench.peer('n1').start();
  bench.settle();
  const two = bench.peer('n2').start();
  one.holding = (request) => request.kind === 'get' && request.name === 'n2.x';
  bench.settle(400);
  const [asked] = one.held.splice(0);
  const old = bench.registry.peers.get('n2.x')?.stored;
  expect(asked).toBeDefined();
  bench.edit('n2', { underlay: ['192.0.2.99'] });
  bench.settle(10);
  one.holding = () => false;
  one.feed({ kind: 'answer', request: asked?.request ?? 0, answer: { kind: 'record', record: old } });
  expect(one.sim.state?.suspectUntilMs).toBe(-Infinity);
  expect(one.sim.state?.peers.get('n2.x')?.stored.version).toBe(bench.registry.peers.get('n2.x')?.stored.version);
  bench.settle(5000);
  expect(two.blocks()).toEqual(['10.40.0.0/13']);
});
