// Pods in an Ethernet segment outside (`ipam.type: dhcp`): a bridge of their own whose other port is a card of the node. Planning;
// segment.ts writes.
//
//   pod netns                              host                                    wire
//   eth0 192.168.7.20/24 ── veth ── weftsXXXX ─┐
//   default via 192.168.7.1                     ├─ weftbr1 (no address, no ARP) ── eth1 ── switch, DHCP server, router
//   eth0 192.168.7.21/24 ── veth ── weftsYYYY ─┘
//
// Nothing of the host is in that segment: the bridge has no address, answers no ARP, and what it would hand to the host, or the host to
// it, is dropped. So the node draws nobody's traffic, and to it these pods are neighbours behind their router like any other
// machine. A pod says nothing in another's name: its own MAC, the address of its lease, and questions to DHCP servers.
import { type AttachmentKey, dhcpPlugin, type Lease, unknownDelegate } from '#agent/runtime/ipam.ts';
import { addressOf, prefixLengthOf } from './cidr.ts';
import { hashedMac } from './identity.ts';
import { renderTable, type Chain, type RenderedTable } from './ruleset.ts';

/** Name of the bridge; ours by name. */
export const segmentDevice = 'weftbr1';
/** Prefix of the host ends of its pods' veths; as long as `podLinkPrefix`. */
export const segmentPrefix = 'wefts';
/** Name of its nft table, family bridge. */
export const segmentTable = 'weft_segment';

/** The pod's MAC, which must be known before its address: of the attachment, unicast, locally administered. */
export function segmentMac({ containerId, ifname }: AttachmentKey): string {
  return hashedMac(`segment/${containerId}/${ifname}`);
}

const aliasMagic = 'weft:1:segment';

/** What the host end of a pod's link says: whose it is, by which a lost lease is made anew. At most 255 bytes (linux/if.h, IFALIASZ). */
export function segmentAlias({ containerId, ifname, generation, addresses }: Omit<KeptLink, 'hostIfname'>): string {
  const rest = `${ifname} ${generation} ${addresses.join(',') || '-'}`;
  // CNI has no limit for an id; the kernel has one for an alias.
  return `${aliasMagic} ${containerId.slice(0, 254 - aliasMagic.length - 1 - rest.length)} ${rest}`;
}

/** What of a lease is on its link. */
type KeptLink = Pick<Lease, 'containerId' | 'ifname' | 'generation' | 'addresses' | 'hostIfname'>;

/**
 * The lease of a link whose alias says it, as if made at `nowMs` (since the epoch); what the plugin was called with is lost. Undefined where
 * the alias is none of ours, or of a link that had no address yet. `mac` undefined: not known.
 */
export function leaseOfLink(
  { ifname: hostIfname = '', ifalias = '' }: { readonly ifname?: string; readonly ifalias?: string },
  mac: string | undefined,
  nowMs: number,
): Lease | undefined {
  const [magic, containerId, ifname, generation, addresses, ...more] = ifalias.split(' ');
  if (magic !== aliasMagic || more.length > 0) return undefined;
  if (!containerId || !ifname || !generation || !addresses || addresses === '-') return undefined;
  return {
    containerId,
    ifname,
    generation,
    addresses: addresses.split(','),
    hostIfname,
    owner: { network: 'weft', netnsPath: '', netnsInode: 0n },
    state: 'active',
    sinceMs: nowMs,
    link: { mac: mac ?? segmentMac({ containerId, ifname }) },
    delegate: { ...unknownDelegate, type: dhcpPlugin },
  };
}

/** One pod's port; `addresses` are those that it may send from. */
export interface SegmentPort {
  readonly ifname: string;
  readonly mac: string;
  readonly addresses: readonly string[];
}

/** `table bridge weft_segment`; `uplink` '' where there is none. */
export function segmentRuleset(ports: readonly SegmentPort[], uplink: string): RenderedTable {
  const sorted = ports.toSorted((left, right) => (left.ifname < right.ifname ? -1 : 1));
  const own = sorted.map(({ ifname }) => `"${ifname}" : goto ${ifname}`);
  const drop = 'counter name "spoofed" drop';
  // Not by the bridge's name: kernels without nft_meta_bridge do not know it.
  const every = [...(uplink === '' ? [] : [uplink]), `${segmentPrefix}*`].map((name) => `"${name}"`).join(', ');
  const chains: Chain[] = [
    ...sorted.map((port) => ({ name: port.ifname, rules: portRules(port, drop) })),
    {
      name: 'prerouting',
      base: { type: 'filter', hook: 'prerouting', prio: -300 },
      rules: [...(own.length > 0 ? [`iifname vmap { ${own.join(', ')} }`] : []), `iifname "${segmentPrefix}*" ${drop}`],
    },
    ...(['input', 'output'] as const).map((hook) => ({
      name: hook,
      base: { type: 'filter', hook, prio: -300 },
      rules: [`${hook === 'input' ? 'iifname' : 'oifname'} { ${every} } drop`],
    })),
  ];
  return renderTable('bridge', segmentTable, ['counter spoofed { }'], chains);
}

function portRules({ mac, addresses }: SegmentPort, drop: string): readonly string[] {
  return [
    `ether saddr != ${mac} ${drop}`,
    // Also for renewals and releases: the plugin's daemon sends them from 0.0.0.0.
    'ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept',
    // Nobody takes a pod for the segment's DHCP server.
    `udp sport 67 ${drop}`,
    ...addresses.flatMap((address) => [
      `ip saddr ${address} accept`,
      `arp saddr ether ${mac} arp saddr ip ${address} accept`,
    ]),
    // Whoever asks whether an address is free.
    `arp operation request arp saddr ether ${mac} arp saddr ip 0.0.0.0 accept`,
    // The plugin gives IPv4 alone; a kernel says a few things in IPv6 unasked.
    'ether type ip6 drop',
    drop,
  ];
}

/** What of a link decides whether it can be the uplink. */
export interface UplinkFacts {
  readonly isEthernet: boolean;
  readonly isLoopback: boolean;
  /** With prefix length, those of link scope left out. */
  readonly addresses: readonly string[];
  /** Name of the link whose port it is; '' without one. */
  readonly master: string;
}

/** Why the link cannot be a port of the bridge; undefined when it can. `facts` undefined: there is no such link. */
export function uplinkProblem(name: string, facts: UplinkFacts | undefined): string | undefined {
  if (facts === undefined) return `there is no link ${name}`;
  if (!facts.isEthernet || facts.isLoopback) return `${name} is no Ethernet link`;
  if (facts.addresses.length > 0) {
    return `${name} has ${facts.addresses.join(' and ')}, which the node would lose; give Weft a link without addresses (a second card, or a VLAN link)`;
  }
  if (facts.master !== '' && facts.master !== segmentDevice) return `${name} is a port of ${facts.master}`;
  return undefined;
}

/** What the server said beyond the addresses. */
export interface SegmentGift {
  /** The pod's addresses with their prefix lengths. */
  readonly cidrs: readonly string[];
  readonly gateway: string | undefined;
  /** `gw` absent: on the link. */
  readonly routes: readonly { readonly dst: string; readonly gw?: string }[];
}

/** Where the default route leads, and the other routes, each with a canonical destination. */
export function routesOf({ gateway, routes }: SegmentGift): {
  readonly defaultGateway: string | undefined;
  readonly others: readonly { readonly dst: string; readonly gw?: string }[];
} {
  const isDefault = ({ dst }: { readonly dst: string }): boolean => prefixLengthOf(dst) === 0;
  const named = routes.find(isDefault);
  const others = routes.filter((route) => !isDefault(route) && !addressOf(route.dst).includes(':'));
  return { defaultGateway: named && (named.gw ?? gateway), others };
}
