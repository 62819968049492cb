// How a pod reaches the world through a link. The first link of a pod has the routes that everybody expects: the gateway and the
// default route in the main table. A further one (multus: net1) must not move the default route, and yet whoever asks its
// address must be answered through it, since the host lets no address leave by another link (source check). So its default
// route is in a table of its own, and two rules lead there:
//
//   from 10.40.0.9 lookup 87003     answers, and programs that bind to the address
//   oif net1       lookup 87003     programs that bind to the interface: ping -I net1
//
// The kernel removes the routes with the link; the rules go by DEL, or with the namespace.
import { addressFamily } from '#agent/netlink/ip-text.ts';
import type { NetlinkRequest } from '#agent/netlink/message.ts';
import { netnsInfo } from '#agent/netlink/netns.ts';
import { dumpRoutes, newRoute, prefixOf, routeFlag, routeTable, routeTo } from '#agent/netlink/route.ts';
import type { Route } from '#agent/netlink/route.ts';
import { delRule, dumpRules, newRule } from '#agent/netlink/rule.ts';
import type { RuleRequest } from '#agent/netlink/rule.ts';
import { NetlinkSocket } from '#agent/netlink/socket.ts';
import type { Lease } from '#agent/runtime/ipam.ts';

import { hostCidr } from './cidr.ts';
import type { LinkFault, PodRoute } from './datapath.ts';
import { podGateway4 } from './identity.ts';

const everywhere = '0.0.0.0/0';
/** Before the main table's rule (32766), behind what others put first. */
const rulePriority = 32_000;
/** What runtimes call a pod's first interface: its DEL need not look for rules. */
const usualFirst = 'eth0';

/** A link's own table; an ifindex is not used twice in a namespace. */
export function ownTable(podIfindex: number): number {
  return 87_000 + podIfindex;
}

function isDefault(route: Route, table: number): boolean {
  return route.rtmDstLen === 0 && (route.table ?? route.rtmTable) === table;
}

function rulesOf(lease: Pick<Lease, 'addresses' | 'ifname'>): readonly RuleRequest[] {
  const common = { family: addressFamily.inet, priority: rulePriority };
  return [...lease.addresses.map((src) => ({ ...common, srcLen: 32, src })), { ...common, oifname: lease.ifname }];
}

/** What a link that is up gets, by what the pod has; and the routes among it, for the result. */
export function planPodRoutes(
  socket: NetlinkSocket,
  lease: Lease,
  podIfindex: number,
): { readonly requests: readonly NetlinkRequest<unknown>[]; readonly routes: readonly PodRoute[] } {
  // Not asked by table: in a namespace that nothing was done in yet there is no main table, which the kernel calls ENOENT.
  const hasDefault = socket
    .dump(dumpRoutes({ rtmFamily: addressFamily.inet }))
    .some((route) => isDefault(route, routeTable.main));
  const standard = { ...routeTo(everywhere), gateway: podGateway4, oif: podIfindex };
  if (!hasDefault) {
    return {
      requests: [newRoute({ ...routeTo(hostCidr(podGateway4)), oif: podIfindex }), newRoute(standard)],
      routes: [{ dst: everywhere, gateway: podGateway4 }],
    };
  }
  const table = ownTable(podIfindex);
  const prefsrc = lease.addresses[0] ?? '';
  return {
    requests: [
      newRoute({ ...standard, prefsrc, table, rtmFlags: routeFlag.onlink }),
      ...rulesOf(lease).map((rule) => newRule({ ...rule, table })),
    ],
    routes: [{ dst: everywhere, gateway: podGateway4, table }],
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
export function podRouteFaults(socket: NetlinkSocket, lease: Lease, podIfindex: number): readonly LinkFault[] {
  const routes = socket.dump(dumpRoutes({ rtmFamily: addressFamily.inet }));
  const inTable = (table: number): readonly Route[] => routes.filter((route) => isDefault(route, table));
  const table = ownTable(podIfindex);
  const elsewhere = inTable(routeTable.main).some(({ oif }) => oif !== podIfindex);
  const isFurther = elsewhere || inTable(table).length > 0;
  const found = inTable(isFurther ? table : routeTable.main).some(
    ({ oif, gateway }) => oif === podIfindex && gateway === podGateway4,
  );
  const faults: LinkFault[] = [];
  if (!found) {
    const where = isFurther ? ` in table ${table}` : '';
    faults.push({ what: 'pod default route', expected: `via ${podGateway4}${where}`, actual: 'absent' });
  }
  if (!isFurther) {
    const toGateway = routes.some((route) => prefixOf(route) === hostCidr(podGateway4) && route.oif === podIfindex);
    if (!toGateway) faults.push({ what: `pod route ${hostCidr(podGateway4)}`, expected: 'present', actual: 'absent' });
    return faults;
  }
  const rules = socket.dump(dumpRules(addressFamily.inet)).filter((rule) => rule.table === table);
  for (const { src, oifname } of rulesOf(lease)) {
    if (rules.some((rule) => (src === undefined ? rule.oifname === oifname : rule.src === src))) continue;
    const what = `pod rule ${src === undefined ? `oif ${oifname}` : `from ${src}`}`;
    faults.push({ what, expected: `lookup ${table}`, actual: 'absent' });
  }
  return faults;
}
