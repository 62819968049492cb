// Hosts whose own firewall drops what Weft needs: in each backend pods reach each other and the outside, with two tagged rules and
// nothing else changed; firewalld is named with the command that helps.
import { setTimeout as sleep } from 'node:timers/promises';

import { afterEach, describe, expect, it } from 'vitest';

import { cleanKernel } from '#agent/datapath/clean.ts';
import { defaultDatapathSettings } from '#agent/datapath/settings.ts';
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

  async function threePods(comparePeriodMs = 300): Promise<readonly [LabHost, Pod, Pod, Pod]> {
    lab = await Lab.create(2, { settings: { comparePeriodMs } });
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
    // Two of FORWARD and one of INPUT.
    const isOpen = async (): Promise<boolean> => (await foreignRules(host.netns)).split('weft:accept').length === 4;
    await until('the rules are there', isOpen);
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

  it('whatever happens to a rule of ours, or whoever begins to drop, it is open again within a second', async () => {
    const [host, near, far, neighbour] = await threePods(600_000);
    const file = `/run/netns/rules-${near.link.hostIfname}`;
    const replaced = `RULE=$(nft -a list chain ip filter FORWARD | grep -m1 weft:accept)
      nft "replace rule ip filter FORWARD handle \${RULE##*handle } iifname lo drop comment \\"weft:accept\\""`;
    const events: readonly (readonly [string, string])[] = [
      ['Docker starts', backends[0]?.[1] ?? ''],
      ['its chains are flushed', 'iptables-nft -F FORWARD; iptables-nft -F INPUT'],
      ['one rule is deleted', 'iptables-nft -D INPUT 1'],
      ['a rule is replaced under its comment', replaced],
      ['everything is flushed, and Docker loads its rules', `nft flush ruleset; ${backends[0]?.[1]}`],
      ['a saved set without ours is restored', `iptables-nft-restore <${file}`],
    ];
    for (const [what, command] of events) {
      await host.netns.exec(['sh', '-ec', command]);
      const began = performance.now();
      let lookMs = 0;
      for (;;) {
        const at = performance.now();
        const words = await foreignRules(host.netns);
        lookMs = Math.max(lookMs, performance.now() - at);
        const isWhole = words.split('weft:accept').length === 4 && !words.includes('-i lo -m comment');
        if (isWhole) expect(at - began, what).toBeLessThan(Math.max(1000, 10 * lookMs));
        if (isWhole) break;
        if (at - began > 20_000) expect(words, what).toBe('open');
      }
      await everyWay(near, far, neighbour);
      await host.netns.exec(['sh', '-ec', `iptables-nft-save | grep -v weft:accept >${file}`]);
    }
  });

  it.each(backends)('%s: another port of the overlay is let in, the old one no more', async (_name, commands) => {
    const [host, near, far, neighbour] = await threePods();
    await host.stop();
    await host.netns.exec(['sh', '-ec', commands]);
    await host.start();
    expect(await foreignRules(host.netns)).toContain('6784');
    for (const each of lab?.hosts ?? []) await each.restart({ vxlanPort: 7777 });
    await everyWay(near, far, neighbour);
    const rules = await foreignRules(host.netns);
    expect(rules).toContain('weft:accept:7777');
    expect(rules).not.toContain('6784');
  });

  it('a rule of somebody else that mentions the tag is none of ours: neither counted nor taken away', async () => {
    const [host, near, far, neighbour] = await threePods();
    await host.stop();
    await host.netns.exec([
      'sh',
      '-ec',
      `${backends[0]?.[1]}
       iptables-nft -A FORWARD -m comment --comment "not weft:accept" -j RETURN
       iptables-nft -A FORWARD -m comment --comment "weft:acceptance" -j RETURN
       iptables-nft -A INPUT -p udp --dport 53 -m comment --comment weft:accept2 -j ACCEPT
       iptables-legacy -P FORWARD DROP
       iptables-legacy -A FORWARD -m comment --comment weft:accept-mine -j RETURN
       nft add table inet filter; nft add chain inet filter forward '{ type filter hook forward priority 0; policy drop; }'
       nft add rule inet filter forward log prefix '"weft:accept "' counter
       nft add rule inet filter forward iifname lo accept comment '"weft:accept by hand"'`,
    ]);
    const before = await foreignRules(host.netns);
    await host.start();
    await everyWay(near, far, neighbour);
    const added = (await foreignRules(host.netns)).split('\n').filter((line) => !before.split('\n').includes(line));
    expect(added).toHaveLength(7);
    await host.stop();
    await cleanKernel({ ...defaultDatapathSettings, netnsPath: host.netns.path }, false);
    expect(await foreignRules(host.netns)).toBe(before);
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
