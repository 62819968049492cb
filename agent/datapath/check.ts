// CHECK: each thing that ADD promised, read from the kernel on both sides. Tolerated, because chained plugins change it on
// purpose: the pod's MAC, promiscuity and a smaller MTU (tuning), queues and ingress redirection (bandwidth), further
// addresses and routes.
import { dumpAddresses, scope } from '#agent/netlink/addr.ts';
import type { Address } from '#agent/netlink/addr.ts';
import { dumpLinks, isUp, linkFlag } from '#agent/netlink/link.ts';
import type { Link } from '#agent/netlink/link.ts';
import { dumpNeighbours, neighbourState } from '#agent/netlink/neighbour.ts';
import { dumpRoutes, prefixOf, routeTable } from '#agent/netlink/route.ts';
import { NetlinkSocket } from '#agent/netlink/socket.ts';
import { toWeftError } from '#agent/errors.ts';

import { familiesOf, familyOf, hostCidr } from './cidr.ts';
import type { Family } from './cidr.ts';
import type { LinkFault, PodLinkRequest } from './datapath.ts';
import { readFirewall } from './firewall.ts';
import { aliasOf, podGatewayOf } from './identity.ts';
import { needsRouteLocalnet, podElements } from './pod-elements.ts';
import { podRouteFaults } from './pod-routes.ts';
import { readLink } from './link-io.ts';
import { gatewayOf } from './pod-link.ts';
import type { BridgePort, PodLinkContext, PodLinkPlan } from './pod-link.ts';
import type { NameOf } from './set-shapes.ts';
import { readShapingFaults } from './shaper.ts';

type CheckContext = Pick<PodLinkContext, 'io' | 'settings'>;

/** Every difference, in the order in which a packet would meet it. */
export async function checkPodLink(
  context: CheckContext,
  request: PodLinkRequest,
  overlayAddresses: ReadonlyMap<Family, string>,
  port?: BridgePort,
): Promise<readonly LinkFault[]> {
  const { io } = context;
  const { lease } = request;
  const host = readLink(io, lease.hostIfname);
  if (!host) return [{ what: `link ${lease.hostIfname}`, expected: 'present', actual: 'absent' }];
  const faults: LinkFault[] = [];
  expectEqual(faults, `alias of ${lease.hostIfname}`, aliasOf(lease, port ? 'bridge' : 'routed'), host.ifalias ?? '');
  expectEqual(faults, `link ${lease.hostIfname}`, 'up', isUp(host) ? 'up' : 'down');
  if (!port && needsRouteLocalnet(lease)) {
    const found = String(host.afSpec?.inet?.conf?.routeLocalnet ?? 'absent');
    expectEqual(faults, `route_localnet of ${lease.hostIfname}`, '1', found);
  }
  if (port) expectEqual(faults, `bridge of ${lease.hostIfname}`, String(port.bridgeIfindex), String(host.master ?? 0));
  else await checkHostSide(context, request, overlayAddresses, host, faults);
  await checkFirewall(context, request, host.ifiIndex, port !== undefined, faults);
  for (const direction of await readShapingFaults(context.io, context.settings, lease, host)) {
    faults.push({
      what: `${direction} limit of ${lease.hostIfname}`,
      expected: 'as asked for',
      actual: 'another or none',
    });
  }
  try {
    checkPodSide(request, host, { port, overlayAddresses }, faults);
  } catch (error) {
    faults.push({ what: `namespace ${request.netnsPath}`, expected: 'readable', actual: toWeftError(error).message });
  }
  return faults;
}

async function checkHostSide(
  context: CheckContext,
  { lease }: PodLinkRequest,
  overlayAddresses: ReadonlyMap<Family, string>,
  host: Link,
  faults: LinkFault[],
): Promise<void> {
  const { io, settings } = context;
  const addresses = await io.route.dumpAsync(dumpAddresses({ ifaIndex: host.ifiIndex }));
  for (const gateway of familiesOf(lease.addresses).map(podGatewayOf)) {
    const found = addresses.some((entry) => entry.ifaIndex === host.ifiIndex && textOf(entry) === gateway);
    expectEqual(faults, `gateway ${gateway} on ${lease.hostIfname}`, 'present', found ? 'present' : 'absent');
  }
  const routes = await io.route.dumpAsync(dumpRoutes({ rtmProtocol: settings.routeProtocol, table: routeTable.main }));
  const neighbours = await io.route.dumpAsync(dumpNeighbours({ ifindex: host.ifiIndex }));
  for (const address of lease.addresses) {
    const dst = hostCidr(address);
    const route = routes.find((candidate) => prefixOf(candidate) === dst && candidate.oif === host.ifiIndex);
    expectEqual(faults, `host route ${dst}`, `dev ${lease.hostIfname}`, route ? `dev ${lease.hostIfname}` : 'absent');
    const prefsrc = overlayAddresses.get(familyOf(address));
    if (route && prefsrc !== undefined) {
      expectEqual(faults, `source of host route ${dst}`, prefsrc, route.prefsrc ?? 'none');
    }
    // Absent or with another MAC is well: ARP finds or has found what the pod has now.
    const entry = neighbours.find(({ dst: found, ndmIfindex }) => found === address && ndmIfindex === host.ifiIndex);
    if (entry && (entry.ndmState & neighbourState.failed) !== 0) {
      faults.push({ what: `neighbour ${address} on ${lease.hostIfname}`, expected: 'answering', actual: 'failed' });
    }
  }
}

async function checkFirewall(
  context: CheckContext,
  { lease }: PodLinkRequest,
  hostIfindex: number,
  onBridge: boolean,
  faults: LinkFault[],
): Promise<void> {
  const nameOf: NameOf = (ifindex) => (ifindex === hostIfindex ? lease.hostIfname : `#${ifindex}`);
  const { elements } = await readFirewall(context.io, context.settings.nftTable, nameOf);
  for (const { set, key } of podElements(lease, onBridge)) {
    const found = elements[set].has(key) ? 'present' : 'absent';
    expectEqual(faults, `element ${key} of nft set ${set}`, 'present', found);
  }
}

function checkPodSide(
  { lease, netnsPath }: PodLinkRequest,
  host: Link,
  plan: Pick<PodLinkPlan, 'overlayAddresses'> & { readonly port: BridgePort | undefined },
  faults: LinkFault[],
): void {
  using socket = NetlinkSocket.open({ protocol: 'route', netnsPath });
  const links = socket.dump(dumpLinks());
  const link = links.find((candidate) => candidate.ifname === lease.ifname);
  if (!link) {
    faults.push({ what: `pod link ${lease.ifname}`, expected: 'present', actual: 'absent' });
    return;
  }
  expectEqual(faults, `other end of ${lease.ifname}`, String(host.ifiIndex), String(link.link));
  expectEqual(faults, `pod link ${lease.ifname}`, 'up', isUp(link) ? 'up' : 'down');
  const loopback = links.find((candidate) => (candidate.ifiFlags & linkFlag.loopback) !== 0);
  expectEqual(faults, 'pod link lo', 'up', loopback && isUp(loopback) ? 'up' : 'down');
  if ((link.mtu ?? 0) > (host.mtu ?? 0)) {
    faults.push({ what: `MTU of ${lease.ifname}`, expected: `at most ${host.mtu}`, actual: String(link.mtu) });
  }
  const addresses = socket.dump(dumpAddresses()).filter(({ ifaIndex }) => ifaIndex === link.ifiIndex);
  for (const address of lease.addresses) {
    const found = addresses.some((entry) => textOf(entry) === address && entry.ifaScope === scope.universe);
    expectEqual(faults, `pod address ${address}`, 'present', found ? 'present' : 'absent');
  }
  const cidrs = lease.addresses.map(plan.port?.cidrOf ?? hostCidr);
  faults.push(...podRouteFaults(socket, lease, { podIfindex: link.ifiIndex, cidrs, gateway: gatewayOf(plan) }));
}

/** IPv6 addresses have no attribute `local`. */
function textOf({ local, address }: Pick<Address, 'local' | 'address'>): string | undefined {
  return local ?? address;
}

function expectEqual(faults: LinkFault[], what: string, expected: string, actual: string): void {
  if (expected !== actual) faults.push({ what, expected, actual });
}
