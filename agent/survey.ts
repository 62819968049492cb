// What is in use around this host before a range is founded on it: the routes that others have put into the kernel, whatever table
// they are in. A part of the range that leads elsewhere must never become a pod's address here.
import { dumpLinks } from '#agent/netlink/link.ts';
import { dumpRoutes, prefixOf, type Route, routeTable, routeType } from '#agent/netlink/route.ts';
import { NetlinkSocket } from '#agent/netlink/socket.ts';
import { parseCidr } from '#ipam-peer/cidr.ts';
import type { InUse } from '#ipam-peer/events.ts';

export interface RouteSurvey {
  /** Protocol number of Weft's own routes. */
  readonly ownProtocol: number;
  /** Whether a device is Weft's own. */
  readonly isOwnDevice: (name: string) => boolean;
  /** Network namespace to look at; undefined: the process' own. */
  readonly netnsPath?: string | undefined;
}

const telling: ReadonlySet<number> = new Set([
  routeType.unicast,
  routeType.blackhole,
  routeType.unreachable,
  routeType.prohibit,
]);

/** Destinations of the host's routes, but for the default routes and Weft's own. Throws NetlinkError. */
export function routesInUse({ ownProtocol, isOwnDevice, netnsPath }: RouteSurvey): readonly InUse[] {
  using socket = NetlinkSocket.open({ protocol: 'route', ...(netnsPath !== undefined && { netnsPath }) });
  const names = new Map(socket.dump(dumpLinks()).map((link) => [link.ifiIndex, link.ifname ?? '']));
  const inUse = new Map<string, InUse>();
  for (const route of socket.dump(dumpRoutes())) {
    const device = route.oif === undefined ? '' : (names.get(route.oif) ?? '');
    if (!isForeign(route, ownProtocol) || isOwnDevice(device)) continue;
    const cidr = parseCidr(prefixOf(route));
    const where = device === '' ? '' : ` dev ${device}`;
    if (cidr !== undefined) inUse.set(prefixOf(route), { cidr, by: `a route of this host${where}` });
  }
  return [...inUse.values()];
}

function isForeign(route: Route, ownProtocol: number): boolean {
  const table = route.table ?? route.rtmTable;
  return (
    route.rtmDstLen > 0 && table !== routeTable.local && route.rtmProtocol !== ownProtocol && telling.has(route.rtmType)
  );
}
