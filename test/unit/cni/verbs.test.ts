// CHECK, STATUS, GC and bad input through the real shim and socket.

import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';

import { status, Suffering } from '#agent/cni/status.ts';
import { WeftError } from '#agent/errors.ts';
import { type Call, CniCase, hostInode } from '#test/support/cni-case.ts';
import { FakeIpam } from '#test/support/cni-fakes.ts';
import { ensureShim } from '../../../cni-shim/build.ts';

let given: CniCase;

beforeAll(() => ensureShim());
beforeEach(async () => {
  given = await CniCase.create();
});
afterEach(() => given[Symbol.asyncDispose]());

describe('CHECK', () => {
  async function checkable(): Promise<Readonly<Record<string, unknown>>> {
    await given.start();
    return { prevResult: (await given.addPod('pod1')).json };
  }

  test('is content with what ADD said', async () => {
    const conf = await checkable();
    expect(await given.call('CHECK', { conf })).toMatchObject({ code: 0, stdout: '' });
  });

  test('tolerates interfaces and addresses that others added', async () => {
    const conf = await checkable();
    const { interfaces, ips, ...rest } = conf['prevResult'] as { interfaces: object[]; ips: object[] };
    const more = { ...rest, interfaces: [...interfaces, { name: 'ifb0' }], ips: [...ips, { address: '10.1.1.1/24' }] };
    expect(await given.call('CHECK', { conf: { prevResult: more } })).toMatchObject({ code: 0 });
  });

  test('finds a fault of the kernel, a lost lease, another namespace, a wrong prevResult', async () => {
    const conf = await checkable();
    const prevResult = conf['prevResult'] as { ips: object[] };
    const failing = async (why: RegExp, altered: object = conf): Promise<void> => {
      const checked = await given.call('CHECK', { conf: altered as Record<string, unknown> });
      expect(checked).toMatchObject({ code: 1, json: { code: 103 } });
      expect(checked.json?.['msg']).toMatch(why);
    };
    given.datapath.faults = [{ what: 'route', expected: 'default via 169.254.1.1', actual: 'none' }];
    await failing(/route: expected default via 169\.254\.1\.1, found none/);
    given.datapath.faults = [];
    await failing(/10\.32\.0\.2/, { prevResult: { ...prevResult, ips: [] } });
    await failing(/eth0 in the pod/, { prevResult: { ...prevResult, interfaces: [] } });
    given.namespaces.set('/ns/pod1', 555n);
    await failing(/inode 555/);
    given.ipam.release({ containerId: 'pod1', ifname: 'eth0' });
    await failing(/no address is leased/);
  });
});

describe('STATUS', () => {
  test('is 50 until an agent could serve, then never again in this boot', async () => {
    given.ipam.overlayAddresses = [];
    await given.start();
    const before = await given.call('STATUS');
    expect(before).toMatchObject({ code: 1, json: { code: 50 } });
    expect(before.json?.['msg']).toMatch(/the first block/);
    given.ipam.overlayAddresses = ['10.32.0.1'];
    expect(await given.call('STATUS')).toMatchObject({ code: 0, stdout: '' });
    await given.addPod('pod1');
    given.ipam.overlayAddresses = [];
    given.datapath.ready = false;
    expect(await given.call('STATUS')).toMatchObject({ code: 0 });
    await given.stop();
    expect(await given.call('STATUS')).toMatchObject({ code: 0 });
    await given.start();
    expect(await given.call('STATUS')).toMatchObject({ code: 0 });
  });

  test('is 51 while the pods here have been cut off for half a minute, whatever served before', async () => {
    const { ipam, datapath } = given;
    const suffering = new Suffering();
    const at = (seconds: number): void => status(true, ipam, datapath, suffering, seconds * 1000);
    datapath.findings = [{ name: 'underlayDown', subject: 'eth0', message: 'the underlay link is down' }];
    for (let second = 0; second <= 60; second += 5) expect(() => at(second), 'without pods').not.toThrow();
    await given.start();
    await given.addPod('pod1');
    for (let second = 65; second < 95; second += 5) expect(() => at(second)).not.toThrow();
    expect(() => at(95)).toThrow(expect.objectContaining({ kind: 'statusDegraded', details: 'underlayDown' }));
    expect(() => at(100)).toThrow(/eth0: the underlay link is down/);
    datapath.findings = [{ name: 'peerUnreachable', subject: 'n2', message: 'n2 does not answer' }];
    expect(() => at(105), 'one peer is not all').not.toThrow();
    datapath.findings = [{ name: 'forwardingOff', subject: 'net.ipv4.ip_forward', message: 'it is 0' }];
    expect(() => at(110)).not.toThrow();
    expect(() => at(145), 'nobody has looked in between').not.toThrow();
    for (let second = 150; second < 175; second += 5) expect(() => at(second)).not.toThrow();
    expect(() => at(175)).toThrow(/cut off/);
    given.ipam.overlayAddresses = ['10.32.0.1', 'fd00::1'];
    expect(() => at(180), 'the other family lives').not.toThrow();
  });

  test('a full range is no error', async () => {
    given.ipam = new FakeIpam(0);
    await given.start();
    expect(await given.call('STATUS')).toMatchObject({ code: 0 });
    given.namespaces.set('/ns/pod1', 9n);
    expect(await given.call('ADD')).toMatchObject({ json: { code: 11 } });
  });
});

describe('GC', () => {
  test.each([
    ['cni.dev/valid-attachments', ['cni.dev/valid-attachments']],
    ['cni.dev/attachments', ['cni.dev/attachments']],
    ['both', ['cni.dev/valid-attachments', 'cni.dev/attachments']],
  ])('keeps what is listed under %s, drops the rest', async (_name, keys) => {
    await given.start();
    await given.addPod('pod1');
    await given.addPod('pod2');
    const conf = Object.fromEntries(keys.map((key) => [key, [{ containerID: 'pod1', ifname: 'eth0' }]]));
    expect(await given.call('GC', { conf })).toMatchObject({ code: 0, stdout: '' });
    expect(given.ipam.leases().map((lease) => lease.containerId)).toEqual(['pod1']);
    expect(given.datapath.links.size).toBe(1);
  });

  test('an empty list and null drop everything of this network and nothing of another', async () => {
    await given.start();
    given.namespaces.set('/ns/other', 7n);
    expect(await given.call('ADD', { id: 'other', conf: { name: 'other' } })).toMatchObject({ code: 0 });
    for (const list of [[], null]) {
      await given.addPod('pod1');
      expect(await given.call('GC', { conf: { 'cni.dev/valid-attachments': list } })).toMatchObject({ code: 0 });
      expect(given.ipam.leases().map((lease) => lease.containerId)).toEqual(['other']);
    }
  });

  test('without any list collects nothing and says so', async () => {
    await given.start();
    await given.addPod('pod1');
    expect(await given.call('GC')).toMatchObject({ code: 1, json: { code: 7 } });
    expect(given.ipam.leases()).toHaveLength(1);
  });

  test('goes on after a failure and names it', async () => {
    await given.start();
    for (const id of ['pod1', 'pod2', 'pod3']) await given.addPod(id);
    given.datapath.beforeDetach = (lease) =>
      lease.containerId === 'pod2' ? Promise.reject(new WeftError('kernel', 'EBUSY')) : Promise.resolve();
    const collected = await given.call('GC', { conf: { 'cni.dev/valid-attachments': [] } });
    expect(collected).toMatchObject({ code: 1, json: { code: 102 } });
    expect(collected.json?.['msg']).toMatch(/not everything could be collected: pod2\/eth0: EBUSY/);
    expect(given.ipam.leases().map((lease) => lease.containerId)).toEqual(['pod2']);
  });

  test('leaves an ADD at work alone', async () => {
    await given.start();
    const held = Promise.withResolvers<void>();
    const began = Promise.withResolvers<void>();
    given.datapath.beforeAttach = async () => {
      began.resolve();
      await held.promise;
    };
    const adding = given.addPod('pod1');
    await began.promise;
    expect(await given.call('GC', { conf: { 'cni.dev/valid-attachments': [] } })).toMatchObject({ code: 0 });
    held.resolve();
    await adding;
    expect(given.ipam.leases()).toHaveLength(1);
  });
});

describe('bad input through the shim', () => {
  const json = { cniVersion: '1.1.0', name: 'weft', type: 'weft' };
  test.each<[string, string, Call, number]>([
    ['container id with a path', 'ADD', { env: { CNI_CONTAINERID: '../x' } }, 4],
    ['interface name of 16 bytes', 'ADD', { env: { CNI_IFNAME: 'x'.repeat(16) } }, 4],
    ['malformed CNI_ARGS', 'ADD', { env: { CNI_ARGS: 'nonsense' } }, 4],
    ['empty stdin', 'ADD', { conf: '' }, 6],
    ['broken JSON', 'DEL', { conf: '{"cniVersion":' }, 6],
    ['JSON that is no object', 'GC', { conf: '[]' }, 6],
    ['cniVersion 9.9.9', 'ADD', { conf: { cniVersion: '9.9.9' } }, 1],
    ['CHECK at 0.3.1', 'CHECK', { conf: { cniVersion: '0.3.1' } }, 1],
    ['STATUS at 1.0.0', 'STATUS', { conf: { cniVersion: '1.0.0' } }, 1],
    ['GC at 1.0.0', 'GC', { conf: { cniVersion: '1.0.0' } }, 1],
    ['CHECK without prevResult', 'CHECK', {}, 7],
    ['no name', 'ADD', { conf: JSON.stringify({ ...json, name: undefined }) }, 7],
    ['an unknown key', 'ADD', { conf: { mtoo: 9000 } }, 2],
    ['a delegated ipam without its plugin', 'ADD', { conf: { ipam: { type: 'no-such-plugin' } } }, 110],
    ['a relative namespace', 'ADD', { netns: 'ns/pod1' }, 8],
    ['a missing namespace', 'ADD', { netns: '/ns/none' }, 8],
    ['a file that is no namespace', 'ADD', { netns: '/etc/passwd' }, 8],
    ['the host’s namespace', 'ADD', { netns: '/ns/host' }, 8],
  ])('%s', async (_name, verb, options, code) => {
    await given.start();
    given.namespaces.set('/ns/host', hostInode);
    given.namespaces.set('/ns/pod1', 100n);
    const answer = await given.call(verb, options);
    expect(answer).toMatchObject({ code: 1, json: { code } });
    expect(answer.json?.['cniVersion']).toMatch(/^\d\.\d\.\d$/);
    expect(given.ipam.leases()).toEqual([]);
    expect(given.datapath.calls).toEqual([]);
    expect(await given.call('ADD')).toMatchObject({ code: 0 });
  });
});
