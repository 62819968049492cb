// Properties of desired and diff over random views, leases and kernels. fast-check prints the seed of a failure.
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { desiredState } from '#agent/datapath/desired.ts';
import { familyOf } from '#agent/datapath/cidr.ts';
import { diff } from '#agent/datapath/diff.ts';
import { withoutOverlay } from '#agent/datapath/diff-overlay.ts';
import { noDirect } from '#agent/datapath/direct.ts';
import { mainTable, plainMetric } from '#agent/datapath/objects.ts';
import type { ActualRoute, ActualState } from '#agent/datapath/objects.ts';
import { defaultDatapathSettings } from '#agent/datapath/settings.ts';

import { emptyKernel, macTo, wayTo } from './model.ts';
import { leasesOf, settle, viewOf, wanted, withPods, worlds } from './worlds.ts';

describe('diff', { timeout: 60_000 }, () => {
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
      fc.property(worlds, worlds, (first, other) => {
        // Another family of the underlay is another overlay device.
        const second = { ...other, underlay6: first.underlay6, ipv6: other.ipv6 || first.underlay6 };
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
          hostRpFilter: 0,
          underlayIfindex: 2,
          ipv6: world.ipv6,
          ports: new Set(),
          direct: noDirect,
        });
        expect(blind.waitingFor).toContain(world.underlay6 ? '2001:db8::1' : '192.0.2.1');
        const kinds = new Set(diff(blind, settled).map(({ kind }) => kind));
        expect([...kinds]).toEqual([]);
      }),
    );
  });
});

// Seed -725710393 of property.test.ts: such routes were added anew, which the kernel refuses where they are.
it('an IPv6 route on the underlay link outlives the overlay device, one of IPv4 goes with its source address', () => {
  const via = (dst: string, prefsrc: string): ActualRoute => ({
    dst,
    metric: plainMetric[familyOf(dst)],
    table: mainTable,
    target: { kind: 'nexthop', id: 7, prefsrc },
  });
  const state: ActualState = {
    ...emptyKernel,
    addresses: ['10.32.0.1/32', 'fd42::1/128'].map((cidr) => ({ ifname: 'weft0', cidr, linkScope: false })),
    nexthops: [{ id: 7, gateway: '2001:db8::3%eth0' }],
    routes: [via('10.40.0.0/16', '10.32.0.1'), via('fd42:0:0:a000::/52', 'fd42::1')],
  };
  expect(withoutOverlay(state, 'weft0').routes.map(({ dst }) => dst)).toEqual(['fd42:0:0:a000::/52']);
});
