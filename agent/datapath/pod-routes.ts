// How a pod reaches the world through a link. The first link of a pod has the routes that everybody expects: the gateway and the
// default route in the main table. A further one (multus: net1) must not move the default route, and yet whoever asks its
// address must be answered through it, since the host lets no address leave by another link (source check). So its default
// route is in a table of its own, and two rules lead there:
//
//   from 10.40.0.9 lookup 87003     answers, and programs that bind to the address
//   oif net1       lookup 87003     programs that bind to the interface: ping -I net1
//
// Each family of the lease has its own. A pod that has a default route of either family has had its first link.
// The kernel removes the routes with the link; the rules go by DEL, or with the namespace.
import { addressFamily } from '#agent/netlink/ip-text.ts';
import type { NetlinkRequest } from '#agent/netlink/message.ts';
import { netnsInfo } from '#agent/netlink/netns.ts';
import { addLinkRoute, delLinkRoute, dumpDefaultRoutes } from '#agent/netlink/pod-writes.ts';
import type { DefaultRoute, LinkRoute } from '#agent/netlink/pod-writes.ts';
import { dumpRoutes, newRoute, prefixOf, routeFlag, routeTable, routeTo, routeType } from '#agent/netlink/route.ts';
import type { Route } from '#agent/netlink/route.ts';
import { delRule, dumpRules, newRule } from '#agent/netlink/rule.ts';
import type { Rule, RuleRequest } from '#agent/netlink/rule.ts';
import { type NetlinkReply, NetlinkSocket } from '#agent/netlink/socket.ts';
import type { Lease } from '#agent/runtime/ipam.ts';

import { cidrContains, familiesOf, familyOf, hostCidr, prefixLengthOf } from './cidr.ts';
import type { Family } from './cidr.ts';
import type { LinkFault, PodRoute } from './datapath.ts';

const everywhere = { 4: '0.0.0.0/0', 6: '::/0' } as const;
const rtmFamilies = { 4: addressFamily.inet, 6: addressFamily.inet6 } as const;
/** Before the main table's rule (32766), behind what others put first. */
const rulePriority = 32_000;
/** What runtimes call a pod's first interface: its DEL need not look for rules. */
const usualFirst = 'eth0';

/** A link's own table; an ifindex is not used twice in a namespace. */
function ownTable(podIfindex: number): number {
  return 87_000 + podIfindex;
}

function isDefault(route: Route, table: number): boolean {
  return route.rtmDstLen === 0 && route.rtmType === routeType.unicast && (route.table ?? route.rtmTable) === table;
}

function rulesOf(lease: Pick<Lease, 'addresses' | 'ifname'>): readonly RuleRequest[] {
  return familiesOf(lease.addresses).flatMap((family) => {
    const common = { family: rtmFamilies[family], priority: rulePriority };
    const own = lease.addresses.filter((address) => familyOf(address) === family);
    return [
      ...own.map((src) => ({ ...common, srcLen: prefixLengthOf(src), src })),
      { ...common, oifname: lease.ifname },
    ];
  });
}

export interface PodSide {
  readonly podIfindex: number;
  /** The pod's addresses with their prefix on the link. */
  readonly cidrs: readonly string[];
  readonly gateway: (family: Family) => string;
}

interface PlannedRoutes {
  readonly requests: readonly NetlinkRequest<unknown>[];
  /** The routes among the requests, for the result. */
  readonly routes: readonly PodRoute[];
}

/** What a link that is up gets, by what the pod has. */
export function planPodRoutes(socket: NetlinkSocket, lease: Lease, pod: PodSide): PlannedRoutes {
  // Not asked by table: in a namespace that nothing was done in yet there is no main table, which the kernel calls ENOENT.
  const hasDefault = socket.dump(dumpDefaultRoutes()).some((route) => route?.table === routeTable.main);
  return hasDefault
    ? { requests: furtherRoutes(lease, pod), routes: defaultsOf(lease, pod, ownTable(pod.podIfindex)) }
    : { requests: firstRoutes(lease, pod).map(addLinkRoute), routes: defaultsOf(lease, pod) };
}

/**
 * Sends the requests, which bring the link up, and gives it its routes; returns those. Of a link with the first one's usual name they
 * are sent along and the pod's routes read behind them: should the pod have a default route all the same, they are taken back.
 * Throws NetlinkError.
 */
export function addPodRoutes(
  socket: NetlinkSocket,
  lease: Lease,
  pod: PodSide,
  requests: readonly NetlinkRequest<unknown>[],
): readonly PodRoute[] {
  if (lease.ifname !== usualFirst) {
    const planned = planPodRoutes(socket, lease, pod);
    socket.batchOrThrow([...requests, ...planned.requests]);
    return planned.routes;
  }
  const first = firstRoutes(lease, pod);
  const { replies, dumped } = socket.batchThenDump([...requests, ...first.map(addLinkRoute)], dumpDefaultRoutes());
  const isOther = (route: DefaultRoute | undefined): boolean =>
    route !== undefined && route.table === routeTable.main && route.oif !== pod.podIfindex;
  if (!dumped.some(isOther)) {
    throwRefusal(replies);
    return defaultsOf(lease, pod);
  }
  throwRefusal(replies.slice(0, requests.length));
  const made = first.filter((_route, at) => replies[requests.length + at]?.ok);
  socket.batchOrThrow([...made.toReversed().map(delLinkRoute), ...furtherRoutes(lease, pod)]);
  return defaultsOf(lease, pod, ownTable(pod.podIfindex));
}

function throwRefusal(replies: readonly NetlinkReply<unknown>[]): void {
  for (const reply of replies) if (!reply.ok) throw reply.error;
}

function firstRoutes(lease: Lease, pod: PodSide): readonly LinkRoute[] {
  const oif = pod.podIfindex;
  return familiesOf(lease.addresses).flatMap((family) => {
    const gateway = pod.gateway(family);
    // A link-local gateway of IPv6 is on the link by itself.
    return family === 6 || isOnLink(pod)
      ? [{ gateway, oif }]
      : [
          { dst: gateway, oif },
          { gateway, oif },
        ];
  });
}

function furtherRoutes(lease: Lease, pod: PodSide): readonly NetlinkRequest<unknown>[] {
  const table = ownTable(pod.podIfindex);
  return [
    ...familiesOf(lease.addresses).map((family) => {
      const prefsrc = lease.addresses.find((address) => familyOf(address) === family) ?? '';
      const via = { gateway: pod.gateway(family), oif: pod.podIfindex, prefsrc };
      return newRoute({ ...routeTo(everywhere[family]), ...via, table, rtmFlags: routeFlag.onlink });
    }),
    ...rulesOf(lease).map((rule) => newRule({ ...rule, table })),
  ];
}

function defaultsOf(lease: Lease, pod: PodSide, table?: number): readonly PodRoute[] {
  return familiesOf(lease.addresses).map((family) => ({
    dst: everywhere[family],
    gateway: pod.gateway(family),
    ...(table === undefined ? {} : { table }),
  }));
}

/** Removes the rules of a further link where the pod still lives; never fails: they lead nowhere without the link. */
export function removePodRules(lease: Lease): void {
  if (lease.ifname === usualFirst) return;
  const { netnsPath, netnsInode } = lease.owner;
  try {
    if (BigInt(netnsInfo(netnsPath).ino) !== netnsInode) return;
    using socket = NetlinkSocket.open({ protocol: 'route', netnsPath });
    socket.batch(rulesOf(lease).map((rule) => delRule(rule)));
  } catch {
    // The namespace is gone, and its rules with it.
  }
}

/** What of the routes and rules is missing. A pod with another default route has this link's in its own table. */
export function podRouteFaults(socket: NetlinkSocket, lease: Lease, pod: PodSide): readonly LinkFault[] {
  const { podIfindex } = pod;
  const routes = socket.dump(dumpRoutes());
  const inTable = (table: number): readonly Route[] => routes.filter((route) => isDefault(route, table));
  const table = ownTable(podIfindex);
  const elsewhere = inTable(routeTable.main).some(({ oif }) => oif !== podIfindex);
  const isFurther = elsewhere || inTable(table).length > 0;
  const defaults = inTable(isFurther ? table : routeTable.main);
  const faults: LinkFault[] = [];
  for (const family of familiesOf(lease.addresses)) {
    const via = pod.gateway(family);
    const found = defaults.some(
      ({ rtmFamily, oif, gateway }) => rtmFamily === rtmFamilies[family] && oif === podIfindex && gateway === via,
    );
    if (found) continue;
    const expected = `via ${via}${isFurther ? ` in table ${table}` : ''}`;
    faults.push({ what: `pod default route${family === 6 ? ' of IPv6' : ''}`, expected, actual: 'absent' });
  }
  return [...faults, ...(isFurther ? ruleFaults(socket, lease, table) : gatewayFaults(routes, lease, pod))];
}

/** True where a prefix of the pod's link holds the gateway of IPv4. */
function isOnLink({ cidrs, gateway }: PodSide): boolean {
  return cidrs.some((cidr) => familyOf(cidr) === 4 && !cidr.endsWith('/32') && cidrContains(cidr, gateway(4)));
}

function gatewayFaults(routes: readonly Route[], lease: Lease, pod: PodSide): readonly LinkFault[] {
  const { podIfindex } = pod;
  if (!familiesOf(lease.addresses).includes(4) || isOnLink(pod)) return [];
  const dst = hostCidr(pod.gateway(4));
  if (routes.some((route) => prefixOf(route) === dst && route.oif === podIfindex)) return [];
  return [{ what: `pod route ${dst}`, expected: 'present', actual: 'absent' }];
}

function ruleFaults(socket: NetlinkSocket, lease: Lease, table: number): readonly LinkFault[] {
  const found = familiesOf(lease.addresses).flatMap((family) =>
    socket.dump(dumpRules(rtmFamilies[family])).filter((rule) => rule.table === table),
  );
  return rulesOf(lease).flatMap(({ family, src, oifname }) => {
    const matches = (rule: Rule): boolean => (src === undefined ? rule.oifname === oifname : rule.src === src);
    if (found.some((rule) => rule.family === family && matches(rule))) return [];
    const what = `pod rule ${src === undefined ? `oif ${oifname}` : `from ${src}`}`;
    return [{ what, expected: `lookup ${table}`, actual: 'absent' }];
  });
}
