// Properties of desired and diff over random views, leases and kernels. fast-check prints the seed of a failure.
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { noDirect } from '#agent/datapath/direct.ts';
import { desiredState } from '#agent/datapath/desired.ts';
import { diff } from '#agent/datapath/diff.ts';
import type { ActualState, DesiredState } from '#agent/datapath/objects.ts';
import { hostIfnameOf } from '#agent/datapath/identity.ts';
import { defaultDatapathSettings } from '#agent/datapath/settings.ts';
import type { IpamView, Lease, PeerView } from '#agent/runtime/ipam.ts';

import { applyToModel, emptyKernel, macTo, wayTo } from './model.ts';

interface World {
  readonly overlay: string;
  readonly mtu: number;
  readonly ipv6: boolean;
  /** Peer and underlay address of each of the sixteen /16 blocks of 10.32.0.0/12; 0 is this node, undefined nobody. */
  readonly owners: readonly (number | undefined)[];
  readonly underlays: readonly number[];
  readonly pods: readonly number[];
}

const worlds: fc.Arbitrary<World> = fc.record({
  overlay: fc.constantFrom('10.32.0.1', '10.33.0.1'),
  mtu: fc.constantFrom(1500, 9000, 1300),
  ipv6: fc.boolean(),
  owners: fc.array(fc.option(fc.integer({ min: 0, max: 5 }), { nil: undefined }), { minLength: 15, maxLength: 15 }),
  underlays: fc.array(fc.integer({ min: 2, max: 9 }), { minLength: 5, maxLength: 5 }),
  pods: fc.uniqueArray(fc.integer({ min: 1, max: 12 }), { maxLength: 6 }),
});

function viewOf(world: World): IpamView {
  const blocksOf = (peer: number): readonly string[] =>
    world.owners.flatMap((owner, index) => (owner === peer ? [`10.${33 + index}.0.0/16`] : []));
  const self: PeerView = {
    name: 'self.00000000',
    nodeName: 'self',
    self: true,
    underlayAddress: '192.0.2.1',
    overlayAddresses: [world.overlay],
    blocks: ['10.32.0.0/16', ...blocksOf(0)],
  };
  const peers = world.underlays.map((underlay, index): PeerView => ({
    name: `peer${index + 1}.00000000`,
    nodeName: `peer${index + 1}`,
    self: false,
    underlayAddress: underlay === 9 ? undefined : `192.0.2.${underlay}`,
    overlayAddresses: [],
    blocks: blocksOf(index + 1),
  }));
  return {
    ranges: ['10.32.0.0/12'],
    reserved: ['10.47.128.0/17'],
    peers: [...peers, self],
    overlayAddresses: [world.overlay],
    freeAddresses: 0,
    leasedAddresses: 0,
    restingAddresses: 0,
    ready: true,
    waitingFor: '',
    registryAnsweredAtMs: 0,
  };
}

function leasesOf(world: World): readonly Lease[] {
  return world.pods.map((pod) => {
    const key = { containerId: `pod${pod}`, ifname: 'eth0' };
    return {
      ...key,
      generation: `${pod}`.padStart(16, '0'),
      addresses: [`10.32.1.${pod}`],
      owner: { network: 'weft', netnsPath: '/run/netns/x', netnsInode: 1n },
      state: 'active',
      sinceMs: 0,
      hostIfname: hostIfnameOf('weftp', key),
    };
  });
}

function wanted(world: World): DesiredState {
  return desiredState({
    view: viewOf(world),
    leases: leasesOf(world),
    settings: defaultDatapathSettings,
    underlayMtuBytes: world.mtu,
    ipv6: world.ipv6,
    direct: noDirect,
  });
}

/** Pod links come from attach, not from diff: they are there before. */
function withPods(state: ActualState, world: World): ActualState {
  const present = new Set(state.podLinks.map(({ ifname }) => ifname));
  const fresh = leasesOf(world)
    .filter(({ hostIfname }) => !present.has(hostIfname))
    .map(({ hostIfname }) => ({
      ifname: hostIfname,
      alias: '',
      mac: '',
      mtuBytes: 1450,
      up: false,
      doomed: false,
      ignoresAdvertisements: false,
      routeLocalnet: false,
    }));
  return { ...state, podLinks: [...state.podLinks, ...fresh] };
}

function settle(state: ActualState, desired: DesiredState, look?: (state: ActualState) => void): ActualState {
  let current = state;
  for (const operation of diff(desired, current)) {
    current = applyToModel(current, operation);
    look?.(current);
  }
  return current;
}

describe('diff', () => {
  it('brings any kernel to what is wanted; a second diff is empty', () => {
    fc.assert(
      fc.property(fc.array(worlds, { minLength: 1, maxLength: 4 }), (sequence) => {
        let state: ActualState = { ...emptyKernel, foreignNexthopIds: new Set([0x5745_0001, 0x5745_0003]) };
        for (const world of sequence) {
          state = settle(withPods(state, world), wanted(world));
          expect(diff(wanted(world), state)).toEqual([]);
        }
      }),
    );
  });

  it('never interrupts the way to a block that is wanted before and after', () => {
    fc.assert(
      fc.property(worlds, worlds, (first, second) => {
        const before = wanted(first);
        const after = wanted(second);
        const start = settle(withPods(emptyKernel, first), before);
        const end = settle(withPods(start, second), after);
        // What is the same peer before and after must be reachable in every state between.
        const kept = before.routes
          .filter(({ target }) => target.kind === 'peer')
          .map(({ dst }) => dst)
          .filter((dst) => wayTo(start, dst) !== undefined && wayTo(end, dst) !== undefined);
        settle(withPods(start, second), after, (state) => {
          for (const dst of kept) {
            // By the old owner, at its old or new address, or by the new owner: never by nobody, never by a third.
            const oldOwner = macTo(start, dst);
            const moved = end.fdb.find(({ mac }) => mac === oldOwner)?.underlayAddress;
            expect([wayTo(start, dst), moved, wayTo(end, dst)]).toContain(wayTo(state, dst) ?? 'nowhere');
          }
        });
      }),
    );
  });

  it('repairs whatever was taken out of a settled kernel, and only that', () => {
    const lists = ['addresses', 'nexthops', 'routes', 'neighbours', 'fdb'] as const;
    fc.assert(
      fc.property(worlds, fc.constantFrom(...lists), fc.nat(), (world, list, position) => {
        const desired = wanted(world);
        const settled = settle(withPods(emptyKernel, world), desired);
        if (settled[list].length === 0) return;
        const gone = position % settled[list].length;
        const damaged: ActualState = { ...settled, [list]: settled[list].filter((_object, index) => index !== gone) };
        const healed = settle(damaged, desired);
        expect(diff(desired, healed)).toEqual([]);
        expect(diff(desired, damaged).filter(({ kind }) => kind.startsWith('del'))).toEqual([]);
      }),
    );
  });

  it('leaves a predecessor and its peers alone while the underlay is not known', () => {
    fc.assert(
      fc.property(worlds, (world) => {
        const settled = settle(withPods(emptyKernel, world), wanted(world));
        const blind = desiredState({
          view: viewOf(world),
          leases: leasesOf(world),
          settings: defaultDatapathSettings,
          underlayMtuBytes: undefined,
          ipv6: world.ipv6,
          direct: noDirect,
        });
        expect(blind.waitingFor).toContain('192.0.2.1');
        const kinds = new Set(diff(blind, settled).map(({ kind }) => kind));
        expect([...kinds]).toEqual([]);
      }),
    );
  });
});
