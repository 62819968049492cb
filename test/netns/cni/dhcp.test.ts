// Addresses of a DHCP server outside (`ipam.type: dhcp`): the reference plugin and its daemon, a real server, the real shim and agent.

import { readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';

import type { AgentHost } from '#test/support/agent-host.ts';
import { createCniHost } from '#test/support/cni-host.ts';
import { referencePlugins } from '#test/support/conf-list.ts';
import { DhcpSegment, neighbourAddress, serverAddress } from '#test/support/dhcp-segment.ts';
import { type KernelDump, kernelDump } from '#test/support/kernel-dump.ts';
import { TestNetns } from '#test/support/netns.ts';
import type { ShimRun } from '#test/support/shim.ts';
import { programPath } from '#test/support/programs.ts';

const weft = programPath('weft');
let host: AgentHost;
let hostNetns: TestNetns;
let segment: DhcpSegment;

/** A disk that does not know its own session waits for that session's end. */
const fast = { dhcpUplink: 'lan0', resyncMs: 1000, collectMs: 1000, sessionTermMs: 2000 };

beforeAll(async () => {
  ({ host, hostNetns } = await createCniHost(fast, false));
  segment = await DhcpSegment.create(hostNetns);
  await segment.startServer();
  await segment.startDaemon();
  await host.start();
}, 120_000);

afterAll(async () => {
  await host[Symbol.asyncDispose]();
  await segment[Symbol.asyncDispose]();
});

const env = { CNI_PATH: referencePlugins };
const slow = { timeout: 120_000 } as const;
const soon = { timeout: 20_000, interval: 200 } as const;
const call = (verb: string, pod: TestNetns, conf: Record<string, unknown> = {}, ifname = 'eth0'): Promise<ShimRun> =>
  host.cni(verb, { netns: pod.path, ifname, env, conf: { name: 'lan', ipam: segment.ipam, ...conf } });
const addressOf = (run: ShimRun): string =>
  (run.json as { ips?: readonly { address: string }[] }).ips?.[0]?.address.split('/')[0] ?? '';
const reaches = (from: TestNetns, to: string, ...more: readonly string[]): Promise<boolean> =>
  from.exec(['ping', '-c', '1', '-W', '1', ...more, to]).then(
    () => true,
    () => false,
  );
/** Without what the bridge learns of the segment; a table that is loaded anew comes last. */
const dump = async (): Promise<KernelDump> => {
  const found = await kernelDump(hostNetns);
  const isLearnt = (entry: string): boolean => / dev lan0 master weftbr1\s*$/.test(entry);
  return { ...found, fdb: found.fdb.filter((entry) => !isLearnt(entry)), nft: found.nft.toSorted() };
};
const spoofed = async (): Promise<number> =>
  Number(
    /packets (\d+)/.exec(await hostNetns.exec(['nft', 'list', 'counter', 'bridge', 'weft_segment', 'spoofed']))?.[1],
  );

test('two pods get addresses, are reached, renew, outlive the agent, and give them back', slow, async () => {
  await using one = await TestNetns.create('pod');
  await using two = await TestNetns.create('pod');
  await expect.poll(async () => (await dump()).links.join(), soon).toContain('weftbr1');
  const before = await dump();
  const added = await call('ADD', one);
  expect(added).toMatchObject({
    code: 0,
    json: {
      interfaces: [{ name: expect.stringMatching(/^wefts/) }, { name: 'eth0', sandbox: one.path }],
      ips: [{ address: expect.stringMatching(/^192\.168\.77\.\d+\/24$/), gateway: serverAddress, interface: 1 }],
      routes: [{ dst: '0.0.0.0/0', gw: serverAddress }],
    },
  });
  const other = await call('ADD', two);
  expect(other).toMatchObject({ code: 0 });
  expect(addressOf(other)).not.toBe(addressOf(added));
  for (const to of [serverAddress, neighbourAddress, addressOf(other)]) expect(await reaches(one, to)).toBe(true);
  for (const pod of [added, other]) expect(await reaches(segment.neighbour, addressOf(pod))).toBe(true);
  const conf = { prevResult: added.json };
  const asked = await segment.told('request');
  expect(await call('CHECK', one, conf)).toMatchObject({ code: 0, stdout: '' });
  expect(await segment.told('request'), 'CHECK asks for no address').toBeLessThan(asked + 2);
  expect(await call('ADD', one)).toMatchObject({ code: 1, json: { code: 100 } });

  const [discovers, requests] = [await segment.told('discover'), await segment.told('request')];
  const during = await dump();
  await host.stop('SIGKILL');
  await host.start();
  expect(await dump()).toEqual(during);
  // A renewal is a request without a discovery; the daemon sends it although no agent looks.
  await expect.poll(() => segment.told('request'), soon).toBeGreaterThanOrEqual(requests + 2);
  expect(await segment.told('discover')).toBe(discovers);
  expect(await reaches(one, neighbourAddress)).toBe(true);
  expect(await call('CHECK', one, conf)).toMatchObject({ code: 0 });

  await one.exec(['ip', 'address', 'flush', 'dev', 'eth0']);
  const altered = await call('CHECK', one, conf);
  expect(altered).toMatchObject({ code: 1, json: { code: 103 } });
  expect(altered.json?.['msg']).toContain(`pod address ${addressOf(added)}`);

  const releases = await segment.told('release');
  for (let time = 0; time < 2; time++) expect(await call('DEL', one)).toMatchObject({ code: 0, stdout: '' });
  expect(await call('DEL', two)).toMatchObject({ code: 0, stdout: '' });
  expect(await segment.told('release')).toBe(releases + 2);
  await expect.poll(dump, soon).toEqual(before);
});

test('the node answers nobody on the segment, and passes on nothing that is sent to its card', slow, async () => {
  await using own = await TestNetns.create('pod');
  await using pod = await TestNetns.create('pod');
  const { neighbour } = segment;
  const ownAdded = await host.cni('ADD', { netns: own.path });
  const added = await call('ADD', pod);
  // The node's underlay and overlay addresses, a pod of Weft, an address that the node has a route to, one that nobody has.
  const overlay = /10\.\d+\.\d+\.\d+/.exec(await hostNetns.exec(['ip', '-4', 'address', 'show', 'dev', 'weft0']))?.[0];
  const strangers = ['192.168.50.1', '192.168.50.77', overlay ?? '', addressOf(ownAdded), '10.32.99.99'];
  await neighbour.exec(['sh', '-ec', 'ip route add 192.168.50.0/24 dev eth0; ip route add 10.32.0.0/12 dev eth0']);
  expect(await Promise.all(strangers.map((stranger) => reaches(neighbour, stranger)))).not.toContain(true);
  for (const stranger of strangers)
    expect(await neighbour.exec(['ip', 'neighbour', 'show', stranger])).toMatch(/FAILED|INCOMPLETE/);
  expect(await reaches(neighbour, addressOf(added))).toBe(true);
  // Who knows the card's MAC gets no further.
  for (const link of ['lan0', 'weftbr1']) {
    const [{ address }] = (await hostNetns.json(['ip', '-j', 'link', 'show', link])) as [{ address: string }];
    for (const stranger of [overlay ?? '', addressOf(ownAdded)]) {
      const entry = ['ip', 'neighbour', 'replace', stranger, 'lladdr', address, 'dev', 'eth0', 'nud', 'permanent'];
      await neighbour.exec(entry);
      expect(await reaches(neighbour, stranger), `${stranger} by the MAC of ${link}`).toBe(false);
      await neighbour.exec(['ip', 'neighbour', 'del', stranger, 'dev', 'eth0']);
    }
  }
  expect(await call('DEL', pod)).toMatchObject({ code: 0 });
  expect(await host.cni('DEL', { netns: own.path })).toMatchObject({ code: 0 });
});

test('a pod speaks for itself alone: no other address, no other MAC, no DHCP server, no IPv6', slow, async () => {
  await using pod = await TestNetns.create('pod');
  const added = await call('ADD', pod);
  const inVain = async (...script: readonly string[]): Promise<void> => {
    const before = await spoofed();
    await pod.exec(['sh', '-c', script.join('; ')]).catch(() => undefined);
    await expect.poll(spoofed, { ...soon, message: script.join('; ') }).toBeGreaterThan(before);
  };
  await inVain('ip address add 192.168.77.200/24 dev eth0', `ping -c 1 -W 1 -I 192.168.77.200 ${serverAddress}`);
  await pod.exec(['sh', '-ec', 'ip address del 192.168.77.200/24 dev eth0; ip neighbour flush dev eth0']);
  const offer = `import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 67)); s.sendto(b"x", ("${serverAddress}", 68))`;
  await inVain(`python3 -c '${offer}'`);
  const [{ address }] = (await pod.json(['ip', '-j', 'link', 'show', 'eth0'])) as [{ address: string }];
  await inVain('ip link set eth0 address 02:00:00:00:00:99', `ping -c 1 -W 1 ${serverAddress}`);
  await pod.exec(['sh', '-ec', `ip link set eth0 address ${address}`]);
  expect(await reaches(pod, serverAddress)).toBe(true);
  await segment.server.exec(['ip', 'address', 'add', 'fd77::1/64', 'dev', 'br0', 'nodad']);
  await pod.exec(['ip', 'address', 'add', 'fd77::2/64', 'dev', 'eth0', 'nodad']);
  expect(await reaches(pod, 'fd77::1')).toBe(false);
  await using twin = await TestNetns.create('pod');
  const stolen = await call('ADD', twin, { runtimeConfig: { mac: address } });
  expect(stolen).toMatchObject({ code: 1, json: { code: 7, details: 'mac' } });
  expect(await call('DEL', twin)).toMatchObject({ code: 0 });
  expect(await reaches(pod, serverAddress)).toBe(true);
  // What comes with the pod's MAC from outside does not move it.
  const claim = `import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0))
s.send(bytes.fromhex('ffffffffffff' + '${address.replaceAll(':', '')}' + '88b5') + bytes(46))`;
  await segment.neighbour.exec(['python3', '-c', claim]);
  const fdb = await hostNetns.exec(['bridge', 'fdb', 'show', 'br', 'weftbr1']);
  expect(fdb).toMatch(new RegExp(`${address} dev wefts\\w+ sticky master weftbr1 static`));
  expect(await call('DEL', pod, { prevResult: added.json })).toMatchObject({ code: 0 });
});

test('a further link of a pod leaves its default route where it is', slow, async () => {
  await using pod = await TestNetns.create('pod');
  expect(await host.cni('ADD', { netns: pod.path })).toMatchObject({ code: 0 });
  const route = await pod.exec(['ip', 'route', 'show', 'default']);
  const rules = await pod.exec(['ip', 'rule']);
  const added = await call('ADD', pod, {}, 'net1');
  expect(added).toMatchObject({
    code: 0,
    json: { routes: [{ dst: '0.0.0.0/0', gw: serverAddress, table: expect.any(Number) }] },
  });
  expect(await pod.exec(['ip', 'route', 'show', 'default'])).toBe(route);
  expect(await reaches(pod, serverAddress, '-I', 'net1')).toBe(true);
  expect(await call('CHECK', pod, { prevResult: added.json }, 'net1')).toMatchObject({ code: 0 });
  expect(await call('DEL', pod, {}, 'net1')).toMatchObject({ code: 0 });
  expect(await pod.exec(['ip', 'rule'])).toBe(rules);
  expect(await host.cni('DEL', { netns: pod.path })).toMatchObject({ code: 0 });
});

test('bridge, ports and table that somebody took away come back; an uplink that goes is a finding', slow, async () => {
  await using pod = await TestNetns.create('pod');
  const added = await call('ADD', pod);
  await hostNetns.exec(['ip', 'link', 'del', 'weftbr1']);
  await expect.poll(() => reaches(segment.neighbour, addressOf(added)), soon).toBe(true);
  // By the time that CHECK looks the table may be there again: it is taken away until one sees that it is not.
  const checkedWithout = async (): Promise<ShimRun> => {
    await hostNetns.exec(['nft', 'add table bridge weft_segment; delete table bridge weft_segment']);
    return await call('CHECK', pod, { prevResult: added.json });
  };
  await expect.poll(checkedWithout, soon).toMatchObject({ code: 1, json: { code: 103 } });
  await expect.poll(async () => (await call('CHECK', pod, { prevResult: added.json })).code, soon).toBe(0);
  await hostNetns.exec(['sh', '-ec', 'ip link set lan0 nomaster; ip address add 192.168.77.5/24 dev lan0']);
  await expect.poll(() => host.log(), soon).toContain('uplinkUnusable');
  await hostNetns.exec(['ip', 'address', 'del', '192.168.77.5/24', 'dev', 'lan0']);
  await expect.poll(() => reaches(segment.neighbour, addressOf(added)), soon).toBe(true);
  expect(await call('DEL', pod)).toMatchObject({ code: 0 });
});

test(
  'what fails leaves nothing: no daemon, no server, a busy uplink, what the node cannot do for such pods',
  slow,
  async () => {
    await using pod = await TestNetns.create('pod');
    const empty = async (): Promise<readonly KernelDump[]> => [await dump(), await kernelDump(pod)];
    const before = await empty();
    const mappings = { runtimeConfig: { portMappings: [{ hostPort: 8080, containerPort: 80, protocol: 'tcp' }] } };
    expect(await call('ADD', pod, mappings)).toMatchObject({ code: 1, json: { code: 2 } });
    expect(await call('ADD', pod, { runtimeConfig: { bandwidth: { ingressRate: 8000 } } })).toMatchObject({
      code: 1,
      json: { code: 2 },
    });
    await hostNetns.exec(['sh', '-ec', 'ip link set lan0 nomaster; ip address add 192.168.77.5/24 dev lan0']);
    const busy = await call('ADD', pod);
    expect(busy).toMatchObject({ code: 1, json: { code: 11 } });
    expect(busy.json?.['msg']).toMatch(/dhcpUplink cannot be met: lan0 has 192\.168\.77\.5\/24/);
    await hostNetns.exec(['ip', 'address', 'del', '192.168.77.5/24', 'dev', 'lan0']);
    await segment.stopDaemon();
    expect(await call('ADD', pod)).toMatchObject({ code: 1, json: { code: 110 } });
    await segment.startDaemon();
    // Undone but for what the daemon is owed.
    await expect.poll(empty, soon).toEqual(before);
    expect(await call('DEL', pod)).toMatchObject({ code: 0 });
    await expect.poll(empty, soon).toEqual(before);

    // The agent dies while the plugin waits for a server that does not answer.
    await segment.stopServer();
    const cut = call('ADD', pod);
    await expect.poll(async () => (await dump()).links.join(), soon).toMatch(/wefts/);
    await host.stop('SIGKILL');
    expect((await cut).code).toBe(1);
    await host.start();
    await expect.poll(empty, soon).toEqual(before);
    await segment.startServer();
    const added = await call('ADD', pod);
    expect(added).toMatchObject({ code: 0 });

    // A daemon that was away knows no lease any more: nothing is gained by waiting for it.
    await segment.stopDaemon();
    expect(await call('DEL', pod)).toMatchObject({ code: 0, stdout: '' });
    await expect.poll(empty, soon).toEqual(before);
    await segment.startDaemon();
    await expect.poll(() => host.log(), soon).toMatch(/told a DEL that it was owed/);
    await expect.poll(empty, soon).toEqual(before);
  },
);

test('an agent that has lost its state directory knows such pods by their links', slow, async () => {
  await using pod = await TestNetns.create('pod');
  const other = await TestNetns.create('pod');
  const before = await dump();
  const mac = '02:00:00:00:77:01';
  const added = await call('ADD', pod, { runtimeConfig: { mac } });
  expect(await call('ADD', other)).toMatchObject({ code: 0 });
  const during = await dump();
  await host.stop('SIGKILL');
  const state = join(host.directory, 'state');
  for (const name of await readdir(state)) if (/^(state|delegated)\.db/.test(name)) await rm(join(state, name));
  await host.start();
  await expect.poll(dump, soon).toEqual(during);
  expect(await reaches(segment.neighbour, addressOf(added))).toBe(true);
  const releases = await segment.told('release');
  expect(await call('DEL', pod)).toMatchObject({ code: 0 });
  expect(await segment.told('release')).toBe(releases + 1);
  // One whose DEL never comes is taken back when its link has gone with the pod; the server's lease ends by itself.
  await segment.stopDaemon();
  await other[Symbol.asyncDispose]();
  await expect.poll(dump, soon).toEqual(before);
  await expect.poll(() => host.leasedAddresses(), soon).toBe(0);
  await segment.startDaemon();
});

test('without the setting the uplink is free again, and such an ADD is refused with what to set', slow, async () => {
  await using pod = await TestNetns.create('pod');
  const other = await createCniHost({ dhcpUplink: 'lan0' }, false);
  await using plain = other.host;
  await other.hostNetns.exec(['ip', 'link', 'add', 'lan0', 'type', 'veth', 'peer', 'name', 'lan1']);
  const never = await kernelDump(other.hostNetns);
  await plain.start();
  expect(await other.hostNetns.exec(['ip', '-o', 'link', 'show', 'lan0'])).toContain('master weftbr1');
  await plain.stop();
  const clean = [process.execPath, weft, 'clean', '--dry-run', '--config', join(plain.directory, 'config.json')];
  const told = await other.hostNetns.exec(clean);
  expect(told).toContain('link weftbr1');
  expect(told).toContain('nftables table bridge weft_segment');
  const { dhcpUplink: _setting, ...settings } = plain.settings;
  await writeFile(join(plain.directory, 'config.json'), JSON.stringify(settings));
  await plain.start();
  const links = (await kernelDump(other.hostNetns)).links.filter((line) => !line.startsWith('weft0'));
  expect(links.map((line) => line.split(' ')[0])).toEqual(never.links.map((line) => line.split(' ')[0]));
  expect((await kernelDump(other.hostNetns)).nft.join()).not.toContain('weft_segment');
  const refused = await plain.cni('ADD', { netns: pod.path, env, conf: { name: 'lan', ipam: segment.ipam } });
  expect(refused).toMatchObject({ code: 1, json: { code: 7, details: 'ipam.type' } });
  expect(refused.json?.['msg']).toContain('dhcpUplink');
});
