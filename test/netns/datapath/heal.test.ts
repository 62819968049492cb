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

const bySomebody =
  'MAC=$(bridge fdb show dev weft0 | cut -d" " -f1); ID=$(ip nexthop | grep -m1 weft0 | cut -d" " -f2)';
const replaceRule = (chain: string, text: string): string =>
  `RULE=$(nft -a list chain inet weft ${chain} | grep -m1 '${text}'); nft "replace rule inet weft ${chain} handle \${RULE##*handle } ` +
  `drop comment $(echo "$RULE" | grep -o '"weft:[^"]*"')"`;

const routed: readonly Fault[] = [
  ...both,
  ['IPv6 of the overlay device switched off', 'sysctl -qw net.ipv6.conf.weft0.disable_ipv6=1'],
  ['IPv6 of a pod link switched off', 'sysctl -qw net.ipv6.conf.HOST.disable_ipv6=1'],
  ['forwarding from the overlay device switched off', 'sysctl -qw net.ipv4.conf.weft0.forwarding=0'],
  ['forwarding from a pod link switched off', 'sysctl -qw net.ipv4.conf.HOST.forwarding=0'],
  ['ARP of the overlay device off', 'ip link set weft0 arp off'],
  ['ARP of a pod link off', 'ip link set HOST arp off'],
  [
    'a pod link made a port of a foreign bridge',
    'ip link add other0 type bridge; ip link set HOST master other0; OTHER',
  ],
  ['the overlay device made a port', 'ip link add other0 type bridge; ip link set weft0 master other0; OTHER'],
  ['a pod link renamed', 'ip link set HOST down; ip link set HOST name other1; ip link set other1 up'],
  ['the overlay device renamed', 'ip link set weft0 down; ip link set weft0 name other1; ip link set other1 up'],
  ['learning of the overlay device on', 'ip link set weft0 type vxlan id 6784 learning'],
  ['its TTL changed', 'ip link set weft0 type vxlan id 6784 ttl 1'],
  ['a default destination given to it', 'ip link set weft0 type vxlan id 6784 remote 192.0.2.77'],
  ['it bound to the underlay link', 'ip link set weft0 type vxlan id 6784 dev eth0'],
  ["another port in a peer's FDB entry", `${bySomebody}; bridge fdb replace $MAC dev weft0 dst 192.0.2.2 port 9999`],
  ['an FDB entry that ages', `${bySomebody}; bridge fdb replace $MAC dev weft0 dst 192.0.2.2 dynamic`],
  ['an FDB entry for every other MAC', 'bridge fdb append 00:00:00:00:00:00 dev weft0 dst 192.0.2.77'],
  [
    "a peer's neighbour no longer permanent",
    'set -- $(ip -6 neigh show dev weft0 nud permanent); ip neigh replace $1 lladdr $3 dev weft0 nud reachable',
  ],
  ['a wrong neighbour for a pod', 'ip neigh replace 10.32.0.10 lladdr 02:00:00:00:00:99 dev HOST nud permanent'],
  [
    'a nexthop on another link',
    `${bySomebody}; ip nexthop replace id $ID via $(ip nexthop | grep -m1 weft0 | cut -d' ' -f4) dev eth0 onlink proto 87`,
  ],
  ['a block route replaced as anybody does', 'ip route replace 10.40.0.0/14 via 192.0.2.200'],
  ['a pod route replaced as anybody does', 'ip route replace 10.32.0.10 dev eth0'],
  [
    'an IPv6 block route replaced as anybody does',
    'ip -6 route replace fd42:0:0:4000::/50 via fe80::c8 dev eth0 metric 1024',
  ],
  ['the table made dormant', "nft add table inet weft '{ flags dormant; }'"],
  ['a rule replaced under its comment', replaceRule('prerouting_raw', '@sources4 accept')],
  [
    'the ruleset saved, edited and loaded',
    "nft list ruleset | sed 's/@sources4 accept/@sources4 drop/' >FILE; nft flush ruleset; nft -f FILE",
  ],
  ['an IPv6 pod route deleted', 'ip -6 route del fd42::a'],
  ['the IPv6 gateway deleted', 'ip address del fe80::457:65ff:fe66:7401/64 dev HOST'],
  ['IPv6 sources flushed', 'nft flush set inet weft sources6'],
  ['advertisements of a pod accepted', 'sysctl -qw net.ipv6.conf.HOST.accept_ra=2'],
];

const bridged: readonly Fault[] = [
  ...both,
  ['IPv6 of the bridge switched off', 'sysctl -qw net.ipv6.conf.weftbr0.disable_ipv6=1'],
  ['forwarding from the bridge switched off', 'sysctl -qw net.ipv4.conf.weftbr0.forwarding=0'],
  ['ARP of the bridge off', 'ip link set weftbr0 arp off'],
  ['the bridge renamed', 'ip link set weftbr0 down; ip link set weftbr0 name other1; ip link set other1 up'],
  ['a port moved to a foreign bridge', 'ip link add other0 type bridge; ip link set HOST master other0; OTHER'],
  ['a port disabled', 'bridge link set dev HOST state 0'],
  ['a port isolated', 'bridge link set dev HOST isolated on'],
  ['broadcasts kept from a port', 'bridge link set dev HOST flood off bcast_flood off mcast_flood off'],
  ['neighbour suppression on', 'bridge link set dev HOST neigh_suppress on'],
  ["a pod's MAC at another port", 'bridge fdb replace 0a:58:0a:20:00:0a dev SECOND master static'],
  ["a pod's MAC as the host's own", 'bridge fdb replace 0a:58:0a:20:00:0a dev HOST master local'],
  ['a wrong neighbour for a pod', 'ip neigh replace 10.32.0.10 lladdr 02:00:00:00:00:99 dev weftbr0 nud permanent'],
  ['the table of the bridge made dormant', "nft add table bridge weft '{ flags dormant; }'"],
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

/** Without order, numbers that the kernel chose, a bridge's clocks, which of its ports' equal MACs it noted, and when it made anycasts. */
function still(text: string): string {
  const plain = text
    .replaceAll(/^\d+: |^ +bridge .*$|^ +bridge_slave .*$|^06:57:65:66:74:01 .* permanent$|^anycast fe80:: .*$/gm, '')
    .replaceAll(/\b(nhid|id) 14\d{8}\b/g, '$1 ID');
  return plain
    .split('\n')
    .filter((line) => line !== '')
    .toSorted()
    .join('\n');
}

describe.each([
  ['routed pods', 'weft0', { families: [4, 6] }, routed],
  ['pods on a bridge', 'weftbr0', { families: [4, 6], settings: { podLink: 'bridge' } }, bridged],
] as readonly (readonly [string, string, HostOptions, readonly Fault[]])[])('%s', (_mode, device, options, faults) => {
  let lab: Lab;
  let host: LabHost;
  let near: Pod;
  let second: Pod;
  let far: Pod;

  beforeAll(async () => {
    lab = await Lab.create(2, { ...options, settings: { ...options.settings, comparePeriodMs: 600_000 } });
    host = lab.host(0);
    near = await host.addPod();
    second = await host.addPod();
    far = await lab.host(1).addPod();
    // The first round makes the devices, the second knows their numbers.
    await until('the second round is done', async () => host.datapath.status().reconciles > 1);
  });
  afterAll(async () => lab[Symbol.asyncDispose]());

  it.each(faults)('%s', async (_what, command) => {
    const before = still(await snapshot(host.netns));
    const spelled = Object.entries({
      HOST: near.link.hostIfname,
      SECOND: second.link.hostIfname,
      DEVICE: device,
      FILE: `/run/netns/rules-${near.link.hostIfname}`,
      // What is not ours stays, and goes for the comparison.
      OTHER: '(sleep 4; ip link del other0) >/dev/null 2>&1 &',
    }).reduce((text, [word, meaning]) => text.replaceAll(word, meaning), command);
    await host.netns.exec(['sh', '-ec', spelled]);
    // No notification tells of a sysctl.
    const withinMs = /sysctl/.test(command) ? 30_000 : 15_000;
    await until('the namespace is as before', async () => still(await snapshot(host.netns)) === before, withinMs).catch(
      async () => expect(still(await snapshot(host.netns))).toBe(before),
    );
    const isReached = async (address = ''): Promise<boolean> => ping(near.netns, address).then(Boolean, () => false);
    for (const address of far.lease.addresses)
      await until(`${address} is reached`, async () => isReached(address), withinMs);
    expect(await host.datapath.check(near.request)).toEqual([]);
  });
});
