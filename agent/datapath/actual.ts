// What of ours is in the kernel, read by dumps (the socket retries interrupted ones). Ours is what carries our route
// protocol number or sits on a link with our name; everything else is left out here, so that no later step can touch it.
import { dumpAddresses, scope } from '#agent/netlink/addr.ts';
import type { Address } from '#agent/netlink/addr.ts';
import { addrGenMode } from '#agent/netlink/link-af-spec.ts';
import { dumpLinks, linkFlag } from '#agent/netlink/link.ts';
import type { Link } from '#agent/netlink/link.ts';
import { dumpFdb, dumpNeighbours, neighbourState } from '#agent/netlink/neighbour.ts';
import type { Neighbour } from '#agent/netlink/neighbour.ts';
import { dumpNexthops } from '#agent/netlink/nexthop.ts';
import type { Nexthop } from '#agent/netlink/nexthop.ts';
import { dumpRoutes, prefixOf, routeType } from '#agent/netlink/route.ts';
import type { Route } from '#agent/netlink/route.ts';

import { bridgeFrom, portEntryFrom, portOf } from './bridge-io.ts';
import { readFirewall } from './firewall.ts';
import { gatewayCidr } from './identity.ts';
import type { KernelIo } from './kernel-io.ts';
import type { NftChain } from './nft-objects.ts';
import type {
  ActualNeighbour,
  ActualOverlay,
  ActualPodLink,
  ActualRoute,
  ActualRouteTarget,
  ActualState,
  FdbEntry,
  LinkAddress,
} from './objects.ts';
import type { DatapathSettings } from './settings.ts';

export interface Underlay {
  readonly ifname: string;
  readonly ifindex: number;
  readonly mtuBytes: number;
  readonly up: boolean;
  /** Its addresses with prefix length. */
  readonly cidrs: readonly string[];
  /** Its neighbours' MACs by address; read only where direct routes are asked for. */
  readonly neighbours: ReadonlyMap<string, string>;
}

export interface KernelReading {
  readonly state: ActualState;
  /** Every link there is. */
  readonly links: readonly Link[];
  /** Ifindex of each link of ours and of the underlay's. */
  readonly ifindexes: ReadonlyMap<string, number>;
  /** The link that holds the underlay address. */
  readonly underlay: Underlay | undefined;
  /** Of nftables, all but those of our table. */
  readonly foreignChains: readonly NftChain[];
  /** Our table is there. */
  readonly hasTable: boolean;
  /** Bridged packets can pass conntrack: the kernel has br_netfilter. */
  readonly bridgeNetfilter: boolean;
  /** net.ipv4.conf.all.rp_filter: a link's own value cannot go below it. */
  readonly hostRpFilter: number;
}

/** What is still asked for when the round is over; the rest are thousands of objects. */
export type KernelFacts = Pick<KernelReading, 'ifindexes' | 'underlay' | 'hostRpFilter'>;

/** One reading. The dumps are one after the other: a change between two of them is put right by the next reading. */
export async function readKernel(
  io: KernelIo,
  settings: DatapathSettings,
  underlayAddress: string | undefined,
  signal?: AbortSignal,
): Promise<KernelReading> {
  const links = await io.route.dumpAsync(dumpLinks(), signal);
  const names = new Map(links.map((link) => [link.ifiIndex, link.ifname ?? '']));
  const overlay = links.find((link) => link.ifname === settings.overlayDevice);
  const bridge = links.find((link) => link.ifname === settings.bridgeDevice);
  const pods = links.filter(
    (link) => link.ifname?.startsWith(settings.podLinkPrefix) && link.linkinfo?.kind === 'veth',
  );
  const own = [...pods, ...(overlay ? [overlay] : []), ...(bridge ? [bridge] : [])];
  const ours = new Set(own.map((link) => link.ifiIndex));
  const addresses = await io.route.dumpAsync(dumpAddresses(), signal);
  const routes = await io.route.dumpAsync(dumpRoutes({ rtmProtocol: settings.routeProtocol }), signal);
  const nexthops = await io.route.dumpAsync(dumpNexthops(), signal);
  const ownNexthops = nexthops.filter((nexthop) => nexthop.nhProtocol === settings.routeProtocol);
  const onOverlay = overlay
    ? {
        neighbours: await io.route.dumpAsync(dumpNeighbours({ ifindex: overlay.ifiIndex }), signal),
        fdb: await io.route.dumpAsync(dumpFdb({ ndmIfindex: overlay.ifiIndex }), signal),
      }
    : { neighbours: [], fdb: [] };
  const portEntries = bridge ? await io.route.dumpAsync(dumpFdb({ master: bridge.ifiIndex }), signal) : [];
  const firewall = await readFirewall(io, settings.nftTable, (ifindex) => names.get(ifindex) ?? `#${ifindex}`, signal);
  const state: ActualState = {
    overlay: overlay && overlayFrom(overlay),
    bridge: bridge && bridgeFrom(io, bridge),
    portEntries: portEntries.flatMap((entry) => portEntryFrom(entry, names)),
    podLinks: pods.map((link) => podLinkFrom(link, settings, bridge)),
    addresses: addresses
      .filter((address) => ours.has(address.ifaIndex))
      .flatMap((address) => addressFrom(address, names)),
    nexthops: ownNexthops.map((nexthop) => ({ id: nexthop.id ?? 0, gateway: gatewayOf(nexthop, overlay, names) })),
    foreignNexthopIds: new Set(
      nexthops.filter(({ nhProtocol }) => nhProtocol !== settings.routeProtocol).map(({ id }) => id ?? 0),
    ),
    routes: routes
      .filter(({ rtmProtocol }) => rtmProtocol === settings.routeProtocol)
      .map((route) => routeFrom(route, names)),
    neighbours: onOverlay.neighbours.flatMap((neighbour) => neighbourFrom(neighbour, overlay)),
    fdb: onOverlay.fdb.flatMap((entry) => fdbFrom(entry, overlay)),
    firewall,
  };
  const underlay = underlayFrom(links, addresses, underlayAddress);
  const named = [...own, ...(underlay ? [underlay.link] : [])];
  return {
    state,
    links,
    ifindexes: new Map(named.map((link) => [link.ifname ?? '', link.ifiIndex])),
    underlay: underlay && {
      ...underlay.facts,
      neighbours: await underlayNeighbours(io, settings, underlay.link, signal),
    },
    foreignChains: firewall.foreignChains,
    hasTable: firewall.hasTable,
    bridgeNetfilter: io.readSysctl('net/bridge/bridge-nf-call-iptables') !== undefined,
    hostRpFilter: readHostRpFilter(io),
  };
}

export function readHostRpFilter(io: Pick<KernelIo, 'readSysctl'>): number {
  return Number(io.readSysctl('net/ipv4/conf/all/rp_filter') ?? 0);
}

/** The overlay device as planning sees it. */
export function overlayFrom(link: Link): ActualOverlay {
  const data = link.linkinfo?.kind === 'vxlan' ? link.linkinfo.data : undefined;
  return {
    ifname: link.ifname ?? '',
    kind: link.linkinfo?.kind === 'other' ? link.linkinfo.kindName : link.linkinfo?.kind,
    vni: data?.id,
    port: data?.port,
    local: data?.local ?? data?.local6,
    learning: data?.learning ?? false,
    external: data?.collectMetadata ?? false,
    mac: link.address ?? '',
    mtuBytes: link.mtu ?? 0,
    up: (link.ifiFlags & linkFlag.up) !== 0,
    rpFilter: link.afSpec?.inet?.conf?.rpFilter ?? 0,
    quietIpv6: (link.afSpec?.inet6?.addrGenMode ?? addrGenMode.none) === addrGenMode.none,
  };
}

/** A pod link's host end as planning sees it. */
export function podLinkFrom(link: Link, settings: Pick<DatapathSettings, 'doomedGroup'>, bridge?: Link): ActualPodLink {
  return {
    ifname: link.ifname ?? '',
    alias: link.ifalias ?? '',
    mac: link.address ?? '',
    mtuBytes: link.mtu ?? 0,
    up: (link.ifiFlags & linkFlag.up) !== 0,
    routeLocalnet: link.afSpec?.inet?.conf?.routeLocalnet === 1,
    doomed: link.group === settings.doomedGroup,
    bridge: portOf(link, bridge),
    ignoresAdvertisements: acceptRa(link) === 0,
  };
}

/** Position of DEVCONF_ACCEPT_RA in IFLA_INET6_CONF, an array of 32-bit values (linux/ipv6.h). */
const acceptRaAt = 3;

/** net.ipv6.conf.<link>.accept_ra; 0 where the link has no IPv6. */
function acceptRa(link: Link): number {
  const conf = link.afSpec?.inet6?.conf;
  if (conf === undefined || conf.length < 4 * (acceptRaAt + 1)) return 0;
  return new DataView(conf.buffer, conf.byteOffset).getInt32(4 * acceptRaAt, true);
}

function addressFrom(address: Address, names: ReadonlyMap<number, string>): LinkAddress[] {
  const cidr = `${address.local ?? address.address}/${address.ifaPrefixlen}`;
  const linkScope = address.ifaScope === scope.link;
  // The kernel's own link-local IPv6 address of an interface.
  if (linkScope && cidr.startsWith('fe80:') && cidr !== gatewayCidr(6)) return [];
  return [{ ifname: names.get(address.ifaIndex) ?? '', cidr, linkScope }];
}

function gatewayOf(
  nexthop: Nexthop,
  overlay: Link | undefined,
  names: ReadonlyMap<number, string>,
): string | undefined {
  const { gateway, oif = 0 } = nexthop;
  if (overlay?.ifiIndex === oif || gateway === undefined) return gateway;
  return `${gateway}%${names.get(oif) ?? ''}`;
}

/** MAC by address of what the kernel has found on the underlay link; nothing unless direct routes are asked for. */
async function underlayNeighbours(
  io: KernelIo,
  settings: DatapathSettings,
  link: Link,
  signal: AbortSignal | undefined,
): Promise<ReadonlyMap<string, string>> {
  if (settings.overlayMode === 'vxlan') return new Map();
  const found = await io.route.dumpAsync(dumpNeighbours({ ifindex: link.ifiIndex }), signal);
  return new Map(
    found.flatMap(({ dst, lladdr, ndmIfindex }) =>
      dst === undefined || lladdr === undefined || ndmIfindex !== link.ifiIndex ? [] : [[dst, lladdr] as const],
    ),
  );
}

/** A route as planning sees it; `names` by ifindex. */
export function routeFrom(route: Route, names: ReadonlyMap<number, string>): ActualRoute {
  return {
    dst: prefixOf(route),
    metric: route.priority ?? 0,
    table: route.table ?? route.rtmTable,
    target: targetFrom(route, names),
  };
}

function targetFrom(route: Route, names: ReadonlyMap<number, string>): ActualRouteTarget {
  if (route.rtmType === routeType.unreachable) return { kind: 'unreachable' };
  if (route.rtmType !== routeType.unicast) return { kind: 'other' };
  const { prefsrc } = route;
  if (route.nhId !== undefined) return { kind: 'nexthop', id: route.nhId, prefsrc };
  const ifname = route.oif === undefined ? undefined : names.get(route.oif);
  if (ifname === undefined || route.gateway !== undefined || route.multipath !== undefined) return { kind: 'other' };
  return { kind: 'link', ifname, prefsrc };
}

function neighbourFrom(neighbour: Neighbour, overlay: Link | undefined): ActualNeighbour[] {
  const { dst, lladdr, ndmIfindex, ndmState } = neighbour;
  if (dst === undefined || ndmIfindex !== overlay?.ifiIndex) return [];
  return [{ address: dst, mac: lladdr ?? '', permanent: (ndmState & neighbourState.permanent) !== 0 }];
}

function fdbFrom(entry: Neighbour, overlay: Link | undefined): FdbEntry[] {
  if (entry.lladdr === undefined || entry.ndmIfindex !== overlay?.ifiIndex) return [];
  return [{ mac: entry.lladdr, underlayAddress: entry.dst ?? '' }];
}

function underlayFrom(
  links: readonly Link[],
  addresses: readonly Address[],
  underlayAddress: string | undefined,
): { readonly link: Link; readonly facts: Omit<Underlay, 'neighbours'> } | undefined {
  if (underlayAddress === undefined) return undefined;
  const holder = addresses.find((address) => (address.local ?? address.address) === underlayAddress);
  const link = holder && links.find((candidate) => candidate.ifiIndex === holder.ifaIndex);
  if (!link) return undefined;
  const facts = {
    ifname: link.ifname ?? '',
    ifindex: link.ifiIndex,
    mtuBytes: link.mtu ?? 0,
    up: (link.ifiFlags & linkFlag.up) !== 0,
    cidrs: addresses
      .filter(({ ifaIndex }) => ifaIndex === link.ifiIndex)
      .map((address) => `${address.address ?? address.local}/${address.ifaPrefixlen}`),
  };
  return { link, facts };
}
