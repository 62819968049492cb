// What the kernel should hold, computed from IPAM's view, the leases and the settings. Pure and total: input that
// contradicts itself (two peers with one address, a block that is none) costs that peer its place and becomes a finding.
import type { IpamView, Lease } from '#agent/runtime/ipam.ts';

import type { KernelFacts } from './actual.ts';
import { bridgeOf, hasBridge, unreachable } from './bridge.ts';
import { byFamily, familiesOf, familyOf, hostCidr, readAddress, subtractCidrs } from './cidr.ts';
import type { Family } from './cidr.ts';
import { canonicalBlocks, nexthopsOf, peerElements, peerRoutes, usablePeers } from './desired-peers.ts';
import { directElements } from './direct.ts';
import type { DirectInput } from './direct.ts';
import { aliasOf, gatewayCidr, hostMac, vtepMac } from './identity.ts';
import { plainMetric } from './objects.ts';
import type {
  DesiredPodLink,
  DesiredState,
  FdbEntry,
  Finding,
  LinkAddress,
  OverlayLink,
  PeerNeighbour,
  Route,
} from './objects.ts';
import { needsRouteLocalnet, podElements } from './pod-elements.ts';
import { renderRuleset } from './ruleset.ts';
import { keyOf, setNames } from './set-shapes.ts';
import type { SetElements, SetName } from './set-shapes.ts';
import type { DatapathSettings } from './settings.ts';

/** What planning asks of the host. */
export interface HostFacts {
  /** MTU of the link that holds the underlay address; undefined when no link does. */
  readonly underlayMtuBytes: number | undefined;
  /** net.ipv4.conf.all.rp_filter. */
  readonly hostRpFilter: number;
  /** Number of the link that holds the underlay address; undefined when no link does. */
  readonly underlayIfindex: number | undefined;
}

export function hostFacts({ underlay, hostRpFilter }: KernelFacts): HostFacts {
  return {
    underlayMtuBytes: underlay?.mtuBytes,
    hostRpFilter,
    underlayIfindex: underlay?.ifindex,
  };
}

export interface DesiredInput extends HostFacts {
  readonly view: IpamView;
  readonly leases: readonly Lease[];
  readonly settings: DatapathSettings;
  /** Host interface names of pods that are ports of the bridge. */
  readonly ports: ReadonlySet<string>;
  /** False where the node has IPv6 off: nexthops then carry the peer's underlay address, as where nothing else is of IPv6. */
  readonly ipv6: boolean;
  readonly direct: DirectInput;
}

/** Bytes that VXLAN adds around an inner IP packet: Ethernet, VXLAN, UDP and the outer IP header. */
export const overheadBytes = { 4: 50, 6: 70 } as const;

/** Below it the kernel takes IPv6 off a device (RFC 8200, section 5). */
const ipv6MinMtuBytes = 1280;
/** What every host must take (RFC 791). The kernel refuses a device of less than 68. */
const ipv4MinMtuBytes = 576;

/** The desired state. Never throws. */
export function desiredState(input: DesiredInput): DesiredState {
  const { view, settings } = input;
  const findings: Finding[] = [];
  const overlay = overlayLink(input, findings);
  const underlay = underlayAddressOf(view, settings);
  // A route of IPv4 through an IPv6 nexthop cannot use the neighbour's cached header: 2 % of a small packet's way.
  const onIpv6 = servesIpv6(view) || (underlay !== undefined && familyOf(underlay) === 6);
  const linkLocal = onIpv6 && input.ipv6 && (overlay.link?.mtuBytes ?? 0) >= ipv6MinMtuBytes;
  const peers = usablePeers({ view, own: underlay, linkLocal, direct: input.direct }, findings);
  const prefsrc = byFamily(view.overlayAddresses);
  const ranges = overlayRanges(view, findings);
  const pods = podState(input, prefsrc, findings);
  const own = ownBlocks(view, findings);
  const bridge = overlay.link && bridgeOf(input, overlay.link.mtuBytes, prefsrc, own);
  const routes = [
    // A bridge that waits for the underlay keeps its routes.
    ...(bridge?.routes ?? (hasBridge(input) ? [] : own.map(unreachable))),
    ...ranges.map((dst): Route => ({ dst, metric: settings.poolMetric, target: { kind: 'unreachable' } })),
    ...pods.routes,
    ...(overlay.link ? peerRoutes(peers, prefsrc, new Set(own), findings) : []),
  ].filter(({ dst }) => input.ipv6 || familyOf(dst) === 4);
  const addresses = [
    ...pods.addresses,
    ...(bridge?.addresses ?? []),
    ...(overlay.link ? overlayAddresses(view, bridge?.bridge ?? overlay.link) : []),
  ].filter(({ cidr }) => input.ipv6 || familyOf(cidr) === 4);
  const shown = overlay.link ? peers : [];
  return {
    overlay: overlay.link,
    waitingFor: overlay.waitingFor || (prefsrc.size === 0 ? 'an overlay address of this node' : ''),
    bridge: bridge?.bridge,
    portEntries: bridge?.portEntries ?? [],
    podLinks: pods.links,
    addresses,
    nexthops: nexthopsOf(shown),
    neighbours: shown.map((peer): PeerNeighbour => ({ address: peer.gateway, mac: peer.mac })),
    fdb: shown.map((peer): FdbEntry => ({ mac: peer.mac, underlayAddress: peer.underlayAddress })),
    routes,
    firewall: {
      ruleset: renderRuleset({
        table: settings.nftTable,
        overlayDevice: settings.overlayDevice,
        overlayIfindex: settings.overlayIfindex,
        underlayIfindex: input.underlayIfindex,
        podLinkPrefix: settings.podLinkPrefix,
        vxlanPort: settings.vxlanPort,
        vni: settings.vni,
        overlayAddresses: view.overlayAddresses,
        overlayRanges: ranges,
        nonMasqueradeCidrs: settings.nonMasqueradeCidrs,
        masquerade: settings.masquerade,
        bridgeDevice: hasBridge(input) ? settings.bridgeDevice : undefined,
        directLink: input.direct.mode === 'vxlan' ? undefined : input.direct.underlay?.ifname,
      }),
      elements: { ...pods.elements, ...peerElements(peers), ...directElements(input.direct, peers) },
    },
    findings,
  };
}

/** True where pods may have IPv6 addresses. */
export function servesIpv6(view: IpamView): boolean {
  return view.ranges.some((range) => familyOf(range) === 6);
}

/** Of the overlay and of pods, at least what IP needs: the kernel then sends outer packets in fragments. */
function overlayMtu(input: DesiredInput, underlayMtuBytes: number, local: string, findings: Finding[]): number {
  const { view, settings } = input;
  const overhead = overheadBytes[familyOf(local)];
  const [fromLink, isIpv6] = [underlayMtuBytes - overhead, servesIpv6(view) || familyOf(local) === 6];
  const mtuBytes = settings.mtuBytes || fromLink;
  // A device below it has no IPv6: neither addresses of pods nor, over an IPv6 underlay, nexthops.
  const least = isIpv6 ? ipv6MinMtuBytes : ipv4MinMtuBytes;
  if (mtuBytes >= least) return mtuBytes;
  const needs = `${isIpv6 ? 'IPv6' : 'IP'} needs ${least}`;
  const message =
    settings.mtuBytes > 0 && fromLink >= least
      ? `the setting mtuBytes is ${mtuBytes} and ${needs}, which pods have got: set it to 0 or to ${least} and more`
      : `${mtuBytes} bytes are left for pods and ${needs}: large packets cross the underlay in fragments; raise the MTU of ` +
        `the underlay link to ${least + overhead} or more`;
  findings.push({ name: 'mtuTooSmall', subject: settings.overlayDevice, message });
  return least;
}

function overlayLink(
  input: DesiredInput,
  findings: Finding[],
): { readonly link: OverlayLink | undefined; readonly waitingFor: string } {
  const { view, settings, underlayMtuBytes } = input;
  const self = view.peers.find((peer) => peer.self);
  const local = underlayAddressOf(view, settings);
  if (!self) return { link: undefined, waitingFor: "this node's own record" };
  if (local === undefined) return { link: undefined, waitingFor: 'an underlay address of this node' };
  if (underlayMtuBytes === undefined) {
    return { link: undefined, waitingFor: `a link that holds the underlay address ${local}` };
  }
  const link: OverlayLink = {
    ifname: settings.overlayDevice,
    vni: settings.vni,
    port: settings.vxlanPort,
    local,
    mac: vtepMac(self.name),
    mtuBytes: overlayMtu(input, underlayMtuBytes, local, findings),
    rpFilter: overlayRpFilter(input),
  };
  if (!input.ipv6 && servesIpv6(view)) {
    const message = 'the pool has IPv6 ranges but this node has IPv6 off: sysctl -w net.ipv6.conf.all.disable_ipv6=0';
    findings.push({ name: 'ipv6Off', subject: 'net.ipv6.conf.all.disable_ipv6', message });
  }
  return { link, waitingFor: '' };
}

/** Values of rp_filter (Documentation/networking/ip-sysctl.rst). */
const rpFilters = { off: 0, loose: 2 } as const;

/**
 * Off, because it looks every packet's source up in the routes once more (2 % of a small packet's way); loose where the host would make
 * it strict, and where packets of a peer may come by the overlay that go to it directly.
 */
export function overlayRpFilter({ settings, hostRpFilter }: Pick<DesiredInput, 'settings' | 'hostRpFilter'>): number {
  return settings.overlayMode === 'vxlan' && hostRpFilter === rpFilters.off ? rpFilters.off : rpFilters.loose;
}

/** The underlay address that this node's VXLAN packets leave from. */
export function underlayAddressOf(view: IpamView, settings: DatapathSettings): string | undefined {
  const address = view.peers.find((peer) => peer.self)?.underlayAddress ?? settings.underlayAddress;
  // What is no address stays as it is, to be named.
  return address === undefined ? undefined : (readAddress(address) ?? address);
}

interface PodState {
  readonly links: readonly DesiredPodLink[];
  readonly addresses: readonly LinkAddress[];
  readonly routes: readonly Route[];
  readonly elements: SetElements;
}

function podState(input: DesiredInput, prefsrc: ReadonlyMap<Family, string>, findings: Finding[]): PodState {
  const links: DesiredPodLink[] = [];
  const addresses: LinkAddress[] = [];
  const routes: Route[] = [];
  const elements = new PodElements(findings, hasBridge(input));
  const leased = new Map<string, string>();
  for (const lease of input.leases) {
    const ifname = lease.hostIfname;
    const families = familiesOf(lease.addresses);
    const ignoresAdvertisements = families.includes(6);
    const routeLocalnet = needsRouteLocalnet(lease);
    const isPort = input.ports.has(ifname);
    links.push({
      ifname,
      alias: aliasOf(lease, isPort ? 'bridge' : 'routed'),
      hostMac,
      // Where the node has IPv6 off, so has the pod's link.
      ignoresAdvertisements: ignoresAdvertisements && !isPort && input.ipv6,
      routeLocalnet: routeLocalnet && !isPort,
      bridge: isPort ? input.settings.bridgeDevice : undefined,
    });
    const own: string[] = [];
    for (const address of lease.addresses) {
      const other = leased.get(address);
      if (other !== undefined) {
        findings.push({ name: 'duplicateLease', subject: address, message: `leased to ${other} and to ${ifname}` });
        continue;
      }
      leased.set(address, ifname);
      own.push(address);
      if (isPort) continue;
      const family = familyOf(address);
      const target = { kind: 'pod', ifname, prefsrc: prefsrc.get(family) } as const;
      routes.push({ dst: hostCidr(address), metric: plainMetric[family], target });
    }
    elements.add({ ...lease, addresses: own });
    if (isPort) continue;
    for (const family of families) addresses.push({ ifname, cidr: gatewayCidr(family), linkScope: true });
  }
  return { links, addresses, routes, elements: elements.sets };
}

/** Elements of every pod; of two that the kernel would take for one the first stays. */
class PodElements {
  readonly sets: Readonly<Record<SetName, Set<string>>>;
  readonly #findings: Finding[];
  readonly #owners = new Map<string, string>();

  readonly #onBridge: boolean;

  constructor(findings: Finding[], onBridge: boolean) {
    this.#findings = findings;
    this.#onBridge = onBridge;
    this.sets = Object.fromEntries(setNames.map((set) => [set, new Set<string>()])) as Record<SetName, Set<string>>;
  }

  add(lease: Lease): void {
    for (const { set, key } of podElements(lease, this.#onBridge)) {
      const name = `${set} ${keyOf(key)}`;
      const owner = this.#owners.get(name);
      if (owner === undefined) {
        this.#owners.set(name, lease.hostIfname);
        this.sets[set].add(key);
      } else if (owner !== lease.hostIfname) {
        const message = `host port of ${owner} and of ${lease.hostIfname}; the first has it`;
        this.#findings.push({ name: 'duplicateHostPort', subject: keyOf(key), message });
      }
    }
  }
}

function overlayAddresses(view: IpamView, overlay: { readonly ifname: string }): readonly LinkAddress[] {
  return view.overlayAddresses.map((address) => ({
    ifname: overlay.ifname,
    cidr: hostCidr(address),
    linkScope: false,
  }));
}

function ownBlocks(view: IpamView, findings: Finding[]): readonly string[] {
  const self = view.peers.find((peer) => peer.self);
  return self ? [...new Set(canonicalBlocks(self.blocks, self.name, findings))] : [];
}

function overlayRanges(view: IpamView, findings: Finding[]): readonly string[] {
  return subtractCidrs(
    canonicalBlocks(view.ranges, 'universe', findings),
    canonicalBlocks(view.reserved, 'universe', findings),
  );
}
