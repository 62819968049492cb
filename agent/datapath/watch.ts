// Kernel notifications that mean "somebody changed what is ours": they ask for a round. Most notifications are echoes of
// our own writes; an object that is gone from the desired state, or a link that is right again when looked at, is none.
import type { WeftError } from '#agent/errors.ts';
import type { Address } from '#agent/netlink/addr.ts';
import { linkFlag } from '#agent/netlink/link.ts';
import type { Link } from '#agent/netlink/link.ts';
import { NetlinkMonitor } from '#agent/netlink/monitor.ts';
import type { Notification } from '#agent/netlink/monitor.ts';
import type { Neighbour } from '#agent/netlink/neighbour.ts';
import { prefixOf } from '#agent/netlink/route.ts';

import type { KernelReading } from './actual.ts';
import { hostMac } from './identity.ts';
import type { KernelIo } from './kernel-io.ts';
import type { DesiredState } from './objects.ts';
import { readLink } from './pod-link.ts';
import type { DatapathSettings } from './settings.ts';

export interface WatchOptions {
  readonly settings: DatapathSettings;
  readonly io: KernelIo;
  readonly isWantedPod: (hostIfname: string) => boolean;
  readonly desired: () => DesiredState | undefined;
  readonly reading: () => KernelReading | undefined;
  /** Link addresses of peers on the underlay link, as admitted (overlay modes with direct routes). */
  readonly linkAddresses: () => ReadonlyMap<string, string>;
  /** `reason` is for the log. */
  readonly onChange: (reason: string) => void;
  readonly onError: (error: WeftError) => void;
}

const kinds = ['newLink', 'delLink', 'newAddress', 'delAddress', 'delRoute', 'delNexthop', 'delNeighbour'] as const;

/** Starts listening; throws NetlinkError when the monitor cannot be opened. */
export function watchKernel(options: WatchOptions): Disposable {
  const { netnsPath } = options.settings;
  return NetlinkMonitor.open({
    // An ADD makes a dozen notifications; those that no change of ours can hide behind are not even decoded.
    kinds: [...kinds, ...(options.settings.overlayMode === 'vxlan' ? [] : ['newNeighbour' as const])],
    groups: ['link', 'neigh', 'ipv4Ifaddr', 'ipv4Route', 'ipv6Ifaddr', 'ipv6Route', 'nexthop'],
    ...(netnsPath === undefined ? {} : { netnsPath }),
    onMessages: (notifications) => {
      for (const notification of withoutRepeats(notifications)) {
        const reason = reasonOf(options, notification);
        if (reason !== undefined) return options.onChange(reason);
      }
      return undefined;
    },
    onOverrun: () => options.onChange('notifications were lost'),
    onError: options.onError,
  });
}

/** Of several changes to one link only the last: what counts is how the link looks now. */
function withoutRepeats(notifications: readonly Notification[]): readonly Notification[] {
  const last = new Map<number, Notification>();
  for (const notification of notifications) {
    if (notification.kind === 'newLink') last.set(notification.link.ifiIndex, notification);
  }
  return notifications.filter(
    (notification) => notification.kind !== 'newLink' || last.get(notification.link.ifiIndex) === notification,
  );
}

function reasonOf(options: WatchOptions, notification: Notification): string | undefined {
  const { settings } = options;
  const desired = options.desired();
  switch (notification.kind) {
    case 'delLink': {
      const { ifname = '' } = notification.link;
      const ours = (ifname === settings.overlayDevice && desired?.overlay) || options.isWantedPod(ifname);
      return ours && !readLink(options.io, ifname) ? `link ${ifname} was deleted` : undefined;
    }
    case 'newLink':
      return linkReason(options, notification.link);
    case 'delAddress':
      return addressReason(options, notification.address);
    case 'newAddress': {
      const text = notification.address.local ?? notification.address.address;
      return text === desired?.overlay?.local || options.reading()?.underlay === undefined
        ? 'underlay address'
        : undefined;
    }
    case 'delRoute': {
      const { route } = notification;
      if (route.rtmProtocol !== settings.routeProtocol) return undefined;
      const dst = prefixOf(route);
      const metric = route.priority ?? 0;
      return desired && routeKeys(desired).has(`${dst} ${metric}`) ? `route ${dst} was deleted` : undefined;
    }
    case 'delNexthop': {
      const { gateway, nhProtocol } = notification.nexthop;
      const wanted =
        nhProtocol === settings.routeProtocol && desired?.nexthops.some((nexthop) => nexthop.split('%')[0] === gateway);
      return wanted ? `nexthop ${gateway} was deleted` : undefined;
    }
    case 'delNeighbour': {
      const { ndmIfindex, dst, lladdr } = notification.neighbour;
      if (ndmIfindex !== overlayIfindex(options)) return undefined;
      const wanted =
        desired?.neighbours.some(({ address }) => address === dst) || desired?.fdb.some(({ mac }) => mac === lladdr);
      return wanted ? `neighbour ${dst ?? lladdr} was deleted` : undefined;
    }
    case 'newNeighbour':
      return linkAddressReason(options, notification.neighbour);
    case 'newNexthop':
    case 'newRoute':
    case 'other':
      return undefined;
    default:
      return notification satisfies never;
  }
}

const keysOf = new WeakMap<DesiredState, ReadonlySet<string>>();

/** Keys of the wanted routes, made once a round: thousands of peers that go are thousands of notifications. */
function routeKeys(desired: DesiredState): ReadonlySet<string> {
  const known = keysOf.get(desired) ?? new Set(desired.routes.map(({ dst, metric }) => `${dst} ${metric}`));
  keysOf.set(desired, known);
  return known;
}

function linkReason(options: WatchOptions, link: Link): string | undefined {
  const { ifname = '' } = link;
  const overlay = options.desired()?.overlay;
  if (overlay && ifname === overlay.ifname) {
    const found = readLink(options.io, ifname);
    const right = found && isUp(found) && found.address === overlay.mac && found.mtu === overlay.mtuBytes;
    return right ? undefined : `link ${ifname} was changed`;
  }
  if (options.isWantedPod(ifname)) {
    // An attach brings its link up after making it: what counts is how it looks now.
    const found = readLink(options.io, ifname);
    return found && (!isUp(found) || found.address !== hostMac) ? `link ${ifname} was changed` : undefined;
  }
  const underlay = options.reading()?.underlay;
  if (underlay?.ifindex !== link.ifiIndex) return undefined;
  return link.mtu !== underlay.mtuBytes || isUp(link) !== underlay.up ? `underlay ${ifname} was changed` : undefined;
}

function addressReason(options: WatchOptions, { ifaIndex, local: own, address: prefix }: Address): string | undefined {
  const local = own ?? prefix;
  const { desired, reading } = { desired: options.desired(), reading: options.reading() };
  if (local !== undefined && local === desired?.overlay?.local) return 'underlay address';
  const wanted = desired?.addresses.some(
    (address) => address.cidr.startsWith(`${local}/`) && reading?.ifindexes.get(address.ifname) === ifaIndex,
  );
  return wanted ? `address ${local} was deleted` : undefined;
}

/** A peer's link address that is not the admitted one: its packets would be dropped. */
function linkAddressReason(options: WatchOptions, neighbour: Neighbour): string | undefined {
  const { dst, lladdr, ndmIfindex } = neighbour;
  if (dst === undefined || lladdr === undefined || ndmIfindex !== options.reading()?.underlay?.ifindex)
    return undefined;
  if (options.linkAddresses().get(dst) === lladdr) return undefined;
  const peer = options.desired()?.fdb.some(({ underlayAddress }) => underlayAddress === dst);
  return peer ? `link address of ${dst}` : undefined;
}

function overlayIfindex(options: WatchOptions): number | undefined {
  return options.reading()?.ifindexes.get(options.settings.overlayDevice);
}

function isUp(link: Link): boolean {
  return (link.ifiFlags & linkFlag.up) !== 0;
}
