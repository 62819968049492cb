// What becomes of the space of a node that is gone, and of a node that is gone and does not know it. Named cases of the simulator.
import { describe, expect, test } from 'vitest';
import { effectiveOwners, ownershipViolations } from '#ipam-peer/invariants.ts';
import { peersOf } from '#ipam-peer/view.ts';
import { Bench, type Hand } from './harness.ts';

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
