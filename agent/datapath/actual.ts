// What of ours is in the kernel, read by dumps (the socket retries interrupted ones). Ours is what carries our route
// protocol number or sits on a link with our name; everything else is left out here, so that no later step can touch it.
import { dumpAddresses, scope } from '#agent/netlink/addr.ts';
import type { Address } from '#agent/netlink/addr.ts';
import { addrGenMode } from '#agent/netlink/link-af-spec.ts';
import { dumpLinks, isUp, linkFlag } from '#agent/netlink/link.ts';
import type { Link, LinkOwner } from '#agent/netlink/link.ts';
import { dumpFdb, dumpNeighbours, neighbourFlag, neighbourState } from '#agent/netlink/neighbour.ts';
import type { Neighbour } from '#agent/netlink/neighbour.ts';
import { dumpNexthops } from '#agent/netlink/nexthop.ts';
import type { Nexthop } from '#agent/netlink/nexthop.ts';
import { dumpRoutes, prefixOf, routeType } from '#agent/netlink/route.ts';
import type { Route } from '#agent/netlink/route.ts';

import { bridgeFrom, bridgeNetfilterSwitch, portEntryFrom, portOf } from './bridge-io.ts';
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
  HeldNeighbour,
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

export function factsOf({ ifindexes, underlay, hostRpFilter }: KernelReading): KernelFacts {
  return { ifindexes, underlay, hostRpFilter };
}

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
  const pods = links.filter((link) => isPodLink(link, settings));
  const own = [...pods, ...(overlay ? [overlay] : []), ...(bridge ? [bridge] : [])];
  const ours = new Set(own.map((link) => link.ifiIndex));
  const addresses = await io.route.dumpAsync(dumpAddresses(), signal);
  const routes = await io.route.dumpAsync(dumpRoutes({ rtmProtocol: settings.routeProtocol }), signal);
  const nexthops = await io.route.dumpAsync(dumpNexthops(), signal);
  const ownNexthops = nexthops.filter((nexthop) => nexthop.nhProtocol === settings.routeProtocol);
  const neighbours = await io.route.dumpAsync(dumpNeighbours(), signal);
  const fdb = overlay ? await io.route.dumpAsync(dumpFdb({ ndmIfindex: overlay.ifiIndex }), signal) : [];
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
    neighbours: neighbours.flatMap((neighbour) => neighbourFrom(neighbour, overlay)),
    heldNeighbours: neighbours
      .filter(({ ndmIfindex }) => ours.has(ndmIfindex) && ndmIfindex !== overlay?.ifiIndex)
      .flatMap((neighbour) => heldFrom(neighbour, names)),
    fdb: fdb.flatMap((entry) => fdbFrom(entry, overlay)),
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
      neighbours: underlayNeighbours(settings, underlay.link, neighbours),
    },
    foreignChains: firewall.foreignChains,
    hasTable: firewall.hasTable,
    bridgeNetfilter: io.readSysctl(bridgeNetfilterSwitch) !== undefined,
    hostRpFilter: readHostRpFilter(io),
  };
}

/** The host end of a pod's link, by its look. */
export function isPodLink({ ifname, linkinfo }: LinkOwner, settings: Pick<DatapathSettings, 'podLinkPrefix'>): boolean {
  return ifname?.startsWith(settings.podLinkPrefix) === true && linkinfo?.kind === 'veth';
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
    up: isUp(link),
    rpFilter: link.afSpec?.inet?.conf?.rpFilter ?? 0,
    quietIpv6: isQuietIpv6(link),
    settled: isSettled(link) && (link.master ?? 0) === 0,
    plain:
      [data?.ttl, data?.tos, data?.df, data?.label, data?.link].every((value) => (value ?? 0) === 0) &&
      (data?.group ?? data?.group6) === undefined,
  };
}

/** A pod link's host end as planning sees it. */
function podLinkFrom(link: Link, settings: Pick<DatapathSettings, 'doomedGroup'>, bridge?: Link): ActualPodLink {
  return {
    ifname: link.ifname ?? '',
    alias: link.ifalias ?? '',
    mac: link.address ?? '',
    mtuBytes: link.mtu ?? 0,
    up: isUp(link),
    routeLocalnet: link.afSpec?.inet?.conf?.routeLocalnet === 1,
    doomed: link.group === settings.doomedGroup,
    bridge: portOf(link, bridge),
    ignoresAdvertisements: ipv6Conf(link, acceptRaAt) === 0,
    ipv6Off: ipv6Conf(link, disableIpv6At) !== 0,
    quietIpv6: isQuietIpv6(link),
    settled: isSettled(link),
  };
}

function isQuietIpv6({ afSpec }: Link): boolean {
  return (afSpec?.inet6?.addrGenMode ?? addrGenMode.none) === addrGenMode.none;
}

/** What a link of ours needs beyond being up, and nobody but a person takes away: packets from it are forwarded, and it does ARP. */
function isSettled(link: Link): boolean {
  return (link.ifiFlags & linkFlag.noarp) === 0 && link.afSpec?.inet?.conf?.forwarding !== 0;
}

/** Positions of DEVCONF_ACCEPT_RA and DEVCONF_DISABLE_IPV6 in IFLA_INET6_CONF, an array of 32-bit values (linux/ipv6.h). */
const acceptRaAt = 3;
const disableIpv6At = 26;

/** A value of net.ipv6.conf.<link>; 0 where the link has no IPv6. */
function ipv6Conf(link: Link, at: number): number {
  const conf = link.afSpec?.inet6?.conf;
  if (conf === undefined || conf.length < 4 * (at + 1)) return 0;
  return new DataView(conf.buffer, conf.byteOffset).getInt32(4 * at, true);
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
function underlayNeighbours(
  settings: DatapathSettings,
  link: Link,
  found: readonly Neighbour[],
): ReadonlyMap<string, string> {
  if (settings.overlayMode === 'vxlan') return new Map();
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

function heldFrom({ dst, ndmIfindex, ndmState }: Neighbour, names: ReadonlyMap<number, string>): HeldNeighbour[] {
  if (dst === undefined || (ndmState & neighbourState.permanent) === 0) return [];
  return [{ ifname: names.get(ndmIfindex) ?? '', address: dst }];
}

function fdbFrom(entry: Neighbour, overlay: Link | undefined): FdbEntry[] {
  if (entry.lladdr === undefined || entry.ndmIfindex !== overlay?.ifiIndex || !isOfDevice(entry)) return [];
  return [{ mac: entry.lladdr, underlayAddress: vtepFrom(entry) }];
}

/** An entry of the device itself, not of a bridge that it is a port of. */
export function isOfDevice({ ndmFlags }: Neighbour): boolean {
  return (ndmFlags & neighbourFlag.self) !== 0;
}

/** The underlay address of an FDB entry; an entry that does more, or goes by itself, has a text that none of ours has. */
export function vtepFrom({ dst = '', ndmState, port, vni, ifindex, nhId }: Neighbour): string {
  const isPlain = [port, vni, ifindex, nhId].every((value) => value === undefined);
  return isPlain && (ndmState & neighbourState.permanent) !== 0 ? dst : `${dst} altered`;
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
    up: isUp(link),
    cidrs: addresses
      .filter(({ ifaIndex }) => ifaIndex === link.ifiIndex)
      .map((address) => `${address.address ?? address.local}/${address.ifaPrefixlen}`),
  };
  return { link, facts };
}
