// Kernel notifications that mean "somebody changed what is ours": they ask for a round. Most notifications are echoes of
// our own writes; an object that is gone from the desired state, or a link that is right again when looked at, is none.
import type { WeftError } from '#agent/errors.ts';
import { scope } from '#agent/netlink/addr.ts';
import type { Address } from '#agent/netlink/addr.ts';
import { addressFamily } from '#agent/netlink/ip-text.ts';
import { isUp, linkFlag } from '#agent/netlink/link.ts';
import type { LinkSummary } from '#agent/netlink/link.ts';
import { NetlinkMonitor } from '#agent/netlink/monitor.ts';
import type { Notification } from '#agent/netlink/monitor.ts';
import { neighbourState } from '#agent/netlink/neighbour.ts';
import type { Neighbour } from '#agent/netlink/neighbour.ts';
import { prefixOf } from '#agent/netlink/route.ts';
import type { Route } from '#agent/netlink/route.ts';
import type { Nexthop } from '#agent/netlink/nexthop.ts';
import type { Lease } from '#agent/runtime/ipam.ts';

import { isOfDevice, overlayFrom, routeFrom, vtepFrom } from './actual.ts';
import { bridgeFrom, portOf } from './bridge-io.ts';
import type { KernelFacts } from './actual.ts';
import { isOverlayRight } from './diff-overlay.ts';
import { sameRouteTarget } from './expected.ts';
import type { Expected } from './expected.ts';
import { aliasOf, gatewayCidr, hostMac, podGatewayOf } from './identity.ts';
import type { KernelIo } from './kernel-io.ts';
import { routeKey } from './objects.ts';
import type { DesiredState } from './objects.ts';
import { liveNameOf, readLink, readSummary } from './link-io.ts';
import type { DatapathSettings } from './settings.ts';
import type { WantedPods } from './wanted.ts';

export interface WatchOptions {
  readonly settings: DatapathSettings;
  readonly io: KernelIo;
  readonly pods: Pick<WantedPods, 'find'>;
  /** True for links that limit a pod's bandwidth. */
  readonly isShaped: (ifindex: number) => boolean;
  /** The pod's link is a port of the bridge. */
  readonly isPort: (lease: Lease) => boolean;
  readonly desired: () => DesiredState | undefined;
  readonly expected: () => Expected | undefined;
  readonly reading: () => KernelFacts | undefined;
  /** Link addresses of peers on the underlay link, as admitted (overlay modes with direct routes). */
  readonly linkAddresses: () => ReadonlyMap<string, string>;
  /** A peer has another: its packets would be dropped. */
  readonly onLinkAddress: (address: string, mac: string) => void;
  /** Room for notifications that have not been read; absent: enough for what thousands of peers make. */
  readonly bufferBytes: number | undefined;
  /** Somebody else's route is where one of ours was. */
  readonly onTaken: (routeKey: string) => void;
  /** `reason` is for the log. */
  readonly onChange: (reason: string) => void;
  /** A ruleset of nftables is another. */
  readonly onRuleset: () => void;
  readonly onError: (error: WeftError) => void;
}

/** Their notifications carry the port of whose request made them: our own need no look. */
const ported: ReadonlySet<Notification['kind']> = new Set([
  'newAddress',
  'delAddress',
  'newRoute',
  'delRoute',
  'newNexthop',
  'delNexthop',
  'newNeighbour',
  'delNeighbour',
  'delQdisc',
  'delFilter',
]);

/** Starts listening; throws NetlinkError when the monitor cannot be opened. */
export function watchKernel(options: WatchOptions): Disposable {
  const { netnsPath } = options.settings;
  return NetlinkMonitor.open({
    // An ADD makes a dozen notifications, many peers make thousands: more than the socket's buffer holds.
    ignored: { kinds: ported, ports: options.io.route.ports },
    kinds: ['newLink', 'delLink', ...ported],
    // FDB entries are told without a port; the kernel counts a kilobyte for each of thousands.
    receiveBufferBytes: options.bufferBytes ?? 8 << 20,
    // What counts is how a link looks now.
    latestLinks: true,
    groups: ['link', 'neigh', 'ipv4Ifaddr', 'ipv4Route', 'ipv6Ifaddr', 'ipv6Route', 'nexthop', 'tc'],
    ...(netnsPath === undefined ? {} : { netnsPath }),
    onMessages: (notifications) => {
      for (const notification of notifications) {
        const reason = reasonOf(options, notification);
        if (reason !== undefined) return options.onChange(reason);
      }
      return undefined;
    },
    onRuleset: options.onRuleset,
    onOverrun: () => options.onChange('notifications were lost'),
    onError: options.onError,
  });
}

function reasonOf(options: WatchOptions, notification: Notification): string | undefined {
  const desired = options.desired();
  switch (notification.kind) {
    case 'delLink': {
      const { ifname = '', ifiIndex } = notification.link;
      const lease = options.pods.find(ifname);
      if (options.isShaped(ifiIndex) && !lease) return `shaper ${ifname} was deleted`;
      const isDevice = ifname === desired?.overlay?.ifname || ifname === desired?.bridge?.ifname;
      if (!isDevice && !lease) return undefined;
      // A port that leaves its bridge is told like this too.
      const now = readSummary(options.io, ifname);
      return now ? linkReason(options, now) : `link ${ifname} was deleted`;
    }
    case 'newLink':
      return linkReason(options, notification.link);
    case 'delAddress':
      return addressReason(options, notification.address);
    case 'newAddress':
      return newAddressReason(options, notification.address);
    case 'newRoute':
    case 'delRoute':
      return routeReason(options, notification.kind, notification.route);
    case 'newNexthop':
    case 'delNexthop':
      return nexthopReason(options, notification.kind, notification.nexthop);
    case 'newNeighbour':
    case 'delNeighbour':
      return neighbourReason(options, notification.kind, notification.neighbour);
    case 'delQdisc':
    case 'delFilter': {
      const { ifindex } = notification.object;
      return options.isShaped(ifindex) ? `a limit of link ${ifindex} was deleted` : undefined;
    }
    case 'other':
      return undefined;
    default:
      return notification satisfies never;
  }
}

function newAddressReason(options: WatchOptions, address: Address): string | undefined {
  const desired = options.desired();
  const reading = options.reading();
  const text = address.local ?? address.address;
  if (text === desired?.overlay?.local || reading?.underlay === undefined) return 'underlay address';
  const cidr = `${text}/${address.ifaPrefixlen}`;
  // The kernel's own link-local IPv6 address of an interface.
  if (address.ifaScope === scope.link && cidr.includes(':')) return undefined;
  const devices = [desired?.overlay?.ifname, desired?.bridge?.ifname];
  const device = devices.find((name) => name !== undefined && reading.ifindexes.get(name) === address.ifaIndex);
  const ifname = device ?? podOn(options, address.ifaIndex)?.hostIfname;
  if (ifname === undefined) return undefined;
  const linkScope = address.ifaScope === scope.link;
  const isGateway = device === undefined && linkScope && cidr === gatewayCidr(4);
  const wanted = desired?.addresses.some(
    (known) => known.ifname === ifname && known.cidr === cidr && known.linkScope === linkScope,
  );
  return wanted || isGateway ? undefined : `address ${cidr} came to ${ifname}`;
}

/** The pod whose link has this number: an attach's link may be younger than the reading that knows numbers. */
function podOn({ io, pods, reading }: WatchOptions, ifindex: number): Lease | undefined {
  const known = reading()?.ifindexes.entries();
  const ifname = known?.find(([, number]) => number === ifindex)?.[0] ?? liveNameOf(io)(ifindex);
  return pods.find(ifname);
}

function routeReason(options: WatchOptions, kind: 'newRoute' | 'delRoute', route: Route): string | undefined {
  const expected = options.expected();
  if (!expected) return undefined;
  if (route.rtmProtocol !== options.settings.routeProtocol) return takenReason(options, kind, route);
  const names = new Map([...(options.reading()?.ifindexes ?? [])].map(([ifname, ifindex]) => [ifindex, ifname]));
  const found = routeFrom(route, names);
  const wanted = expected.routes.get(routeKey(found));
  if (kind === 'delRoute') return wanted ? `route ${found.dst} was deleted` : undefined;
  // A pod's link may be younger than the reading that names links.
  const unnamed = found.target.kind === 'other' && route.oif !== undefined && !names.has(route.oif);
  const same = wanted && (sameRouteTarget(wanted.target, found.target) || (wanted.target.kind === 'link' && unnamed));
  return same ? undefined : `route ${found.dst} was changed`;
}

/** Somebody else's route in the place of one of ours. */
function takenReason(options: WatchOptions, kind: 'newRoute' | 'delRoute', route: Route): string | undefined {
  const dst = prefixOf(route);
  const key = routeKey({ dst, metric: route.priority ?? 0, table: route.table ?? route.rtmTable });
  if (kind === 'delRoute' || route.rtmTos !== 0 || !options.expected()?.routes.has(key)) return undefined;
  options.onTaken(key);
  return `route ${dst} was taken`;
}

function nexthopReason(
  options: WatchOptions,
  kind: 'newNexthop' | 'delNexthop',
  { id = 0, gateway, oif, nhProtocol }: Nexthop,
): string | undefined {
  const expected = options.expected();
  const isOurs = nhProtocol === options.settings.routeProtocol || expected?.gateways.has(id);
  if (!expected || !isOurs) return undefined;
  if (kind === 'delNexthop') return expected.gateways.has(id) ? `nexthop ${id} was deleted` : undefined;
  const [wanted, link = options.settings.overlayDevice] = (expected.gateways.get(id) ?? '').split('%');
  // A device may be younger than the reading that knows numbers.
  const onLink = options.reading()?.ifindexes.get(link) ?? oif;
  const same = wanted === gateway && onLink === oif && nhProtocol === options.settings.routeProtocol;
  return same ? undefined : `nexthop ${id} was changed`;
}

function neighbourReason(
  options: WatchOptions,
  kind: 'newNeighbour' | 'delNeighbour',
  neighbour: Neighbour,
): string | undefined {
  const expected = options.expected();
  const { ndmFamily, ndmIfindex, ndmState, dst = '', lladdr = '' } = neighbour;
  const isFdb = ndmFamily === addressFamily.bridge;
  const port = isFdb ? expected?.ports.get(lladdr) : undefined;
  if (port !== undefined) return portEntryReason(options, kind, port, neighbour);
  if (!expected || ndmIfindex !== overlayIfindex(options)) {
    if (kind === 'delNeighbour') return undefined;
    if (!isFdb && expected) noteLinkAddress(options, expected, neighbour);
    return isFdb ? undefined : heldReason(options, neighbour);
  }
  if (isFdb && !isOfDevice(neighbour)) return undefined;
  const isPermanent = (ndmState & neighbourState.permanent) !== 0;
  const [what, wanted, found] = isFdb
    ? [lladdr, expected.fdb.get(lladdr), vtepFrom(neighbour)]
    : [dst, expected.neighbours.get(dst), isPermanent ? lladdr : 'not permanent'];
  if (kind === 'delNeighbour') return wanted === undefined ? undefined : `neighbour ${what} was deleted`;
  // What the kernel tries by itself is not permanent.
  if (wanted === undefined && !isFdb && !isPermanent) return undefined;
  return wanted === found ? undefined : `neighbour ${what} was changed`;
}

/** The bridge has a pod's MAC elsewhere, or not as a static entry. A port that is younger than the last reading is not known here. */
function portEntryReason(
  options: WatchOptions,
  kind: 'newNeighbour' | 'delNeighbour',
  port: string,
  { lladdr = '', ndmIfindex, ndmState }: Neighbour,
): string | undefined {
  if (kind === 'delNeighbour') return `static entry of ${lladdr} was deleted`;
  const ifindex = options.reading()?.ifindexes.get(port);
  if (ifindex === undefined || (ifindex === ndmIfindex && (ndmState & neighbourState.noarp) !== 0)) return undefined;
  return `static entry of ${lladdr} was changed`;
}

/** A permanent neighbour on a link of ours but the overlay. */
function heldReason(options: WatchOptions, { dst, ndmIfindex, ndmState }: Neighbour): string | undefined {
  const reading = options.reading();
  if ((ndmState & neighbourState.permanent) === 0 || !reading || ndmIfindex === reading.underlay?.ifindex)
    return undefined;
  const isOurs = reading.ifindexes.values().some((ifindex) => ifindex === ndmIfindex) || podOn(options, ndmIfindex);
  return isOurs ? `neighbour ${dst} was made permanent` : undefined;
}

function linkReason(options: WatchOptions, link: LinkSummary): string | undefined {
  const { ifname = '' } = link;
  const overlay = options.desired()?.overlay;
  if (overlay && ifname === overlay.ifname) {
    const found = readLink(options.io, ifname);
    return found && isOverlayRight(overlay, overlayFrom(found)) ? undefined : `link ${ifname} was changed`;
  }
  const bridge = options.desired()?.bridge;
  if (bridge && ifname === bridge.ifname) {
    const found = readLink(options.io, ifname);
    const now = found && bridgeFrom(options.io, found);
    const right = now?.isBridge && now.settled && now.mac === bridge.mac && now.mtuBytes === bridge.mtuBytes;
    return right ? undefined : `link ${ifname} was changed`;
  }
  const lease = options.pods.find(ifname);
  if (lease) {
    const mtuBytes = options.desired()?.overlay?.mtuBytes;
    const isPort = bridge !== undefined && options.isPort(lease);
    const alias = aliasOf(lease, isPort ? 'bridge' : 'routed');
    const isRight = (found: LinkSummary): boolean =>
      isUp(found) &&
      found.ifalias === alias &&
      (found.ifiFlags & linkFlag.noarp) === 0 &&
      found.address === hostMac &&
      found.mtu === (mtuBytes ?? found.mtu) &&
      (isPort || !found.master);
    // Most are an attach's own: made, then brought up. What has changed since is told by a later notification.
    if (!isPort && isRight(link)) return undefined;
    const port = isPort ? readLink(options.io, ifname) : undefined;
    const found = port ?? readSummary(options.io, ifname);
    const master = port && bridge && readLink(options.io, bridge.ifname);
    const isPlaced = !port || !master || portOf(port, master) === bridge?.ifname;
    return !found || (isRight(found) && isPlaced) ? undefined : `link ${ifname} was changed`;
  }
  const reading = options.reading();
  for (const [name, ifindex] of reading?.ifindexes ?? []) {
    if (ifindex === link.ifiIndex && name !== ifname) return `link ${name} was renamed`;
  }
  const underlay = reading?.underlay;
  if (underlay?.ifindex !== link.ifiIndex) return undefined;
  return link.mtu !== underlay.mtuBytes || isUp(link) !== underlay.up ? `underlay ${ifname} was changed` : undefined;
}

function addressReason(options: WatchOptions, address: Address): string | undefined {
  const { ifaIndex, local = address.address } = address;
  const { desired, reading } = { desired: options.desired(), reading: options.reading() };
  if (local !== undefined && local === desired?.overlay?.local) return 'underlay address';
  const wanted = desired?.addresses.some(
    (address) => address.cidr.startsWith(`${local}/`) && reading?.ifindexes.get(address.ifname) === ifaIndex,
  );
  const ofPod = (): boolean =>
    [podGatewayOf(4), podGatewayOf(6)].includes(local ?? '') && podOn(options, ifaIndex) !== undefined;
  return wanted || ofPod() ? `address ${local} was deleted` : undefined;
}

function noteLinkAddress(options: WatchOptions, expected: Expected, neighbour: Neighbour): void {
  const { dst, lladdr, ndmIfindex } = neighbour;
  if (dst === undefined || lladdr === undefined || ndmIfindex !== options.reading()?.underlay?.ifindex) return;
  if (options.settings.overlayMode === 'vxlan' || options.linkAddresses().get(dst) === lladdr) return;
  const { peers4, peers6 } = expected.elements;
  if (peers4.has(dst) || peers6.has(dst)) options.onLinkAddress(dst, lladdr);
}

function overlayIfindex(options: WatchOptions): number | undefined {
  return options.reading()?.ifindexes.get(options.settings.overlayDevice);
}
