// The segment of pods with `ipam.type: dhcp`: what its table says, which link can be its uplink, what becomes of a server's routes.
import { describe, expect, it } from 'vitest';

import {
  leaseOfLink,
  routesOf,
  segmentAlias,
  segmentMac,
  segmentRuleset,
  uplinkProblem,
} from '#agent/datapath/segment-plan.ts';
import type { UplinkFacts } from '#agent/datapath/segment-plan.ts';

const port = { ifname: 'weftsaa', mac: '02:00:00:00:00:01', addresses: ['192.168.7.20'] };

describe('the MAC', () => {
  it('is of the attachment, unicast and locally administered', () => {
    const mac = segmentMac({ containerId: 'a', ifname: 'eth0' });
    expect(mac).toMatch(/^[0-9a-f][26ae](:[0-9a-f]{2}){5}$/);
    expect(segmentMac({ containerId: 'a', ifname: 'eth0' })).toBe(mac);
    expect(segmentMac({ containerId: 'a', ifname: 'net1' })).not.toBe(mac);
  });
});

describe('the alias of a link', () => {
  const kept = { containerId: 'c1', ifname: 'net1', generation: '00ff', addresses: ['192.168.7.20'] };
  const told = (alias: string): unknown => leaseOfLink({ ifname: 'weftsaa', ifalias: alias }, port.mac, 7);
  it('says whose the link is, once it has an address', () => {
    expect(told(segmentAlias(kept))).toMatchObject({
      ...kept,
      hostIfname: 'weftsaa',
      link: { mac: port.mac },
      sinceMs: 7,
    });
    expect(told(segmentAlias({ ...kept, addresses: [] }))).toBeUndefined();
    for (const alias of ['', 'mine', 'weft:1 c1 eth0 00ff 10.0.0.1', `${segmentAlias(kept)} more`])
      expect(told(alias)).toBeUndefined();
  });

  it('is never longer than the kernel takes', () => {
    const longest = segmentAlias({
      ...kept,
      containerId: 'c'.repeat(200),
      ifname: 'i'.repeat(15),
      generation: 'f'.repeat(16),
    });
    expect(longest.length).toBeLessThanOrEqual(255);
    expect(segmentAlias({ ...kept, containerId: 'c'.repeat(300) }).length).toBeLessThanOrEqual(255);
  });
});

describe('the table', () => {
  it('drops what goes from the segment to the host and back, also by a port that is on its way out', () => {
    const { text } = segmentRuleset([port], 'eth1');
    expect(text).toMatch(/hook input .*\n +iifname \{ "eth1", "wefts\*" \} drop/);
    expect(text).toMatch(/hook output .*\n +oifname \{ "eth1", "wefts\*" \} drop/);
    expect(segmentRuleset([], '').text).toContain('iifname { "wefts*" } drop');
    expect(segmentRuleset([], '').text).not.toContain('vmap');
  });

  it('is the same whatever the order of the ports, and another for every change', () => {
    const other = { ...port, ifname: 'weftsbb' };
    const base = segmentRuleset([port, other], 'eth1').fingerprint;
    expect(segmentRuleset([other, port], 'eth1').fingerprint).toEqual(base);
    for (const changed of [
      segmentRuleset([port], 'eth1'),
      segmentRuleset([port, other], 'eth2'),
      segmentRuleset([port, { ...other, mac: '02:00:00:00:00:02' }], 'eth1'),
      segmentRuleset([port, { ...other, addresses: [] }], 'eth1'),
    ])
      expect(changed.fingerprint).not.toEqual(base);
  });
});

describe('the uplink', () => {
  const sound: UplinkFacts = { isEthernet: true, isLoopback: false, addresses: [], master: '' };
  it.each<[string, UplinkFacts | undefined, RegExp | undefined]>([
    ['can be a link of its own', sound, undefined],
    ['can be a port already', { ...sound, master: 'weftbr1' }, undefined],
    ['must be there', undefined, /no link eth1/],
    ['must be Ethernet', { ...sound, isEthernet: false }, /no Ethernet link/],
    ['is not lo', { ...sound, isLoopback: true }, /no Ethernet link/],
    ['has no address', { ...sound, addresses: ['10.0.0.1/24'] }, /has 10\.0\.0\.1\/24, which the node would lose/],
    ['is nobody else’s port', { ...sound, master: 'br0' }, /a port of br0/],
  ])('%s', (_name, facts, problem) => {
    if (problem === undefined) expect(uplinkProblem('eth1', facts)).toBeUndefined();
    else expect(uplinkProblem('eth1', facts)).toMatch(problem);
  });
});

describe('routes', () => {
  const cidrs = ['192.168.7.20/24'];
  it.each([
    ['none: no default route', { gateway: '192.168.7.1', routes: [] }, undefined, []],
    [
      'a default without gateway has that of the address',
      { gateway: '192.168.7.1', routes: [{ dst: '0.0.0.0/0' }] },
      '192.168.7.1',
      [],
    ],
    [
      'others stand beside it, those of IPv6 do not',
      {
        gateway: '192.168.7.1',
        routes: [
          { dst: '0.0.0.0/0', gw: '192.168.7.2' },
          { dst: '10.9.0.0/16', gw: '192.168.7.3' },
          { dst: 'fd00::/8' },
        ],
      },
      '192.168.7.2',
      [{ dst: '10.9.0.0/16', gw: '192.168.7.3' }],
    ],
  ])('%s', (_name, gift, defaultGateway, others) => {
    expect(routesOf({ cidrs, ...gift })).toEqual({ defaultGateway, others });
  });
});
