// What becomes of the space of a node that is gone, and of a node that is gone and does not know it. Named cases of the simulator.
import { describe, expect, test } from 'vitest';
import { effectiveOwners, ownershipViolations } from '#ipam-peer/invariants.ts';
import { viasLimit } from '#ipam-peer/records.ts';
import { wardsOf } from '#ipam-peer/takeover.ts';
import type { RegistryRequest } from '#test/sim/registry-model.ts';
import { peersOf } from '#ipam-peer/view.ts';
import { Bench, cidrs, type Hand } from './harness.ts';

/** Longer than grace and term together with every wait between two looks. */
const longMs = 700_000;

function expectOwned(bench: Bench): void {
  const universe = bench.registry.universe?.record;
  expect(ownershipViolations(universe, effectiveOwners(universe, [...bench.registry.peers.values()]))).toEqual([]);
  expect(bench.registry.breaches).toEqual([]);
}

function cluster(names: readonly string[]): { readonly bench: Bench; readonly hands: readonly Hand[] } {
  const bench = new Bench();
  const hands = names.map((name) => {
    const hand = bench.peer(name).start();
    bench.settle();
    return hand;
  });
  bench.settle(10_000);
  return { bench, hands };
}

function hand(hands: readonly Hand[], index: number): Hand {
  const one = hands[index];
  if (one === undefined) throw new Error(`no peer ${index}`);
  return one;
}

/** Every block of every peer as this one's view has them. */
function shownBlocks({ sim }: Hand): readonly string[] {
  return sim.state === undefined ? [] : peersOf(sim.state).flatMap(({ blocks }) => blocks);
}

function heirs(bench: Bench): number {
  return bench.counters.get('heir') + bench.counters.get('voidHeir') + bench.counters.get('heirOfHeir');
}

describe('a node that is gone', () => {
  test('leaves its space to one heir, although two others remove it at once', () => {
    const { bench, hands } = cluster(['n1', 'n2', 'n3']);
    hand(hands, 1).sim.crash();
    bench.deleteNode('n2');
    bench.settle(longMs);
    expect(bench.registry.peers.has('n2.x')).toBe(false);
    expect(heirs(bench)).toBe(1);
    const blocks = [...hand(hands, 0).blocks(), ...hand(hands, 2).blocks()];
    expect(blocks.filter((block) => block.includes('via'))).toEqual([]);
    expectOwned(bench);
  });

  test('keeps it until its session has stood still and the grace has passed', () => {
    const { bench, hands } = cluster(['n1', 'n2']);
    hand(hands, 1).sim.crash();
    bench.deleteNode('n2');
    bench.settle(299_000);
    expect(bench.record('n2').heir).toBeUndefined();
    bench.settle(60_000);
    expect(bench.registry.peers.has('n2.x')).toBe(false);
    // In quarantine until what rested there has rested: then it is leased from.
    bench.settle(31_000);
    expect(hand(hands, 0).blocks()).toEqual(['10.32.0.0/12']);
    expectOwned(bench);
  });

  test('whose heir dies half-way is taken over by the heir of that one', () => {
    const { bench, hands } = cluster(['n1', 'n2', 'n3']);
    hand(hands, 2).sim.crash();
    // The heir carries the space and dies before it deletes the record.
    const [one, two] = [hand(hands, 0), hand(hands, 1)];
    for (const peer of [one, two]) peer.holding = (request) => request.kind === 'delete';
    bench.deleteNode('n3');
    bench.settle(longMs);
    const heir = bench.record('n3').heir?.name === 'n1.x' ? one : two;
    const other = heir === one ? two : one;
    expect(heir.blocks().some((block) => block.includes('via'))).toBe(true);
    // Both records hold the space now; it is the heir's, and nobody else is shown with it.
    expect(shownBlocks(other)).toEqual([...new Set(shownBlocks(other))]);
    heir.sim.crash();
    for (const peer of [one, two]) peer.holding = () => false;
    bench.registry.deleteNode(heir.sim.name, heir.sim.config.node.uid, false);
    other.feed({ kind: 'nodes', gone: ['n3.x', heir.sim.name] });
    bench.settle(longMs);
    expect([...bench.registry.peers.keys()]).toEqual([other.sim.name]);
    expect(other.blocks()).toEqual(['10.32.0.0/12']);
    expect(bench.counters.get('heirOfHeir')).toBe(1);
    expectOwned(bench);
  });

  test('that founded the universe and died before it wrote the range into its record', () => {
    const bench = new Bench();
    const one = bench.peer('n1');
    one.holding = (request) => request.kind === 'update' && request.record === 'peer';
    one.start();
    bench.settle();
    const two = bench.peer('n2').start();
    bench.settle(10_000);
    expect(bench.record('n1').seeded).toBe(false);
    one.sim.crash();
    bench.deleteNode('n1');
    bench.settle(longMs);
    expect(two.blocks()).toEqual(['10.32.0.0/12']);
    expectOwned(bench);
  });
});

describe('a record of more blocks than may be taken over at once', () => {
  // A small hole in a large range: 72 blocks.
  const setup = { ranges: cidrs('fd00:32::/48'), reserved: cidrs('fd00:32::100/120') };
  const whole = (bench: Bench): number => bench.registry.peers.get('n1.x')?.record.blocks.length ?? 0;
  const toDead = (request: RegistryRequest): boolean => request.kind === 'update' && request.stored.name === 'n1.x';

  function start(...names: readonly string[]): { readonly bench: Bench; readonly hands: readonly Hand[] } {
    const bench = new Bench();
    const hands = names.map((name) => {
      const one = bench.peer(name, setup).start();
      bench.settle(10_000);
      return one;
    });
    return { bench, hands };
  }

  test('goes to one heir in parts', () => {
    const { bench, hands } = start('n1', 'n2');
    expect(whole(bench)).toBeGreaterThan(viasLimit);
    hand(hands, 0).sim.crash();
    bench.deleteNode('n1');
    bench.settle(longMs);
    expect([...bench.registry.peers.keys()]).toEqual(['n2.x']);
    expect(bench.counters.get('shed')).toBeGreaterThanOrEqual(viasLimit);
    expect(bench.record('n2').blocks.length).toBe(72);
    expect(bench.record('n2').blocks.filter(({ via, quarantine }) => via ?? quarantine)).toEqual([]);
    expectOwned(bench);
  });

  test('whose heir dies half-way goes on with the heir of that one', () => {
    const { bench, hands } = start('n1', 'n2', 'n3');
    const [one, two, three] = [hand(hands, 0), hand(hands, 1), hand(hands, 2)];
    one.sim.crash();
    // Whoever becomes the heir carries a part, and dies before the dead record lets go of it.
    for (const peer of [two, three])
      peer.holding = (request) => toDead(request) && bench.record('n1').heir !== undefined;
    bench.deleteNode('n1');
    bench.settle(longMs);
    const heir = bench.record('n1').heir?.name === two.sim.name ? two : three;
    const other = heir === two ? three : two;
    expect(heir.blocks().filter((block) => block.includes('via'))).toHaveLength(viasLimit);
    heir.sim.crash();
    other.holding = () => false;
    bench.registry.deleteNode(heir.sim.name, heir.sim.config.node.uid, false);
    other.feed({ kind: 'nodes', gone: ['n1.x', heir.sim.name] });
    bench.settle(longMs);
    expect([...bench.registry.peers.keys()]).toEqual([other.sim.name]);
    expect(bench.record(other.sim.config.node.name)).not.toHaveProperty('trail');
    expect(bench.counters.get('heirOfHeir')).toBe(1);
    expectOwned(bench);
  });

  test('that was not even written when its founder died', () => {
    const bench = new Bench();
    const one = bench.peer('n1', setup);
    one.holding = toDead;
    one.start();
    bench.settle();
    bench.peer('n2', setup).start();
    bench.settle(10_000);
    one.sim.crash();
    bench.deleteNode('n1');
    bench.settle(longMs);
    expect([...bench.registry.peers.keys()]).toEqual(['n2.x']);
    expect(bench.record('n2').blocks.length).toBe(72);
    expectOwned(bench);
  });
});

describe('a node that is deleted while it is alive', () => {
  test('and cut off from the registry leases nothing more once it hears of it', () => {
    const { bench, hands } = cluster(['n1', 'n2']);
    const two = hand(hands, 1);
    two.holding = () => true;
    bench.registry.deleteNode('n2.x', 'x-n2', false);
    hand(hands, 0).feed({ kind: 'nodes', gone: ['n2.x'] });
    bench.settle(longMs);
    expect(bench.registry.peers.has('n2.x')).toBe(false);
    two.holding = () => false;
    two.held.length = 0;
    two.feed({ kind: 'nodes', gone: ['n2.x'] });
    expect(two.allocate('late').refusal).toMatchObject({ reason: 'fenced' });
    bench.settle(longMs);
    expect([...bench.registry.peers.keys()]).toEqual(['n1.x']);
    expectOwned(bench);
  });

  test('and registered anew with running pods cuts them before it shows itself', () => {
    const { bench, hands } = cluster(['n1', 'n2']);
    const two = hand(hands, 1);
    const old = two.allocate('old').lease;
    two.sim.crash();
    two.sim.reidentify('again');
    two.start();
    bench.settle(longMs);
    expect(two.cuts).toEqual(old?.addresses);
    expect(bench.registry.peers.has('n2.again')).toBe(false);
    two.feed({ kind: 'cut', leases: old === undefined ? [] : [old] });
    bench.settle(longMs);
    expect(bench.registry.peers.get('n2.again')?.record.blocks.length).toBe(1);
    expect(two.sim.state?.leases.size).toBe(0);
    expectOwned(bench);
  });

  // Seed 3030712: without its disk it did not know that the pods that ran were its predecessor's.
  test('and registered anew with running pods and an empty disk cuts them before it shows itself', () => {
    const { bench, hands } = cluster(['n1', 'n2']);
    const two = hand(hands, 1);
    const old = two.allocate('old').lease;
    if (old === undefined) throw new Error('no lease');
    two.sim.loseDisk();
    two.sim.reidentify('again');
    two.inKernel = [old];
    two.start();
    bench.settle(longMs);
    expect(two.cuts).toEqual(old.addresses);
    expect(bench.registry.peers.has('n2.again')).toBe(false);
    // It dies before they are cut.
    two.sim.crash();
    two.start();
    bench.settle(longMs);
    expect(two.cuts).toEqual([...old.addresses, ...old.addresses]);
    expect(bench.registry.peers.has('n2.again')).toBe(false);
    two.inKernel = [];
    two.feed({ kind: 'cut', leases: [old] });
    bench.settle(longMs);
    const record = bench.registry.peers.get('n2.again')?.record;
    // What it is given has rested with its donor.
    expect(record?.blocks.map(({ quarantine }) => quarantine)).toEqual([undefined]);
    expect(two.sim.state?.leases.size).toBe(0);
    expect(two.allocate('new').lease).toBeDefined();
    expectOwned(bench);
  });
});

test('a cloned machine, and a second host of the same name, are refused while the first one lives', () => {
  const { bench, hands } = cluster(['n1']);
  const one = hand(hands, 0);
  const clone = bench.peer('n1');
  const stale = one.sim.snapshot();
  bench.settle(200_000);
  clone.start({ peer: stale.peer, leases: [], resting: [] });
  const stranger = bench.peer('n1').start();
  bench.settle(longMs);
  for (const refused of [clone, stranger]) {
    expect(refused.log).toContainEqual(expect.stringMatching(/two agents, one name: another agent acts as n1\.x/));
    expect(refused.allocate('pod').refusal?.reason).toBe('fenced');
  }
  expect(one.allocate('pod').lease?.addresses).toEqual(['10.32.0.2']);
});

describe('etcd restored from a backup', () => {
  test('every node writes its record back, what was given since stays given', () => {
    const { bench, hands } = cluster(['n1', 'n2']);
    const backup = bench.registry.backup();
    const three = bench.peer('n3').start();
    bench.settle(20_000);
    const before = new Map([...bench.registry.peers].map(([name, { record }]) => [name, record.blocks]));
    bench.registry.restore(backup);
    bench.settle(3_000_000);
    const after = new Map([...bench.registry.peers].map(([name, { record }]) => [name, record.blocks]));
    expect(after).toEqual(before);
    expect(three.allocate('pod').lease).toBeDefined();
    expect(hand(hands, 0).log).not.toContainEqual(expect.stringMatching(/was this node's and is others' now/));
    expectOwned(bench);
  });
});

test('the address of a node changes: its record follows, its space stays', () => {
  const { bench, hands } = cluster(['n1', 'n2']);
  const blocks = hand(hands, 1).blocks();
  hand(hands, 1).feed({ kind: 'underlay', addresses: ['198.51.100.7'] });
  bench.settle();
  expect(bench.record('n2').underlay).toEqual(['198.51.100.7']);
  expect(hand(hands, 1).blocks()).toEqual(blocks);
});

test('a block that is empty for an hour is given back to the holder of its buddy', () => {
  const bench = new Bench();
  const setup = { ranges: cidrs('10.32.0.0/22'), spareAfterMs: 3_600_000 };
  const one = bench.peer('n1', setup).start();
  bench.settle();
  const two = bench.peer('n2', setup).start();
  bench.settle(10_000);
  expect([one.blocks(), two.blocks()]).toEqual([['10.32.0.0/23'], ['10.32.2.0/23']]);
  // A third one takes the half of one's block and is gone: the other one inherits it.
  const three = bench.peer('n3', setup).start();
  bench.settle(10_000);
  three.sim.crash();
  bench.deleteNode('n3');
  bench.settle(longMs);
  expect([one.blocks(), two.blocks()]).toEqual([['10.32.0.0/23', '10.32.3.0/24'], ['10.32.2.0/24']]);
  bench.settle(8_000_000);
  expect([one.blocks(), two.blocks()]).toEqual([['10.32.0.0/23'], ['10.32.2.0/23']]);
  expectOwned(bench);
});

describe('who watches over a node', () => {
  const watchers = (hands: readonly Hand[], name: string): number =>
    hands.filter(({ sim }) => {
      const wards = sim.state === undefined ? [] : wardsOf(sim.state, 1);
      return wards.some(({ record }) => record.node.name === name);
    }).length;

  test('are the three who would take over first; others step in for those that are taken over themselves', () => {
    const names = ['n1', 'n2', 'n3', 'n4', 'n5', 'n6'];
    const { bench, hands } = cluster(names);
    expect(names.map((name) => watchers(hands, name))).toEqual([3, 3, 3, 3, 3, 3]);
    hand(hands, 1).sim.crash();
    bench.deleteNode('n2');
    bench.settle(longMs);
    const alive = hands.filter((_, index) => index !== 1);
    expect(names.map((name) => watchers(alive, name))).toEqual([3, 0, 3, 3, 3, 3]);
  });

  test('with more turns are more; with two peers the other', () => {
    const { hands } = cluster(['n1', 'n2', 'n3', 'n4', 'n5']);
    const states = hands.flatMap(({ sim }) => sim.state ?? []);
    expect(states.map((state) => wardsOf(state, 2).length)).toEqual([4, 4, 4, 4, 4]);
    const pair = cluster(['n1', 'n2']).hands.flatMap(({ sim }) => sim.state ?? []);
    expect(pair.map((state) => wardsOf(state, 1).length)).toEqual([1, 1]);
  });
});
