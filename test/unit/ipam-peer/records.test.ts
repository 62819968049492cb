// Reading records strictly: whatever stands in the registry, the answer is a record or a reason.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { formatPeer, formatUniverse, parsePeer, parseUniverse } from '#ipam-peer/records.ts';

const peer = {
  schema: 1,
  node: { name: 'node1', uid: '0b5e' },
  seq: 7,
  seeded: true,
  blocks: [
    { cidr: '10.32.0.0/13' },
    { cidr: '10.40.0.0/14', via: { name: 'node2.0b5f', uid: 'u2', id: 33 } },
    { cidr: '10.46.0.0/15', spare: true },
  ],
  granting: [{ id: 112, cidr: '10.44.0.0/15', to: { name: 'node3.0b60', uid: 'u3' } }],
  wants: { from: { name: 'node2.0b5f', uid: 'u2' } },
  underlay: ['192.0.2.1'],
  overlay: ['10.32.0.1'],
  free: 524288,
  wants6: { from: { name: 'node3.0b60', uid: 'u3' } },
  freeBits6: 79,
};

describe('Peer', () => {
  test('is written as it was read', () => {
    const parsed = parsePeer(peer);
    expect(parsed.ok && formatPeer(parsed.record)).toEqual(peer);
  });

  test('a field of the next version survives a rewrite by this one', () => {
    const parsed = parsePeer({ ...peer, schema: 2, keys: ['k1'], quorum: { of: 3 } });
    expect(parsed.ok && formatPeer(parsed.record)).toMatchObject({ schema: 1, keys: ['k1'], quorum: { of: 3 } });
  });

  test.for<[object | null | string, RegExp]>([
    [null, /the record is not an object/],
    ['text', /the record is not an object/],
    [[], /the record is not an object/],
    [{ ...peer, schema: 3 }, /schema/],
    [{ ...peer, schema: '1' }, /schema/],
    [{ ...peer, node: undefined }, /node/],
    [{ ...peer, seq: -1 }, /seq/],
    [{ ...peer, seq: NaN }, /seq/],
    [{ ...peer, blocks: {} }, /blocks/],
    [{ ...peer, blocks: [{ cidr: '10.32.0.1/13' }] }, /blocks\[0\]\.cidr/],
    [{ ...peer, blocks: [{ cidr: '10.32.0.0/13' }, { cidr: '10.33.0.0/16' }] }, /overlaps/],
    [{ ...peer, blocks: [{ cidr: '10.44.0.0/14' }] }, /overlaps/],
    [{ ...peer, blocks: [{ cidr: '10.32.0.0/13', via: 'u2' }] }, /via/],
    [{ ...peer, granting: [{ id: 'x', cidr: '10.44.0.0/15', to: { name: 'a', uid: 'b' } }] }, /id/],
    [{ ...peer, granting: [{ id: 1, cidr: '10.44.0.0/15', to: { name: '', uid: 'b' } }] }, /to\.name/],
    [{ ...peer, wants: {} }, /wants\.from/],
    [{ ...peer, heir: 'node2' }, /heir/],
    [{ ...peer, underlay: ['eth0'] }, /underlay/],
    [{ ...peer, overlay: '10.32.0.1' }, /overlay/],
    [{ ...peer, seeded: 'yes' }, /seeded/],
    [{ ...peer, free: Infinity }, /free/],
    [{ ...peer, freeBits6: 129 }, /freeBits6/],
    [{ ...peer, freeBits6: '79' }, /freeBits6/],
    [{ ...peer, wants6: { from: 'node3' } }, /wants6\.from/],
    [{ ...peer, blocks: Array.from({ length: 2000 }, () => ({ cidr: '10.32.0.0/13' })) }, /at most/],
  ])('%j is refused with its reason', ([value, reason]) => {
    expect(parsePeer(value)).toMatchObject({ ok: false, reason: expect.stringMatching(reason) as string });
  });

  test('nothing makes the reader throw', () => {
    const mangled = fc
      .tuple(fc.constantFrom(...Object.keys(peer)), fc.jsonValue())
      .map(([field, value]) => ({ ...peer, [field]: value }));
    fc.assert(
      fc.property(fc.oneof(fc.jsonValue(), mangled), (value) => {
        const parsed = parsePeer(value);
        expect(parsed.ok || parsed.reason.length > 0).toBe(true);
        parseUniverse(value);
      }),
    );
  });
});

describe('Universe', () => {
  const universe = {
    schema: 1,
    ranges: ['10.32.0.0/12'],
    reserved: ['10.43.0.0/16'],
    founder: { name: 'node1.x', uid: 'u1' },
  };

  test('is written as it was read', () => {
    const parsed = parseUniverse(universe);
    expect(parsed.ok && formatUniverse(parsed.record)).toEqual(universe);
  });

  test.for<[object, RegExp]>([
    [{ ...universe, ranges: [] }, /ranges/],
    [{ ...universe, ranges: ['10.32.0.0/12', '10.33.0.0/16'] }, /overlaps/],
    [{ ...universe, ranges: ['fd00::1/48'] }, /ranges\[0\]/],
    [{ ...universe, ranges: ['0.0.0.0/0'] }, /0\.0\.0\.0\/8, which is no pod's/],
    [{ ...universe, ranges: ['::/0'] }, /::\/8/],
    [{ ...universe, ranges: ['127.1.0.0/16'] }, /127\.0\.0\.0\/8/],
    [{ ...universe, ranges: ['10.32.0.0/12', '224.0.0.0/8'] }, /224\.0\.0\.0\/4/],
    [{ ...universe, ranges: ['fe80::/64'] }, /fe80::\/10/],
    [{ ...universe, namespaces: 'team-a' }, /namespaces/],
    [{ ...universe, namespaces: [''] }, /namespaces\[0\]/],
    [{ ...universe, reserved: ['10.0.0.0/8'] }, /reserved/],
    [{ ...universe, reserved: ['10.43.0.1/16'] }, /reserved\[0\]/],
    [{ ...universe, founder: {} }, /founder/],
  ])('%j is refused with its reason', ([value, reason]) => {
    expect(parseUniverse(value)).toMatchObject({ ok: false, reason: expect.stringMatching(reason) as string });
  });
});
