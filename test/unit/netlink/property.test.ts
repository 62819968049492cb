// Round trips of arbitrary messages, and addresses against Node's own judgement of what an address is.
import { isIPv4, isIPv6 } from 'node:net';

import fc from 'fast-check';
import ipaddr from 'ipaddr.js';
import { describe, expect, it } from 'vitest';

import { addressFormat } from '#agent/netlink/addr.ts';
import { readIp, readLladdr, writeIp, writeLladdr } from '#agent/netlink/ip-text.ts';
import { linkFormat } from '#agent/netlink/link.ts';
import { neighbourFormat } from '#agent/netlink/neighbour.ts';
import { nexthopFormat } from '#agent/netlink/nexthop.ts';
import { routeFormat } from '#agent/netlink/route.ts';
import { elementListFormat } from '#agent/netlink/set-element.ts';
import { type AnyFormat } from '#agent/netlink/message.ts';

import { encode } from './formats.ts';
import { seed } from './seed.ts';

const u8 = fc.integer({ min: 0, max: 0xff });
const u16 = fc.integer({ min: 0, max: 0xffff });
const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
const s32 = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });
const ipv4 = fc.uint8Array({ minLength: 4, maxLength: 4 }).map((bytes) => bytes.join('.'));
const ipv6 = fc
  .array(fc.oneof(fc.constant(0), u16), { minLength: 8, maxLength: 8 })
  .map((groups) => readIp(Uint8Array.from(groups.flatMap((group) => [group >> 8, group & 255])), 0, 16) ?? '');
const ip = fc.oneof(ipv4, ipv6);
const lladdr = fc.uint8Array({ minLength: 6, maxLength: 6 }).map((bytes) => readLladdr(bytes, 0, 6));
const bytes = fc.uint8Array({ maxLength: 40 });
const name = fc.string({ unit: 'grapheme-ascii', minLength: 1, maxLength: 15 });
const yes = fc.constant(true as const);
const unknown = fc.array(fc.record({ type: fc.integer({ min: 900, max: 0x3fff }), payload: bytes }), {
  minLength: 1,
  maxLength: 3,
});

function some<Shape extends Record<string, fc.Arbitrary<unknown>>>(shape: Shape): fc.Arbitrary<object> {
  return fc.record(shape, { requiredKeys: [], noNullPrototype: true });
}

const vxlan = some({
  id: u32,
  link: u32,
  local: ipv4,
  local6: ipv6,
  learning: fc.boolean(),
  port: u16,
  portRange: fc.record({ low: u16, high: u16 }),
  ttl: u8,
  label: u32,
  gbp: yes,
  unknown,
});
const plainLink = some({
  ifiFlags: u32,
  ifiIndex: s32,
  ifname: name,
  mtu: u32,
  address: lladdr,
  netNsFd: u32,
  unknown,
});
const linkinfo = fc.oneof(
  fc.record({ kind: fc.constant('vxlan'), data: vxlan }),
  fc.record({ kind: fc.constant('veth'), data: fc.record({ peer: plainLink }) }),
  fc.record({
    kind: fc.constant('bridge'),
    data: some({ ageingTime: u32, priority: u16, nfCallIptables: fc.boolean() }),
  }),
  fc.record({ kind: fc.constant('other'), kindName: fc.constant('gre'), data: bytes, unknown }),
);
const elements = fc.array(
  some({
    key: some({ value: bytes }),
    keyEnd: some({ value: bytes }),
    data: some({ verdict: some({ code: s32, chain: name }) }),
    flags: u32,
    timeout: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    userdata: bytes,
  }),
);

const cases: readonly (readonly [string, AnyFormat<object>, fc.Arbitrary<object>])[] = [
  [
    'link',
    linkFormat,
    some({
      ifiFlags: u32,
      ifiIndex: s32,
      ifname: name,
      mtu: u32,
      group: u32,
      ifalias: name,
      linkinfo,
      linkNetnsid: s32,
      unknown,
    }),
  ],
  [
    'address',
    addressFormat,
    some({ ifaFamily: u8, ifaIndex: u32, address: ip, local: ip, label: name, flags: u32, unknown }),
  ],
  [
    'route',
    routeFormat,
    some({
      rtmFamily: u8,
      rtmDstLen: u8,
      rtmFlags: u32,
      dst: ip,
      gateway: ip,
      via: fc.record({ family: u16, addr: ip }),
      metrics: some({ mtu: u32, advmss: u32, unknown }),
      nhId: u32,
      pref: u8,
      unknown,
    }),
  ],
  [
    'nexthop',
    nexthopFormat,
    some({
      nhFamily: u8,
      nhFlags: u32,
      id: u32,
      gateway: ip,
      fdb: yes,
      group: fc.array(fc.record({ id: u32, weight: fc.integer({ min: 1, max: 256 }) })),
      unknown,
    }),
  ],
  [
    'neighbour',
    neighbourFormat,
    some({ ndmFamily: u8, ndmIfindex: s32, ndmState: u16, dst: ip, lladdr, port: u16, unknown }),
  ],
  ['set elements', elementListFormat, some({ nfgenFamily: u8, resId: u16, table: name, set: name, elements, unknown })],
];

describe('round trips', () => {
  it.each(cases)('%s', (_name, format, arbitrary) => {
    fc.assert(
      fc.property(arbitrary, (message) => {
        const written = encode(format, message);
        expect(written.length % 4).toBe(0);
        expect(format.read(written, 0, written.length)).toMatchObject(message);
      }),
      { seed, numRuns: 300 },
    );
  });
});

describe('addresses', () => {
  it('IPv6 text is the canonical one of ipaddr.js, and comes back', () => {
    fc.assert(
      fc.property(ipv6, (text) => {
        const buffer = new Uint8Array(16);
        expect(writeIp(buffer, 0, text)).toBe(16);
        expect(readIp(buffer, 0, 16)).toBe(text);
        const theirs = new ipaddr.IPv6([...buffer]);
        if (!text.includes('.')) expect(theirs.toRFC5952String()).toBe(text);
      }),
      { seed, numRuns: 1000 },
    );
  });

  it('accepts and refuses what Node does', () => {
    const alphabet = fc.string({
      unit: fc.constantFrom('0', '1', '2', '25', '9', 'a', 'F', ':', '::', '.', ':', '.'),
      maxLength: 20,
    });
    fc.assert(
      fc.property(
        fc.oneof(
          alphabet,
          fc.ipV4(),
          fc.ipV6(),
          fc.ipV6().map((text) => `${text}:`),
        ),
        (text) => {
          const valid = isIPv4(text) || isIPv6(text);
          const write = (): unknown => writeIp(new Uint8Array(16), 0, text);
          if (valid) expect(write).not.toThrow();
          else expect(write).toThrow('address');
        },
      ),
      { seed, numRuns: 3000 },
    );
  });

  it.each([
    '',
    '1.2.3',
    '1.2.3.4.5',
    '256.1.1.1',
    '01.2.3.4',
    '1..2.3',
    ':',
    ':::',
    '1::2::3',
    '1:2:3:4:5:6:7',
    '1:2:3:4:5:6:7:8:9',
    '12345::',
    'fe80::1%eth0',
    '::1.2.3',
  ])('refuses "%s"', (text) => {
    expect(() => writeIp(new Uint8Array(16), 0, text)).toThrow('address');
  });

  it('writes within its 16 bytes only', () => {
    const buffer = new Uint8Array(24).fill(0xee);
    writeIp(buffer, 4, 'fd00::1');
    expect([...buffer.subarray(0, 4), ...buffer.subarray(20)]).toEqual(Array.from({ length: 8 }, () => 0xee));
  });

  it('hardware addresses', () => {
    const buffer = new Uint8Array(6);
    expect(writeLladdr(buffer, 0, '02:AB:00:00:0f:ff')).toBe(6);
    expect(readLladdr(buffer, 0, 6)).toBe('02:ab:00:00:0f:ff');
    expect(() => writeLladdr(buffer, 0, '2:ab:0:0:0:0')).toThrow('lladdr');
  });
});
