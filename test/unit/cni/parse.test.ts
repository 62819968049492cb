// Parsing and answering without a process: what each part of a request may be, results in every version, the conflist, the catalogue.

import fc from 'fast-check';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';

import { conflistText, writeConflist } from '#agent/cni/conflist.ts';
import { answerVersion, parseNetConf } from '#agent/cni/netconf.ts';
import { parseCall, parseKey, type ShimRequest } from '#agent/cni/request.ts';
import { buildResult, errorJson, resultJson } from '#agent/cni/result.ts';
import { cniVersions } from '#agent/cni/versions.ts';
import { WeftError } from '#agent/errors.ts';
import type { Lease } from '#agent/runtime/ipam.ts';

const conf = { cniVersion: '1.1.0', name: 'weft', type: 'weft' };

function codeOf(action: () => unknown): number {
  try {
    action();
  } catch (error) {
    if (error instanceof WeftError) return error.cniCode;
    throw error;
  }
  return 0;
}

function request(verb: string, env: Readonly<Record<string, string>> = {}, more: object = {}): ShimRequest {
  const container = { CNI_CONTAINERID: 'c1', CNI_NETNS: '/ns/c1', CNI_IFNAME: 'eth0', CNI_PATH: '/opt/cni/bin' };
  return {
    env: { CNI_COMMAND: verb, ...container, ...env },
    stdin: JSON.stringify({ ...conf, ...more }),
    netnsInode: '',
    bootId: '',
  };
}

describe('network configuration', () => {
  test('keys of the specification are passed over', () => {
    const spec = JSON.parse(`{
      "cniVersions": ["1.1.0"], "disableCheck": false, "disableGC": true, "loadOnlyInlinedPlugins": true,
      "capabilities": {"portMappings": false}, "runtimeConfig": {"aliases": {"weft": ["web"]}, "cgroupPath": "/kubepods"}, "args": {"cni": {}}, "ipMasq": true,
      "ipam": {}, "cni.dev/anything": 1, "prevResult": null, "dns": null
    }`) as object;
    expect(parseNetConf(JSON.stringify({ ...conf, ...spec }), true)).toMatchObject({ name: 'weft', dns: undefined });
  });

  test.each<[string, object, number]>([
    ['an unknown key', { bridge: 'x' }, 2],
    ['ipam.type with a path', { ipam: { type: '../host-local' } }, 7],
    ['ipam.routes of its own link', { ipam: { type: 'weft', routes: [] } }, 2],
    ['ipam.routes that is no list', { type: 'ptp', ipam: { type: 'weft', routes: {} } }, 7],
    [
      'ipam.routes of two families',
      { type: 'ptp', ipam: { type: 'weft', routes: [{ dst: '::/0', gw: '10.0.0.1' }] } },
      7,
    ],
    ['a range in ipam', { ipam: { subnet: '10.0.0.0/8' } }, 2],
    ['a capability that is not ours', { capabilities: { deviceID: true } }, 2],
    ['ipam as a string', { ipam: 'weft' }, 7],
    ['capabilities as a list', { capabilities: [] }, 7],
    ['no name', { name: undefined }, 7],
    ['an empty name', { name: '' }, 7],
    ['a name with a path', { name: '../x' }, 7],
    ['a long name', { name: 'x'.repeat(254) }, 7],
    ['a numeric name', { name: 5 }, 7],
    ['dns as a list', { dns: [] }, 7],
    ['dns.nameservers as text', { dns: { nameservers: '10.0.0.1' } }, 7],
    ['dns.domain as a number', { dns: { domain: 1 } }, 7],
    ['prevResult as text', { prevResult: 'x' }, 7],
    ['prevResult.ips as an object', { prevResult: { ips: {} } }, 7],
    ['prevResult of an unknown version', { prevResult: { cniVersion: '3.0.0' } }, 1],
    ['valid attachments as an object', { 'cni.dev/valid-attachments': {} }, 7],
    ['a valid attachment without id', { 'cni.dev/attachments': [{ ifname: 'eth0' }] }, 7],
    ['cniVersion as a number', { cniVersion: 1 }, 1],
    ['cniVersion 0.5.0', { cniVersion: '0.5.0' }, 1],
  ])('%s is refused with its code', (_name, more, code) => {
    expect(codeOf(() => parseNetConf(JSON.stringify({ ...conf, ...more }), true))).toBe(code);
  });

  test('an unknown key is named', () => {
    expect(() => parseNetConf(JSON.stringify({ ...conf, bridge: 1, mtoo: 2 }), true)).toThrow(/"bridge", "mtoo"/);
  });

  test('without cniVersion it means 0.1.0', () => {
    expect(parseNetConf('{"name":"x"}', true).cniVersion).toBe('0.1.0');
    expect(answerVersion('{"name":"x"}')).toBe('0.1.0');
    expect(answerVersion('{')).toBe('1.1.0');
    expect(answerVersion('{"cniVersion":"9.9.9"}')).toBe('1.1.0');
  });

  test('any bytes end in a configuration or a catalogued error', () => {
    const json = fc.oneof(
      fc.string(),
      fc.json(),
      fc.object().map((value) => JSON.stringify({ ...conf, ...value })),
    );
    fc.assert(
      fc.property(json, fc.boolean(), (stdin, strict) => {
        expect([0, 1, 2, 6, 7]).toContain(codeOf(() => parseNetConf(stdin, strict)));
      }),
      { numRuns: 500 },
    );
  });
});

describe('environment', () => {
  test.each(['c1', 'A', '9.x_y-z', 'x'.repeat(200)])('container id %s is one', (id) => {
    expect(parseKey(id, 'eth0')).toEqual({ containerId: id, ifname: 'eth0' });
  });

  test.each(['', '.x', '-x', '_x', '../x', 'a/b', 'a@b', 'a b', 'é', 'x\n', 'x'.repeat(201)])(
    'container id %j is none',
    (id) => {
      expect(codeOf(() => parseKey(id, 'eth0'))).toBe(4);
    },
  );

  test.each(['eth0', 'e', 'net1.100', 'fifteen-letters', 'ümläut', 'a@b'])('interface name %s is one', (ifname) => {
    expect(parseKey('c1', ifname).ifname).toBe(ifname);
  });

  test.each([
    '',
    '.',
    '..',
    'a/b',
    'a:b',
    'a b',
    'a\tb',
    'eth%d',
    'x'.repeat(16),
    'ä'.repeat(8),
    '\u0000',
    'a\u00A0b',
    '\uFFFD',
  ])('interface name %j is none', (ifname) => {
    expect(codeOf(() => parseKey('c1', ifname))).toBe(4);
  });

  test('missing variables are named all together', () => {
    const bare: ShimRequest = { env: { CNI_COMMAND: 'ADD' }, stdin: '', netnsInode: '', bootId: '' };
    expect(() => parseCall(bare)).toThrow(/missing: CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME$/);
    expect(() => parseCall({ ...bare, env: { CNI_COMMAND: 'GC' } })).toThrow(/missing: CNI_PATH$/);
  });

  test('the pod’s names come from CNI_ARGS, other keys are for others', () => {
    const args =
      'IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=abc;K8S_POD_INFRA_CONTAINER_ID=x;A=b=c;';
    expect(parseCall(request('ADD', { CNI_ARGS: args }))).toMatchObject({
      verb: 'ADD',
      pod: { podNamespace: 'default', podName: 'web-0', podUid: 'abc' },
    });
    expect(parseCall(request('ADD'))).toMatchObject({ pod: {} });
  });

  test('a prevResult where there are no lists', () => {
    expect(codeOf(() => parseCall(request('ADD', {}, { cniVersion: '0.2.0', prevResult: { ips: [] } })))).toBe(7);
  });

  test.each<[string, string, boolean]>([
    ['CHECK', '0.3.1', false],
    ['CHECK', '0.4.0', true],
    ['STATUS', '1.0.0', false],
    ['STATUS', '1.1.0', true],
    ['GC', '1.0.0', false],
    ['GC', '1.1.0', true],
    ['ADD', '0.1.0', true],
    ['DEL', '0.1.0', true],
  ])('%s at %s', (verb, cniVersion, exists) => {
    const more = { cniVersion, 'cni.dev/valid-attachments': [] };
    const given = request(verb, {}, verb === 'CHECK' ? { ...more, prevResult: {} } : more);
    expect(codeOf(() => parseCall(given))).toBe(exists ? 0 : 1);
  });

  test('any variables end in a call or a catalogued error', () => {
    const verbs = fc.oneof(fc.constantFrom('ADD', 'DEL', 'CHECK', 'GC', 'STATUS'), fc.string());
    fc.assert(
      fc.property(verbs, fc.string(), fc.string(), fc.string(), fc.string(), (verb, id, netns, ifname, args) => {
        const env = { CNI_CONTAINERID: id, CNI_NETNS: netns, CNI_IFNAME: ifname, CNI_ARGS: args };
        expect([0, 4, 7, 8]).toContain(codeOf(() => parseCall(request(verb, env))));
      }),
      { numRuns: 500 },
    );
  });
});

describe('results', () => {
  const lease: Lease = {
    containerId: 'c1',
    ifname: 'eth0',
    generation: '0123456789abcdef',
    addresses: ['10.40.0.7', 'fd00:10:40::7'],
    owner: { network: 'weft', netnsPath: '/ns/c1', netnsInode: 5n },
    state: 'pending',
    sinceMs: 0,
    hostIfname: 'weft12345678',
  };
  const link = {
    hostIfname: 'weft12345678',
    hostMac: 'ee:ee:ee:ee:ee:ee',
    podMac: '0a:58:0a:28:00:07',
    mtuBytes: 1450,
    gateways: ['169.254.1.1', 'fe80::1'],
    routes: [
      { dst: '0.0.0.0/0', gateway: '169.254.1.1' },
      { dst: '::/0', gateway: 'fe80::1' },
    ],
  };
  const result = buildResult(lease, link, '/ns/c1', { nameservers: ['10.96.0.10'] });
  const dns = { nameservers: ['10.96.0.10'] };
  const routes = [
    { dst: '0.0.0.0/0', gw: '169.254.1.1' },
    { dst: '::/0', gw: 'fe80::1' },
  ];
  const json = (version: (typeof cniVersions)[number]): unknown =>
    JSON.parse(JSON.stringify(resultJson(result, version)));

  test.each(['0.1.0', '0.2.0'] as const)('%s has ip4 and ip6', (cniVersion) => {
    expect(json(cniVersion)).toEqual({
      cniVersion,
      ip4: { ip: '10.40.0.7/32', gateway: '169.254.1.1', routes: [routes[0]] },
      ip6: { ip: 'fd00:10:40::7/128', gateway: 'fe80::1', routes: [routes[1]] },
      dns,
    });
  });

  test.each(['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'] as const)('%s has interfaces, ips, routes', (cniVersion) => {
    const version = (family: string): object => (cniVersion.startsWith('0.') ? { version: family } : {});
    const mtu = cniVersion === '1.1.0' ? { mtu: 1450 } : {};
    expect(json(cniVersion)).toEqual({
      cniVersion,
      interfaces: [
        { name: 'weft12345678', mac: 'ee:ee:ee:ee:ee:ee', ...mtu },
        { name: 'eth0', mac: '0a:58:0a:28:00:07', sandbox: '/ns/c1', ...mtu },
      ],
      ips: [
        { ...version('4'), address: '10.40.0.7/32', gateway: '169.254.1.1', interface: 1 },
        { ...version('6'), address: 'fd00:10:40::7/128', gateway: 'fe80::1', interface: 1 },
      ],
      routes,
      dns,
    });
  });

  test('a route of another table is told only where results have tables', () => {
    const further = { ...link, routes: [{ dst: '0.0.0.0/0', gateway: '169.254.1.1', table: 87003 }] };
    const told = (version: (typeof cniVersions)[number]): unknown =>
      JSON.parse(JSON.stringify(resultJson(buildResult(lease, further, '/ns/c1', undefined), version)));
    expect(told('1.1.0')).toMatchObject({ routes: [{ dst: '0.0.0.0/0', gw: '169.254.1.1', table: 87003 }] });
    expect(told('1.0.0')).toMatchObject({ routes: [] });
    expect(told('0.2.0')).toMatchObject({ ip4: { routes: [] } });
  });

  test('dns is there only when configured', () => {
    const plain = buildResult(lease, link, '/ns/c1', undefined);
    for (const version of cniVersions) expect(resultJson(plain, version)).not.toHaveProperty('dns');
  });

  test('an error says cause, next step and details', () => {
    const error = new WeftError('noAddress', 'no address is free.', { details: '10.32.0.0/12' });
    expect(errorJson(error, '0.4.0')).toEqual({
      cniVersion: '0.4.0',
      code: 11,
      msg: expect.stringMatching(/^no address is free\. Run `weft ipam`/) as unknown,
      details: '10.32.0.0/12',
    });
  });
});

describe('conflist', () => {
  test('is written by rename, only when it differs, and holds what containerd 1.6 and 2 read', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'weft-conflist-'));
    const path = join(directory, 'net.d/05-weft.conflist');
    expect(await writeConflist(path)).toBe(true);
    const first = await stat(path);
    expect(await writeConflist(path)).toBe(false);
    expect((await stat(path)).ino).toBe(first.ino);
    await writeFile(path, '{"half":');
    expect(await writeConflist(path)).toBe(true);
    expect(await readdir(join(directory, 'net.d'))).toEqual(['05-weft.conflist']);
    expect(JSON.parse(await readFile(path, 'utf8'))).toEqual({
      cniVersion: '1.0.0',
      cniVersions: ['1.0.0', '1.1.0'],
      name: 'weft',
      plugins: [
        {
          type: 'weft',
          capabilities: {
            portMappings: true,
            bandwidth: true,
            mac: true,
            ips: true,
            ipRanges: true,
            dns: true,
            'io.kubernetes.cri.pod-annotations': true,
          },
        },
      ],
    });
    expect((await stat(path)).mode & 0o777).toBe(0o644);
    await rm(directory, { recursive: true });
  });

  test('its plugin is a configuration that ADD takes', () => {
    const list = JSON.parse(conflistText('my-net')) as { cniVersion: string; name: string; plugins: object[] };
    const executed = { ...list.plugins[0], cniVersion: list.cniVersion, name: list.name };
    expect(parseNetConf(JSON.stringify(executed), true)).toMatchObject({ cniVersion: '1.0.0', name: 'my-net' });
  });

  test('a place that cannot be written is an error with the path', async () => {
    await expect(writeConflist('/etc/passwd/05-weft.conflist')).rejects.toThrow(/cannot write .*\/etc\/passwd/);
  });
});
