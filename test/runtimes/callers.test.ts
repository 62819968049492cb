// The protocol as runtimes see it: one table, run through libcni's newest version and through cnitool, against the real shim and a real
// agent (the lines that no runtime can speak, such as missing variables, are in test/netns/cni/bad-input.test.ts).

import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';

import { ownCapabilities } from '#agent/cni/wish.ts';
import type { AgentHost } from '#test/support/agent-host.ts';
import { awaitNoPodLinks, createBinDir, createCniHost } from '#test/support/cni-host.ts';
import { kernelDump } from '#test/support/kernel-dump.ts';
import { run, TestNetns } from '#test/support/netns.ts';
import {
  type Answer,
  type Caller,
  cnitoolCaller,
  containerIdOf,
  libcniCaller,
  listOf,
  type Operation,
  type Place,
  type Request,
} from './callers.ts';
import { ensurePrograms } from './programs.ts';

let host: AgentHost;
let hostNetns: TestNetns;
let place: Place;
const callers: Record<string, Caller> = {};
/** Where cnitool's libcni keeps results. */
const cnitoolCache = '/var/lib/cni';

beforeAll(async () => {
  const programs = await ensurePrograms();
  // The sandbox has its own mounts: what cnitool keeps does not reach the machine.
  await mkdir(cnitoolCache, { recursive: true });
  await run(['mount', '-t', 'tmpfs', 'tmpfs', cnitoolCache]);
  ({ host, hostNetns } = await createCniHost());
  const env = { WEFT_SOCKET: host.socketPath, WEFT_SPOOL_DIR: host.spoolDir };
  place = { binDir: await createBinDir(host), directory: host.directory, hostNetns: hostNetns.path, env };
  callers['libcni'] = libcniCaller(programs.libcni, place);
  callers['cnitool'] = cnitoolCaller(programs.cnitool, place);
}, 600_000);

afterAll(async () => {
  await run(['umount', cnitoolCache]);
  await host[Symbol.asyncDispose]();
});

beforeEach(() => awaitNoPodLinks(hostNetns));

interface Result {
  readonly cniVersion: string;
  readonly interfaces: readonly { readonly name: string; readonly mac: string; readonly mtu?: number }[];
  readonly ips: readonly { readonly address: string; readonly gateway: string; readonly interface: number }[];
}

const addressOf = ({ result }: Answer): string => (result as Result).ips[0]?.address.split('/')[0] ?? '';
const capable = listOf({ capabilities: Object.fromEntries(ownCapabilities.map((name) => [name, true])) });
const patient = { timeout: 20_000 } as const;

describe.each(['libcni', 'cnitool'])('%s', (name) => {
  const call = async (operation: Operation, request: Request): Promise<Answer> => {
    const caller = callers[name];
    if (caller === undefined) throw new Error(`no caller ${name}`);
    return await caller.call(operation, request);
  };
  const ok = async (operation: Operation, request: Request): Promise<Answer> => {
    const answer = await call(operation, request);
    expect(answer, `${operation}: ${answer.said}`).toMatchObject({ ok: true });
    return answer;
  };
  /** libcni hands the code on; the words reach everybody. */
  const refused = async (operation: Operation, request: Request, code: number, words: RegExp): Promise<void> => {
    const answer = await call(operation, request);
    expect(answer).toMatchObject({ ok: false, ...(name === 'libcni' ? { code } : {}) });
    expect(answer.said).toMatch(words);
  };

  test('ADD makes eth0 with address, default route and the path’s MTU; foreign arguments are passed over', async () => {
    await using pod = await TestNetns.create('pod');
    const before = await kernelDump(hostNetns);
    const args = { IgnoreUnknown: '1', K8S_POD_NAMESPACE: 'default', K8S_POD_NAME: 'web', K8S_POD_COLOUR: 'red' };
    const status = await ok('status', { netns: pod.path });
    expect(status.durationMs).toBeLessThan(10_000);
    const added = await ok('add', { netns: pod.path, args });
    const { cniVersion, interfaces } = added.result as Result;
    expect(cniVersion).toBe('1.1.0');
    const [eth0] = await pod.json(['ip', '-j', 'address', 'show', 'eth0']);
    expect(eth0).toMatchObject({ mtu: interfaces[1]?.mtu, address: interfaces[1]?.mac, operstate: 'UP' });
    expect(eth0?.['addr_info']).toContainEqual(expect.objectContaining({ local: addressOf(added) }));
    expect(await pod.exec(['ip', 'route'])).toContain('default via 169.254.1.1 dev eth0');
    await hostNetns.exec(['ping', '-c', '1', '-W', '2', addressOf(added)]);
    // As CRI-O does.
    await ok('check', { netns: pod.path, args });
    for (let time = 0; time < 2; time++) await ok('del', { netns: pod.path, args });
    await expect.poll(() => kernelDump(hostNetns), patient).toEqual(before);
  });

  test.each(['0.1.0', '0.2.0', '0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'])('a list of CNI %s', async (version) => {
    await using pod = await TestNetns.create('pod');
    const conf = listOf({}, version);
    const added = await ok('add', { netns: pod.path, conf });
    const result = added.result as Readonly<Record<string, unknown>>;
    expect(result['cniVersion']).toBe(version);
    expect(JSON.stringify(result)).toMatch(/"10\.32\.\d+\.\d+\/32"/);
    expect(Object.keys(result)).toContain(version < '0.3.0' ? 'ip4' : 'interfaces');
    if (version >= '0.4.0') await ok('check', { netns: pod.path, conf });
    else expect(await call('check', { netns: pod.path, conf })).toMatchObject({ ok: false });
    await ok('del', { netns: pod.path, conf });
  });

  test('ADD twice fails and leaves the first intact', async () => {
    await using pod = await TestNetns.create('pod');
    const added = await ok('add', { netns: pod.path });
    const between = [await kernelDump(hostNetns), await kernelDump(pod)];
    await refused('add', { netns: pod.path }, 100, /already has eth0 with 10\.32/);
    expect([await kernelDump(hostNetns), await kernelDump(pod)]).toEqual(between);
    await hostNetns.exec(['ping', '-c', '1', '-W', '2', addressOf(added)]);
    await ok('del', { netns: pod.path });
  });

  test('what ADD refuses leaves nothing', async () => {
    await using pod = await TestNetns.create('pod');
    const before = [await kernelDump(hostNetns), await kernelDump(pod)];
    await refused('add', { netns: '/run/netns/none' }, 8, /cannot open CNI_NETNS/);
    await refused('add', { netns: '/etc/passwd' }, 8, /no(t a)? network namespace|is not a/);
    await refused('add', { netns: pod.path, from: pod.path }, 8, /namespace/);
    await refused('add', { netns: pod.path, conf: listOf({ bridge: 'cni0' }) }, 2, /"bridge"/);
    await refused(
      'add',
      { netns: pod.path, conf: listOf({ ipam: { type: 'nowhere' } }) },
      110,
      /no directory of CNI_PATH/,
    );
    await refused('add', { netns: pod.path, conf: capable, capabilities: { mac: 'x' } }, 7, /runtimeConfig\.mac/);
    for (const ifname of ['sixteen-letters-', 'a/b', 'a:b', '..', 'a b'])
      expect(await call('add', { netns: pod.path, ifname })).toMatchObject({ ok: false });
    expect(await host.leasedAddresses()).toBe(0);
    await expect.poll(async () => [await kernelDump(hostNetns), await kernelDump(pod)], patient).toEqual(before);
  });

  test('DEL: unknown, repeated, without cached result, with the namespace gone, with the agent away', async () => {
    const before = await kernelDump(hostNetns);
    const pods = [await TestNetns.create('pod'), await TestNetns.create('pod'), await TestNetns.create('pod')];
    const [uncached = '', vanished = '', away = ''] = pods.map(({ path }) => path);
    await ok('del', { netns: '/run/netns/never-was' });
    for (const netns of [uncached, vanished, away]) await ok('add', { netns });
    for (const cache of [cnitoolCache, join(place.directory, 'cache')])
      await rm(join(cache, 'results'), { recursive: true, force: true });
    await ok('del', { netns: uncached });
    await pods[1]?.[Symbol.asyncDispose]();
    await ok('del', { netns: vanished });
    await host.stop('SIGKILL');
    await ok('del', { netns: away });
    await host.start();
    await expect.poll(() => host.leasedAddresses(), patient).toBe(0);
    await expect.poll(() => kernelDump(hostNetns), patient).toEqual(before);
    for (const at of [0, 2]) await pods[at]?.[Symbol.asyncDispose]();
  });

  test.each<[string, RegExp, (pod: TestNetns, address: string, hostEnd: string) => Promise<unknown>]>([
    ['the address', /address/, (pod, address) => pod.exec(['ip', 'address', 'del', `${address}/32`, 'dev', 'eth0'])],
    ['the default route', /default route/, (pod) => pod.exec(['ip', 'route', 'del', 'default'])],
    ['the link', /eth0/, (pod) => pod.exec(['ip', 'link', 'del', 'eth0'])],
    ['the host’s link', /weftp/, (_pod, _address, end) => hostNetns.exec(['ip', 'link', 'del', end])],
  ])('CHECK misses %s', async (_what, words, remove) => {
    await using pod = await TestNetns.create('pod');
    const added = await ok('add', { netns: pod.path });
    await ok('check', { netns: pod.path });
    await remove(pod, addressOf(added), (added.result as Result).interfaces[0]?.name ?? '');
    await refused('check', { netns: pod.path }, 103, words);
    await ok('del', { netns: pod.path });
  });

  test('capabilities and the pod’s annotations are honoured', async () => {
    await using pod = await TestNetns.create('pod');
    const mac = '02:00:5e:00:00:07';
    const capabilities = {
      mac,
      portMappings: [{ hostPort: 8087, containerPort: 80, protocol: 'tcp' }],
      bandwidth: { ingressRate: 8_000_000, ingressBurst: 4_294_967_295 },
      dns: { servers: ['10.96.0.10'], searches: ['svc.test'], options: [] },
      'io.kubernetes.cri.pod-annotations': { 'weft.network/ips': '10.44.1.2', other: 'x' },
    };
    const added = await ok('add', { netns: pod.path, conf: capable, capabilities });
    expect(added.result).toMatchObject({
      interfaces: [{}, { mac }],
      ips: [{ address: '10.44.1.2/32' }],
      dns: { nameservers: ['10.96.0.10'], search: ['svc.test'] },
    });
    expect(await hostNetns.exec(['nft', 'list', 'map', 'inet', 'weft', 'ports4'])).toContain('10.44.1.2 . 80');
    expect(await hostNetns.exec(['tc', 'qdisc', 'show'])).toContain('rate 8Mbit');
    await ok('check', { netns: pod.path, conf: capable, capabilities });
    await ok('del', { netns: pod.path, conf: capable, capabilities });
  });

  test('a hundred ADDs, twenty at once, with the agent killed in the middle: no address twice, nothing left', async () => {
    const before = await kernelDump(hostNetns);
    const pods = await Promise.all(Array.from({ length: 100 }, () => TestNetns.create('pod')));
    const addresses = new Set<string>();
    const queue = pods.map(({ path }) => path);
    const worker = async (): Promise<void> => {
      for (let netns = queue.pop(); netns !== undefined; netns = queue.pop()) {
        let answer = await call('add', { netns });
        // What a runtime does after a failure.
        for (let time = 0; time < 5 && !answer.ok; time++) {
          await ok('del', { netns });
          answer = await call('add', { netns });
        }
        expect(answer.said).toBe('');
        addresses.add(addressOf(answer));
      }
    };
    const crash = expect.poll(() => addresses.size, { timeout: 60_000, interval: 5 }).toBeGreaterThan(30);
    const crashed = crash.then(async () => {
      await host.stop('SIGKILL');
      await host.start();
    });
    await Promise.all([...Array.from({ length: 20 }, worker), crashed]);
    expect(addresses.size).toBe(100);
    expect(await host.leasedAddresses()).toBe(100);
    const dels = pods.map(({ path }) => path);
    const undo = async (): Promise<void> => {
      for (let netns = dels.pop(); netns !== undefined; netns = dels.pop()) await ok('del', { netns });
    };
    await Promise.all(Array.from({ length: 20 }, undo));
    await expect.poll(() => kernelDump(hostNetns), patient).toEqual(before);
    for (const pod of pods) await pod[Symbol.asyncDispose]();
  }, 240_000);

  test('STATUS is 50 where no agent has served since the boot, and never late', async () => {
    const env = { WEFT_SOCKET: join(place.directory, 'nobody/cni.sock') };
    const answer = await call('status', { netns: hostNetns.path, env });
    expect(answer).toMatchObject({ ok: false, ...(name === 'libcni' ? { code: 50 } : {}) });
    expect(answer.said).toMatch(/agent/);
    await host.stop('SIGKILL');
    const away = await ok('status', { netns: hostNetns.path });
    await host.start();
    expect(Math.max(answer.durationMs, away.durationMs)).toBeLessThan(10_000);
  });
});

describe('libcni alone', () => {
  const call = (operation: Operation, request: Request): Promise<Answer> =>
    (callers['libcni'] as Caller).call(operation, request);

  test('VERSION names every version, and the list validates', async () => {
    expect((await call('version', { netns: '' })).result).toEqual([
      '0.1.0',
      '0.2.0',
      '0.3.0',
      '0.3.1',
      '0.4.0',
      '1.0.0',
      '1.1.0',
    ]);
    expect((await call('validate', { netns: '', conf: capable })).result).toEqual(
      expect.arrayContaining(['mac', 'ips']),
    );
  });

  test('GC keeps what is listed, drops what is not, and an empty list drops all', async () => {
    await using kept = await TestNetns.create('pod');
    await using lost = await TestNetns.create('pod');
    const added = await call('add', { netns: kept.path });
    await call('add', { netns: lost.path });
    // What libcni has cached it deletes itself: here only the agent knows.
    await rm(join(place.directory, 'cache'), { recursive: true });
    const valid = [{ containerID: containerIdOf(kept.path), ifname: 'eth0' }];
    expect(await call('gc', { netns: '', valid })).toMatchObject({ ok: true });
    expect(await host.leasedAddresses()).toBe(1);
    await hostNetns.exec(['ping', '-c', '1', '-W', '2', addressOf(added)]);
    const other = { ...listOf({}), name: 'another' };
    expect(await call('gc', { netns: '', valid: [], conf: other })).toMatchObject({ ok: true });
    expect(await host.leasedAddresses()).toBe(1);
    expect(await call('gc', { netns: '', valid: [] })).toMatchObject({ ok: true });
    expect(await host.leasedAddresses()).toBe(0);
  });
});
