// The checks of a host: from facts to findings (agent/findings.ts has the words). Pure, so that `weft doctor` before an installation
// and the running agent say the same.

import { basename } from 'node:path';

import { cidrContains, familyOf, subtractCidrs } from '#agent/datapath/cidr.ts';
import type { DatapathSettings } from '#agent/datapath/settings.ts';
import type { Condition } from '#agent/findings.ts';

import { type HostFacts, type LinkFact, linkWith } from './facts.ts';

export interface CheckedNode {
  readonly ranges: readonly string[];
  readonly reserved: readonly string[];
  /** This node's blocks: other plugins may have bridges with addresses out of them (Weft as their IPAM). */
  readonly ownBlocks: readonly string[];
  /** This node's underlay address; undefined before there is an agent. */
  readonly underlayAddress: string | undefined;
  /** Underlay address and name of every other node. */
  readonly peers: readonly { readonly nodeName: string; readonly underlayAddress: string | undefined }[];
  /** Machine ids by node name, where discovery knows them. */
  readonly machineIds: ReadonlyMap<string, string>;
  /** The API server's Service address (KUBERNETES_SERVICE_HOST); undefined outside Kubernetes. */
  readonly serviceAddress: string | undefined;
  /** What the cluster gives to Services, as far as it was asked, CIDRs and whose they are. */
  readonly serviceRanges: readonly { readonly cidr: string; readonly by: string }[];
  readonly conflistPath: string;
}

type Checked = Pick<
  DatapathSettings,
  'overlayDevice' | 'podLinkPrefix' | 'overlayMode' | 'vxlanPort' | 'vni' | 'mtuBytes'
>;

/** Every finding about this host. */
export function hostConditions(facts: HostFacts, node: CheckedNode, settings: Checked): readonly Condition[] {
  return [
    ...overlaps(facts, node, settings),
    ...port(facts, settings),
    ...underlay(facts, node, settings),
    ...clones(node),
    ...cni(facts, node),
    ...leftovers(facts, node),
  ];
}

const intersects = (left: string, right: string): boolean => cidrContains(left, right) || cidrContains(right, left);

function overlaps(facts: HostFacts, node: CheckedNode, settings: Checked): readonly Condition[] {
  const pool = subtractCidrs(node.ranges, node.reserved);
  const overlapped = (cidr: string): string | undefined =>
    pool.find((range) => familyOf(range) === familyOf(cidr) && intersects(range, cidr));
  const foreign = (ifname: string): boolean =>
    ifname !== settings.overlayDevice && !ifname.startsWith(settings.podLinkPrefix);
  // Links of other plugins may have addresses out of this node's blocks; what leads to another machine is of nobody here.
  const clash = (cidr: string, isVia = false): string | undefined => {
    if (cidr.endsWith('/0') || (!isVia && node.ownBlocks.some((block) => cidrContains(block, cidr)))) return undefined;
    return overlapped(cidr);
  };
  const findings = new Map<string, Condition>();
  for (const { dst, ifname, isVia } of facts.routes) {
    const range = foreign(ifname) ? clash(dst, isVia) : undefined;
    if (range === undefined) continue;
    const message = `the host's route to ${dst} (${ifname || 'no link'}) lies in the range ${range} of the pods`;
    findings.set(dst, { name: 'rangeOverlapsRoute', subject: dst, message });
  }
  for (const { ifname, cidrs } of facts.links.filter((link) => foreign(link.ifname))) {
    for (const cidr of cidrs) {
      const range = clash(cidr);
      if (range === undefined || [...findings.keys()].some((dst) => cidrContains(dst, cidr))) continue;
      const message = `the host's address ${cidr} on ${ifname} lies in the range ${range} of the pods`;
      findings.set(cidr, { name: 'rangeOverlapsRoute', subject: cidr, message });
    }
  }
  for (const { cidr, by } of node.serviceRanges) {
    const range = overlapped(cidr);
    if (range === undefined) continue;
    const message = `${cidr} is ${by}, and overlaps the range ${range} of the pods`;
    findings.set(`services ${cidr}`, { name: 'rangeOverlapsServices', subject: cidr, message });
  }
  const { serviceAddress } = node;
  const services = serviceAddress === undefined ? undefined : pool.find((range) => cidrContains(range, serviceAddress));
  if (serviceAddress !== undefined && services !== undefined) {
    const message = `the API server's Service address lies in the range ${services} of the pods`;
    findings.set('services', { name: 'rangeOverlapsServices', subject: serviceAddress, message });
  }
  return [...findings.values()];
}

function port(facts: HostFacts, settings: Checked): readonly Condition[] {
  const subject = `UDP ${settings.vxlanPort}`;
  // The kernel's own sockets, which VXLAN devices have, look like those of a program that cannot be seen from here.
  const byDevice = facts.links.some(({ vxlan }) => vxlan?.port === settings.vxlanPort);
  const seen = facts.portUsers.filter(({ pid }) => pid !== undefined || !byDevice);
  // A program has a socket for each family.
  const holders = new Set(seen.map(({ program, pid }) => (pid === undefined ? program : `${program} (pid ${pid})`)));
  const programs = Array.from(holders, (who): Condition => {
    return { name: 'vxlanPortTaken', subject, message: `${who} has a socket on the overlay's port` };
  });
  const devices = facts.links
    .filter(({ ifname, vxlan }) => ifname !== settings.overlayDevice && vxlan?.port === settings.vxlanPort)
    .filter(({ vxlan }) => vxlan?.vni === settings.vni || vxlan?.vni === 'every')
    .map(({ ifname, vxlan }): Condition => {
      const vni = vxlan?.vni === 'every' ? 'every VNI' : `VNI ${settings.vni}`;
      const message = `the VXLAN device ${ifname} has the overlay's port and ${vni}`;
      return { name: 'vxlanPortTaken', subject, message };
    });
  return [...programs, ...devices];
}

function underlay(facts: HostFacts, node: CheckedNode, settings: Checked): readonly Condition[] {
  const { underlayAddress } = node;
  const link = linkWith(facts.links, underlayAddress);
  if (underlayAddress === undefined || !link) return [];
  const findings: Condition[] = [];
  const most = link.mtuBytes - (familyOf(underlayAddress) === 4 ? 50 : 70);
  if (settings.mtuBytes > most) {
    const message = `the setting mtuBytes is ${settings.mtuBytes}, but the link's MTU of ${link.mtuBytes} leaves ${most}`;
    findings.push({ name: 'mtuTooLarge', subject: link.ifname, message });
  }
  if (settings.overlayMode === 'auto' && facts.rpFilter.get(link.ifname) === 1) {
    const message = 'the reverse path filter is strict: overlay mode auto stays on VXLAN';
    findings.push({ name: 'rpFilterStrict', subject: link.ifname, message });
  }
  return [...findings, ...sameLinkAddress(facts, node, link)];
}

/** Two peers, or a peer and this node, with one MAC. */
function sameLinkAddress(facts: HostFacts, node: CheckedNode, link: LinkFact): readonly Condition[] {
  const owners = new Map<string, string>([[link.mac, 'this node']]);
  const macs = new Map(
    facts.neighbours.filter(({ ifindex }) => ifindex === link.ifindex).map(({ address, mac }) => [address, mac]),
  );
  return node.peers.flatMap(({ nodeName, underlayAddress = '' }): readonly Condition[] => {
    const mac = macs.get(underlayAddress);
    const other = mac === undefined ? undefined : owners.get(mac);
    if (mac !== undefined && other === undefined) owners.set(mac, nodeName);
    if (other === undefined) return [];
    return [
      { name: 'duplicateLinkAddress', subject: nodeName, message: `${nodeName} and ${other} have the MAC ${mac}` },
    ];
  });
}

function clones(node: CheckedNode): readonly Condition[] {
  const owners = new Map<string, string>();
  return [...node.machineIds].flatMap(([nodeName, id]): readonly Condition[] => {
    const other = owners.get(id);
    if (other === undefined) {
      owners.set(id, nodeName);
      return [];
    }
    const message = `${nodeName} and ${other} have the same machine id`;
    return [{ name: 'duplicateMachineId', subject: nodeName, message }];
  });
}

function cni(facts: HostFacts, { conflistPath }: CheckedNode): readonly Condition[] {
  const own = basename(conflistPath);
  return facts.cniFiles.flatMap(({ name, fault }): readonly Condition[] => {
    if (fault !== '') return [{ name: 'cniConfigBroken', subject: name, message: fault }];
    if (name > own) return [];
    return [{ name: 'cniConfigFirst', subject: name, message: `it sorts before ${own}, so the runtime uses it` }];
  });
}

/** What only another pod network makes: its links, plugins and chains or tables. */
const formerNetworks: readonly {
  readonly network: string;
  readonly links: RegExp;
  readonly plugins: RegExp;
  readonly chains: RegExp;
}[] = [
  {
    network: 'flannel',
    links: /^flannel(?:\.\d+|-v6\.\d+|-wg(?:-v6)?|\.ipip)?$/,
    plugins: /^flannel$/,
    chains: /^(?:FLANNEL-|flannel-ipv[46]$)/,
  },
  {
    network: 'Weave Net',
    links: /^(?:weave|datapath|vxlan-6784|vethwe-(?:bridge|datapath))$/,
    plugins: /^weave-(?:net|ipam)$/,
    chains: /^WEAVE/,
  },
  {
    network: 'Calico',
    links: /^(?:cali[0-9a-f]{11}|vxlan(?:-v6)?\.calico)$/,
    plugins: /^calico(?:-ipam)?$/,
    chains: /^cali-/,
  },
  { network: 'Cilium', links: /^cilium_(?:net|host|vxlan)$/, plugins: /^cilium-cni$/, chains: /^CILIUM_/ },
];

function leftovers(facts: HostFacts, node: CheckedNode): readonly Condition[] {
  const found: Condition[] = [];
  const add = (subject: string, message: string): unknown => found.push({ name: 'leftoverNetwork', subject, message });
  for (const { network, links, plugins, chains } of formerNetworks) {
    for (const { ifname } of facts.links) if (links.test(ifname)) add(ifname, `a link of ${network}`);
    for (const { name, types } of facts.cniFiles) {
      if (types.some((type) => plugins.test(type))) add(name, `a network configuration of ${network}`);
    }
    const own = [...new Set(facts.chains.filter((chain) => chains.test(chain)))].toSorted();
    const [first] = own;
    if (first !== undefined) add(first, `a chain or table of ${network} in the packet filter, one of ${own.length}`);
  }
  // The bridge of flannel, and by default of the reference plugin, which may well have Weft's own addresses.
  for (const { ifname, cidrs } of facts.links) {
    const foreign = cidrs.some(
      (cidr) => familyOf(cidr) === 4 && !node.ownBlocks.some((block) => cidrContains(block, cidr)),
    );
    if (ifname === 'cni0' && foreign) add(ifname, 'a bridge of flannel or another network');
  }
  return found;
}
