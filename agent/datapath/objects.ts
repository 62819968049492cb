// Kernel objects as plain values, in two tenses: what should be (`Desired…`) and what is (`Actual…`). Objects refer to links
// by name and to nexthops by gateway, never by a number that the kernel chose; apply.ts resolves those when it writes.
import type { Condition } from '#agent/findings.ts';

import type { SetElements, SetName } from './set-shapes.ts';

/** Our VXLAN device. */
export interface OverlayLink {
  readonly ifname: string;
  readonly vni: number;
  readonly port: number;
  /** Underlay address that packets leave from; also tells the family of the underlay. */
  readonly local: string;
  readonly mac: string;
  readonly mtuBytes: number;
  /** Its own net.ipv4.conf.LINK.rp_filter. */
  readonly rpFilter: number;
}

/** The bridge that pods are ports of. */
export interface BridgeLink {
  readonly ifname: string;
  readonly mac: string;
  readonly mtuBytes: number;
}

/** The link of the bridge's name as it is. */
export interface ActualBridge extends BridgeLink {
  readonly isBridge: boolean;
  /** Everything else is as `settleBridge` of bridge-io.ts makes it. */
  readonly settled: boolean;
}

/** Where a bridge finds a pod: a static entry, since ports do not learn. */
export interface PortEntry {
  readonly ifname: string;
  readonly mac: string;
}

/** An address on a link of ours. `cidr` with its prefix length, `linkScope` for addresses that must never be a source. */
export interface LinkAddress {
  readonly ifname: string;
  readonly cidr: string;
  readonly linkScope: boolean;
}

/** A permanent neighbour on the overlay device. */
export interface PeerNeighbour {
  readonly address: string;
  readonly mac: string;
}

/** Where the overlay device sends frames for a MAC. */
export interface FdbEntry {
  readonly mac: string;
  /** Of an entry that is not as ours are (another port or VNI, not permanent): followed by a word that makes it differ. */
  readonly underlayAddress: string;
}

export type RouteTarget =
  | { readonly kind: 'peer'; readonly gateway: string; readonly prefsrc: string }
  /** No `prefsrc`: the node has no overlay address of this family yet. */
  | { readonly kind: 'pod'; readonly ifname: string; readonly prefsrc: string | undefined }
  | { readonly kind: 'bridge'; readonly ifname: string; readonly prefsrc: string | undefined }
  | { readonly kind: 'unreachable' };

/** The metric of a route that nobody gave one: what the kernel prefers by default (IP6_RT_PRIO_USER for IPv6). */
export const plainMetric = { 4: 0, 6: 1024 } as const;

/** A route in table main. The kernel tells routes apart by `dst` and `metric`. */
export interface Route {
  readonly dst: string;
  readonly metric: number;
  readonly target: RouteTarget;
}

/** The nft table: its static part as loadable text with the fingerprint that a listing must show, and the moving elements. */
export interface DesiredFirewall {
  readonly ruleset: Ruleset;
  readonly elements: SetElements;
}

export interface Ruleset {
  /** Everything but the elements of the moving sets; `bridgeBody` of the table of family bridge, where there shall be one. */
  readonly body: string;
  readonly bridgeBody: string | undefined;
  /** What a listing of the loaded table must come to (see firewall.ts). */
  readonly fingerprint: readonly string[];
}

export interface ActualFirewall {
  /** Empty when there is no table. */
  readonly fingerprint: readonly string[];
  readonly elements: SetElements;
}

export interface DesiredPodLink {
  readonly ifname: string;
  readonly alias: string;
  readonly hostMac: string;
  /** The pod has IPv6: the host must not take routes from what the pod advertises. */
  readonly ignoresAdvertisements: boolean;
  /** Packets from and to 127.0.0.0/8 may pass: the node reaches the pod's host ports by its loopback address. */
  readonly routeLocalnet: boolean;
  /** The bridge whose port it is. */
  readonly bridge: string | undefined;
}

export interface DesiredState {
  /** Undefined where no pod is a port of a bridge and none shall be. */
  readonly bridge: BridgeLink | undefined;
  readonly portEntries: readonly PortEntry[];
  /** Undefined while something that it needs is unknown; `waitingFor` says what. Nothing of the overlay is touched then. */
  readonly overlay: OverlayLink | undefined;
  readonly waitingFor: string;
  readonly podLinks: readonly DesiredPodLink[];
  readonly addresses: readonly LinkAddress[];
  /** Gateways of the peers; one nexthop object each. `ADDRESS%LINK`: on that link instead of the overlay (direct.ts). */
  readonly nexthops: readonly string[];
  readonly neighbours: readonly PeerNeighbour[];
  readonly fdb: readonly FdbEntry[];
  readonly routes: readonly Route[];
  readonly firewall: DesiredFirewall;
  readonly findings: readonly Finding[];
}

/** A condition that a person should know. */
export type Finding = Condition;

/** The link of the overlay's name as it is. `undefined` members: not a VXLAN device. */
export interface ActualOverlay {
  readonly ifname: string;
  readonly kind: string | undefined;
  readonly vni: number | undefined;
  readonly port: number | undefined;
  readonly local: string | undefined;
  readonly learning: boolean;
  readonly external: boolean;
  readonly mac: string;
  readonly mtuBytes: number;
  readonly up: boolean;
  readonly rpFilter: number;
  /** No IPv6 address comes up by itself (or the device has no IPv6). */
  readonly quietIpv6: boolean;
  /** ARP on, forwarding on, nobody's port. */
  readonly settled: boolean;
  /** Nothing that a device of ours does not have: an own TTL, TOS or DF, a default destination, an underlay link that it would vanish with. */
  readonly plain: boolean;
}

export interface ActualPodLink {
  readonly ifname: string;
  readonly alias: string;
  readonly mac: string;
  readonly mtuBytes: number;
  readonly up: boolean;
  readonly routeLocalnet: boolean;
  readonly doomed: boolean;
  /** Router advertisements are ignored, or the link has no IPv6. */
  readonly ignoresAdvertisements: boolean;
  readonly ipv6Off: boolean;
  /** No IPv6 address comes up by itself (or the link has no IPv6). */
  readonly quietIpv6: boolean;
  /** ARP on, forwarding on. */
  readonly settled: boolean;
  /** The bridge of ours whose port it is, with hairpin on and learning off; '' for any other master or setting. */
  readonly bridge: string | undefined;
}

export interface ActualNexthop {
  readonly id: number;
  /** As in DesiredState; undefined: not of our form (to be removed). */
  readonly gateway: string | undefined;
}

export type ActualRouteTarget =
  | { readonly kind: 'nexthop'; readonly id: number; readonly prefsrc: string | undefined }
  | { readonly kind: 'link'; readonly ifname: string; readonly prefsrc: string | undefined }
  | { readonly kind: 'unreachable' }
  | { readonly kind: 'other' };

export interface ActualRoute {
  readonly dst: string;
  readonly metric: number;
  readonly table: number;
  readonly target: ActualRouteTarget;
}

/** RT_TABLE_MAIN (linux/rtnetlink.h). */
export const mainTable = 254;

/** By what the kernel tells routes apart; of the usual route it is the destination alone, with nothing to put together. */
export function routeKey({ dst, metric, table }: Pick<ActualRoute, 'dst' | 'metric' | 'table'>): string {
  const isUsual = table === mainTable && metric === (dst.includes(':') ? plainMetric[6] : plainMetric[4]);
  return isUsual ? dst : `${table} ${dst} ${metric}`;
}

/** The same of a route in table main. */
export function mainRouteKey({ dst, metric }: Pick<Route, 'dst' | 'metric'>): string {
  return routeKey({ dst, metric, table: mainTable });
}

export interface ActualNeighbour extends PeerNeighbour {
  readonly permanent: boolean;
}

/** Somebody's permanent neighbour on a link of ours. */
export interface HeldNeighbour {
  readonly ifname: string;
  readonly address: string;
}

/** Everything of ours in the kernel, and the few foreign facts that planning needs. */
export interface ActualState {
  readonly bridge: ActualBridge | undefined;
  /** Static entries of the bridge's ports. */
  readonly portEntries: readonly PortEntry[];
  readonly overlay: ActualOverlay | undefined;
  readonly podLinks: readonly ActualPodLink[];
  /** Permanent entries on pod links and the bridge: none of ours, and what hides where a pod is. */
  readonly heldNeighbours: readonly HeldNeighbour[];
  /** On our links only; link-local IPv6 addresses of the kernel's making left out. */
  readonly addresses: readonly LinkAddress[];
  readonly nexthops: readonly ActualNexthop[];
  /** Ids of nexthop objects that are not ours. */
  readonly foreignNexthopIds: ReadonlySet<number>;
  readonly routes: readonly ActualRoute[];
  readonly neighbours: readonly ActualNeighbour[];
  readonly fdb: readonly FdbEntry[];
  readonly firewall: ActualFirewall;
}

export type FirewallOperation =
  | {
      readonly kind: 'loadFirewall';
      readonly firewall: DesiredFirewall;
      /** A table of family bridge is there and must go. */
      readonly dropsBridgeTable: boolean;
    }
  | { readonly kind: 'addElement' | 'delElement'; readonly set: SetName; readonly key: string };

export type OverlayOperation =
  | { readonly kind: 'addOverlay' | 'setOverlay'; readonly link: OverlayLink }
  | { readonly kind: 'delOverlay'; readonly ifname: string }
  | { readonly kind: 'addBridge' | 'setBridge'; readonly link: BridgeLink }
  | { readonly kind: 'delBridge'; readonly ifname: string }
  | { readonly kind: 'setPort'; readonly ifname: string; readonly bridge: string };

/** Operations that are one rtnetlink message each. */
export type MessageOperation =
  /** `setMac` only where it differs: any write of a MAC, also of the same, makes the kernel forget the link's neighbours. */
  | { readonly kind: 'setPodLink'; readonly link: DesiredPodLink; readonly setMac: boolean }
  | { readonly kind: 'doomPodLink'; readonly ifname: string }
  | { readonly kind: 'putPortEntry' | 'delPortEntry'; readonly portEntry: PortEntry }
  | { readonly kind: 'addAddress' | 'delAddress'; readonly address: LinkAddress }
  | { readonly kind: 'putFdb' | 'delFdb'; readonly entry: FdbEntry }
  | { readonly kind: 'putNeighbour' | 'delNeighbour'; readonly neighbour: PeerNeighbour }
  | ({ readonly kind: 'freeNeighbour' } & HeldNeighbour)
  | { readonly kind: 'addNexthop' | 'delNexthop'; readonly id: number; readonly gateway: string | undefined }
  | {
      readonly kind: 'putRoute';
      readonly route: Route;
      readonly nexthopId: number | undefined;
      /** A route of ours has this key now; without one, a route that is there is somebody else's and stays. */
      readonly replaces: boolean;
    }
  | { readonly kind: 'delRoute'; readonly route: ActualRoute };

/** A file below the sysctl tree, of a link of ours. */
export interface SysctlOperation {
  readonly kind: 'setSysctl';
  readonly ifname: string;
  readonly name: string;
  readonly value: string;
}

/** One write. apply.ts executes a list of them in order. */
export type Operation = FirewallOperation | OverlayOperation | MessageOperation | SysctlOperation;
