// Addresses and blocks: strict reading, canonical writing, and set arithmetic against sets of plain numbers.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { formatAddress, parseAddress } from '#ipam-peer/address.ts';
import {
  type Cidr,
  coalesce,
  contains,
  disjoint,
  formatCidr,
  halvesOf,
  intersect,
  lastAddress,
  parseCidr,
  subtract,
} from '#ipam-peer/cidr.ts';
import { cidr, cidrs } from './harness.ts';

describe('addresses', () => {
  test.for([
    '1.2.3',
    '1.2.3.4.5',
    '256.1.1.1',
    '01.2.3.4',
    '1.2.3.4 ',
    '+1.2.3.4',
    '1.2.3.0x4',
    '',
    '1..2.3',
    ':',
    ':::',
    '1::2::3',
    '1:2:3:4:5:6:7',
    '1:2:3:4:5:6:7:8:9',
    '12345::',
    'fe80::1%eth0',
    '::1.2.3',
    '[::1]',
    '1:2:3:4:5:6:7:8::',
    '::1.2.3.4:5',
    '１.2.3.4',
  ])('"%s" is no address', (text) => {
    expect(parseAddress(text)).toBeUndefined();
  });

  test.for([
    ['10.32.0.1', '10.32.0.1'],
    ['255.255.255.255', '255.255.255.255'],
    ['2001:DB8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['0:0:0:0:0:0:0:0', '::'],
    ['1:0:2:0:3:0:4:0', '1:0:2:0:3:0:4:0'],
    ['::ffff:1.2.3.4', '::ffff:102:304'],
    ['fd00::', 'fd00::'],
  ])('"%s" is written "%s"', ([text, canonical]) => {
    const address = parseAddress(text ?? '');
    expect(formatAddress(address?.family ?? 4, address?.value ?? 0n)).toBe(canonical);
  });

  test('every address survives being written and read', () => {
    fc.assert(
      fc.property(fc.bigInt(0n, 2n ** 128n - 1n), (value) => {
        expect(parseAddress(formatAddress(6, value))).toEqual({ family: 6, value });
        const low = value & 0xffffffffn;
        expect(parseAddress(formatAddress(4, low))).toEqual({ family: 4, value: low });
      }),
    );
  });
});

describe('blocks', () => {
  test.for([
    '10.32.0.1/12',
    '10.32.0.0',
    '10.32.0.0/33',
    '10.32.0.0/-1',
    '10.32.0.0/012',
    'fd00::/129',
    '/8',
    '1.2.3.4/32/1',
  ])('"%s" is no block', (text) => {
    expect(parseCidr(text)).toBeUndefined();
  });

  test('halves of a /12', () => {
    expect(halvesOf(cidr('10.32.0.0/12')).map(formatCidr)).toEqual(['10.32.0.0/13', '10.40.0.0/13']);
  });

  test('k3s services are cut out of the default range', () => {
    const space = coalesce(subtract(cidrs('10.32.0.0/12'), cidrs('10.43.0.0/16')));
    expect(space.map(formatCidr)).toEqual(['10.32.0.0/13', '10.40.0.0/15', '10.42.0.0/16', '10.44.0.0/14']);
  });

  test('v6 blocks follow the same arithmetic', () => {
    const rest = subtract(cidrs('fd00::/64'), cidrs('fd00::/66'));
    expect(rest.map(formatCidr)).toEqual(['fd00::4000:0:0:0/66', 'fd00::8000:0:0:0/65']);
  });

  /** Blocks inside 10.0.0.0/24, so that sets of numbers can check them. */
  const blocks = fc
    .array(fc.record({ prefix: fc.integer({ min: 24, max: 32 }), at: fc.integer({ min: 0, max: 255 }) }), {
      maxLength: 12,
    })
    .map((items) =>
      items.map(({ prefix, at }): Cidr => {
        const size = 2 ** (32 - prefix);
        return { family: 4, base: 0x0a000000n + BigInt(at - (at % size)), prefix };
      }),
    );

  function numbers(set: readonly Cidr[]): Set<bigint> {
    const all = new Set<bigint>();
    for (const block of set) for (let value = block.base; value <= lastAddress(block); value++) all.add(value);
    return all;
  }

  test('subtract, intersect and coalesce agree with plain sets', () => {
    fc.assert(
      fc.property(blocks, blocks, (a, b) => {
        const [one, other] = [coalesce(a), coalesce(b)];
        expect(numbers(one)).toEqual(numbers(a));
        expect(disjoint(one)).toBe(true);
        expect(numbers(subtract(one, other))).toEqual(numbers(one).difference(numbers(other)));
        expect(numbers(intersect(one, other))).toEqual(numbers(one).intersection(numbers(other)));
        // Minimal: no two buddies are left apart.
        for (const block of one) expect(one.some((two) => two !== block && contains(two, block))).toBe(false);
        expect(coalesce(subtract(one, other)).length).toBeLessThanOrEqual(subtract(one, other).length);
      }),
    );
  });
});

// Their low 64 bits are the same, by which alone V8 tells the keys of a map apart: 100 µs each where 2 are enough.
test('thousands of IPv6 blocks are written as fast as thousands of addresses', () => {
  const prefix = 0xfd00n << 112n;
  const msOf = (shift: bigint): number => {
    const began = performance.now();
    for (let at = 0; at < 5000; at++) formatAddress(6, prefix | (BigInt(at) << shift));
    return performance.now() - began;
  };
  const leastOf = (shift: bigint): number => Math.min(...Array.from({ length: 5 }, () => msOf(shift)));
  expect(leastOf(64n)).toBeLessThan(20 * leastOf(0n));
});
