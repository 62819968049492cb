// Whether the kernel can do what the datapath needs, found by doing it once with objects that carry no traffic: two links that stay
// down and a table of rules that match nothing. They are taken away again at once.

import type { KernelIo } from '#agent/datapath/kernel-io.ts';
import { toWeftError } from '#agent/errors.ts';
import type { Condition } from '#agent/findings.ts';
import { delLink, newLink } from '#agent/netlink/link.ts';
import { dumpNexthops } from '#agent/netlink/nexthop.ts';
import type { NetlinkRequest } from '#agent/netlink/message.ts';

/** Names of the passing objects. */
export const checkNames = {
  overlay: 'weft-check0',
  veth: 'weft-check1',
  vethPeer: 'weft-check2',
  table: 'weft_check',
} as const;
const { overlay, veth, vethPeer, table } = checkNames;

const ruleset = `table inet ${table} {
  set addresses { type ipv4_addr; }
  set pairs { type ether_addr . ipv4_addr; flags interval; }
  set sources { type iface_index . ipv4_addr; }
  counter dropped { }
  chain raw {
    type filter hook prerouting priority -300; policy accept;
    iifname "${overlay}" ip saddr @addresses notrack
    iifname "${overlay}" th dport 1 iif . ip saddr @sources accept
    iifname "${overlay}" ether saddr . ip saddr != @pairs fib daddr type local counter name "dropped" drop
  }
  chain nat {
    type nat hook postrouting priority 100; policy accept;
    iifname "${overlay}" oifname "${overlay}" masquerade fully-random
    iifname "${overlay}" oifname "${overlay}" snat ip to 192.0.2.1
    iifname "${overlay}" oifname "${overlay}" drop
  }
}`;

type Feature = readonly [what: string, attempt: (io: KernelIo) => void];

const request = (io: KernelIo, message: NetlinkRequest<unknown>): void => {
  io.route.batchOrThrow([message]);
};

const features: readonly Feature[] = [
  [
    'VXLAN devices (module vxlan)',
    (io) =>
      request(
        io,
        newLink({ ifname: overlay, linkinfo: { kind: 'vxlan', data: { id: 1, port: 49_151, learning: false } } }),
      ),
  ],
  [
    'veth pairs (module veth)',
    (io) => request(io, newLink({ ifname: veth, linkinfo: { kind: 'veth', data: { peer: { ifname: vethPeer } } } })),
  ],
  ['nexthop objects (Linux 5.3 and later)', (io) => void io.route.dump(dumpNexthops())],
  [
    'nftables with conntrack, NAT and fib (modules nf_tables, nft_ct, nft_nat, nft_masq, nft_fib_inet)',
    (io) => void io.nft.run(ruleset),
  ],
];

/** A finding for each feature that the kernel refuses, with its words. */
export function kernelConditions(io: KernelIo): readonly Condition[] {
  const findings: Condition[] = [];
  const tidy = (): void => {
    io.route.batch([delLink({ ifname: overlay }), delLink({ ifname: veth })]);
    try {
      io.nft.run(`table inet ${table}\ndelete table inet ${table}`);
    } catch {
      // Without nftables there is nothing to take away.
    }
  };
  tidy();
  for (const [what, attempt] of features) {
    try {
      attempt(io);
    } catch (error) {
      findings.push({ name: 'kernelFeatureMissing', subject: what, message: toWeftError(error).message });
    }
  }
  tidy();
  return findings;
}
