// Settings of the overlay that change from one agent to the next: what is not of the overlay keeps every packet, old objects go, and
// where the new ones cannot be made it is said, and pods of the node keep each other.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { Lab, ping, until } from './lab.ts';
import type { LabHost, Pod } from './lab.ts';
import { udpStream } from './stream.ts';

describe('an agent with other settings', () => {
  let lab: Lab;
  let host: LabHost;
  let near: Pod;
  let neighbour: Pod;
  let far: Pod;

  beforeEach(async () => {
    lab = await Lab.create(2, { families: [4, 6], settings: { comparePeriodMs: 600_000 } });
    host = lab.host(0);
    [near, neighbour, far] = [await host.addPod(), await host.addPod(), await lab.host(1).addPod()];
  });
  afterEach(async () => lab[Symbol.asyncDispose]());

  const isReached = async (): Promise<boolean> =>
    Promise.all(far.lease.addresses.map(async (address) => ping(near.netns, address))).then(Boolean, () => false);

  it.each([
    ['VNI', { vni: 77 }],
    ['port', { vxlanPort: 7777 }],
  ])(
    'another %s: pods of the node lose no packet between them, nothing of the old one is left',
    async (_what, change) => {
      const streams = [await udpStream(near, neighbour), await udpStream(neighbour, near)];
      for (const each of lab.hosts) await each.restart(change);
      await until('the nodes have each other', isReached);
      for (const stream of streams) expect(await stream.stop()).toMatchObject({ lost: 0 });
      const words = await host.netns.exec([
        'sh',
        '-c',
        'ip -d link show type vxlan; ss -uan; nft list table inet weft',
      ]);
      expect(words).not.toMatch('vni' in change ? /id 6784 |th,96,32 0x1a8000/ : /6784 nolearning|:6784|dport 6784/);
      await until('routes have their sources', async () =>
        (await host.netns.exec(['ip', 'route', 'show', near.lease.addresses[0] ?? ''])).includes(`src ${host.overlay}`),
      );
    },
  );

  it('a VNI that another device has: the finding, not ready, pods of the node keep each other; ready once it is free', async () => {
    await host.netns.exec([
      'ip',
      'link',
      'add',
      'other0',
      'type',
      'vxlan',
      'id',
      '77',
      'dstport',
      '6784',
      'dev',
      'eth0',
    ]);
    await host.netns.exec(['ip', 'link', 'set', 'other0', 'up']);
    await host.restart({ vni: 77 });
    expect(host.datapath.status()).toMatchObject({ ready: false, findings: [{ name: 'vxlanPortTaken' }] });
    for (const address of neighbour.lease.addresses) await ping(near.netns, address);
    await host.netns.exec(['ip', 'link', 'del', 'other0']);
    await until('ready', async () => host.datapath.status().ready);
    expect(host.datapath.status().findings).toEqual([]);
    await lab.host(1).restart({ vni: 77 });
    await until('the nodes have each other', isReached);
  });
});

describe('IPv6 of a node', () => {
  it('is switched off and on while it runs: said, no link of ours is switched on against it, IPv4 stays, all comes back', async () => {
    await using lab = await Lab.create(2, { families: [4, 6], settings: { comparePeriodMs: 600_000 } });
    const host = lab.host(0);
    const [near, far] = [await host.addPod(), await lab.host(1).addPod()];
    const [four = '', six = ''] = far.lease.addresses;
    await host.netns.exec(['sysctl', '-qw', 'net.ipv6.conf.all.disable_ipv6=1']);
    const names = (): readonly string[] => host.datapath.status().findings.map(({ name }) => name);
    await until('it is said', async () => names().includes('ipv6Off'), 10_000);
    for (const link of ['weft0', near.link.hostIfname]) {
      expect((await host.netns.exec(['sysctl', '-n', `net.ipv6.conf.${link}.disable_ipv6`])).trim()).toBe('1');
    }
    await ping(near.netns, four);
    expect(names()).toEqual(['ipv6Off']);
    // What the finding says.
    await host.netns.exec(['sysctl', '-qw', 'net.ipv6.conf.all.disable_ipv6=0']);
    await until('it is said no more', async () => names().length === 0, 10_000);
    const isReached = async (): Promise<boolean> => ping(near.netns, six).then(Boolean, () => false);
    await until('IPv6 is back', isReached, 10_000);
    expect(await host.datapath.check(near.request)).toEqual([]);
  });

  it('of a pod link that was in another namespace for a while: it is the pod’s again, whole', async () => {
    await using lab = await Lab.create(2, { families: [4, 6], settings: { comparePeriodMs: 600_000 } });
    const host = lab.host(0);
    const [near, far] = [await host.addPod(), await lab.host(1).addPod()];
    const { hostIfname } = near.link;
    await host.netns.exec(['ip', 'link', 'set', hostIfname, 'netns', lab.outside.name]);
    await until('it is missed', async () =>
      host.datapath.status().findings.some(({ name }) => name === 'podLinkMissing'),
    );
    await lab.outside.exec(['ip', 'link', 'set', hostIfname, 'netns', host.netns.name]);
    const isReached = async (): Promise<boolean> =>
      Promise.all(far.lease.addresses.map(async (address) => ping(near.netns, address))).then(Boolean, () => false);
    await until('it is back', isReached);
    expect(host.datapath.status().findings).toEqual([]);
    expect(await host.datapath.check(near.request)).toEqual([]);
    expect(await host.netns.exec(['ip', '-d', 'link', 'show', hostIfname])).toContain('addrgenmode none');
  });
});
