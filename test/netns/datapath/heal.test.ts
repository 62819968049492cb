// What somebody alters by hand of IPv6 and of a bridge is as before within a moment, by notifications and looks: no comparison of
// everything comes in between. IPv4 of routed pods is in adopt.test.ts.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { Lab, ping, snapshot, until } from './lab.ts';
import type { HostOptions, LabHost, Pod } from './lab.ts';

type Fault = readonly [what: string, command: string];

const both: readonly Fault[] = [
  ['the IPv6 address of the node deleted', 'ip address del fd42::1/128 dev DEVICE'],
  ['an IPv6 block route deleted', 'ip -6 route del fd42:0:0:4000::/50 metric 1024'],
  ['an IPv6 block route replaced', 'ip -6 route replace fd42:0:0:4000::/50 dev weft0 proto 87 metric 1024'],
  ['an IPv6 unreachable route deleted', 'ip -6 route del unreachable fd42::/49 metric 4294967295'],
  ['IPv6 forwarding switched off', 'sysctl -qw net.ipv6.conf.all.forwarding=0'],
];

const routed: readonly Fault[] = [
  ...both,
  ['an IPv6 pod route deleted', 'ip -6 route del fd42::a'],
  ['the IPv6 gateway deleted', 'ip address del fe80::457:65ff:fe66:7401/64 dev HOST'],
  ['IPv6 sources flushed', 'nft flush set inet weft sources6'],
  ['advertisements of a pod accepted', 'sysctl -qw net.ipv6.conf.HOST.accept_ra=2'],
];

const bridged: readonly Fault[] = [
  ...both,
  ['the bridge deleted', 'ip link del weftbr0'],
  ['the bridge down', 'ip link set weftbr0 down'],
  ['its MTU changed', 'ip link set weftbr0 mtu 1300'],
  ['its MAC changed', 'ip link set weftbr0 address 02:00:00:00:00:01'],
  ['its address deleted', 'ip address del 10.32.0.1/32 dev weftbr0'],
  ['its IPv6 gateway deleted', 'ip address del fe80::457:65ff:fe66:7401/64 dev weftbr0'],
  ['multicast snooping switched on', 'ip link set weftbr0 type bridge mcast_snooping 1'],
  ['conntrack of bridged packets switched off', 'ip link set weftbr0 type bridge nf_call_iptables 0'],
  ['proxy ARP switched off', 'sysctl -qw net.ipv4.conf.weftbr0.proxy_arp=0'],
  ['the route to the own block deleted', 'ip route del 10.32.0.0/13 dev weftbr0'],
  ['a port taken out', 'ip link set HOST nomaster'],
  ['hairpin switched off', 'bridge link set dev HOST hairpin off'],
  ['learning switched on', 'bridge link set dev HOST learning on'],
  ['a static entry deleted', 'bridge fdb del 0a:58:0a:20:00:0a dev HOST master'],
  ['the table of the bridge deleted', 'nft delete table bridge weft'],
  ['its chain flushed', 'nft flush chain bridge weft pod_ports'],
  ['its sources flushed', 'nft flush set bridge weft bridged4'],
];

/** Without order, numbers that the kernel chose, a bridge's clocks, and which of its ports' equal MACs it noted. */
function still(text: string): string {
  const plain = text
    .replaceAll(/^\d+: |^ +bridge .*$|^ +bridge_slave .*$|^06:57:65:66:74:01 .* permanent$/gm, '')
    .replaceAll(/\b(nhid|id) 14\d{8}\b/g, '$1 ID');
  return plain.split('\n').toSorted().join('\n');
}

describe.each([
  ['routed pods', 'weft0', { families: [4, 6] }, routed],
  ['pods on a bridge', 'weftbr0', { families: [4, 6], settings: { podLink: 'bridge' } }, bridged],
] as readonly (readonly [string, string, HostOptions, readonly Fault[]])[])('%s', (_mode, device, options, faults) => {
  let lab: Lab;
  let host: LabHost;
  let near: Pod;
  let far: Pod;

  beforeAll(async () => {
    lab = await Lab.create(2, { ...options, settings: { ...options.settings, comparePeriodMs: 600_000 } });
    host = lab.host(0);
    near = await host.addPod();
    far = await lab.host(1).addPod();
    // The first round makes the devices, the second knows their numbers.
    await until('the second round is done', async () => host.datapath.status().reconciles > 1);
  });
  afterAll(async () => lab[Symbol.asyncDispose]());

  it.each(faults)('%s', async (_what, command) => {
    const before = still(await snapshot(host.netns));
    await host.netns.exec(['sh', '-ec', command.replaceAll('HOST', near.link.hostIfname).replaceAll('DEVICE', device)]);
    // No notification tells of a sysctl.
    const withinMs = /sysctl/.test(command) ? 30_000 : 15_000;
    await until('the namespace is as before', async () => still(await snapshot(host.netns)) === before, withinMs).catch(
      async () => expect(still(await snapshot(host.netns))).toBe(before),
    );
    for (const family of [0, 1]) await ping(near.netns, far.lease.addresses[family] ?? '');
    expect(await host.datapath.check(near.request)).toEqual([]);
  });
});
