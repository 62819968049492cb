// Who reaches whom, with which source address, and how fast an address that nobody has answers. The kernel's own words:
// counters of nft rules in the receiver's namespace, `ip -d -j`.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { TestNetns } from '#test/support/netns.ts';

import { Lab, outsideAddress, ping } from './lab.ts';
import type { LabHost, Pod } from './lab.ts';

/** Echo requests that arrive in `netns` during `action`, by source address. */
async function sourcesSeen(netns: TestNetns, action: () => Promise<unknown>): Promise<readonly string[]> {
  await netns.exec(['nft', 'add table inet seen']);
  try {
    await netns.exec(['nft', 'add set inet seen sources { type ipv4_addr; flags dynamic; }']);
    await netns.exec(['nft', 'add chain inet seen input { type filter hook input priority 0; }']);
    await netns.exec(['nft', 'add rule inet seen input icmp type echo-request update @sources { ip saddr }']);
    await action();
    const listed = await netns.json<{ nftables: readonly { set?: { elem?: readonly string[] } }[] }>([
      'nft',
      '-j',
      'list set inet seen sources',
    ]);
    return listed.nftables.find((object) => object.set)?.set?.elem ?? [];
  } finally {
    await netns.exec(['nft', 'delete table inet seen']);
  }
}

describe('three hosts, two pods each, rp_filter 1 as many distributions have it', () => {
  let lab: Lab;
  const pods: Pod[] = [];
  const host = (index: number): LabHost => lab.host(index);
  const pod = (index: number): Pod => {
    const found = pods[index];
    if (!found) throw new Error(`no pod ${index}`);
    return found;
  };
  const addressOf = (index: number): string => pod(index).lease.addresses[0] ?? '';

  beforeAll(async () => {
    lab = await Lab.create(3, { sysctls: ['net.ipv4.conf.all.rp_filter=1', 'net.ipv4.conf.default.rp_filter=1'] });
    for (const each of lab.hosts) pods.push(await each.addPod(), await each.addPod());
  });
  afterAll(async () => lab[Symbol.asyncDispose]());

  it('every pod reaches every pod and keeps its own source address', async () => {
    for (const [index, to] of pods.entries()) {
      const seen = await sourcesSeen(to.netns, async () => {
        for (const from of pods) if (from !== to) await ping(from.netns, addressOf(index));
      });
      const others = pods.filter((from) => from !== to).map((from) => from.lease.addresses[0] ?? '');
      expect(seen.toSorted()).toEqual(others.toSorted());
    }
  });

  it('a host reaches its own and remote pods from its overlay address', async () => {
    const seenOwn = await sourcesSeen(pod(0).netns, () => ping(host(0).netns, addressOf(0)));
    const seenRemote = await sourcesSeen(pod(2).netns, () => ping(host(0).netns, addressOf(2)));
    expect([seenOwn, seenRemote]).toEqual([[host(0).overlay], [host(0).overlay]]);
  });

  it('a host reaches a remote pod through an address that is translated after routing, as a ClusterIP is', async () => {
    const { netns, overlay } = host(0);
    await netns.exec(['nft', 'add table ip service']);
    await netns.exec(['nft', 'add chain ip service output { type nat hook output priority -100; }']);
    await netns.exec(['nft', `add rule ip service output ip daddr 10.96.0.1 dnat to ${addressOf(4)}`]);
    const seen = await sourcesSeen(pod(4).netns, () => ping(netns, '10.96.0.1'));
    await netns.exec(['nft', 'delete table ip service']);
    expect(seen).toEqual([overlay]);
  });

  it('a pod reaches a host of the underlay and the world outside from its node address', async () => {
    const seenPeer = await sourcesSeen(host(1).netns, () => ping(pod(0).netns, host(1).underlay));
    const seenOutside = await sourcesSeen(lab.outside, () => ping(pod(0).netns, outsideAddress));
    expect([seenPeer, seenOutside]).toEqual([[host(0).underlay], [host(0).underlay]]);
  });

  it('a pod reaches its own host with its own source address', async () => {
    const seen = await sourcesSeen(host(0).netns, () => ping(pod(0).netns, host(0).underlay));
    expect(seen).toEqual([addressOf(0)]);
  });

  it.each([
    ['a free address of the own node', '10.32.3.3'],
    ['a free address of another node', '10.40.3.3'],
    ['a reserved address is left to the routing table', undefined],
  ])('%s', async (_what, address) => {
    if (address === undefined) {
      const [route] = await host(0).netns.json(['ip', '-j', 'route', 'get', '10.47.0.1']);
      expect(route).toMatchObject({ gateway: outsideAddress });
      return;
    }
    const began = performance.now();
    await expect(ping(pod(0).netns, address, ['-W', '3'])).rejects.toThrow(/failed|Command/);
    expect(performance.now() - began).toBeLessThan(1000);
  });

  it('full-size packets pass between nodes and larger ones are refused at the sender', async () => {
    const whole = 1450 - 28;
    await ping(pod(0).netns, addressOf(2), ['-M', 'do', '-s', String(whole)]);
    await expect(ping(pod(0).netns, addressOf(2), ['-M', 'do', '-s', String(whole + 1)])).rejects.toThrow();
  });

  it('the host answers for the gateway even where arp_ignore is 1', async () => {
    await host(0).netns.exec(['sysctl', '-qw', 'net.ipv4.conf.all.arp_ignore=1']);
    await pod(0).netns.exec(['ip', 'neigh', 'del', '169.254.1.1', 'dev', 'eth0']);
    await ping(pod(0).netns, addressOf(2));
    const [entry] = await pod(0).netns.json(['ip', '-j', 'neigh', 'show', '169.254.1.1']);
    expect(entry).toMatchObject({ lladdr: pod(0).link.hostMac });
    await host(0).netns.exec(['sysctl', '-qw', 'net.ipv4.conf.all.arp_ignore=0']);
  });

  it('a pod whose MAC a chained plugin changed, link down and up, is learnt at once', async () => {
    const { netns } = pod(3);
    await netns.exec([
      'sh',
      '-ec',
      `ip link set eth0 down; ip link set eth0 address 02:11:22:33:44:55; ip link set eth0 up
       ip route add 169.254.1.1 dev eth0 scope link; ip route add default via 169.254.1.1`,
    ]);
    await ping(netns, addressOf(0));
    await ping(pod(0).netns, addressOf(3));
    expect(await host(1).datapath.check(pod(3).request)).toEqual([]);
  });

  it('looks in the kernel as it was drawn', async () => {
    const { netns } = host(0);
    const [overlay] = await netns.json(['ip', '-d', '-j', 'link', 'show', 'weft0']);
    expect(overlay).toMatchObject({
      mtu: 1450,
      flags: expect.arrayContaining(['UP']),
      linkinfo: {
        info_kind: 'vxlan',
        info_data: { id: 6784, port: 6784, local: '192.0.2.1', learning: false },
      },
    });
    expect(overlay?.['txqlen']).toBeGreaterThan(0);
    expect((await netns.exec(['cat', '/proc/sys/net/ipv4/conf/weft0/rp_filter'])).trim()).toBe('2');
    const nexthops = await netns.json(['ip', '-d', '-j', 'nexthop']);
    expect(nexthops).toHaveLength(2);
    expect(nexthops[0]).toMatchObject({
      dev: 'weft0',
      flags: ['onlink'],
      gateway: expect.stringMatching(/^192\.0\.2\./),
    });
    const routes = await netns.json<readonly { dst: string; type?: string; metric?: number; prefsrc?: string }[]>([
      'ip',
      '-d',
      '-j',
      'route',
      'show',
      'proto',
      '87',
    ]);
    const shown = routes.map((route) => [route.type ?? 'unicast', route.dst, route.metric ?? 0, route.prefsrc ?? '']);
    expect(shown.toSorted((left, right) => (String(left) < String(right) ? -1 : 1))).toEqual([
      ['unicast', '10.32.0.10', 0, '10.32.0.1'],
      ['unicast', '10.32.0.11', 0, '10.32.0.1'],
      ['unicast', '10.40.0.0/14', 0, '10.32.0.1'],
      ['unicast', '10.44.0.0/15', 0, '10.32.0.1'],
      ['unicast', '10.46.0.0/16', 0, '10.32.0.1'],
      ['unreachable', '10.32.0.0/13', 0, ''],
      // 10.32.0.0/12 without the reserved 10.47.0.0/16.
      ['unreachable', '10.32.0.0/13', 4_294_967_295, ''],
      ['unreachable', '10.40.0.0/14', 4_294_967_295, ''],
      ['unreachable', '10.44.0.0/15', 4_294_967_295, ''],
      ['unreachable', '10.46.0.0/16', 4_294_967_295, ''],
    ]);
    const fdb = await netns.json<readonly { dst?: string }[]>(['bridge', '-j', 'fdb', 'show', 'dev', 'weft0']);
    expect(new Set(fdb.map((entry) => entry.dst))).toEqual(new Set(['192.0.2.2', '192.0.2.3']));
  });
});

describe('a node with IPv6 off', () => {
  it('uses IPv4 nexthops and reaches its peers', async () => {
    await using lab = await Lab.create(2, {
      sysctls: ['net.ipv6.conf.all.disable_ipv6=1', 'net.ipv6.conf.default.disable_ipv6=1'],
    });
    const [from, to] = [await lab.host(0).addPod(), await lab.host(1).addPod()];
    await ping(from.netns, to.lease.addresses[0] ?? '');
    const [nexthop] = await lab.host(0).netns.json(['ip', '-j', 'nexthop']);
    expect(nexthop).toMatchObject({ gateway: lab.host(1).underlay, flags: ['onlink'] });
    expect(lab.host(0).datapath.status()).toMatchObject({ ready: true, findings: [] });
  });
});
