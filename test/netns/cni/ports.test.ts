// Host ports end to end: the real shim, the real agent, and who reaches what from where, with which source address.

import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';

import type { AgentHost } from '#test/support/agent-host.ts';
import { awaitNoPodLinks, createCniHost, faultsOnDisk } from '#test/support/cni-host.ts';
import { kernelDump } from '#test/support/kernel-dump.ts';
import { run, TestNetns } from '#test/support/netns.ts';
import type { ShimRun } from '#test/support/shim.ts';
import { Talker } from '#test/support/talker.ts';

/** The node's addresses: on its underlay and towards a client outside. */
const underlay = '192.168.50.1';
const wan = '192.0.2.1';
const client = '192.0.2.2';
const wan6 = '2001:db8::1';
const client6 = '2001:db8::2';

let host: AgentHost;
let hostNetns: TestNetns;
let outside: TestNetns;
let fromOutside: Talker;
let fromHost: Talker;

beforeAll(async () => {
  ({ host, hostNetns } = await createCniHost({ ranges: ['10.32.0.0/12', 'fd32::/48'] }, false));
  outside = await TestNetns.create('outside');
  const veth = ['ip', 'link', 'add', 'wan0', 'netns', hostNetns.name, 'type', 'veth'];
  await run([...veth, 'peer', 'name', 'eth0', 'netns', outside.name]);
  await hostNetns.exec([
    'sh',
    '-ec',
    `ip address add ${wan}/24 dev wan0; ip address add ${wan6}/64 dev wan0 nodad; ip link set wan0 up`,
  ]);
  await outside.exec([
    'sh',
    '-ec',
    `ip address add ${client}/24 dev eth0; ip address add ${client6}/64 dev eth0 nodad; ip link set eth0 up`,
  ]);
  await outside.exec(['ip', 'route', 'add', 'default', 'via', wan]);
  await outside.exec(['ip', 'route', 'add', 'default', 'via', wan6]);
  fromOutside = new Talker(outside.path);
  fromHost = new Talker(hostNetns.path);
  await host.start();
});

afterAll(async () => {
  for (const one of [fromOutside, fromHost, outside, host]) await one[Symbol.asyncDispose]();
});

beforeEach(() => awaitNoPodLinks(hostNetns));

interface Mapping {
  readonly hostPort: number;
  readonly containerPort: number;
  readonly protocol?: string;
  readonly hostIP?: string;
}

const confOf = (...portMappings: readonly Mapping[]): Readonly<Record<string, unknown>> => ({
  runtimeConfig: { portMappings },
});
const addressesOf = (added: ShimRun): readonly string[] =>
  (added.json as { ips: readonly { address: string }[] }).ips.map(({ address }) => address.split('/')[0] ?? '');

/** A pod with port mappings in which `name` is served on TCP and UDP port 80. */
async function podWith(name: string, ...mappings: readonly Mapping[]): Promise<AsyncDisposable & PodWith> {
  const netns = await TestNetns.create('pod');
  const added = await host.cni('ADD', { netns: netns.path, conf: confOf(...mappings) });
  if (added.code !== 0) throw new Error(`ADD failed: ${added.stdout}\n${await host.log()}`);
  const talker = new Talker(netns.path);
  await talker.serve('tcp', 80, name);
  await talker.serve('udp', 80, name);
  const remove = async (): Promise<void> => {
    expect(await host.cni('DEL', { netns: netns.path })).toMatchObject({ code: 0, stdout: '' });
  };
  return {
    netns,
    talker,
    added,
    address: addressesOf(added)[0] ?? '',
    address6: addressesOf(added)[1] ?? '',
    remove,
    [Symbol.asyncDispose]: async () => {
      await remove();
      await talker[Symbol.asyncDispose]();
      await netns[Symbol.asyncDispose]();
    },
  };
}

interface PodWith {
  readonly netns: TestNetns;
  readonly talker: Talker;
  readonly added: ShimRun;
  readonly address: string;
  readonly address6: string;
  readonly remove: () => Promise<void>;
}

const mapped = (hostPort: number, more: Partial<Mapping> = {}): readonly Mapping[] =>
  ['tcp', 'udp'].map((protocol) => ({ hostPort, containerPort: 80, protocol, ...more }));

test('a host port is reached from everywhere, with the source that it came from', async () => {
  await using web = await podWith('web', ...mapped(8080));
  await using other = await podWith('other');
  const overlay = (await hostNetns.json(['ip', '-j', '-4', 'address', 'show', 'weft0']))[0] as {
    addr_info: readonly [{ local: string }];
  };
  const node = overlay.addr_info[0].local;
  for (const protocol of ['tcp', 'udp'] as const) {
    const ask = { protocol, port: 8080 };
    const answers = {
      outside: await fromOutside.ask({ ...ask, address: wan }),
      outsideByOtherAddress: await fromOutside.ask({ ...ask, address: underlay }),
      node: await fromHost.ask({ ...ask, address: wan }),
      nodeByLoopback: await fromHost.ask({ ...ask, address: '127.0.0.1' }),
      pod: await other.talker.ask({ ...ask, address: wan }),
      itself: await web.talker.ask({ ...ask, address: wan }),
    };
    expect(answers, protocol).toEqual({
      outside: { name: 'web', source: client },
      outsideByOtherAddress: { name: 'web', source: client },
      node: { name: 'web', source: wan },
      nodeByLoopback: { name: 'web', source: node },
      pod: { name: 'web', source: other.address },
      itself: { name: 'web', source: node },
    });
  }
});

test('so it is over IPv6, but by ::1, which no packet may leave a node from', async () => {
  await using web = await podWith('web', ...mapped(8080), ...mapped(8081, { hostIP: wan6 }));
  await using other = await podWith('other');
  const overlay = (await hostNetns.json(['ip', '-j', '-6', 'address', 'show', 'weft0', 'scope', 'global']))[0] as {
    addr_info: readonly [{ local: string }];
  };
  for (const protocol of ['tcp', 'udp'] as const) {
    for (const port of [8080, 8081]) {
      const ask = { protocol, port, address: wan6 };
      const answers = {
        outside: await fromOutside.ask(ask),
        node: await fromHost.ask(ask),
        pod: await other.talker.ask(ask),
        itself: await web.talker.ask(ask),
      };
      expect(answers, `${protocol} ${port}`).toEqual({
        outside: { name: 'web', source: client6 },
        node: { name: 'web', source: wan6 },
        pod: { name: 'web', source: other.address6 },
        itself: { name: 'web', source: overlay.addr_info[0].local },
      });
    }
  }
});

test('a mapping for one address of the node is for that one, and goes before one for all', async () => {
  await using all = await podWith('all', ...mapped(8080));
  await using one = await podWith('one', ...mapped(8080, { hostIP: wan }));
  await using any4 = await podWith('any4', ...mapped(8081, { hostIP: '0.0.0.0' }));
  expect([all.address, one.address, any4.address]).toHaveLength(3);
  for (const [address, port, name] of [
    [wan, 8080, 'one'],
    [underlay, 8080, 'all'],
    [wan, 8081, 'any4'],
    [underlay, 8081, 'any4'],
  ] as const) {
    expect(await fromOutside.ask({ protocol: 'tcp', address, port })).toEqual({ name, source: client });
  }
});

test('what listens on the node’s 127.0.0.1 stays out of the pods’ reach', async () => {
  await fromHost.serve('tcp', 7000, 'secret');
  await using web = await podWith('web', ...mapped(8080));
  expect(await fromHost.ask({ protocol: 'tcp', address: '127.0.0.1', port: 7000 })).toMatchObject({ name: 'secret' });
  await web.netns.exec(['ip', 'address', 'del', '127.0.0.1/8', 'dev', 'lo']);
  await web.netns.exec(['ip', 'route', 'add', '127.0.0.1', 'via', '169.254.1.1', 'dev', 'eth0', 'src', web.address]);
  await web.netns.exec(['sh', '-c', 'for c in all eth0; do echo 1 > /proc/sys/net/ipv4/conf/$c/route_localnet; done']);
  expect(await web.talker.ask({ protocol: 'tcp', address: '127.0.0.1', port: 7000, waitMs: 500 })).toBe(undefined);
  const counter = await hostNetns.exec(['nft', 'list', 'counter', 'inet', 'weft', 'pod_to_loopback']);
  expect(counter).toMatch(/packets [1-9]/);
});

describe('UDP flows', () => {
  test('that began before the port led anywhere, and that outlive their pod, follow the mapping', async () => {
    const ask = { protocol: 'udp', address: wan, port: 5353, localPort: 40_000 } as const;
    expect(await fromOutside.ask({ ...ask, waitMs: 200 })).toBe(undefined);
    {
      await using first = await podWith('first', ...mapped(5353));
      expect(await fromOutside.ask(ask)).toEqual({ name: 'first', source: client });
      expect(first.address).not.toBe('');
    }
    await using second = await podWith('second', ...mapped(5353));
    expect(await fromOutside.ask(ask)).toEqual({ name: 'second', source: client });
    expect(second.address).not.toBe('');
  });

  test('that an agent’s death kept from being forgotten are forgotten at the next start', async () => {
    await using web = await podWith('web', ...mapped(5355));
    const ask = { protocol: 'udp', address: wan, port: 5355, localPort: 40_002 } as const;
    await host.stop('SIGKILL');
    // As if the flow had begun before the mapping.
    await hostNetns.exec(['nft', 'flush', 'map', 'inet', 'weft', 'ports4']);
    expect(await fromOutside.ask({ ...ask, waitMs: 200 })).toBe(undefined);
    await host.start();
    const again = (): Promise<unknown> => fromOutside.ask({ ...ask, waitMs: 500 });
    await expect.poll(again, { timeout: 15_000 }).toEqual({ name: 'web', source: client });
    expect(web.address).not.toBe('');
  });

  test('of other pods and ports are let be', async () => {
    await using one = await podWith('one', ...mapped(5353));
    await using two = await podWith('two', ...mapped(5354));
    const ask = { protocol: 'udp', address: wan, port: 5354, localPort: 40_001 } as const;
    expect(await fromOutside.ask(ask)).toMatchObject({ name: 'two' });
    const flows = async (): Promise<string> => {
      const text = await hostNetns.exec(['cat', '/proc/net/nf_conntrack']).catch(() => '');
      return text.split('\n').find((line) => line.includes('dport=5354')) ?? '';
    };
    const before = await flows();
    await one.remove();
    expect(await fromOutside.ask(ask)).toMatchObject({ name: 'two', source: client });
    expect((await flows()).includes('dport=5354')).toBe(before.includes('dport=5354'));
    expect(two.address).not.toBe('');
  });
});

test('SCTP is mapped too; host ports are in the table under their protocols', async () => {
  await using pod = await podWith('pod', { hostPort: 9, containerPort: 99, protocol: 'SCTP' });
  const map = await hostNetns.exec(['nft', 'list', 'map', 'inet', 'weft', 'ports4']);
  expect(map).toContain(`sctp . 9 : ${pod.address} . 99`);
});

test('a port that another pod has is refused by the pod’s name, and is free again after its DEL', async () => {
  const web = await podWith('web', ...mapped(8080));
  await using netns = await TestNetns.create('pod');
  const before = await kernelDump(hostNetns);
  const second = await host.cni('ADD', { netns: netns.path, conf: confOf({ hostPort: 8080, containerPort: 1 }) });
  expect(second).toMatchObject({ code: 1, json: { code: 105, details: '8080/tcp' } });
  expect(await kernelDump(hostNetns)).toEqual(before);
  await web[Symbol.asyncDispose]();
  const again = await host.cni('ADD', { netns: netns.path, conf: confOf({ hostPort: 8080, containerPort: 1 }) });
  expect(again).toMatchObject({ code: 0 });
  expect(await host.cni('DEL', { netns: netns.path })).toMatchObject({ code: 0 });
});

describe('what a hand removes while no agent runs', () => {
  test.each<[string, readonly string[], RegExp]>([
    ['a mapping', ['nft', 'flush', 'map', 'inet', 'weft', 'ports4'], /nft set ports4/],
    ['a mapping for one address', ['nft', 'flush', 'map', 'inet', 'weft', 'ports_at4'], /nft set ports_at4/],
    ['the pod’s way to itself', ['nft', 'flush', 'set', 'inet', 'weft', 'hairpin4'], /nft set hairpin4/],
    ['the table', ['nft', 'delete', 'table', 'inet', 'weft'], /nft set ports4/],
    [
      'the way of 127.0.0.1',
      ['sh', '-c', 'for f in /proc/sys/net/ipv4/conf/weftp*; do echo 0 > $f/route_localnet; done'],
      /route_localnet/,
    ],
  ])('%s: CHECK sees it, and the next start brings it back', async (_name, command, fault) => {
    await using web = await podWith('web', ...mapped(8080), ...mapped(8081, { hostIP: wan }));
    // Neighbours are hints, and the kernel forgets them when route_localnet changes.
    const now = (): Promise<unknown> => kernelDump(hostNetns);
    const before = await now();
    await host.stop('SIGKILL');
    await hostNetns.exec(command);
    expect(await faultsOnDisk({ host, hostNetns }, web.netns)).toMatch(fault);
    await host.start();
    await expect.poll(now, { timeout: 15_000 }).toEqual(before);
    const conf = { ...confOf(...mapped(8080)), prevResult: web.added.json };
    expect(await host.cni('CHECK', { netns: web.netns.path, conf })).toMatchObject({ code: 0 });
    expect(await fromHost.ask({ protocol: 'tcp', address: '127.0.0.1', port: 8080 })).toMatchObject({ name: 'web' });
    expect(await web.talker.ask({ protocol: 'tcp', address: wan, port: 8081 })).toMatchObject({ name: 'web' });
  });
});
