// The labels by which the admission policies find what a record must be compared with. That the policy computes the same is
// tested against a real API server (test/e2e/privilege.test.ts).

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { partOfName } from '#agent/kubernetes/node-part.ts';
import { peerLabels } from '#agent/registry/kubernetes/peer-labels.ts';
import { resourceOf } from '#agent/registry/kubernetes/resources.ts';
import { addressBits, type Family } from '#ipam-peer/address.ts';
import { type Cidr, formatCidr, halvesOf } from '#ipam-peer/cidr.ts';

const marks = (...cidrs: readonly string[]): readonly string[] =>
  Object.keys(peerLabels(undefined, { blocks: cidrs.map((cidr) => ({ cidr })) }) ?? {});
const mark = (name: string): string => `weft.network/space-${name}`;

describe('the part of a node', () => {
  it.each([
    ['n1.c0ffee00', 'c'],
    ['n1.c0ffee00.pool-blue', 'c'],
    ['host.pool-1.c0ffee00', 'c'],
    ['host.00000000.example.c0ffee00', 'c'],
    ['host.00000000.pool-1.c0ffee00', undefined],
    ['n1', undefined],
  ])('is in the name %s: %s', (name, part) => {
    expect(partOfName(name)).toBe(part);
  });
});

describe('the labels of a Peer', () => {
  it.each([
    ['10.32.0.0/12', 'wide'],
    ['10.32.0.0/17', 'wide'],
    ['10.32.0.0/18', '0'],
    ['10.33.64.0/24', '2'],
    ['10.47.192.128/25', '2'],
    ['fd00:32::/48', 'wide'],
    ['fd00:32::/55', 'wide'],
    ['fd00:32::/56', '1'],
    ['fd00:32:0:12ff::/64', '4'],
    ['what is no block', 'wide'],
  ])('say of %s that it lies in part %s', (cidr, part) => {
    expect(marks(cidr)).toEqual([mark(part)]);
  });

  it('are made of blocks and grants together, and of the heir; those of others stay, old ones of Weft do not', () => {
    const value = {
      blocks: [{ cidr: '10.32.0.0/18' }],
      granting: [{ cidr: '10.33.0.0/18' }],
      heir: { name: 'x' },
      node: { name: 'n', uid: 'c0ffee00-1' },
    };
    expect(peerLabels({ [mark('7')]: '', 'example.test/kept': 'yes' }, value)).toEqual({
      'example.test/kept': 'yes',
      [mark('0')]: '',
      [mark('1')]: '',
      'weft.network/heir': '',
      'weft.network/part': 'c',
    });
    expect(peerLabels({ [mark('7')]: '' }, { blocks: [] })).toBeUndefined();
  });

  it('tell a record that has had more than one heir, for good', () => {
    const [first, second] = [
      { name: 'x', uid: '1' },
      { name: 'y', uid: '2' },
    ].map((heir) => ({ heir }));
    const heirs = 'weft.network/heirs';
    expect(peerLabels({}, first ?? {}, {})).not.toHaveProperty([heirs]);
    expect(peerLabels({}, first ?? {}, first)).not.toHaveProperty([heirs]);
    expect(peerLabels({}, second ?? {}, first)).toHaveProperty([heirs], '');
    expect(peerLabels({ [heirs]: '' }, second ?? {}, second)).toHaveProperty([heirs], '');
  });

  it('of two blocks that overlap have one in common, or one of them is wide', () => {
    const block = fc.constantFrom<Family>(4, 6).chain((family) =>
      fc.record({
        family: fc.constant(family),
        bits: fc.bigInt(0n, (1n << BigInt(addressBits(family))) - 1n),
        prefix: fc.integer({ min: 8, max: addressBits(family) - 8 }),
      }),
    );
    const steps = fc.array(fc.boolean(), { maxLength: 8 });
    fc.assert(
      fc.property(block, steps, ({ family, bits, prefix }, path) => {
        const shift = BigInt(addressBits(family) - prefix);
        const outer: Cidr = { family, base: (bits >> shift) << shift, prefix };
        const inner = path.reduce<Cidr>((at, upper) => halvesOf(at)[upper ? 1 : 0], outer);
        const [large, small] = [marks(formatCidr(outer)), marks(formatCidr(inner))];
        expect(large[0] === mark('wide') || large.join() === small.join()).toBe(true);
      }),
    );
  });

  it('go with every write of a Peer, and of nothing else', () => {
    const value = { blocks: [{ cidr: '10.32.0.0/18' }] };
    const written = (kind: 'peer' | 'universe'): unknown => resourceOf(kind, 'weft').objectOf({ name: 'x' }, value);
    expect(written('peer')).toMatchObject({ metadata: { name: 'x', labels: { [mark('0')]: '' } } });
    expect(written('universe')).toMatchObject({ metadata: { name: 'x' } });
    expect(written('universe')).not.toHaveProperty('metadata.labels');
  });
});
