// What runtimeConfig, args, CNI_ARGS and annotations may ask for, and how a bad value is refused: code 7 (2 for a key that is not
// Weft's) with the key's name. And the claims on host ports.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';

import { PortClaims } from '#agent/cni/port-mappings.ts';
import { noWish, parseWish, withCniArgs } from '#agent/cni/wish.ts';
import { WeftError } from '#agent/errors.ts';
import type { Lease, PortMapping } from '#agent/runtime/ipam.ts';
import { CniCase } from '#test/support/cni-case.ts';
import { ensureShim } from '../../../cni-shim/build.ts';

const annotations = 'io.kubernetes.cri.pod-annotations';

function refusal(action: () => unknown): { readonly code: number; readonly field: string } {
  try {
    action();
  } catch (error) {
    if (error instanceof WeftError) return { code: error.cniCode, field: error.details };
    throw error;
  }
  return { code: 0, field: '' };
}

test('what a runtime gives becomes what the link shall have', () => {
  const runtimeConfig = {
    portMappings: [
      { hostPort: 8080, containerPort: 80, protocol: 'tcp' },
      { hostPort: 53, containerPort: 5353, protocol: 'UDP', hostIP: '192.0.2.1' },
      { hostPort: 9, containerPort: 9, protocol: 'sctp', hostIP: '2001:DB8::0:1' },
      { hostPort: 0, containerPort: 1 },
    ],
    bandwidth: { ingressRate: 8_000_000, ingressBurst: 2_000_000, egressRate: 100_000_000, egressBurst: 4_294_967_295 },
    mac: '0A-58-00-00-00-01',
    ips: ['fd00::0:9/64', '10.40.0.9'],
    ipRanges: [[{ subnet: '10.40.0.0/16', rangeStart: '10.40.1.0', gateway: '10.40.0.1' }], []],
    dns: { servers: ['10.96.0.10'], searches: ['svc.cluster.local'], options: ['ndots:5'] },
    [annotations]: { 'example.com/x': 'y', 'weft.network/pool': ' blue ' },
  };
  expect(parseWish(runtimeConfig, undefined)).toEqual({
    link: {
      mac: '0a:58:00:00:00:01',
      portMappings: [
        { protocol: 'tcp', hostPort: 8080, containerPort: 80 },
        { protocol: 'udp', hostPort: 53, containerPort: 5353, hostIp: '192.0.2.1' },
        { protocol: 'sctp', hostPort: 9, containerPort: 9, hostIp: '2001:db8::1' },
      ],
      bandwidth: {
        ingress: { bitsPerSecond: 8_000_000, burstBits: 2_000_000 },
        // No burst was chosen (the runtime's 2^32-1): what passes in 50 ms.
        egress: { bitsPerSecond: 100_000_000, burstBits: 5_000_000 },
      },
    },
    addresses: ['10.40.0.9', 'fd00::9'],
    ipRanges: [[{ subnet: '10.40.0.0/16', rangeStart: '10.40.1.0' }]],
    dns: { nameservers: ['10.96.0.10'], search: ['svc.cluster.local'], options: ['ndots:5'] },
    annotations: new Map([['pool', 'blue']]),
  });
});

test('containerd and nerdctl name the fields as Go does', () => {
  // Recorded from nerdctl 2.1.2 (go-cni); containerd sends the same.
  const recorded =
    '{"portMappings":[{"HostPort":8085,"ContainerPort":80,"Protocol":"tcp","HostIP":"0.0.0.0"}],' +
    '"bandwidth":{"IngressRate":8000000,"IngressBurst":2000000,"EgressRate":0,"EgressBurst":0},' +
    '"ipRanges":[[{"Subnet":"10.40.0.0/16","RangeStart":"","RangeEnd":"","Gateway":""}]],' +
    '"dns":{"Servers":["10.96.0.10"],"Searches":null,"Options":null}}';
  expect(parseWish(JSON.parse(recorded), undefined)).toMatchObject({
    link: {
      portMappings: [{ protocol: 'tcp', hostPort: 8085, containerPort: 80, hostIp: '0.0.0.0' }],
      bandwidth: { ingress: { bitsPerSecond: 8_000_000 } },
    },
    ipRanges: [[{ subnet: '10.40.0.0/16' }]],
    dns: { nameservers: ['10.96.0.10'] },
  });
  const both = { portMappings: [{ hostPort: 1, HostPort: 2, containerPort: 3 }] };
  expect(parseWish(both, undefined).link.portMappings).toEqual([{ protocol: 'tcp', hostPort: 1, containerPort: 3 }]);
});

test('nothing asked for is nothing', () => {
  for (const given of [undefined, null, {}, { portMappings: null, bandwidth: {}, ips: null, dns: {}, mac: '' }]) {
    expect(parseWish(given, given)).toEqual(noWish);
  }
});

test('an address and a MAC may come by annotation, args or CNI_ARGS; runtimeConfig goes first', () => {
  const byAnnotation = {
    [annotations]: { 'weft.network/ips': '10.1.0.1, fd00::1', 'weft.network/mac': '02:00:00:00:00:01' },
  };
  const wish = parseWish(byAnnotation, undefined);
  expect(wish).toMatchObject({ addresses: ['10.1.0.1', 'fd00::1'], link: { mac: '02:00:00:00:00:01' } });
  expect(parseWish({ ...byAnnotation, ips: ['10.1.0.2'] }, undefined).addresses).toEqual(['10.1.0.2']);
  expect(parseWish({}, { cni: { ips: ['10.1.0.3/24'] } }).addresses).toEqual(['10.1.0.3']);
  expect(withCniArgs(noWish, '10.1.0.4', '02:00:00:00:00:02')).toMatchObject({
    addresses: ['10.1.0.4'],
    link: { mac: '02:00:00:00:00:02' },
  });
  expect(withCniArgs(wish, '10.1.0.4', '02:00:00:00:00:02')).toEqual(wish);
  expect(refusal(() => withCniArgs(noWish, 'x', undefined))).toEqual({ code: 7, field: 'CNI_ARGS IP' });
  expect(refusal(() => withCniArgs(noWish, undefined, 'x'))).toEqual({ code: 7, field: 'CNI_ARGS MAC' });
});

const ports = 'runtimeConfig.portMappings';
const mapped = (more: object): object => ({ portMappings: [{ hostPort: 80, containerPort: 80, ...more }] });

test.each<[string, unknown, number, string]>([
  ['no object', [], 7, 'runtimeConfig'],
  ['a capability that is not ours', { deviceID: '0000:00' }, 2, 'runtimeConfig.deviceID'],
  ['mappings as an object', { portMappings: {} }, 7, ports],
  ['a host port too large', mapped({ hostPort: 65_536 }), 7, `${ports}.hostPort`],
  ['a negative host port', mapped({ hostPort: -1 }), 7, `${ports}.hostPort`],
  ['half a host port', mapped({ hostPort: 80.5 }), 7, `${ports}.hostPort`],
  ['a host port as text', mapped({ hostPort: '80' }), 7, `${ports}.hostPort`],
  ['container port 0', mapped({ containerPort: 0 }), 7, `${ports}.containerPort`],
  ['no container port', mapped({ containerPort: undefined }), 7, `${ports}.containerPort`],
  ['another protocol', mapped({ protocol: 'icmp' }), 7, `${ports}.protocol`],
  ['a protocol that is no text', mapped({ protocol: 6 }), 7, `${ports}.protocol`],
  ['a host name as hostIP', mapped({ hostIP: 'localhost' }), 7, `${ports}.hostIP`],
  ['one port to two', { portMappings: [1, 2].map((containerPort) => ({ hostPort: 80, containerPort })) }, 7, ports],
  [
    'one port to two, of all addresses and of all IPv4 addresses',
    { portMappings: [undefined, '0.0.0.0'].map((hostIP, at) => ({ hostPort: 80, containerPort: 80 + at, hostIP })) },
    7,
    ports,
  ],
  ['bandwidth as a number', { bandwidth: 5 }, 7, 'runtimeConfig.bandwidth'],
  ['a negative rate', { bandwidth: { ingressRate: -1 } }, 7, 'runtimeConfig.bandwidth.ingressRate'],
  ['a rate as text', { bandwidth: { egressRate: '1M' } }, 7, 'runtimeConfig.bandwidth.egressRate'],
  ['a rate of less than a byte', { bandwidth: { egressRate: 7 } }, 7, 'runtimeConfig.bandwidth.egressRate'],
  ['a burst without a rate', { bandwidth: { egressBurst: 7 } }, 7, 'runtimeConfig.bandwidth.egressRate'],
  ['a short MAC', { mac: '02:00' }, 7, 'runtimeConfig.mac'],
  ['a multicast MAC', { mac: '01:00:5e:00:00:01' }, 7, 'runtimeConfig.mac'],
  ['a MAC of zeros', { mac: '00:00:00:00:00:00' }, 7, 'runtimeConfig.mac'],
  ['ips as text', { ips: '10.0.0.1' }, 7, 'runtimeConfig.ips'],
  ['an address of five parts', { ips: ['10.0.0.1.2'] }, 7, 'runtimeConfig.ips'],
  ['a prefix too long', { ips: ['10.0.0.1/33'] }, 7, 'runtimeConfig.ips'],
  ['two of one family', { ips: ['10.0.0.1', '10.0.0.2'] }, 7, 'runtimeConfig.ips'],
  ['ranges as one list', { ipRanges: [{ subnet: '10.0.0.0/8' }] }, 7, 'runtimeConfig.ipRanges'],
  ['a range without subnet', { ipRanges: [[{}]] }, 7, 'runtimeConfig.ipRanges.subnet'],
  [
    'a start outside',
    { ipRanges: [[{ subnet: '10.0.0.0/24', rangeStart: '10.1.0.1' }]] },
    7,
    'runtimeConfig.ipRanges.rangeStart',
  ],
  [
    'a range that ends before it begins',
    { ipRanges: [[{ subnet: '10.0.0.0/24', rangeStart: '10.0.0.50', rangeEnd: '10.0.0.40' }]] },
    7,
    'runtimeConfig.ipRanges.rangeEnd',
  ],
  ['dns servers as text', { dns: { servers: '10.0.0.1' } }, 7, 'runtimeConfig.dns.servers'],
  ['annotations as a list', { [annotations]: [] }, 7, `runtimeConfig.${annotations}`],
  ['an annotation that nobody knows', { [annotations]: { 'weft.network/ip': 'x' } }, 7, 'weft.network/ip'],
  ['an annotation that is no text', { [annotations]: { 'weft.network/pool': 1 } }, 7, 'weft.network/pool'],
  ['a bad address by annotation', { [annotations]: { 'weft.network/ips': 'x' } }, 7, 'weft.network/ips'],
])('%s is refused by the name of its key', (_name, runtimeConfig, code, field) => {
  expect(refusal(() => parseWish(runtimeConfig, undefined))).toEqual({ code, field });
});

test('a hostIP that is an IPv4 address in IPv6 is that IPv4 address', () => {
  expect(parseWish(mapped({ hostIP: '::FFFF:192.0.2.1' }), undefined).link.portMappings).toMatchObject([
    { hostIp: '192.0.2.1' },
  ]);
});

test('ten thousand ports are no more than ten thousand looks', () => {
  const many = (from: number): readonly object[] =>
    Array.from({ length: 10_000 }, (_, at) => ({ hostPort: from + at, containerPort: 80 }));
  // Processor time: others' does not count.
  const before = process.cpuUsage();
  const { portMappings = [] } = parseWish({ portMappings: many(20_000) }, undefined).link;
  const others = parseWish({ portMappings: many(30_000) }, undefined).link.portMappings ?? [];
  const claims = new PortClaims();
  claims.claim({ containerId: 'a', ifname: 'eth0' }, portMappings, () => []);
  claims.claim({ containerId: 'b', ifname: 'eth0' }, others, () => []);
  const { user, system } = process.cpuUsage(before);
  // A look at each pair takes ten times as long.
  expect((user + system) / 1000).toBeLessThan(2000);
});

test('any JSON ends in a wish or a catalogued error', () => {
  const keys = ['portMappings', 'bandwidth', 'mac', 'ips', 'ipRanges', 'dns', annotations] as const;
  const one = fc.tuple(fc.constantFrom(...keys), fc.jsonValue()).map(([key, value]) => ({ [key]: value }));
  fc.assert(
    fc.property(one, fc.jsonValue(), (runtimeConfig, args) => {
      expect([0, 2, 7]).toContain(refusal(() => parseWish(runtimeConfig, args)).code);
    }),
    { numRuns: 500 },
  );
});

describe('host ports', () => {
  const key = (containerId: string): { containerId: string; ifname: string } => ({ containerId, ifname: 'eth0' });
  const tcp = (hostPort: number, hostIp?: string): PortMapping => ({
    protocol: 'tcp',
    hostPort,
    containerPort: 80,
    ...(hostIp === undefined ? {} : { hostIp }),
  });
  const lease = (containerId: string, portMappings: readonly PortMapping[]): Lease => ({
    ...key(containerId),
    generation: containerId,
    addresses: ['10.0.0.1'],
    owner: { network: 'weft', netnsPath: '/x', netnsInode: 1n, podNamespace: 'shop', podName: 'web-0' },
    state: 'active',
    sinceMs: 0,
    hostIfname: 'weftp1',
    link: { portMappings },
  });

  test.each<[string, PortMapping, PortMapping, boolean]>([
    ['the same port', tcp(80), tcp(80), true],
    ['the same address', tcp(80, '192.0.2.1'), tcp(80, '192.0.2.1'), true],
    ['every address and every IPv4 address', tcp(80), tcp(80, '0.0.0.0'), true],
    ['every address of two families', tcp(80, '::'), tcp(80, '0.0.0.0'), false],
    ['one address beside all', tcp(80), tcp(80, '192.0.2.1'), false],
    ['two addresses', tcp(80, '192.0.2.2'), tcp(80, '192.0.2.1'), false],
    ['two ports', tcp(80), tcp(81), false],
    ['two protocols', tcp(80), { ...tcp(80), protocol: 'udp' }, false],
  ])('%s', (_name, held, wanted, clashes) => {
    for (const [first, second] of [
      [held, wanted],
      [wanted, held],
    ] as const) {
      const claims = new PortClaims();
      const ask = (): unknown => claims.claim(key('b'), [second], () => [lease('a', [first])]);
      if (clashes) expect(ask).toThrow(/host port .*80\/tcp belongs to pod shop\/web-0/);
      else expect(ask).not.toThrow();
    }
  });

  test('of two ADDs at once one is told who came first, until that one has ended', () => {
    const claims = new PortClaims();
    const none = (): readonly Lease[] => [];
    {
      using _first = claims.claim(key('a'), [tcp(80)], none);
      expect(() => claims.claim(key('b'), [tcp(80)], none)).toThrow(/belongs to container a/);
    }
    expect(() => claims.claim(key('b'), [tcp(80)], none)).not.toThrow();
  });

  test('an ADD that wants a taken port fails with its own code and leaves nothing', async () => {
    ensureShim();
    await using given = await CniCase.create();
    await given.start();
    const runtimeConfig = { portMappings: [{ hostPort: 8080, containerPort: 80, protocol: 'tcp' }] };
    for (const [at, id] of ['one', 'two'].entries()) given.namespaces.set(`/ns/${id}`, BigInt(100 + at));
    expect(await given.call('ADD', { id: 'one', conf: { runtimeConfig } })).toMatchObject({ code: 0 });
    expect(await given.call('ADD', { id: 'two', conf: { runtimeConfig } })).toMatchObject({
      code: 1,
      json: { code: 105, msg: expect.stringContaining('host port 8080/tcp belongs to container one') as unknown },
    });
    expect(given.ipam.leases().map(({ containerId }) => containerId)).toEqual(['one']);
    expect(given.ipam.leases()[0]?.link).toEqual({
      portMappings: [{ protocol: 'tcp', hostPort: 8080, containerPort: 80 }],
    });
    expect(await given.call('DEL', { id: 'one' })).toMatchObject({ code: 0 });
    expect(await given.call('ADD', { id: 'two', conf: { runtimeConfig } })).toMatchObject({ code: 0 });
  });

  test('a mapping for an address of a family that the pod does not have is refused, and nothing stays', async () => {
    ensureShim();
    await using given = await CniCase.create();
    await given.start();
    given.namespaces.set('/ns/one', 100n);
    const runtimeConfig = { portMappings: [{ hostPort: 8080, containerPort: 80, hostIP: '2001:db8::1' }] };
    expect(await given.call('ADD', { id: 'one', conf: { runtimeConfig } })).toMatchObject({
      code: 1,
      json: { code: 7, details: 'runtimeConfig.portMappings.hostIP' },
    });
    expect(given.ipam.leases()).toEqual([]);
    expect(given.datapath.links.size).toBe(0);
  });
});
