// Hosts whose own firewall drops what Weft needs: in each backend pods reach each other and the outside, with two tagged rules and
// nothing else changed; firewalld is named with the command that helps.
import { setTimeout as sleep } from 'node:timers/promises';

import { afterEach, describe, expect, it } from 'vitest';

import type { PeerView } from '#agent/runtime/ipam.ts';

import type { TestNetns } from '#test/support/netns.ts';

import { Lab, ping, until } from './lab.ts';
import type { LabHost, Pod } from './lab.ts';

/** Default policies as Docker and ufw leave them; established traffic and ping are let in, as every host firewall does. */
const backends: readonly (readonly [string, string])[] = [
  [
    'iptables-nft',
    `iptables-nft -P FORWARD DROP; iptables-nft -P INPUT DROP; iptables-nft -A INPUT -p icmp -j ACCEPT
     iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER; iptables-nft -A FORWARD -i docker0 -j ACCEPT`,
  ],
  [
    'iptables-legacy',
    'iptables-legacy -P FORWARD DROP; iptables-legacy -P INPUT DROP; iptables-legacy -A INPUT -p icmp -j ACCEPT',
  ],
  [
    'a native nftables ruleset',
    `nft add table inet filter
     nft add chain inet filter forward '{ type filter hook forward priority 0; policy drop; }'
     nft add chain inet filter input '{ type filter hook input priority 0; policy drop; }'
     nft add rule inet filter input meta l4proto { icmp, icmpv6 } accept`,
  ],
];

async function everyWay(near: Pod, far: Pod, neighbour: Pod): Promise<void> {
  await ping(near.netns, far.lease.addresses[0] ?? '');
  await ping(far.netns, near.lease.addresses[0] ?? '');
  await ping(near.netns, neighbour.lease.addresses[0] ?? '');
  await ping(near.netns, '192.0.2.200');
}

/** What is in the foreign tables, without counters and handles. */
async function foreignRules(netns: TestNetns): Promise<string> {
  const words = await Promise.all([
    netns.exec(['iptables-nft', '-S']).catch(() => ''),
    netns.exec(['iptables-legacy', '-S']),
    netns.exec(['sh', '-c', 'nft -s list table inet filter 2>/dev/null || true']),
  ]);
  return words.join('\n---\n');
}

describe('firewalls of the host', { timeout: 60_000 }, () => {
  let lab: Lab | undefined;
  afterEach(async () => {
    await lab?.[Symbol.asyncDispose]();
    lab = undefined;
  });

  async function threePods(): Promise<readonly [LabHost, Pod, Pod, Pod]> {
    lab = await Lab.create(2, { settings: { comparePeriodMs: 300 } });
    const pods = [await lab.host(0).addPod(), await lab.host(1).addPod(), await lab.host(0).addPod()];
    const [near, far, neighbour] = pods as [Pod, Pod, Pod];
    return [lab.host(0), near, far, neighbour];
  }

  it.each(backends)('%s: pods reach everything, rules that were removed come back', async (_name, commands) => {
    const [host, near, far, neighbour] = await threePods();
    await everyWay(near, far, neighbour);
    await host.stop();
    await host.netns.exec(['sh', '-ec', commands]);
    await expect(ping(near.netns, far.lease.addresses[0] ?? '')).rejects.toThrow();
    const before = await foreignRules(host.netns);
    await host.start();
    await everyWay(near, far, neighbour);
    expect(host.datapath.status().findings).toEqual([]);
    const after = await foreignRules(host.netns);
    const added = after.split('\n').filter((line) => !before.split('\n').includes(line));
    expect(added).toHaveLength(3);
    for (const line of added) expect(line).toContain('weft:accept');
    // Nothing is added twice, by this agent or the next.
    for (let round = 0; round < 3; round++) await host.reconcile();
    await host.stop();
    await host.start();
    expect(await foreignRules(host.netns)).toBe(after);
  });

  it('rules that iptables-save and iptables-restore have rewritten are still ours; flushed ones come back', async () => {
    const [host, near, far, neighbour] = await threePods();
    await host.netns.exec(['sh', '-ec', backends[0]?.[1] ?? '']);
    await until('the rules are there', async () => (await foreignRules(host.netns)).includes('weft:accept'));
    const before = await foreignRules(host.netns);
    await host.netns.exec([
      'sh',
      '-ec',
      'iptables-nft-save >/tmp/weft-saved; iptables-nft-restore </tmp/weft-saved; rm /tmp/weft-saved',
    ]);
    for (let round = 0; round < 3; round++) await host.reconcile();
    expect(await foreignRules(host.netns)).toBe(before);
    await host.netns.exec(['iptables-nft', '-F', 'FORWARD']);
    await until(
      'they are back',
      async () =>
        everyWay(near, far, neighbour).then(
          () => true,
          () => false,
        ),
      10_000,
    );
  });

  it('is opened soon also among a thousand nodes, where comparisons are rare', async () => {
    const [host, near, far, neighbour] = await threePods();
    const many = Array.from({ length: 1000 }, (_, number): PeerView => ({
      name: `node${number}.0123abcd`,
      nodeName: `node${number}`,
      self: false,
      underlayAddress: `198.18.${number >> 8}.${number & 255}`,
      overlayAddresses: [],
      blocks: [`10.46.${number >> 6}.${(number & 63) << 2}/30`],
    }));
    if (lab) lab.viewPatch = (view) => ({ ...view, peers: [...view.peers, ...many] });
    await host.reconcile();
    // The last comparison that was asked for while there were few.
    await until('no comparison comes', async () => {
      const before = host.datapath.status().reconciles;
      await sleep(1000);
      return host.datapath.status().reconciles === before;
    });
    await host.netns.exec(['sh', '-ec', backends[0]?.[1] ?? '']);
    await until('pods pass', async () =>
      everyWay(near, far, neighbour).then(
        () => true,
        () => false,
      ),
    );
  });

  it('firewalld: a finding with the command, none once its ranges are known', async () => {
    const [host] = await threePods();
    await host.netns.exec([
      'sh',
      '-ec',
      `nft add table inet firewalld
       nft add chain inet firewalld filter_FORWARD '{ type filter hook forward priority 10; policy accept; }'
       nft add chain inet firewalld filter_FWD_trusted
       nft add rule inet firewalld filter_FORWARD ct state established,related accept`,
    ]);
    await host.reconcile();
    expect(host.datapath.status().findings).toEqual([
      expect.objectContaining({
        name: 'firewallManaged',
        message: expect.stringContaining('firewall-cmd --permanent --zone=trusted --add-source=10.32.0.0/12') as string,
      }),
    ]);
    await host.netns.exec([
      'nft',
      'add rule inet firewalld filter_FORWARD ip saddr 10.32.0.0/12 goto filter_FWD_trusted',
    ]);
    await host.reconcile();
    expect(host.datapath.status().findings).toEqual([]);
  });
});
