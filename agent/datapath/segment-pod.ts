// The pod's own half of a link in a segment outside (segment-plan.ts).
import { dumpAddresses, newAddress } from '#agent/netlink/addr.ts';
import { dumpLinks, getLink, isUp, linkFlag, loopbackIfindex, setLink } from '#agent/netlink/link.ts';
import { readNetnsFile, writeNetnsFile } from '#agent/netlink/netns.ts';
import { newRoute, routeTo } from '#agent/netlink/route.ts';
import { NetlinkSocket } from '#agent/netlink/socket.ts';
import { toWeftError } from '#agent/errors.ts';
import type { Lease } from '#agent/runtime/ipam.ts';

import { addressOf, prefixLengthOf } from './cidr.ts';
import type { LinkFault, PodRoute } from './datapath.ts';
import { planPodRoutes } from './pod-routes.ts';
import { routesOf, type SegmentGift } from './segment-plan.ts';
import type { DatapathSettings } from './settings.ts';

function open(netnsPath: string): NetlinkSocket {
  return NetlinkSocket.open({ protocol: 'route', netnsPath, receiveBufferBytes: 128 << 10 });
}

/** The link comes up without an address. Throws NetlinkError. */
export function raisePod(
  { sysctlRoot }: Pick<DatapathSettings, 'sysctlRoot'>,
  netnsPath: string,
  ifname: string,
): void {
  ignoreAdvertisements(`${sysctlRoot}/net/ipv6/conf/${ifname}/accept_ra`, netnsPath);
  using socket = open(netnsPath);
  socket.batchOrThrow([
    setLink({ ifiIndex: loopbackIfindex, ifiFlags: linkFlag.up, ifiChange: linkFlag.up }),
    setLink({ ifname, ifiFlags: linkFlag.up, ifiChange: linkFlag.up }),
  ]);
}

/** The segment's routers may advertise IPv6, whose packets of this pod would be dropped. */
function ignoreAdvertisements(file: string, netnsPath: string): void {
  let now: string;
  try {
    now = readNetnsFile(netnsPath, file);
  } catch {
    // A namespace without IPv6.
    return;
  }
  if (now !== '0') writeNetnsFile(netnsPath, file, '0');
}

/** Addresses and routes as the server said. Returns the routes really made, without those on the link. Throws NetlinkError. */
export function givePod(lease: Lease, netnsPath: string, gift: SegmentGift): readonly PodRoute[] {
  using socket = open(netnsPath);
  const [[link]] = socket.batchOrThrow([getLink({ ifname: lease.ifname })]);
  const podIfindex = link?.ifiIndex ?? 0;
  const { defaultGateway, others } = routesOf(gift);
  socket.batchOrThrow([
    ...gift.cidrs.map((cidr) =>
      newAddress({ ifaIndex: podIfindex, local: addressOf(cidr), ifaPrefixlen: prefixLengthOf(cidr) }),
    ),
    ...others.map(({ dst, gw }) =>
      newRoute({ ...routeTo(dst), oif: podIfindex, ...(gw === undefined ? {} : { gateway: gw }) }),
    ),
  ]);
  const made = others.flatMap(({ dst, gw }) => (gw === undefined ? [] : [{ dst, gateway: gw }]));
  if (defaultGateway === undefined) return made;
  const planned = planPodRoutes(socket, lease, { podIfindex, cidrs: gift.cidrs, gateway: () => defaultGateway });
  socket.batchOrThrow(planned.requests);
  return [...planned.routes, ...made];
}

/** What of the pod's link and its addresses is missing. */
export function podFaults(lease: Lease, netnsPath: string): readonly LinkFault[] {
  let socket: NetlinkSocket;
  try {
    socket = open(netnsPath);
  } catch (error) {
    return [{ what: `namespace ${netnsPath}`, expected: 'readable', actual: toWeftError(error).message }];
  }
  using _socket = socket;
  const link = socket.dump(dumpLinks()).find(({ ifname }) => ifname === lease.ifname);
  const state = link === undefined ? 'absent' : isUp(link) ? 'up' : 'down';
  const faults: LinkFault[] = [];
  // The daemon takes it down when the server does not renew the lease.
  if (state !== 'up') faults.push({ what: `pod link ${lease.ifname}`, expected: 'up', actual: state });
  const found = socket
    .dump(dumpAddresses())
    .flatMap(({ ifaIndex, local, address }) => (ifaIndex === link?.ifiIndex ? [local ?? address] : []));
  for (const address of lease.addresses) {
    if (!found.includes(address))
      faults.push({ what: `pod address ${address}`, expected: 'present', actual: 'absent' });
  }
  return faults;
}
