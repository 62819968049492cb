// The static part of `table inet weft` as text, and the fingerprint by which a loaded table is recognised. Pure.
//
// Each rule carries a comment with a hash of its own text (and of the constant sets it reads), so that one listing tells
// whether every rule is there, in order and of this version: no reference copy is needed, and a table that a predecessor
// of the same version left is adopted as it is, counters included.
import { createHash } from 'node:crypto';

import { familyOf } from './cidr.ts';
import type { Ruleset } from './objects.ts';
import { declarationOf, setNames, tableOf } from './set-shapes.ts';

export interface RulesetInput {
  readonly table: string;
  readonly overlayDevice: string;
  /** Numbers of the overlay device and of the link with the underlay address; a wrong one, or none, makes no difference but time. */
  readonly overlayIfindex: number;
  readonly underlayIfindex: number | undefined;
  readonly podLinkPrefix: string;
  readonly vxlanPort: number;
  readonly vni: number;
  readonly overlayAddresses: readonly string[];
  /** The pool without its reserved ranges, CIDRs. */
  readonly overlayRanges: readonly string[];
  readonly nonMasqueradeCidrs: readonly string[];
  readonly masquerade: boolean;
  /** Link on which pods of peers may arrive without the overlay; undefined: none (overlay mode `vxlan`). */
  readonly directLink: string | undefined;
  /** The bridge that pods are ports of; undefined: none. */
  readonly bridgeDevice: string | undefined;
}

/** One chain as it is rendered. */
export interface Chain {
  readonly name: string;
  /** The hook line of a base chain and how a listing names it. */
  readonly base?: { readonly type: string; readonly hook: string; readonly prio: number };
  readonly rules: readonly string[];
}

/** Named counters, as an operator sees them in `nft list counters table inet weft`. */
const counterNames = [
  'pod_spoofed',
  'pod_to_loopback',
  'vxlan_stranger',
  'vxlan_from_pod',
  'direct_stranger',
  'pod_redirect',
] as const;

/** Changes of peers ask for the same one again and again. */
let last: { readonly key: string; readonly ruleset: Ruleset } | undefined;

/** Renders the table without the elements of the moving sets. */
export function renderRuleset(input: RulesetInput): Ruleset {
  const key = JSON.stringify(input);
  if (last?.key !== key) last = { key, ruleset: render(input) };
  return last.ruleset;
}

function render(input: RulesetInput): Ruleset {
  const constants = {
    overlay4: input.overlayRanges.filter((cidr) => familyOf(cidr) === 4),
    overlay6: input.overlayRanges.filter((cidr) => familyOf(cidr) === 6),
    plain4: input.nonMasqueradeCidrs.filter((cidr) => familyOf(cidr) === 4),
    plain6: input.nonMasqueradeCidrs.filter((cidr) => familyOf(cidr) === 6),
  };
  const lines: string[] = counterNames.map((name) => `counter ${name} { }`);
  lines.push(...setNames.filter((set) => tableOf(set) === 'inet').map(declarationOf));
  for (const [name, cidrs] of Object.entries(constants)) {
    const elements = cidrs.length > 0 ? ` elements = { ${cidrs.join(', ')} };` : '';
    lines.push(
      `set ${name} { type ${name.endsWith('4') ? 'ipv4_addr' : 'ipv6_addr'}; flags constant, interval;${elements} }`,
    );
  }
  const chains = chainsOf(input);
  const rendered = renderChains(chains, constants);
  lines.push(...rendered.lines);
  const fingerprint = [...rendered.fingerprint];
  let bridgeBody: string | undefined;
  if (input.bridgeDevice !== undefined) {
    const bridge = renderChains(bridgeChains(input), {}, bridgeMark);
    fingerprint.push(...bridge.fingerprint);
    const declared = setNames.filter((set) => tableOf(set) === 'bridge').map(declarationOf);
    bridgeBody = ['counter pod_spoofed { }', ...declared, ...bridge.lines].join('\n');
  }
  return { body: lines.join('\n'), bridgeBody, fingerprint: orderFingerprint(fingerprint) };
}

/** A table that is always loaded whole: nft's text, which replaces what is there, and what a listing of it must come to. */
export interface RenderedTable {
  readonly text: string;
  readonly fingerprint: readonly string[];
}

/** Renders a table of its own; `objects` are declarations that come before its chains. */
export function renderTable(
  family: 'bridge',
  table: string,
  objects: readonly string[],
  chains: readonly Chain[],
): RenderedTable {
  const { lines, fingerprint } = renderChains(chains, {}, bridgeMark);
  const anew = [`table ${family} ${table}`, `delete table ${family} ${table}`, `table ${family} ${table} {`];
  return { text: [...anew, ...objects, ...lines, '}'].join('\n'), fingerprint: orderFingerprint(fingerprint) };
}

/** What sets the chains of the table of family bridge apart in a fingerprint. */
export const bridgeMark = 'bridge/';

/** True where the table of family bridge is there. */
export function hasBridgeTable({ fingerprint }: Pick<Ruleset, 'fingerprint'>): boolean {
  return fingerprint.some((line) => line.includes(` ${bridgeMark}`));
}

function renderChains(
  chains: readonly Chain[],
  constants: Readonly<Record<string, readonly string[]>>,
  mark = '',
): { readonly lines: readonly string[]; readonly fingerprint: readonly string[] } {
  const lines: string[] = [];
  const fingerprint: string[] = [];
  for (const { name, base } of chains) if (!base) lines.push(`chain ${name} { }`);
  for (const chain of chains) {
    const shown = `${mark}${chain.name}`;
    fingerprint.push(chainPrint({ ...chain, name: shown }));
    lines.push(`chain ${chain.name} {`);
    if (chain.base) {
      lines.push(`  type ${chain.base.type} hook ${chain.base.hook} priority ${chain.base.prio}; policy accept;`);
    }
    for (const rule of chain.rules) {
      const comment = commentOf(rule, constants);
      fingerprint.push(rulePrint(shown, comment));
      lines.push(`  ${rule} comment "${comment}"`);
    }
    lines.push('}');
  }
  return { lines, fingerprint };
}

/** How a chain shows in a fingerprint. */
export function chainPrint(chain: Pick<Chain, 'name' | 'base'>): string {
  return chain.base
    ? `chain ${chain.name} ${chain.base.type} ${chain.base.hook} ${chain.base.prio} accept`
    : `chain ${chain.name}`;
}

/** How a rule shows in a fingerprint. */
export function rulePrint(chainName: string, comment: string | undefined): string {
  return `rule ${chainName} ${comment ?? 'foreign'}`;
}

function chainOf(line: string): string {
  return line.split(' ')[1] ?? '';
}

/** Lines grouped by chain name, each chain's own order kept: independent of the order in which chains are listed. */
export function orderFingerprint(lines: readonly string[]): readonly string[] {
  return lines.toSorted((left, right) =>
    chainOf(left) < chainOf(right) ? -1 : chainOf(left) > chainOf(right) ? 1 : 0,
  );
}

function commentOf(rule: string, constants: Readonly<Record<string, readonly string[]>>): string {
  const hash = createHash('sha256').update(rule);
  for (const [name, cidrs] of Object.entries(constants)) {
    if (rule.includes(`@${name}`)) hash.update(`\n${name} ${cidrs.join(' ')}`);
  }
  return `weft:${hash.digest('hex').slice(0, 12)}`;
}

/*
 *  wire ─▶ prerouting_raw ─▶ underlay_in ─▶ vxlan_in: a peer, untracked; anybody else a counted drop
 *                            a pod's source without the overlay: from its owner's link address, or a counted drop
 *  pod ──▶ prerouting_raw:   a lease's own address, or a counted drop in pod_stranger; VXLAN never to a node
 *          postrouting_nat:  the host's own sources become its overlay address; pods leaving the overlay are masqueraded
 *
 *  Nothing that a pod sends may reach a peer's VXLAN port with a node's address as its source, because that peer would believe it.
 *  What a pod sends there itself ends in vxlan_elsewhere; what NAT would send there never becomes a connection (vxlanNatChains).
 *
 *  All but the NAT chains run for every packet, a packet from pod to pod of another node through four of them, so what they ask is
 *  counted (docs/performance.md): entering a chain costs about 25 ns, the name of a link as much, a look into a set 25, a port 15,
 *  a comparison 3. Hence: the links that most packets come by are told by their numbers and a pod's link and address in one look,
 *  a rule that seldom holds compares bytes and leaves it to its chain whether they mean that, and what is true of a whole connection
 *  is asked of its first packet, in a NAT chain. Where a number is not known, or not any more, the same questions are asked by name.
 */
function chainsOf(input: RulesetInput): readonly Chain[] {
  const { overlayIfindex, underlayIfindex, directLink } = input;
  const pods = `"${input.podLinkPrefix}*"`;
  // Frames of a bridge's ports come as from the bridge; whose they are is checked in the table of family bridge.
  const podsAndBridge = [pods, ...(input.bridgeDevice === undefined ? [] : [`"${input.bridgeDevice}"`])];
  const vxlan = `udp dport ${input.vxlanPort}`;
  return [
    {
      name: 'prerouting_raw',
      base: { type: 'filter', hook: 'prerouting', prio: -300 },
      rules: [
        ...(underlayIfindex === undefined ? [] : [`iif ${underlayIfindex} goto underlay_in`]),
        `th dport ${input.vxlanPort} jump vxlan_elsewhere`,
        `iif ${overlayIfindex} accept`,
        // The first byte of IPv4's destination.
        '@nh,128,8 127 jump to_loopback',
        'iif . ip saddr @sources4 accept',
        'iif . ip6 saddr @sources6 accept',
        `iifname ${pods} goto pod_stranger`,
        ...(directLink === undefined ? [] : [`iifname "${directLink}" goto underlay_in`]),
      ],
    },
    { name: 'underlay_in', rules: [`${vxlan} jump vxlan_in`, ...directRules(input)] },
    {
      name: 'vxlan_in',
      rules: [
        'ip saddr @peers4 notrack accept',
        'ip6 saddr @peers6 notrack accept',
        'fib daddr type local counter name "vxlan_stranger" drop',
      ],
    },
    {
      name: 'vxlan_elsewhere',
      rules: [
        'meta l4proto != udp return',
        ...podsAndBridge.map((link) => `iifname ${link} goto vxlan_of_pod`),
        'goto vxlan_in',
      ],
    },
    {
      name: 'vxlan_of_pod',
      rules: [
        'ip daddr @peers4 counter name "vxlan_from_pod" drop',
        'ip6 daddr @peers6 counter name "vxlan_from_pod" drop',
        'fib daddr type local counter name "vxlan_stranger" drop',
      ],
    },
    {
      // Links with host ports have route_localnet: without this, a pod could reach what listens on the node's 127.0.0.1.
      name: 'to_loopback',
      rules: podsAndBridge.map((link) => `iifname ${link} ip daddr 127.0.0.0/8 counter name "pod_to_loopback" drop`),
    },
    {
      name: 'pod_stranger',
      rules: ['ip6 saddr { ::, fe80::/10 } goto pod_link_local', 'counter name "pod_spoofed" drop'],
    },
    {
      name: 'pod_link_local',
      rules: ['icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept', 'drop'],
    },
    {
      name: 'output_raw',
      base: { type: 'filter', hook: 'output', prio: -300 },
      rules: [
        // The VNI (RFC 7348, section 5) tells the overlay's own packets of both families for less than a set of peers would.
        `${vxlan} @th,96,32 ${vniWord(input.vni)} notrack accept`,
        // Of a packet that br_netfilter has routed for DNAT the kernel believes that it came from where it goes to, and tells the pod
        // to use a peer's VTEP (ip6_rcv_core takes the input link from the route); IPv4 has a sysctl for it.
        ...podsAndBridge
          .slice(1)
          .map((link) => `icmpv6 type nd-redirect oifname ${link} counter name "pod_redirect" drop`),
      ],
    },
    ...vxlanNatChains(input),
    ...hostPortChains,
    {
      name: 'postrouting_nat',
      base: { type: 'nat', hook: 'postrouting', prio: 100 },
      rules: natRules(input),
    },
  ];
}

/**
 * What NAT would bring to a peer's VXLAN port with a node's address: a connection of a pod to anywhere outside the overlay, a Service
 * for example, and the answers to one that comes from a peer's VXLAN port (where masquerade has chosen that number), which no peer's
 * kernel begins. Each is refused with its first packet. Before others' NAT, whose decision would end the hook. Packets that conntrack
 * does not know keep the pod's address, and the peer drops them.
 */
function vxlanNatChains({ podLinkPrefix, vxlanPort }: RulesetInput): readonly Chain[] {
  const drop = 'counter name "vxlan_from_pod" drop';
  return [
    {
      name: 'vxlan_answers',
      base: { type: 'nat', hook: 'prerouting', prio: -101 },
      rules: [`udp sport ${vxlanPort} ip saddr @peers4 ${drop}`, `udp sport ${vxlanPort} ip6 saddr @peers6 ${drop}`],
    },
    {
      name: 'vxlan_translated',
      base: { type: 'nat', hook: 'postrouting', prio: 99 },
      rules: ([4, 6] as const).flatMap((family) => {
        const ip = family === 4 ? 'ip' : 'ip6';
        const outside = `udp dport ${vxlanPort} ${ip} daddr != @overlay${family}`;
        return [`${outside} ${ip} saddr @overlay${family} ${drop}`, `${outside} iifname "${podLinkPrefix}*" ${drop}`];
      }),
    },
  ];
}

/** The header's last four bytes: 24 bits of VNI and a reserved zero byte. */
function vniWord(vni: number): string {
  return `0x${(vni * 256).toString(16)}`;
}

/*
 *  pod ──▶ prerouting of the bridge, before it is bridged or routed ─▶ pod_ports: ARP and IP from an address of the lease, no
 *          advertisement of a router or redirect; link-local IPv6, which does not leave the node; a counted drop for the rest
 */
function bridgeChains({ podLinkPrefix }: RulesetInput): readonly Chain[] {
  return [
    {
      name: 'prerouting',
      base: { type: 'filter', hook: 'prerouting', prio: -300 },
      rules: [`iifname "${podLinkPrefix}*" jump pod_ports`],
    },
    {
      name: 'pod_ports',
      rules: [
        'ether type ip iifname . ip saddr @bridged4 return',
        'ether type arp iifname . arp saddr ip @bridged4 return',
        // Whoever asks whether an address is free.
        'ether type arp arp saddr ip 0.0.0.0 arp operation request return',
        'icmpv6 type { nd-router-advert, nd-redirect } drop',
        'ether type ip6 iifname . ip6 saddr @bridged6 return',
        'ether type ip6 ip6 saddr { ::, fe80::/10 } return',
        'counter name "pod_spoofed" drop',
      ],
    },
  ];
}

/** Modes with direct routes: a source of the overlay's ranges only from the link address of the peer that owns it. */
function directRules({ directLink, overlayRanges }: RulesetInput): readonly string[] {
  if (directLink === undefined) return [];
  return ([4, 6] as const)
    .filter((family) => overlayRanges.some((cidr) => familyOf(cidr) === family))
    .map((family) => {
      const ip = family === 4 ? 'ip' : 'ip6';
      const stranger = `ether saddr . ${ip} saddr != @direct${family} counter name "direct_stranger" drop`;
      return `${ip} saddr @overlay${family} ${stranger}`;
    });
}

/** New connections to an address of the node: a mapping that names the address goes before one for all addresses. */
const hostPortChains: readonly Chain[] = [
  {
    name: 'host_ports',
    rules: [
      'meta nfproto ipv4 dnat ip to ip daddr . meta l4proto . th dport map @ports_at4',
      'meta nfproto ipv6 dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports_at6',
      'meta nfproto ipv4 dnat ip to meta l4proto . th dport map @ports4',
      'meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @ports6',
    ],
  },
  ...(['prerouting', 'output'] as const).map((hook) => ({
    name: `${hook}_nat`,
    base: { type: 'nat', hook, prio: -100 },
    rules: ['fib daddr type local jump host_ports'],
  })),
];

/** Who reaches a pod by a host port and would not hear its answer: the pod itself, and the node by 127.0.0.1. */
function sourceRules(ip: 'ip' | 'ip6', overlayAddress: string): readonly string[] {
  const hairpin = `${ip} saddr . ${ip} daddr @hairpin${ip === 'ip' ? 4 : 6} snat ${ip} to ${overlayAddress}`;
  const loopback = `ip saddr 127.0.0.0/8 ip daddr @overlay4 snat ip to ${overlayAddress}`;
  return ip === 'ip' ? [hairpin, loopback] : [hairpin];
}

function natRules(input: RulesetInput): readonly string[] {
  const device = `"${input.overlayDevice}"`;
  const rules: string[] = [];
  for (const address of input.overlayAddresses) {
    const ip = familyOf(address) === 4 ? 'ip' : 'ip6';
    rules.push(...sourceRules(ip, address));
    rules.push(`oifname ${device} fib saddr type local ${ip} saddr != ${address} snat ${ip} to ${address}`);
    if (input.directLink === undefined) continue;
    const direct = `oifname "${input.directLink}" ${ip} daddr @overlay${familyOf(address)}`;
    rules.push(`${direct} fib saddr type local ${ip} saddr != ${address} snat ${ip} to ${address}`);
  }
  if (!input.masquerade) return rules;
  // Where bridged frames pass these hooks too (br_netfilter), what stays on the bridge, multicast above all, keeps its source.
  const outOf = [device, ...(input.bridgeDevice === undefined ? [] : [`"${input.bridgeDevice}"`])];
  const leaves = outOf.map((link) => `oifname != ${link}`).join(' ');
  for (const [ip, family] of [
    ['ip', 4],
    ['ip6', 6],
  ] as const) {
    // Addresses that another plugin gave: peers have no route to them either.
    rules.push(
      `iifname "${input.podLinkPrefix}*" oifname != "${input.podLinkPrefix}*" ${ip} saddr != @overlay${family} ` +
        `${ip} daddr != @plain${family} masquerade fully-random`,
    );
    if (!input.overlayRanges.some((cidr) => familyOf(cidr) === family)) continue;
    rules.push(
      `iifname != ${device} ${leaves} ${ip} saddr @overlay${family} ${ip} daddr != @overlay${family} ` +
        `${ip} daddr != @plain${family} masquerade fully-random`,
    );
  }
  return rules;
}
