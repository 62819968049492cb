// Every codec against bytes that the kernel sent (record-fixtures.ts): what they mean, and that decoding and encoding again
// loses nothing, unknown attributes included.
import { describe, expect, it, test } from 'vitest';

import { linkFormat, type Link } from '#agent/netlink/link.ts';

import { decode, encode, fixture, fixtures, formatOf, sortedAttributes } from './formats.ts';

const headerBytes: Readonly<Record<string, number>> = {
  link: 16,
  address: 8,
  route: 12,
  nexthop: 8,
  neighbour: 12,
  elements: 4,
};

describe('decoding and encoding again', () => {
  test.each(fixtures)('$name: same meaning', ({ format: formatName, hex }) => {
    const format = formatOf(formatName);
    const bytes = Buffer.from(hex, 'hex');
    const message = format.read(bytes, 0, bytes.length);
    // IPv4's devconf is not symmetric (an array in answers, nested in requests), so it goes by its own test.
    const { afSpec: _afSpec, ...rest } = message as Link;
    const again = encode(format, rest);
    expect(format.read(again, 0, again.length)).toEqual(rest);
  });

  test.each(fixtures.filter(({ format }) => format !== 'link'))(
    '$name: same bytes but for the order',
    ({ format, hex }) => {
      const bytes = Buffer.from(hex, 'hex');
      const from = headerBytes[format] ?? 0;
      const again = encode(formatOf(format), formatOf(format).read(bytes, 0, bytes.length));
      expect(again.toString('hex', 0, from)).toBe(bytes.toString('hex', 0, from));
      expect(again.length).toBe(bytes.length);
      if (format !== 'elements') expect(sortedAttributes(again, from)).toEqual(sortedAttributes(bytes, from));
    },
  );
});

describe('link', () => {
  it('reads a veth', () => {
    const link = decode<Link>('veth');
    expect(link).toMatchObject({
      ifname: 'v0',
      mtu: 1450,
      address: '02:00:00:00:00:01',
      ifalias: 'weft',
      group: 7,
      operstate: 6,
      linkinfo: { kind: 'veth' },
      afSpec: { inet: { conf: { acceptRedirects: 1 } }, inet6: { addrGenMode: 0 } },
    });
    expect(link.ifiFlags & 1).toBe(1);
    expect(link.link).toBeGreaterThan(0);
    expect(link.unknown?.length).toBeGreaterThan(0);
  });

  it('reads a vxlan, ports in network byte order', () => {
    expect(decode('vxlan')).toMatchObject({
      linkinfo: {
        kind: 'vxlan',
        data: {
          id: 77,
          port: 6784,
          local: '192.0.2.1',
          learning: false,
          ttl: 9,
          df: 1,
          portRange: { low: 40_000, high: 50_000 },
          udpZeroCsum6Rx: true,
          udpZeroCsum6Tx: false,
        },
      },
    });
    expect(decode('vxlan over IPv6')).toMatchObject({ linkinfo: { data: { local6: '2001:db8::1' } } });
  });

  it('reads a bridge', () => {
    expect(decode('bridge')).toMatchObject({
      linkinfo: { kind: 'bridge', data: { ageingTime: 1234, mcastSnooping: false, nfCallIptables: true } },
    });
  });

  it('keeps a kind without a table, and its data', () => {
    expect(decode('ifb, a kind without a table')).toMatchObject({ linkinfo: { kind: 'other', kindName: 'ifb' } });
    const linkinfo = { kind: 'other', kindName: 'xfrm', data: new Uint8Array([8, 0, 1, 0, 5, 0, 0, 0]) } as const;
    const bytes = encode(linkFormat, { linkinfo });
    expect(linkFormat.read(bytes, 0, bytes.length).linkinfo).toEqual(linkinfo);
  });

  it('writes IPv4 devconf as the numbered attributes that the kernel wants', () => {
    const bytes = encode(linkFormat, { afSpec: { inet: { conf: { forwarding: 1, rpFilter: 2 } } } });
    expect(bytes.toString('hex', 16)).toBe(
      '1c001a00' + '18000200' + '14000100' + '0800010001000000' + '0800080002000000',
    );
  });

  it('reads the VLANs of a bridge port, which stand where other links have address families', () => {
    // AF_BRIDGE, IFLA_AF_SPEC { IFLA_BRIDGE_VLAN_INFO { flags, vid } } as the kernel sends them to RTNLGRP_LINK.
    const bytes = Buffer.from('07000100050000000310000000000000' + '0c001a80' + '0800020006000100', 'hex');
    const link = linkFormat.read(bytes, 0, bytes.length);
    expect(link.afSpec).toBeUndefined();
    expect(link.unknown).toEqual([{ type: 0x801a, payload: new Uint8Array([8, 0, 2, 0, 6, 0, 1, 0]) }]);
  });
});

describe('address, route, nexthop, neighbour', () => {
  it.each([
    ['IPv4 address', { address: '10.32.0.1', local: '10.32.0.1', ifaPrefixlen: 12, label: 'v0:weft', flags: 0x80 }],
    ['IPv6 address', { address: 'fd00::1', ifaPrefixlen: 64, flags: 0x82 }],
    [
      'IPv4 route with metrics',
      {
        dst: '10.64.0.0',
        rtmDstLen: 16,
        prefsrc: '10.32.0.1',
        rtmProtocol: 121,
        priority: 50,
        metrics: { mtu: 1400, lock: 4 },
      },
    ],
    ['unreachable route in a table', { dst: '10.65.0.0', rtmType: 7, table: 1000 }],
    ['IPv4 route via IPv6', { via: { family: 10, addr: 'fd00::2' } }],
    ['IPv6 route', { dst: 'fd01::', rtmDstLen: 48, gateway: 'fd00::2', pref: 1 }],
    ['route by nexthop object', { dst: '10.67.0.0', nhId: 4711 }],
    ['nexthop', { id: 4711, gateway: 'fd00::2', nhProtocol: 121, nhFamily: 10 }],
    [
      'nexthop group',
      {
        group: [
          { id: 4711, weight: 3 },
          { id: 4712, weight: 5 },
        ],
      },
    ],
    ['blackhole nexthop', { id: 4714, blackhole: true }],
    ['neighbour', { dst: 'fd00::2', lladdr: '02:aa:00:00:00:02', ndmState: 0x80, protocol: 121 }],
    [
      'FDB entry of a vxlan device',
      { ndmFamily: 7, lladdr: '02:aa:00:00:00:03', dst: '192.0.2.7', port: 7000, ndmFlags: 2 },
    ],
  ])('reads: %s', (name, meaning) => {
    expect(decode(name)).toMatchObject(meaning);
  });
});

describe('set elements', () => {
  it('reads keys, ranges and verdicts', () => {
    expect(decode('set with a concatenated key')).toMatchObject({ table: 't', set: 's', elements: [{ key: {} }] });
    expect(decode('concatenated ranges')).toMatchObject({
      elements: [
        {
          key: { value: new Uint8Array([10, 1, 0, 0, 0, 80, 0, 0]) },
          keyEnd: { value: new Uint8Array([10, 1, 255, 255, 0, 90, 0, 0]) },
        },
      ],
    });
    expect(decode('verdict map')).toMatchObject({ elements: [{ data: { verdict: { code: -3, chain: 'c' } } }] });
  });
});

describe('unknown attributes', () => {
  it('are kept with their flag bits and written back', () => {
    const { format } = fixture('neighbour');
    const message = {
      ndmIfindex: 4,
      dst: '10.0.0.1',
      unknown: [{ type: 0x8000 | 999, payload: new Uint8Array([1, 2, 3]) }],
    };
    const bytes = encode(format, message);
    expect(format.read(bytes, 0, bytes.length)).toMatchObject(message);
  });

  it('grow the writer beyond its first capacity', () => {
    const payload = new Uint8Array(60_000).fill(7);
    const bytes = encode(linkFormat, { unknown: [{ type: 500, payload }] });
    expect(linkFormat.read(bytes, 0, bytes.length).unknown).toEqual([{ type: 500, payload }]);
  });

  it('refuse what no attribute can hold', () => {
    expect(() => encode(linkFormat, { unknown: [{ type: 500, payload: new Uint8Array(70_000) }] })).toThrow('65535');
  });
});
