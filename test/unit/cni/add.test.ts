// ADD and DEL through the real shim and socket.

import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';

import { CniCase, fails } from '#test/support/cni-case.ts';
import { FakeDatapath, FakeIpam } from '#test/support/cni-fakes.ts';
import { ensureShim } from '../../../cni-shim/build.ts';

let given: CniCase;

beforeAll(() => ensureShim());
beforeEach(async () => {
  given = await CniCase.create();
});
afterEach(() => given[Symbol.asyncDispose]());

describe('ADD', () => {
  test('gives the result of the configuration’s version', async () => {
    await given.start();
    given.namespaces.set('/ns/pod1', 100n);
    const added = await given.call('ADD', { conf: { dns: { nameservers: ['10.96.0.10'] } } });
    expect(added.code).toBe(0);
    const host = [...given.datapath.links.keys()][0];
    expect(added.json).toEqual({
      cniVersion: '1.1.0',
      interfaces: [
        { name: host, mac: 'ee:ee:ee:ee:ee:ee', mtu: 1450 },
        { name: 'eth0', mac: '0a:58:0a:20:00:02', mtu: 1450, sandbox: '/ns/pod1' },
      ],
      ips: [{ address: '10.32.0.2/32', gateway: '169.254.1.1', interface: 1 }],
      routes: [{ dst: '0.0.0.0/0', gw: '169.254.1.1' }],
      dns: { nameservers: ['10.96.0.10'] },
    });
    expect(given.ipam.leases()).toMatchObject([{ state: 'active', owner: { network: 'weft', netnsInode: 100n } }]);
    expect(given.observed).toEqual(['ADD ok']);
  });

  test('looks at its pod’s namespace each time, at the host’s own only once', async () => {
    const looks: string[] = [];
    const { inspectNetns } = given;
    given.inspectNetns = (path) => {
      looks.push(path);
      return inspectNetns(path);
    };
    await given.start();
    for (const id of ['pod1', 'pod2', 'pod3']) await given.addPod(id);
    expect(looks.toSorted()).toEqual(['/ns/pod1', '/ns/pod2', '/ns/pod3', '/proc/self/ns/net']);
  });

  test('repeated fails with its own code and leaves the first intact', async () => {
    await given.start();
    await given.addPod('pod1');
    const before = given.ipam.leases();
    expect(await given.call('ADD')).toMatchObject({ code: 1, json: { code: 100 } });
    expect(given.ipam.leases()).toEqual(before);
    expect(given.datapath.links.size).toBe(1);
    expect(given.datapath.calls).toEqual(['attach pod1']);
  });

  test.each(['/ns/pod1', '/ns/new'])('of a used container id (%s) clears what a lost DEL left', async (netns) => {
    await given.start();
    await given.addPod('pod1');
    const [old] = given.ipam.leases();
    given.namespaces.delete('/ns/pod1');
    given.namespaces.set(netns, 999n);
    expect(await given.call('ADD', { netns })).toMatchObject({ code: 0 });
    expect(given.ipam.leases()).toHaveLength(1);
    expect(given.ipam.leases()[0]?.generation).not.toBe(old?.generation);
    expect([...given.datapath.links.values()]).toEqual([given.ipam.leases()[0]?.generation]);
  });

  test.each<[string, () => void, number]>([
    ['no address', () => (given.ipam = new FakeIpam(0)), 11],
    ['the kernel refuses', () => (given.datapath.beforeAttach = fails('kernel')), 102],
    ['the interface is taken', () => (given.datapath.beforeAttach = fails('interfaceExists')), 101],
    ['a defect', () => (given.datapath.beforeAttach = () => Promise.reject(new TypeError('x is undefined'))), 999],
    ['the store is full after the link was made', () => (given.ipam.activateFails = true), 104],
    ['the link lacks a gateway', () => (given.datapath = new FakeDatapath([])), 999],
  ])('leaves nothing behind when %s', async (_name, arrange, code) => {
    arrange();
    await given.start();
    given.namespaces.set('/ns/pod1', 100n);
    const added = await given.call('ADD');
    expect(added).toMatchObject({ code: 1, json: { code, cniVersion: '1.1.0' } });
    expect(given.ipam.leases()).toEqual([]);
    expect(given.datapath.links.size).toBe(0);
    expect(await given.call('DEL')).toMatchObject({ code: 0 });
  });

  test('that cannot be undone keeps its address until DEL', async () => {
    await given.start();
    given.namespaces.set('/ns/pod1', 100n);
    given.ipam.activateFails = true;
    given.datapath.beforeDetach = fails('kernel');
    expect(await given.call('ADD')).toMatchObject({ code: 1, json: { code: 104 } });
    expect(given.ipam.leases()).toMatchObject([{ state: 'pending' }]);
    expect(await given.call('DEL')).toMatchObject({ code: 1, json: { code: 102 } });
    expect(given.ipam.leases()).toHaveLength(1);
    given.datapath.beforeDetach = () => Promise.resolve();
    expect(await given.call('DEL')).toMatchObject({ code: 0 });
    expect(given.ipam.leases()).toEqual([]);
    expect(given.datapath.links.size).toBe(0);
  });

  test('whose client hangs up at work is undone', async () => {
    await given.start();
    given.namespaces.set('/ns/pod1', 100n);
    const client = new AbortController();
    given.datapath.beforeAttach = async (_request, signal) => {
      client.abort();
      await new Promise((resolve) => signal.addEventListener('abort', resolve));
      signal.throwIfAborted();
    };
    await expect(given.call('ADD', { signal: client.signal })).rejects.toThrow(/abort/);
    await expect.poll(() => given.observed).toEqual(['ADD interrupted']);
    expect(given.ipam.leases()).toEqual([]);
    expect(given.datapath.links.size).toBe(0);
  });

  test('whose client hung up before its turn is dropped', async () => {
    await given.start();
    given.namespaces.set('/ns/pod1', 100n);
    const held = Promise.withResolvers<void>();
    const began = Promise.withResolvers<void>();
    given.datapath.beforeAttach = async () => {
      began.resolve();
      await held.promise;
    };
    const first = given.call('ADD');
    await began.promise;
    const client = new AbortController();
    const second = given.call('DEL', { signal: client.signal }).catch(() => 'hung up');
    const third = given.call('DEL', { env: { CNI_IFNAME: 'net1' } });
    expect(await third).toMatchObject({ code: 0 });
    client.abort();
    expect(await second).toBe('hung up');
    // The server hears of a closed connection before it hears of one opened later.
    expect(await given.call('VERSION')).toMatchObject({ code: 0 });
    expect(await given.call('STATUS')).toMatchObject({ code: 0 });
    held.resolve();
    expect(await first).toMatchObject({ code: 0 });
    await expect.poll(() => given.observed).toContain('DEL interrupted');
    expect(given.ipam.leases()).toHaveLength(1);
  });

  test('forty at once get forty addresses', async () => {
    await given.start();
    const ids = Array.from({ length: 40 }, (_, at) => `pod${at}`);
    const added = await Promise.all(ids.map((id) => given.addPod(id)));
    const addresses = added.map((run) => JSON.stringify(run.json?.['ips']));
    expect(new Set(addresses).size).toBe(40);
    await Promise.all(ids.map((id) => given.call('DEL', { id })));
    expect(given.ipam.leases()).toEqual([]);
    expect(given.datapath.links.size).toBe(0);
  });

  test('does not wait for another pod’s', async () => {
    await given.start();
    const held = Promise.withResolvers<void>();
    given.datapath.beforeAttach = (request) =>
      request.lease.containerId === 'slow' ? held.promise : Promise.resolve();
    const slow = given.addPod('slow');
    await given.addPod('quick');
    held.resolve();
    await slow;
  });
});

describe('DEL', () => {
  test('any number of times, without namespace, without prevResult', async () => {
    await given.start();
    await given.addPod('pod1');
    given.namespaces.clear();
    for (const netns of ['/ns/pod1', '', '/ns/other']) {
      expect(await given.call('DEL', { netns })).toMatchObject({ code: 0, stdout: '' });
    }
    expect(given.ipam.released).toBe(1);
    expect(given.datapath.links.size).toBe(0);
    expect(await given.call('DEL', { id: 'never-seen' })).toMatchObject({ code: 0, stdout: '' });
  });

  test('works whatever became of the configuration', async () => {
    await given.start();
    await given.addPod('pod1');
    const conf = { ipam: { type: 'host-local' }, mtu: 'x', dns: 5, prevResult: { ips: 'none' } };
    expect(await given.call('DEL', { conf })).toMatchObject({ code: 0 });
    expect(given.ipam.leases()).toEqual([]);
  });

  test('link first, then address', async () => {
    await given.start();
    await given.addPod('pod1');
    const leased: number[] = [];
    given.datapath.beforeDetach = () => {
      leased.push(given.ipam.leases().length);
      return Promise.resolve();
    };
    await given.call('DEL');
    expect(leased).toEqual([1]);
  });
});
