// What others' records and the own one, changed behind a peer's back, do to it: reported, never followed blindly.
import { describe, expect, test } from 'vitest';
import { formatCidr } from '#ipam-peer/cidr.ts';
import { summary } from '#ipam-peer/view.ts';
import type { RegistryRequest } from '#test/sim/registry-model.ts';
import { Bench, cidr, cidrs, type Hand } from './harness.ts';

function isOwnWrite(request: RegistryRequest): boolean {
  return request.kind === 'update' && request.record === 'peer';
}

function usable(hand: Hand): readonly string[] {
  return hand.sim.state?.spaces[4].usable.map(formatCidr) ?? [];
}

describe('records of others', () => {
  test('a malformed record is reported once and stops nobody', () => {
    const bench = new Bench();
    const one = bench.peer('n1').start();
    bench.registry.execute({ kind: 'create', request: 0, record: 'peer', name: 'broken.x', value: { blocks: 'all' } });
    bench.registry.breaches.length = 0;
    for (const peer of bench.peers) {
      const stored = { name: 'broken.x', uid: 'u', version: 'v', value: { blocks: 'all' } };
      for (let again = 0; again < 3; again++) peer.feed({ kind: 'hint', name: 'broken.x', record: stored });
    }
    const two = bench.peer('n2').start();
    bench.settle(10_000);
    expect([one.blocks(), two.blocks()]).toEqual([['10.32.0.0/13'], ['10.40.0.0/13']]);
    expect(one.log.filter((line) => line.includes('broken.x')).length).toBe(1);
  });

  test('an old hint does not overwrite what is known', () => {
    const bench = new Bench();
    const one = bench.peer('n1').start();
    bench.settle();
    const two = bench.peer('n2').start();
    const old = bench.registry.peers.get('n2.x')?.stored;
    bench.settle();
    if (old === undefined) throw new Error('no record');
    one.feed({ kind: 'hint', name: 'n2.x', record: old });
    expect(one.sim.state && summary(one.sim.state).peers[1]?.blocks).toEqual(['10.40.0.0/13']);
    expect(two.blocks()).toEqual(['10.40.0.0/13']);
  });

  test('space in transit is shown with its donor until the taker has it', () => {
    const bench = new Bench();
    const one = bench.peer('n1').start();
    bench.settle();
    const two = bench.peer('n2');
    two.holding = isOwnWrite;
    two.start();
    bench.settle();
    const shown = (): readonly (readonly string[])[] =>
      one.sim.state === undefined ? [] : summary(one.sim.state).peers.map((peer) => peer.blocks);
    expect(shown()).toEqual([['10.32.0.0/13', '10.40.0.0/13'], []]);
    two.release();
    bench.settle();
    expect(shown()).toEqual([['10.32.0.0/13'], ['10.40.0.0/13']]);
  });
});

describe('a record that claims what is none of the universe’s space', () => {
  test('draws nobody’s packets: the claim is shown apart, in the ranges’ reserved parts too', () => {
    const bench = new Bench();
    const one = bench.peer('n1', { reserved: cidrs('10.43.0.0/16') }).start();
    bench.settle();
    const two = bench.peer('n2').start();
    bench.settle(10_000);
    two.sim.crash();
    const { blocks } = bench.record('n2');
    const claims = cidrs('192.0.2.0/24', '10.43.7.0/24', '198.51.100.0/24', 'fd00:32::/64').map((block) => ({
      cidr: block,
    }));
    bench.edit('n2', { blocks: [...blocks, ...claims] });
    bench.settle(10_000);
    const shown = one.sim.state && summary(one.sim.state).peers.find(({ name }) => name === 'n2.x');
    expect(shown?.blocks).toEqual(blocks.map((block) => formatCidr(block.cidr)));
    expect(shown?.outside).toEqual(['10.43.7.0/24', '192.0.2.0/24', '198.51.100.0/24', 'fd00:32::/64']);
  });

  test('leaves its heir what the universe has, and nothing else', () => {
    const bench = new Bench();
    const one = bench.peer('n1').start();
    bench.settle();
    const two = bench.peer('n2').start();
    bench.settle(10_000);
    two.sim.crash();
    const { blocks } = bench.record('n2');
    const granting = [
      {
        id: 90,
        cidr: cidr('198.51.100.0/24'),
        to: { name: 'n1.x', uid: bench.registry.peers.get('n1.x')?.stored.uid ?? '' },
      },
      { id: 91, cidr: cidr('203.0.113.0/24'), to: { name: 'n9.x', uid: 'nobody' } },
    ];
    bench.edit('n2', { blocks: [...blocks, ...cidrs('192.0.2.0/24').map((block) => ({ cidr: block }))], granting });
    bench.deleteNode('n2');
    bench.settle(700_000);
    expect(bench.registry.peers.has('n2.x')).toBe(false);
    expect(one.blocks()).toEqual(['10.32.0.0/12']);
    expect(one.sim.state && summary(one.sim.state).ended).toBeUndefined();
    expect(one.allocate('after').lease).toBeDefined();
  });
});

describe('the own record', () => {
  test('with an heir: nothing more is allocated, and the reason is told', () => {
    const bench = new Bench();
    const one = bench.peer('n1').start();
    bench.settle();
    expect(one.allocate('before').lease).toBeDefined();
    bench.edit('n1', { heir: { name: 'n2.x', uid: 'u9' } });
    bench.settle();
    expect(one.allocate('after').refusal).toMatchObject({
      reason: 'fenced',
      text: expect.stringMatching(/this node was removed: n2\.x takes its space over/) as string,
    });
    expect(one.sim.state?.leases.size).toBe(1);
    expect(usable(one)).toEqual([]);
  });

  test('deleted by hand: it is written back from the disk, and nothing is leased meanwhile', () => {
    const bench = new Bench();
    const one = bench.peer('n1').start();
    bench.settle();
    const before = bench.record('n1');
    one.holding = (request) => request.kind === 'update' && request.record === 'peer';
    bench.registry.remove('n1.x');
    bench.settle();
    expect(bench.record('n1')).toMatchObject({ blocks: [], suspect: true });
    expect(usable(one)).toEqual([]);
    expect(one.log).toContainEqual(expect.stringMatching(/the registry went back: this node's record is gone/));
    one.release();
    bench.settle(20_000);
    expect(bench.record('n1').blocks).toEqual(before.blocks);
    expect(bench.record('n1').suspect).toBeUndefined();
    expect(one.allocate('after').lease?.addresses).toEqual(['10.32.0.2']);
  });

  test('blocks in the registry without a disk that knows of them are not leased from', () => {
    const bench = new Bench();
    const one = bench.peer('n1').start();
    bench.settle();
    one.sim.crash();
    const again = bench.peer('n1').start();
    bench.settle();
    // The session of the lost disk must stand still for its term first: it may be another machine's.
    expect(again.allocate('pod').refusal?.text).toMatch(/waiting until it has stood still for 180 s/);
    bench.settle(181_000);
    expect(again.allocate('pod').refusal?.text).toMatch(/the state directory was lost/);
    // The kernel still has a pod: its lease comes back first, then the blocks, by a write that overtakes the old process.
    const owner = { network: 'weft', netnsPath: '', netnsInode: 0n };
    const lease = { containerId: 'old', ifname: 'eth0', generation: 'g', addresses: ['10.32.0.2'], owner };
    const seq = bench.record('n1').seq;
    again.feed({ kind: 'recovered', leases: [{ ...lease, state: 'active', sinceMs: 0, hostIfname: '' }] });
    bench.settle();
    expect(bench.record('n1')).toMatchObject({ seq: seq + 1, blocks: [{ quarantine: true }] });
    // What rested was lost with the disk: all of it rests.
    expect(usable(again)).toEqual([]);
    bench.settle(31_000);
    expect(again.sim.disk.peer.overlay).toEqual(['10.32.0.1']);
    expect(again.allocate('pod').lease?.addresses).toEqual(['10.32.0.3']);
  });

  test('a restart without the registry leases from the durable copy', () => {
    const bench = new Bench();
    const one = bench.peer('n1').start();
    bench.settle();
    const first = one.allocate('pod').lease;
    one.sim.crash();
    one.holding = () => true;
    one.start();
    bench.settle(2000);
    expect(one.sim.state?.leases.get('pod\0eth0')?.addresses).toEqual(first?.addresses);
    expect(one.allocate('next').lease?.addresses).toEqual(['10.32.0.3']);
    expect(one.allocate('other', '10.47.255.255').refusal?.reason).toBe('invalid');
  });
});

test('a write that the registry refuses is tried again, and the refusal is what a pod hears', () => {
  const bench = new Bench();
  const one = bench.peer('n1', { allocateWaitMs: 3000 });
  one.holding = (request) => request.kind === 'create' && request.record === 'peer';
  one.start();
  const ticket = one.ask('pod');
  for (let again = 0; again < 3; again++) {
    const answer = { kind: 'refused', reason: 'policy "own record only"' } as const;
    for (const { request } of one.held.splice(0)) one.feed({ kind: 'answer', request, answer });
    bench.settle(900);
  }
  bench.settle(1000);
  expect(one.outcomes.get(ticket)?.refusal?.text).toBe(
    'this node has no block of the pool yet, after 3 s: the registry refuses this node\'s write: policy "own record only"',
  );
  expect(one.log.filter((line) => line.includes('refuses')).length).toBe(1);
  one.release();
  bench.settle(10_000);
  expect(one.allocate('pod').lease).toBeDefined();
});
