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
import { addLinkRoute } from '#agent/netlink/pod-writes.ts';
import { dumpRoutes, newRoute, prefixOf, routeFlag, routeTable, routeTo, routeType } from '#agent/netlink/route.ts';
import type { Route } from '#agent/netlink/route.ts';
import { delRule, dumpRules, newRule } from '#agent/netlink/rule.ts';
import type { Rule, RuleRequest } from '#agent/netlink/rule.ts';
import { NetlinkSocket } from '#agent/netlink/socket.ts';
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
export function ownTable(podIfindex: number): number {
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

/** What a link that is up gets, by what the pod has; and the routes among it, for the result. */
export function planPodRoutes(
  socket: NetlinkSocket,
  lease: Lease,
  pod: PodSide,
): { readonly requests: readonly NetlinkRequest<unknown>[]; readonly routes: readonly PodRoute[] } {
  // Not asked by table: in a namespace that nothing was done in yet there is no main table, which the kernel calls ENOENT.
  const hasDefault = socket.dump(dumpRoutes()).some((route) => isDefault(route, routeTable.main));
  const families = familiesOf(lease.addresses);
  const { podIfindex } = pod;
  if (!hasDefault) {
    return {
      requests: families.flatMap((family) => [
        // A link-local gateway of IPv6 is on the link by itself.
        ...(family === 4 && !isOnLink(pod) ? [addLinkRoute({ dst: pod.gateway(4), oif: podIfindex })] : []),
        addLinkRoute({ gateway: pod.gateway(family), oif: podIfindex }),
      ]),
      routes: families.map((family) => ({ dst: everywhere[family], gateway: pod.gateway(family) })),
    };
  }
  const table = ownTable(podIfindex);
  return {
    requests: [
      ...families.map((family) => {
        const prefsrc = lease.addresses.find((address) => familyOf(address) === family) ?? '';
        const via = { gateway: pod.gateway(family), oif: podIfindex, prefsrc };
        return newRoute({ ...routeTo(everywhere[family]), ...via, table, rtmFlags: routeFlag.onlink });
      }),
      ...rulesOf(lease).map((rule) => newRule({ ...rule, table })),
    ],
    routes: families.map((family) => ({ dst: everywhere[family], gateway: pod.gateway(family), table })),
  };
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
  return cidrs.some((cidr) => familyOf(cidr) === 4 && cidrContains(cidr, gateway(4)));
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
