// Universes of IPv6 and of both families: both addresses or neither, each family's space asked for and given by itself, and a sparse
// range that costs no more than a small one.
import { describe, expect, test } from 'vitest';
import { parseAddress } from '#ipam-peer/address.ts';
import { containsAddress } from '#ipam-peer/cidr.ts';
import { summary } from '#ipam-peer/view.ts';
import { Bench, cidr, cidrs, type Hand } from './harness.ts';

const dual = { ranges: cidrs('10.32.0.0/12', 'fd00:32::/48'), reserved: cidrs('10.43.0.0/16') };

function join(change: Parameters<Bench['peer']>[1], count: number): { readonly bench: Bench; readonly hands: Hand[] } {
  const bench = new Bench();
  const hands = Array.from({ length: count }, (_, index) => {
    const hand = bench.peer(`n${index + 1}`, change).start();
    bench.settle();
    return hand;
  });
  return { bench, hands };
}

function rowsWritten(hand: Hand): number {
  return hand.effects.filter((effect) => effect.kind === 'persist' && effect.sync === 'normal').length;
}

describe('a universe of both families', () => {
  test('the second node gets half of each by one want and one grant write', () => {
    const { bench, hands } = join(dual, 2);
    expect(hands[1]?.blocks()).toEqual(['10.44.0.0/14', 'fd00:32:0:8000::/49']);
    expect(hands[0]?.blocks()).toEqual(['10.32.0.0/13', '10.40.0.0/15', '10.42.0.0/16', 'fd00:32::/49']);
    expect(bench.record('n2').overlay).toHaveLength(2);
    expect(bench.record('n1').overlay).toEqual(['10.32.0.1', 'fd00:32::1']);
    // n1: created, seeded, gave both, dropped both grants. n2: created with both wants, took both, cleared both `via`.
    expect([bench.record('n1').seq, bench.record('n2').seq]).toEqual([4, 3]);
  });

  test('a pod gets one address of each, IPv4 first, in one transaction', () => {
    const { hands } = join(dual, 1);
    const [one] = hands;
    const before = rowsWritten(one as Hand);
    expect(one?.allocate('pod').lease?.addresses).toEqual(['10.32.0.2', 'fd00:32::2']);
    expect(rowsWritten(one as Hand) - before).toBe(1);
    one?.free('pod');
    expect(one?.sim.disk.resting).toEqual(new Set(['10.32.0.2', 'fd00:32::2']));
    expect(one?.sim.state?.spaces[6].restingCount).toBe(1);
  });

  test('both or neither: where one family is exhausted, nothing of the other is taken', () => {
    const { hands } = join({ ranges: cidrs('10.32.0.0/29', 'fd00:32::/64') }, 1);
    const [one] = hands;
    for (let pod = 0; pod < 5; pod++) expect(one?.allocate(`pod-${pod}`).lease?.addresses).toHaveLength(2);
    const used = one?.sim.state?.spaces[6].leasedCount;
    expect(one?.allocate('more').refusal).toEqual({
      reason: 'exhausted',
      text: 'no address is free: no node of the pool 10.32.0.0/29 has space to give (addresses: this node 6, no other node holds any)',
    });
    expect(one?.sim.state?.spaces[6].leasedCount).toBe(used);
    expect(one?.sim.state && summary(one.sim.state)).toMatchObject({ ready: false, freeAddresses: 0 });
  });

  test('an address asked for by name comes with any of the other family', () => {
    const { hands } = join(dual, 1);
    const [one] = hands;
    expect(one?.allocate('a', 'fd00:32::abcd').lease?.addresses).toEqual(['10.32.0.2', 'fd00:32::abcd']);
    expect(one?.allocate('b', 'fd00:32::7', '10.33.0.9').lease?.addresses).toEqual(['10.33.0.9', 'fd00:32::7']);
    expect(one?.allocate('c', 'fd00:32::abcd').refusal).toEqual({
      reason: 'inUse',
      address: 'fd00:32::abcd',
      text: 'fd00:32::abcd is in use by pod default/a',
    });
    expect(one?.allocate('d', '10.33.0.1', '10.33.0.2').refusal?.text).toBe(
      'at most one address of each family can be asked for, not 10.33.0.1, 10.33.0.2',
    );
    expect(one?.allocate('e', '10.33.0.3', 'fd00:99::1').refusal?.text).toMatch(/fd00:99::1 is outside the pool/);
    expect(one?.sim.state?.spaces[4].leasedCount).toBe(3);
  });

  test('a node short of one family asks for that one only', () => {
    const { bench, hands } = join({ ranges: cidrs('10.32.0.0/23', 'fd00:32::/64') }, 2);
    const [, two] = hands;
    for (let pod = 0; pod < 230; pod++) two?.allocate(`pod-${pod}`);
    bench.settle(20_000);
    const families = bench.record('n2').blocks.map((block) => block.cidr.family);
    expect(families.filter((family) => family === 4).length).toBeGreaterThan(1);
    expect(families.filter((family) => family === 6)).toHaveLength(1);
  });

  test('a restart keeps leases, rests and addresses of both families', () => {
    const { bench, hands } = join(dual, 1);
    const [one] = hands;
    one?.allocate('a');
    one?.allocate('b');
    one?.free('b');
    one?.sim.crash();
    one?.start();
    bench.settle();
    const state = one?.sim.state;
    expect(state?.durable.overlay).toEqual(['10.32.0.1', 'fd00:32::1']);
    // The node's own address is taken as well.
    expect([state?.spaces[4].leasedCount, state?.spaces[6].leasedCount]).toEqual([2, 2]);
    expect([state?.spaces[4].restingCount, state?.spaces[6].restingCount]).toEqual([1, 1]);
    expect(one?.allocate('c').lease?.addresses).toEqual(['10.32.0.4', 'fd00:32::4']);
  });
});

describe('a universe of IPv6 alone', () => {
  const six = { ranges: cidrs('fd00:32::/48') };

  test('three nodes split it as they split IPv4', () => {
    const { hands } = join(six, 3);
    expect(hands.map((hand) => hand.blocks())).toEqual([
      ['fd00:32::/49'],
      ['fd00:32:0:8000::/50'],
      ['fd00:32:0:c000::/50'],
    ]);
    const [address] = hands[2]?.allocate('pod').lease?.addresses ?? [];
    expect(containsAddress(cidr('fd00:32:0:c000::/50'), parseAddress(address ?? '') ?? expect.unreachable())).toBe(
      true,
    );
  });

  test('never the first or last address', () => {
    const { hands } = join({ ranges: cidrs('fd00:32::/125') }, 1);
    const [one] = hands;
    const got = Array.from({ length: 6 }, (_, index) => one?.allocate(`pod-${index}`));
    expect(got.map((outcome) => outcome?.lease?.addresses[0] ?? outcome?.refusal?.reason)).toEqual([
      'fd00:32::2',
      'fd00:32::3',
      'fd00:32::4',
      'fd00:32::5',
      'fd00:32::6',
      'exhausted',
    ]);
  });

  test('a sparse range holds tables only for what is used', () => {
    const { hands } = join({ ranges: cidrs('fd00:32::/32') }, 2);
    const [one] = hands;
    for (let pod = 0; pod < 300; pod++) one?.allocate(`pod-${pod}`);
    one?.allocate('far', 'fd00:32:7fff:ffff::1');
    const units = one?.sim.state?.spaces[6].units.size ?? Infinity;
    expect(units).toBeLessThanOrEqual(4);
  });

  test('nothing smaller than a /121 travels', () => {
    const { hands } = join({ ranges: cidrs('fd00:32::/119') }, 3);
    expect(hands.map((hand) => hand.blocks())).toEqual([['fd00:32::/120'], ['fd00:32::100/121'], ['fd00:32::180/121']]);
  });
});
