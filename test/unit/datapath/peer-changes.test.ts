// Properties of planning a change of peers by itself: it ends where a full round would, and interrupts nobody.
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { desiredState } from '#agent/datapath/desired.ts';
import { diff } from '#agent/datapath/diff.ts';
import { Expected } from '#agent/datapath/expected.ts';
import { differingPeers, peerOperations, planPeerChange, sameRouting } from '#agent/datapath/peer-changes.ts';
import type { PeerChange, PeersTold } from '#agent/datapath/peer-changes.ts';
import type { ActualState, Operation } from '#agent/datapath/objects.ts';
import type { IpamView, PeerView } from '#agent/runtime/ipam.ts';

import { applyToModel, emptyKernel, macTo, wayTo } from './model.ts';
import { directions, directOf, givenOf, leasesOf, settle, viewOf, wanted, withPods, worlds } from './worlds.ts';
import type { World } from './worlds.ts';

/** Addresses that no two peers share. */
const apart = fc.uniqueArray(fc.integer({ min: 2, max: 8 }), { minLength: 5, maxLength: 5 });

/** The same node and pods, other peers; this node's own blocks stay. */
const changes = fc.tuple(worlds, worlds, apart, apart).map(([first, other, before, after]): readonly [World, World] => [
  { ...first, underlays: before },
  {
    ...first,
    owners: first.owners.map((owner, index) => (owner === 0 ? 0 : other.owners[index] || undefined)),
    underlays: after,
  },
]);

/** The same where packets may go directly: link addresses, proofs and refusals are others too. */
const directChanges = fc
  .tuple(changes, fc.constantFrom('direct' as const, 'auto' as const), directions, directions, fc.boolean())
  .map(([[first, second], mode, before, after, samePeers]): readonly [World, World] => [
    { ...first, direct: { mode, ...before } },
    { ...(samePeers ? first : second), direct: { mode, ...after } },
  ]);

/** The second has more peers, and what the first has stays. */
const additions = fc
  .tuple(worlds, apart, fc.array(fc.boolean(), { minLength: 5, maxLength: 5 }))
  .map(([world, underlays, later]): readonly [World, World] => {
    const second = { ...world, underlays };
    return [{ ...second, underlays: underlays.map((address, index) => (later[index] ? nobody : address)) }, second];
  });
/** Of a peer without an address; viewOf of worlds.ts. */
const nobody = 9;

function withoutNobody(view: IpamView): IpamView {
  return { ...view, peers: view.peers.filter(({ underlayAddress }) => underlayAddress !== undefined) };
}

function toldOf(world: World, view: IpamView = viewOf(world)): PeersTold {
  return { view, direct: directOf(world) };
}

function changeOf(first: World, second: World, state: ActualState): PeerChange | undefined {
  return planOf(first, toldOf(first), toldOf(second), state);
}

function planOf(first: World, before: PeersTold, after: PeersTold, state: ActualState): PeerChange | undefined {
  return planPeerChange({
    before,
    after,
    findings: wanted(first).findings,
    expected: new Expected(state),
    desiredOf: (told) => desiredState({ ...givenOf(first), ...told, leases: [] }),
  });
}

/** The operations of each part, with nobody who has no address. */
function partsOf(
  first: World,
  second: World,
  expected: Expected,
  peersInPart: number,
): Iterable<readonly Operation[] | undefined> {
  const [before, after] = [first, second].map((world) => toldOf(world, withoutNobody(viewOf(world)))) as [
    PeersTold,
    PeersTold,
  ];
  return peerOperations({ before, after, findings: [], expected, ...givenOf(first) }, peersInPart) ?? [];
}

describe('planPeerChange', { timeout: 60_000 }, () => {
  it('leaves to a full round what is to be told of a peer, and that it is told no more', () => {
    const [world] = fc.sample(
      changes.map(([first]) => first).filter((first) => first.mtu > 1400),
      { numRuns: 1, seed: 1 },
    );
    if (!world) throw new Error('no world');
    const state = settle(withPods(emptyKernel, world), wanted(world));
    const view = viewOf(world);
    const stranger: PeerView = {
      name: 'z.0123abcd',
      nodeName: 'z',
      self: false,
      underlayAddress: '224.0.0.1',
      overlayAddresses: [],
      blocks: [],
    };
    const more = { ...view, peers: [...view.peers, stranger] };
    const plan = (before: IpamView, after: IpamView): PeerChange | undefined =>
      planOf(world, toldOf(world, before), toldOf(world, after), state);
    expect(plan(view, more)).toBeUndefined();
    expect(plan(more, view)).toBeUndefined();
    const known = { ...stranger, underlayAddress: '192.0.2.200' };
    expect(plan(view, { ...view, peers: [...view.peers, known] })).toBeDefined();
    expect(sameRouting(view, { ...view, peers: view.peers.map((peer) => ({ ...peer, gone: true })) })).toBe(false);
  });

  it.each([
    ['peers', changes],
    ['peers, link addresses and proofs', directChanges],
  ])('of %s ends where a full round would, and what is expected of the kernel is what it holds', (_, some) => {
    let planned = 0;
    fc.assert(
      fc.property(some, ([first, second]) => {
        const start = settle(
          withPods({ ...emptyKernel, foreignNexthopIds: new Set([0x5745_0001]) }, first),
          wanted(first),
        );
        const change = changeOf(first, second, start);
        if (!change) return;
        planned++;
        const operations = diff(change.desired, change.actual);
        const end = operations.reduce(applyToModel, start);
        expect(diff(wanted(second), end)).toEqual([]);
        const expected = new Expected(start);
        expected.note(operations);
        const read = new Expected(end);
        for (const part of ['routes', 'gateways', 'nexthopIds', 'neighbours', 'fdb', 'elements'] as const) {
          expect(expected[part]).toEqual(read[part]);
        }
      }),
      { numRuns: 60 },
    );
    expect(planned).toBeGreaterThan(10);
  });

  it.each([
    ['peers', changes],
    ['peers, link addresses and proofs', directChanges],
  ])('of %s never interrupts the way to a block whose owner stays', (_, some) => {
    fc.assert(
      fc.property(some, ([first, second]) => {
        const start = settle(withPods(emptyKernel, first), wanted(first));
        const change = changeOf(first, second, start);
        if (!change) return;
        const operations = diff(change.desired, change.actual);
        const end = operations.reduce(applyToModel, start);
        const kept = wanted(first)
          .routes.filter(({ target }) => target.kind === 'peer')
          .map(({ dst }) => dst)
          .filter((dst) => wayTo(start, dst) !== undefined && wayTo(end, dst) !== undefined);
        let state = start;
        for (const operation of operations) {
          state = applyToModel(state, operation);
          for (const dst of kept) {
            const moved = end.fdb.find(({ mac }) => mac === macTo(start, dst))?.underlayAddress;
            expect([wayTo(start, dst), moved, wayTo(end, dst)]).toContain(wayTo(state, dst) ?? 'nowhere');
          }
        }
      }),
      { numRuns: 40 },
    );
  });

  it('of peers that only come or only go is written part by part, to the same end', () => {
    let parts = 0;
    fc.assert(
      fc.property(additions, fc.boolean(), fc.integer({ min: 1, max: 3 }), ([fewer, more], comes, peersInPart) => {
        const [first, second] = comes ? [fewer, more] : [more, fewer];
        const start = settle(withPods(emptyKernel, first), wanted(first));
        const expected = new Expected(start);
        const changes = partsOf(first, second, expected, peersInPart);
        let end = start;
        for (const operations of changes) {
          expect(operations).toBeDefined();
          expected.note(operations ?? []);
          end = (operations ?? []).reduce(applyToModel, end);
          parts++;
        }
        expect(diff(wanted(second), end)).toEqual([]);
      }),
      { numRuns: 60 },
    );
    expect(parts).toBeGreaterThan(60);
  });

  it('ends at the part with a peer that has what one of an earlier part has', () => {
    const world: World = {
      overlay: '10.32.0.1',
      mtu: 1500,
      ipv6: true,
      dual: false,
      underlay6: false,
      owners: [1, 2, 3],
      underlays: [2, 3, 2, nobody, nobody],
      pods: [],
    };
    const first = { ...world, underlays: world.underlays.map(() => nobody) };
    const expected = new Expected(settle(emptyKernel, wanted(first)));
    const changes = partsOf(first, world, expected, 2);
    const kinds: (number | undefined)[] = [];
    for (const operations of changes) {
      expected.note(operations ?? []);
      kinds.push(operations?.length);
    }
    expect(kinds).toEqual([10, undefined]);
  });

  it('leaves a conflict between peers, an unchanged view and a changed pool to a full round', () => {
    const world: World = {
      overlay: '10.32.0.1',
      mtu: 1500,
      ipv6: true,
      dual: false,
      underlay6: false,
      owners: [1, 2, 3],
      underlays: [2, 3, 4, 9, 9],
      pods: [1],
    };
    const start = settle(withPods(emptyKernel, world), wanted(world));
    expect(changeOf(world, world, start)).toBeUndefined();
    expect(changeOf(world, { ...world, underlays: [2, 3, 3, 9, 9] }, start)).toBeUndefined();
    expect(changeOf(world, { ...world, overlay: '10.33.0.1' }, start)).toBeUndefined();
    expect(changeOf(world, { ...world, owners: [0, 2, 3] }, start)).toBeUndefined();
    expect(changeOf(world, { ...world, underlays: [2, 3, 5, 9, 9] }, start)).toBeDefined();
    expect(leasesOf(world)).toHaveLength(1);
  });
});

describe('differingPeers', () => {
  const peer = (name: string, block: string): PeerView => {
    return { name, nodeName: name, self: false, underlayAddress: '192.0.2.9', overlayAddresses: [], blocks: [block] };
  };

  it('finds what differs wherever it stands', () => {
    const before = [peer('a', '1'), peer('b', '2'), peer('c', '3'), peer('d', '4')];
    const after = [peer('a', '1'), peer('aa', '5'), peer('b', '2'), peer('c', '6'), peer('d', '4')];
    const { gone, come } = differingPeers(before, after);
    expect([gone.map(({ name }) => name), come.map(({ name }) => name)]).toEqual([['c'], ['aa', 'c']]);
    expect(differingPeers(before, [...before].toReversed())).toEqual({ gone: [], come: [] });
    expect(differingPeers(before, [])).toEqual({ gone: before, come: [] });
  });
});

describe('sameRouting', () => {
  const peer = (name: string): PeerView => ({
    name,
    nodeName: name,
    self: false,
    underlayAddress: '192.0.2.9',
    overlayAddresses: ['10.40.0.1'],
    blocks: ['10.40.0.0/14'],
  });
  const view = (peers: readonly PeerView[]): IpamView => ({
    ranges: ['10.32.0.0/12'],
    reserved: [],
    peers,
    overlayAddresses: ['10.32.0.1'],
    freeAddresses: 1,
    leasedAddresses: 1,
    restingAddresses: 0,
    ready: true,
    waitingFor: '',
    registryAnsweredAtMs: 0,
  });

  it('does not look at leases, and sees every change that a route comes from', () => {
    const before = view([peer('a'), peer('b')]);
    expect(sameRouting(before, { ...view([peer('a'), peer('b')]), leasedAddresses: 7 })).toBe(true);
    const others: readonly IpamView[] = [
      view([peer('a')]),
      view([peer('a'), peer('b'), peer('c')]),
      view([peer('b'), peer('a')]),
      view([peer('a'), { ...peer('b'), underlayAddress: '192.0.2.8' }]),
      view([peer('a'), { ...peer('b'), blocks: ['10.40.0.0/15'] }]),
      view([{ ...peer('a'), self: true }, peer('b')]),
      { ...before, reserved: ['10.47.0.0/16'] },
      { ...before, ranges: [...before.ranges, 'fd42::/48'] },
      { ...before, overlayAddresses: ['10.32.0.2'] },
    ];
    for (const other of others) expect(sameRouting(before, other)).toBe(false);
  });
});
