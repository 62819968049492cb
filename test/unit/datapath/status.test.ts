// A peer is called programmed only where its pods are reached from here: IPAM may know of a block before the kernel does.
import { describe, expect, test } from 'vitest';

import { Expected } from '#agent/datapath/expected.ts';
import { vtepOf } from '#agent/datapath/identity.ts';
import { plainMetric } from '#agent/datapath/objects.ts';
import type { Operation } from '#agent/datapath/objects.ts';
import { isProgrammed } from '#agent/datapath/status.ts';
import type { PeerView } from '#agent/runtime/ipam.ts';

import { emptyKernel } from './model.ts';

const peer: PeerView = {
  name: 'host2.00000002',
  nodeName: 'host2',
  self: false,
  underlayAddress: '192.0.2.2',
  overlayAddresses: ['10.40.0.1'],
  blocks: ['10.40.0.0/14'],
};
const { mac, linkLocal } = vtepOf(peer.name);
const overlay = ['10.32.0.1'];

const putFdb: Operation = { kind: 'putFdb', entry: { mac, underlayAddress: '192.0.2.2' } };

function routed(dst: string, gateway: string, id = 7): readonly Operation[] {
  const metric = plainMetric[dst.includes(':') ? 6 : 4];
  const route = { dst, metric, target: { kind: 'peer', gateway, prefsrc: '10.32.0.1' } } as const;
  return [
    { kind: 'addNexthop', id, gateway },
    { kind: 'putRoute', route, nexthopId: id, replaces: false },
  ];
}

function kernel(...operations: readonly Operation[]): Expected {
  const expected = new Expected(emptyKernel);
  expected.note(operations);
  return expected;
}

describe('a peer', () => {
  test.each([
    ['over the overlay', '192.0.2.2'],
    ['over the overlay by a link-local nexthop', linkLocal],
    ['directly', '192.0.2.2%eth0'],
  ])('whose block is routed %s is programmed', (_, gateway) => {
    expect(isProgrammed(kernel(putFdb, ...routed('10.40.0.0/14', gateway)), peer, overlay)).toBe(true);
  });

  test.each<[string, Expected | undefined, PeerView]>([
    ['before the first round', undefined, peer],
    ['whose VTEP is known and whose block is not routed yet', kernel(putFdb), peer],
    ['whose block is still routed to its last owner', kernel(putFdb, ...routed('10.40.0.0/14', '192.0.2.3')), peer],
    [
      'of two blocks one of which is not routed yet',
      kernel(putFdb, ...routed('10.40.0.0/14', '192.0.2.2')),
      { ...peer, blocks: ['10.40.0.0/14', '10.44.0.0/14'] },
    ],
    [
      'that has moved to another underlay address',
      kernel(putFdb, ...routed('10.40.0.0/14', '192.0.2.2')),
      { ...peer, underlayAddress: '192.0.2.9' },
    ],
    ['whose underlay address is not known', kernel(putFdb), { ...peer, underlayAddress: undefined, blocks: [] }],
    ['with a block that is none', kernel(putFdb), { ...peer, blocks: ['10.40.0.0/99'] }],
  ])('%s is not', (_, expected, view) => {
    expect(isProgrammed(expected, view, overlay)).toBe(false);
  });

  test('with blocks of a family that this node has no address of is measured by the others', () => {
    const both = { ...peer, blocks: ['10.40.0.0/14', 'fd57::/64'] };
    const expected = kernel(putFdb, ...routed('10.40.0.0/14', '192.0.2.2'));
    expect(isProgrammed(expected, both, overlay)).toBe(true);
    expect(isProgrammed(expected, both, [...overlay, 'fd58::1'])).toBe(false);
  });

  test('whose VTEP or route the kernel has refused is not', () => {
    const operations = [putFdb, ...routed('10.40.0.0/14', '192.0.2.2')];
    for (const refused of [operations.slice(0, 1), operations.slice(2)]) {
      const expected = kernel(...operations);
      expected.refused(refused);
      expect(isProgrammed(expected, peer, overlay)).toBe(false);
    }
  });
});
