// What a round leaves alone: pods that came or went while it read the kernel.
import { expect, it } from 'vitest';

import { mainTable, plainMetric } from '#agent/datapath/objects.ts';
import { WantedPods, withoutPodLinks } from '#agent/datapath/wanted.ts';
import type { Lease } from '#agent/runtime/ipam.ts';

import { emptyKernel } from './model.ts';

const lease: Lease = {
  containerId: 'pod1',
  ifname: 'eth0',
  addresses: ['10.32.0.9', 'fd32::9'],
  generation: '0123456789abcdef',
  hostIfname: 'weftp0123456789',
  state: 'active',
  sinceMs: 0,
  owner: { network: 'weft', netnsPath: '/run/netns/pod1', netnsInode: 1n },
};

it('a pod that was attached between the dumps of links and of routes keeps its routes, whose link has no name yet', () => {
  const routes = [
    { dst: '10.32.0.9/32', metric: plainMetric[4], table: mainTable, target: { kind: 'other' } },
    { dst: 'fd32::9/128', metric: plainMetric[6], table: mainTable, target: { kind: 'other' } },
  ] as const;
  const read = { ...emptyKernel, routes };
  const touched = new Map([[lease.hostIfname, [lease]]]);
  expect(withoutPodLinks(read, touched).routes).toEqual([]);
  expect(withoutPodLinks(read, new Map()).routes).toEqual(routes);
});

it('a table that is loaded whole while an attach waits for its carrier has that pod, and not one whose detach has taken it out', () => {
  const pods = new WantedPods();
  pods.begin(lease);
  pods.beginRound();
  expect(pods.list()).toEqual([]);
  expect(pods.inTable).toEqual([lease]);
  pods.attached(lease);
  pods.end(lease);
  expect(pods.inTable).toEqual([lease]);
  pods.begin(lease);
  pods.detached(lease);
  expect(pods.inTable).toEqual([]);
});
