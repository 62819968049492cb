// One pod's link, `routed`: a veth, a /32 in the pod with a link-local gateway, a host route and neighbour, the firewall
// elements. Everything but the final deletion is synchronous netlink (about a millisecond for an ADD), so concurrent calls
// never see each other half-way.
//
//   pod netns                                 host
//   eth0 10.40.0.7/32 ── veth ── weftpXXXX  169.254.1.1/32 scope link, fixed MAC
//   default via 169.254.1.1 *)    route 10.40.0.7/32 dev weftpXXXX src <overlay address>, neighbour hint
//   fd00::7/128                      fe80::457:65ff:fe66:7401/64 (of the fixed MAC)
//   default via fe80::457:… *)    route fd00::7/128 dev weftpXXXX src <overlay address>, neighbour hint
//
//   *) of the pod's first link; of a further one see pod-routes.ts
//
// Why the gateway's address sits on each host end: with arp_ignore=1 the host answers only for addresses of the interface
// that asks, and proxy ARP would need a default route on the host. Scope link keeps it from ever being chosen as a source.
// Why the host's neighbour entry is STALE: a plugin chained behind (tuning) may change the pod's MAC. A permanent entry would never be
// corrected, a REACHABLE one after 30 to 50 s, this one after 8 s. In the pod the gateway's entry is permanent: its MAC is the same
// everywhere.
// IPv6 addresses are made without duplicate detection: IPAM gave them to one pod, and nothing may wait a second for it.
import { setTimeout as sleep } from 'node:timers/promises';

import { WeftError } from '#agent/errors.ts';
import { scope } from '#agent/netlink/addr.ts';
import { delLink, loopbackIfindex, setLink } from '#agent/netlink/link.ts';
import type { NetlinkRequest } from '#agent/netlink/message.ts';
import { neighbourState } from '#agent/netlink/neighbour.ts';
import { errno, NetlinkError } from '#agent/netlink/netlink-error.ts';
import { type OpenNetns, openNetns, readNetnsFile, writeNetnsFile } from '#agent/netlink/netns.ts';
import { putNeighbour } from '#agent/netlink/peer-writes.ts';
import { addAddress, addLinkRoute, addVeth, getOperstate, setAlias, setUp } from '#agent/netlink/pod-writes.ts';
import { delRoute, routeTo } from '#agent/netlink/route.ts';
import { NetlinkSocket } from '#agent/netlink/socket.ts';
import type { Lease } from '#agent/runtime/ipam.ts';

import { firstPortEntry, macTaken, portSettings } from './bridge-io.ts';
import { addressOf, familiesOf, type Family, familyOf, hostCidr, prefixLengthOf } from './cidr.ts';
import type { PodLink, PodLinkRequest, PodRoute } from './datapath.ts';
import { addElements, removeElements, removeOfGoneLink } from './firewall.ts';
import { aliasOf, gatewayCidr, hostMac, parseAlias, podGatewayOf, podMacOf } from './identity.ts';
import type { KernelIo } from './kernel-io.ts';
import { readEnds, readSummary } from './link-io.ts';
import { needsRouteLocalnet, podElements } from './pod-elements.ts';
import { addPodRoutes, removePodRules } from './pod-routes.ts';
import type { PodLinkReaper } from './reaper.ts';
import type { DatapathSettings } from './settings.ts';
import type { Shaper } from './shaper.ts';

/** IF_OPER_UP (include/uapi/linux/if.h). */
const operstateUp = 6;
/** How often a link is looked at, a millisecond apart, before ADD goes on without its carrier. */
const mostCarrierLooks = 200;

const gatewayAddress = { 4: partsOf(gatewayCidr(4)), 6: partsOf(gatewayCidr(6)) } as const;

export interface PodLinkContext {
  readonly io: KernelIo;
  readonly settings: DatapathSettings;
  readonly reaper: PodLinkReaper;
  readonly shaper: Shaper;
}

/** What a port of the bridge needs. */
export interface BridgePort {
  readonly bridgeIfindex: number;
  /** The address as the pod's link has it, with its prefix length. */
  readonly cidrOf: (address: string) => string;
}

/** What the overlay lends to a pod link at the moment of the call. */
export interface PodLinkPlan {
  readonly mtuBytes: number;
  /** This node's overlay address per family: the source of what the host itself sends to the pod. */
  readonly overlayAddresses: ReadonlyMap<Family, string>;
  /** The node has a bridge: its table knows the pods' sources too. */
  readonly onBridge: boolean;
  /** The link becomes a port of it; absent: the pod is routed. */
  readonly port?: BridgePort;
  /** False where the node has IPv6 off. */
  readonly ipv6: boolean;
  /** For tests: called before each step that writes; what it throws fails the attach there. */
  readonly beforeStep?: (step: string) => void;
}

/**
 * Builds the link and returns what CNI's result needs. Throws WeftError: `invalidNetns`, `interfaceExists`,
 * `attachmentExists`, `kernel`; nothing is left behind then.
 */
export async function attachPodLink(
  context: PodLinkContext,
  request: PodLinkRequest,
  plan: PodLinkPlan,
  signal: AbortSignal,
): Promise<PodLink> {
  const { io, settings, reaper } = context;
  const { lease, netnsPath } = request;
  signal.throwIfAborted();
  if (request.netns === undefined) {
    using netns = openPodNetns(netnsPath);
    return await attachPodLink(context, { ...request, netns }, plan, signal);
  }
  const { netns } = request;
  requireFamilies(lease, plan);
  if (reaper.holds(lease.hostIfname)) await reaper.flush();
  reaper.busy();
  const mac = podMac(lease);
  let made = makeVeth(context, lease, mac, plan, netns);
  if (made === 'exists' && reaper.pending > 0) {
    await reaper.flush();
    signal.throwIfAborted();
    made = makeVeth(context, lease, mac, plan, netns);
  }
  if (made === 'exists') throw existingInterface(io, request);
  let routes: readonly PodRoute[];
  try {
    const elements = podElements(lease, plan.onBridge);
    plan.beforeStep?.('firewall');
    const { hostIfindex } = made;
    addElements(io, settings.nftTable, elements, () => hostIfindex);
    plan.beforeStep?.('pod');
    routes = buildPodSide(settings, request, made.podIfindex, plan, netns);
    plan.beforeStep?.('host');
    const isUp = buildHostSide(context, lease, mac, made, plan);
    context.shaper.put(lease, made.hostIfindex);
    if (!isUp) await awaitCarrier(io, carrierLooks(made, plan), signal);
    plan.beforeStep?.('done');
  } catch (error) {
    await undoAttach(context, lease, made.hostIfindex, plan.onBridge);
    throw isMacTaken(error) ? macTaken(podMac(lease)) : error;
  }
  return {
    hostIfname: lease.hostIfname,
    hostMac,
    podMac: mac,
    mtuBytes: plan.mtuBytes,
    gateways: familiesOf(lease.addresses).map(gatewayOf(plan)),
    ...(plan.port ? { addresses: lease.addresses.map(plan.port.cidrOf) } : {}),
    routes,
  };
}

function isMacTaken(error: unknown): boolean {
  return error instanceof NetlinkError && error.errno === errno.EEXIST && error.message.startsWith('newFdb');
}

/** The gateway that the pod sees: of a port the bridge's own address, IPv6 always link-local. */
export function gatewayOf({
  port,
  overlayAddresses,
}: Pick<PodLinkPlan, 'overlayAddresses'> & { readonly port?: BridgePort | undefined }): (family: Family) => string {
  return (family) => (port && family === 4 ? (overlayAddresses.get(4) ?? podGatewayOf(4)) : podGatewayOf(family));
}

/** Opened once: all that is done to the pod is done to the namespace that the path led to at first. */
export function openPodNetns(netnsPath: string): OpenNetns {
  let netns: OpenNetns | undefined;
  try {
    netns = openNetns(netnsPath);
  } catch (error) {
    throw new WeftError('invalidNetns', `${netnsPath} cannot be read as a network namespace`, { cause: error });
  }
  if (netns === undefined) throw new WeftError('invalidNetns', `${netnsPath} is not a network namespace`);
  return netns;
}

function requireFamilies(lease: Lease, plan: PodLinkPlan): void {
  if (lease.addresses.length === 0) throw new WeftError('internal', `lease of ${lease.hostIfname} holds no address`);
  const ipv6 = lease.addresses.find((address) => familyOf(address) === 6);
  if (ipv6 === undefined || plan.ipv6) return;
  throw new WeftError(
    'kernel',
    `${ipv6} cannot be served: this node has IPv6 off (sysctl net.ipv6.conf.all.disable_ipv6)`,
  );
}

/** MAC of the pod's end: the one asked for, else it follows from the first address. */
export function podMac(lease: Pick<Lease, 'addresses' | 'link'>): string {
  return lease.link?.mac ?? podMacOf(lease.addresses[0] ?? '');
}

interface VethEnds {
  readonly hostIfindex: number;
  readonly podIfindex: number;
  /** The pod's namespace, as the node's calls it. */
  readonly podNetnsid: number;
}

/** The pair by one RTM_NEWLINK, the pod's end inside its namespace from the first moment. 'exists': either name is taken. */
function makeVeth(
  { io }: PodLinkContext,
  lease: Lease,
  peerMac: string,
  plan: PodLinkPlan,
  netns: Pick<OpenNetns, 'fd'>,
): VethEnds | 'exists' {
  plan.beforeStep?.('veth');
  const [reply] = io.route.batch([
    addVeth({
      ifname: lease.hostIfname,
      mac: hostMac,
      mtuBytes: plan.mtuBytes,
      peerIfname: lease.ifname,
      peerMac,
      netNsFd: netns.fd,
      ...(plan.port ? { master: plan.port.bridgeIfindex } : {}),
    }),
  ]);
  if (!reply.ok) {
    if (reply.error.errno === errno.EEXIST) return 'exists';
    throw reply.error;
  }
  const link = reply.answers[0] ?? readEnds(io, lease.hostIfname);
  if (link?.link === undefined || link.linkNetnsid === undefined) {
    throw new WeftError('kernel', `${lease.hostIfname} was made but the kernel does not show both of its ends`);
  }
  return { hostIfindex: link.ifiIndex, podIfindex: link.link, podNetnsid: link.linkNetnsid };
}

function existingInterface(io: KernelIo, request: PodLinkRequest): WeftError {
  const { lease } = request;
  if (readSummary(io, lease.hostIfname)) {
    return new WeftError('attachmentExists', `the host already has the link ${lease.hostIfname} of this attachment`);
  }
  return new WeftError('interfaceExists', `the pod already has an interface named ${lease.ifname}`);
}

/** Brings the host's end up, last, so that it has its carrier at once. True when the link can carry packets both ways. */
function buildHostSide(
  { io, settings }: PodLinkContext,
  lease: Lease,
  mac: string,
  ends: VethEnds,
  plan: PodLinkPlan,
): boolean {
  if (!plan.port && lease.addresses.some((address) => familyOf(address) === 6)) {
    io.writeSysctl(`net/ipv6/conf/${lease.hostIfname}/accept_ra`, '0');
  }
  const looks = carrierLooks(ends, plan);
  const answers = io.route.batchOrThrow([...hostRequests(settings, lease, mac, ends.hostIfindex, plan), ...looks]);
  return areUp(answers.slice(-looks.length));
}

/** IPv6 makes no address by itself on the host end: it saves duplicate detection and multicast reports per pod. */
function hostRequests(
  settings: DatapathSettings,
  lease: Lease,
  mac: string,
  ifindex: number,
  plan: PodLinkPlan,
): readonly NetlinkRequest<unknown>[] {
  if (plan.port) return portRequests(lease, mac, ifindex, plan, plan.port);
  const requests: NetlinkRequest<unknown>[] = [
    setAlias({ ifiIndex: ifindex, ifalias: aliasOf(lease), quietIpv6: plan.ipv6 }),
    ...(needsRouteLocalnet(lease)
      ? [setLink({ ifiIndex: ifindex, afSpec: { inet: { conf: { routeLocalnet: 1 } } } })]
      : []),
    setUp(ifindex),
    ...familiesOf(lease.addresses).map((family) => addGatewayAddress(ifindex, family)),
  ];
  const protocol = settings.routeProtocol;
  for (const dst of lease.addresses) {
    const prefsrc = plan.overlayAddresses.get(familyOf(dst));
    const source = prefsrc === undefined ? {} : { prefsrc };
    requests.push(putNeighbour(ifindex, dst, mac, neighbourState.stale));
    requests.push(addLinkRoute({ dst, oif: ifindex, protocol, ...source }));
  }
  return requests;
}

function portRequests(
  lease: Lease,
  lladdr: string,
  ifindex: number,
  plan: PodLinkPlan,
  { bridgeIfindex }: BridgePort,
): readonly NetlinkRequest<unknown>[] {
  return [
    setAlias({ ifiIndex: ifindex, ifalias: aliasOf(lease, 'bridge'), quietIpv6: plan.ipv6 }),
    portSettings({ ifiIndex: ifindex }),
    setUp(ifindex),
    firstPortEntry(ifindex, lladdr),
    ...lease.addresses.map((dst) => putNeighbour(bridgeIfindex, dst, lladdr, neighbourState.stale)),
  ];
}

function addGatewayAddress(ifindex: number, family: Family): NetlinkRequest<never> {
  const { address, prefixLength } = gatewayAddress[family];
  return addAddress({ ifindex, address, prefixLength, scope: scope.link });
}

/** Runtimes make namespaces with IPv6 off; a pod that is given an IPv6 address has it on. */
function switchIpv6On({ sysctlRoot }: DatapathSettings, netnsPath: string, ifname: string): void {
  for (const link of ['lo', ifname]) {
    const file = `${sysctlRoot}/net/ipv6/conf/${link}/disable_ipv6`;
    if (readNetnsFile(netnsPath, file) !== '0') writeNetnsFile(netnsPath, file, '0');
  }
}

function buildPodSide(
  settings: DatapathSettings,
  { netnsPath, lease }: PodLinkRequest,
  ifindex: number,
  plan: PodLinkPlan,
  netns: Pick<OpenNetns, 'fd'>,
): readonly PodRoute[] {
  const gateway = gatewayOf(plan);
  const cidrs = lease.addresses.map(plan.port?.cidrOf ?? hostCidr);
  const families = familiesOf(lease.addresses);
  if (families.includes(6)) switchIpv6On(settings, netnsPath, lease.ifname);
  using socket = NetlinkSocket.open({ protocol: 'route', netnsFd: netns.fd, receiveBufferBytes: 128 << 10 });
  const requests = [
    setUp(loopbackIfindex),
    setUp(ifindex),
    ...cidrs.map((cidr) => addPodAddress(ifindex, cidr)),
    ...families.map((family) => putNeighbour(ifindex, gateway(family), hostMac)),
  ];
  return addPodRoutes(socket, lease, { podIfindex: ifindex, cidrs, gateway }, requests);
}

/**
 * The pod's end came up before the host's, so without a carrier: it drops what it sends until the kernel's link watch has run, which a
 * busy machine delays. Reading one link by its index runs it at once (net/core/rtnetlink.c, rtnl_getlink, Linux 6.8); before, it is
 * waited for, but not for ever: the pod is built either way. A bridge forwards from a port once the link watch has seen that too.
 */
function carrierLooks({ hostIfindex, podIfindex, podNetnsid }: VethEnds, plan: PodLinkPlan): readonly OperstateLook[] {
  const pod = getOperstate({ ifiIndex: podIfindex, targetNetnsid: podNetnsid });
  return plan.port ? [getOperstate({ ifiIndex: hostIfindex }), pod] : [pod];
}

type OperstateLook = NetlinkRequest<number>;

function areUp(answers: readonly (readonly unknown[])[]): boolean {
  return answers.every(([operstate]) => operstate === operstateUp);
}

/** The rest of the looks, after one that saw no carrier. */
export async function awaitCarrier(io: KernelIo, looks: readonly OperstateLook[], signal: AbortSignal): Promise<void> {
  for (let at = 1; at < mostCarrierLooks; at++) {
    await sleep(1, undefined, { signal });
    if (areUp(io.route.batchOrThrow(looks))) return;
  }
}

function addPodAddress(ifindex: number, cidr: string): NetlinkRequest<never> {
  return addAddress({
    ifindex,
    address: addressOf(cidr),
    prefixLength: prefixLengthOf(cidr),
    scope: scope.universe,
  });
}

function partsOf(cidr: string): { readonly address: string; readonly prefixLength: number } {
  return { address: addressOf(cidr), prefixLength: prefixLengthOf(cidr) };
}

/** Takes back whatever of an attach was done. The deletion is awaited: the caller reports a clean failure. */
async function undoAttach(
  context: PodLinkContext,
  lease: Lease,
  hostIfindex: number,
  onBridge: boolean,
): Promise<void> {
  const { io, settings, reaper } = context;
  context.shaper.doom(lease);
  const [reply] = await io.route.batchAsync([delLink({ ifiIndex: hostIfindex })]);
  if (lease.link?.bandwidth) await reaper.flush();
  removePodRules(lease);
  removeElements(io, settings.nftTable, podElements(lease, onBridge), () => hostIfindex);
  if (!reply.ok && reply.error.errno !== errno.ENODEV) throw reply.error;
}

/**
 * Makes the pod unreachable and its address safe to lease again, synchronously; the veth itself is deleted behind.
 * Does nothing to a link of another generation. Succeeds when there is nothing.
 */
export function detachPodLink(context: PodLinkContext, lease: Lease, onBridge: boolean): void {
  const { io, settings, reaper } = context;
  reaper.busy();
  const link = readSummary(io, lease.hostIfname);
  const alias = parseAlias(link?.ifalias ?? '');
  if (alias && alias.generation !== lease.generation) return;
  removePodRules(lease);
  const elements = podElements(lease, onBridge);
  if (link) removeElements(io, settings.nftTable, elements, () => link.ifiIndex);
  else removeOfGoneLink(io, settings.nftTable, elements);
  context.shaper.doom(lease);
  if (!link) return;
  const replies = io.route.batch([
    // Out of a bridge too: what is sent to it there would still arrive.
    setLink({ ifiIndex: link.ifiIndex, group: settings.doomedGroup, ...(link.master ? { master: 0 } : {}) }),
    ...lease.addresses.map((address) =>
      delRoute({ ...routeTo(hostCidr(address)), oif: link.ifiIndex, rtmProtocol: settings.routeProtocol }),
    ),
  ]);
  for (const reply of replies) {
    if (!reply.ok && reply.error.errno !== errno.ENODEV && reply.error.errno !== errno.ESRCH) throw reply.error;
  }
  reaper.doom(lease.hostIfname);
}
