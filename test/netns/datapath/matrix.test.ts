// Who reaches whom, with which source address: every pair, in every mode and family, with every reverse path filter. One lab
// per mode; all pairs of a family are asked at once, and the receivers' own nft sets say which source each request came from.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { Family } from '#agent/datapath/cidr.ts';
import { familyOf } from '#agent/datapath/cidr.ts';
import { startProber } from '#agent/probe/prober.ts';
import type { Prober } from '#agent/probe/prober.ts';
import type { TestNetns } from '#test/support/netns.ts';

import { Lab, outsideAddress, outsideAddress6, ping, until } from './lab.ts';
import type { HostOptions, LabHost, Pod } from './lab.ts';

interface Flow {
  readonly what: string;
  readonly from: TestNetns;
  readonly to: string;
  /** Where the request must arrive, addressed to what, from which source. */
  readonly at: TestNetns;
  readonly seenTo: string;
  readonly source: string;
}

const auto = { overlayMode: 'auto', comparePeriodMs: 500 } as const;
const modes: readonly (readonly [string, HostOptions])[] = [
  ['routed pods, VXLAN over IPv4', { families: [4, 6], underlay: 4 }],
  ['routed pods, VXLAN over IPv6', { families: [4, 6], underlay: 6 }],
  ['routed pods, direct over IPv4', { families: [4, 6], settings: { overlayMode: 'direct' } }],
  ['routed pods, direct over IPv6', { families: [4, 6], underlay: 6, settings: { overlayMode: 'direct' } }],
  ['routed pods, auto over IPv4', { families: [4, 6], settings: auto }],
  ['routed pods, auto over IPv6', { families: [4, 6], underlay: 6, settings: auto }],
  ['pods on a bridge, VXLAN over IPv4', { families: [4, 6], settings: { podLink: 'bridge' } }],
  ['pods on a bridge, VXLAN over IPv6', { families: [4, 6], underlay: 6, settings: { podLink: 'bridge' } }],
  ['pods on a bridge, direct over IPv4', { families: [4, 6], settings: { podLink: 'bridge', overlayMode: 'direct' } }],
  [
    'pods on a bridge, direct over IPv6',
    { families: [4, 6], underlay: 6, settings: { podLink: 'bridge', overlayMode: 'direct' } },
  ],
  ['pods on a bridge, auto over IPv4', { families: [4, 6], settings: { ...auto, podLink: 'bridge' } }],
  ['routed IPv6 pods alone, VXLAN over IPv4', { families: [6], underlay: 4 }],
];

const outside = { 4: outsideAddress, 6: outsideAddress6 } as const;
const service = { 4: '10.96.0.10', 6: 'fd96::10' } as const;
const nodeService = { 4: '10.96.0.20', 6: 'fd96::20' } as const;

function addressOf(pod: Pod, family: Family): string {
  return pod.lease.addresses.find((address) => familyOf(address) === family) ?? '';
}

/** Notes source and destination of each echo request that arrives, of those marked by `unanswered`: probes send some too. */
async function record(netns: TestNetns): Promise<void> {
  await netns.exec([
    'nft',
    `table inet seen {
       set requests4 { type ipv4_addr . ipv4_addr; flags dynamic; }
       set requests6 { type ipv6_addr . ipv6_addr; flags dynamic; }
       chain input {
         type filter hook input priority 0;
         ip dscp cs1 icmp type echo-request update @requests4 { ip saddr . ip daddr }
         ip6 dscp cs1 icmpv6 type echo-request update @requests6 { ip6 saddr . ip6 daddr }
       }
     }`,
  ]);
}

async function recorded(netns: TestNetns, family: Family): Promise<ReadonlySet<string>> {
  const listed = await netns.json<{
    readonly nftables: readonly { readonly set?: { readonly elem?: readonly { readonly concat: string[] }[] } }[];
  }>(['sh', '-ec', `nft -j list set inet seen requests${family}; nft flush set inet seen requests${family}`]);
  const elements = listed.nftables.find((object) => object.set)?.set?.elem ?? [];
  return new Set(elements.map(({ concat }) => concat.join(' > ')));
}

/** What kube-proxy makes of a Service: a translated destination, and a hidden source where a pod is its own backend. */
async function serve(host: LabHost, family: Family, address: string, backend: string): Promise<void> {
  const ip = family === 4 ? 'ip' : 'ip6';
  const name = address.replaceAll(/[^0-9a-f]/g, '_');
  await host.netns.exec([
    'nft',
    `table ${ip} service_${name} {
       chain prerouting { type nat hook prerouting priority -100; ${ip} daddr ${address} dnat to ${backend}; }
       chain output { type nat hook output priority -100; ${ip} daddr ${address} dnat to ${backend}; }
       chain postrouting {
         type nat hook postrouting priority 90;
         ct status dnat ${ip} saddr ${backend} ${ip} daddr ${backend} masquerade
       }
     }`,
  ]);
}

/** Every address that pinged in vain, of all at once; one shell per sender. */
async function unanswered(flows: readonly Flow[]): Promise<readonly string[]> {
  const bySender = Map.groupBy(flows, ({ from }) => from);
  const lists = await Promise.all(
    [...bySender].map(async ([from, own]) => {
      const pings = own.map(({ to }) => `(ping -n -Q 0x20 -c 3 -i 0.05 -w 10 ${to} >/dev/null || echo ${to}) &`);
      const failed = (await from.exec(['sh', '-c', `${pings.join('\n')}\nwait`])).split('\n');
      return own.filter(({ to }) => failed.includes(to)).map(({ what }) => what);
    }),
  );
  return lists.flat();
}

describe.each(modes)('%s', (_mode, options) => {
  let lab: Lab;
  const families = options.families ?? [4];
  const pods: Pod[] = [];
  const probers: Prober[] = [];

  beforeAll(async () => {
    lab = await Lab.create(2, options);
    if (options.settings?.overlayMode === 'auto') await proveDirect();
    const [here, there] = [lab.host(0), lab.host(1)];
    pods.push(await here.addPod(), await here.addPod(), await there.addPod());
    for (const netns of [lab.outside, here.netns, there.netns, ...pods.map((pod) => pod.netns)]) await record(netns);
    for (const family of families) {
      await serve(here, family, service[family], addressOf(podAt(0), family));
      await serve(here, family, nodeService[family], addressOf(podAt(2), family));
      // Direct routes begin with a question for the peer's link address.
      const meet = async (from: TestNetns, to: string): Promise<boolean> =>
        ping(from, to).then(
          () => true,
          () => false,
        );
      await until('the nodes know each other', () => meet(podAt(0).netns, addressOf(podAt(2), family)), 15_000);
    }
  });
  afterAll(async () => {
    for (const prober of probers) prober.stop();
    await lab?.[Symbol.asyncDispose]();
  });

  /** Probes on both hosts, which find that packets go directly. */
  async function proveDirect(): Promise<void> {
    const log = { info: () => {}, warn: () => {} };
    for (const { datapath, netns } of lab.hosts) {
      const setDirect = datapath.setDirect.bind(datapath);
      probers.push(
        startProber({ scene: () => datapath.scene(), setDirect, netnsPath: netns.path, intervalMs: 300, log }),
      );
    }
    const isDirect = (prober: Prober): boolean => [...prober.paths().values()][0]?.via === 'direct';
    await until('both hosts send directly', async () => probers.every(isDirect), 30_000);
  }

  function podAt(index: number): Pod {
    const pod = pods[index];
    if (!pod) throw new Error(`no pod ${index}`);
    return pod;
  }

  function flows(family: Family): readonly Flow[] {
    const [here, there] = [lab.host(0), lab.host(1)];
    const [one, two, far] = [podAt(0), podAt(1), podAt(2)];
    const [a, b, c] = [addressOf(one, family), addressOf(two, family), addressOf(far, family)];
    const flow = (what: string, from: TestNetns, at: TestNetns, to: string, source: string, seenTo = to): Flow => {
      return { what, from, at, to, source, seenTo };
    };
    // What the kernel's masquerade picks among the node's addresses.
    const onBridge = options.settings?.podLink === 'bridge';
    const hidden = family === 4 && !onBridge ? here.wireAddress(4) : here.overlayOf(family);
    return [
      flow('pod to pod of the same node', one.netns, two.netns, b, a),
      flow('and back', two.netns, one.netns, a, b),
      flow('pod to pod of another node', one.netns, far.netns, c, a),
      flow('and back', far.netns, one.netns, a, c),
      flow('node to its own pod', here.netns, two.netns, b, here.overlayOf(family)),
      flow('node to a pod of another node', here.netns, far.netns, c, here.overlayOf(family)),
      flow('pod to its own node', one.netns, here.netns, here.wireAddress(family), a),
      flow('pod to its own node by its overlay address', one.netns, here.netns, here.overlayOf(family), a),
      flow('pod to another node', one.netns, there.netns, there.wireAddress(family), here.wireAddress(family)),
      flow('pod to another node by its overlay address', two.netns, there.netns, there.overlayOf(family), b),
      flow(
        'node to another node by its overlay address',
        here.netns,
        there.netns,
        there.overlayOf(family),
        here.overlayOf(family),
      ),
      flow('pod to outside', one.netns, lab.outside, outside[family], here.wireAddress(family)),
      flow('pod to itself through a Service', one.netns, one.netns, service[family], hidden, a),
      flow('pod to a pod of the same node through a Service', two.netns, one.netns, service[family], b, a),
      flow('pod to a pod of another node through a Service', one.netns, far.netns, nodeService[family], a, c),
      flow(
        'node to a pod of another node through a Service',
        here.netns,
        far.netns,
        nodeService[family],
        here.overlayOf(family),
        c,
      ),
    ];
  }

  async function expectAll(family: Family): Promise<void> {
    const wanted = flows(family);
    expect(await unanswered(wanted)).toEqual([]);
    const receivers = new Set(wanted.map(({ at }) => at));
    for (const at of receivers) {
      const mine = wanted.filter((flow) => flow.at === at);
      const seen = await recorded(at, family);
      expect([...seen].toSorted()).toEqual(
        [...new Set(mine.map((flow) => `${flow.source} > ${flow.seenTo}`))].toSorted(),
      );
    }
  }

  if (families.includes(4)) {
    it.each([0, 1, 2])('every pair of IPv4, rp_filter %i', async (rpFilter) => {
      for (const { netns } of lab.hosts) {
        const links = 'for file in /proc/sys/net/ipv4/conf/*/rp_filter; do';
        await netns.exec([
          'sh',
          '-ec',
          `${links} case $file in */weft0/*) ;; *) echo ${rpFilter} > $file;; esac; done`,
        ]);
      }
      await expectAll(4);
    });
  }
  if (families.includes(6)) it('every pair of IPv6', async () => expectAll(6));
});
