// What the kernel holds as far as this agent knows: the last reading and every write since. Notifications are compared with it,
// and a change of peers is planned against it without reading thousands of objects anew. Where it is wrong (somebody altered
// something and the notification was lost), the next full comparison says so.
import type { Lease } from '#agent/runtime/ipam.ts';

import { familyOf, hostCidr } from './cidr.ts';
import type { Family } from './cidr.ts';
import { isMessage } from './apply.ts';
import { podMacOf } from './identity.ts';
import { podElements } from './pod-elements.ts';
import { mainRouteKey, mainTable, plainMetric, routeKey } from './objects.ts';
import type {
  ActualRoute,
  ActualRouteTarget,
  ActualState,
  MessageOperation,
  Operation,
  PortEntry,
  RouteTarget,
} from './objects.ts';
import { noElements, setNames } from './set-shapes.ts';
import type { SetName } from './set-shapes.ts';

/** How an attach made the pod's objects. */
export interface AttachedAs {
  readonly overlayAddresses: ReadonlyMap<Family, string>;
  /** The node has a bridge, and the pod's link is a port of it. */
  readonly onBridge: boolean;
  readonly isPort: boolean;
}

export class Expected {
  /** By `<table> <dst> <metric>`. */
  readonly routes: Map<string, ActualRoute>;
  /** Gateway of each nexthop of ours, and the id of each gateway. */
  readonly gateways: Map<number, string | undefined>;
  readonly nexthopIds: Map<string, number>;
  /** Every id that is in use, by others too. */
  readonly takenNexthopIds: Set<number>;
  /** MAC by address, and underlay address by MAC, on the overlay device. */
  readonly neighbours: Map<string, string>;
  readonly fdb: Map<string, string>;
  /** Where the bridge has each pod: port by MAC. */
  readonly ports: Map<string, string>;
  readonly elements: Readonly<Record<SetName, Set<string>>>;
  fingerprint: readonly string[];

  constructor(state: ActualState) {
    this.routes = new Map();
    for (const route of state.routes) this.#putRoute(route);
    this.gateways = new Map();
    this.nexthopIds = new Map();
    this.takenNexthopIds = new Set(state.foreignNexthopIds);
    for (const { id, gateway } of state.nexthops) this.#putNexthop(id, gateway);
    this.neighbours = new Map();
    for (const { address, mac, permanent } of state.neighbours) if (permanent) this.neighbours.set(address, mac);
    this.ports = new Map();
    for (const { mac, ifname } of state.portEntries) this.ports.set(mac, ifname);
    this.fdb = new Map();
    for (const { mac, underlayAddress } of state.fdb) this.fdb.set(mac, underlayAddress);
    const elements = { ...noElements() } as Record<SetName, Set<string>>;
    for (const set of setNames) elements[set] = new Set(state.firewall.elements[set]);
    this.elements = elements;
    this.fingerprint = state.firewall.fingerprint;
  }

  /** How many objects these are. */
  get size(): number {
    const elements = setNames.reduce((sum, set) => sum + this.elements[set].size, 0);
    return this.routes.size + this.gateways.size + this.neighbours.size + this.fdb.size + elements;
  }

  /** Takes the operations for done. */
  note(operations: readonly Operation[]): void {
    for (const operation of operations) {
      if (isMessage(operation)) this.#noteMessage(operation);
      else this.#noteOther(operation);
    }
  }

  /** What the kernel has refused was not done: a route of somebody else is where ours should be. */
  refused(operations: readonly Operation[]): void {
    for (const operation of operations) {
      if (operation.kind === 'putRoute') this.routes.delete(mainRouteKey(operation.route));
      else if (operation.kind === 'putFdb') this.fdb.delete(operation.entry.mac);
    }
  }

  /** The pods as attaches have made them, `ports` by host interface name. */
  attachedAll(leases: readonly Lease[], ports: ReadonlySet<string>, made: Omit<AttachedAs, 'isPort'>): void {
    for (const lease of leases) this.attached(lease, { ...made, isPort: ports.has(lease.hostIfname) });
  }

  /** An attach has made the pod's objects. */
  attached(lease: Lease, made: AttachedAs): void {
    const { hostIfname: ifname, addresses } = lease;
    for (const address of made.isPort ? [] : addresses) {
      const family = familyOf(address);
      const target = { kind: 'link', ifname, prefsrc: made.overlayAddresses.get(family) } as const;
      this.#putRoute({ dst: hostCidr(address), metric: plainMetric[family], table: mainTable, target });
    }
    if (made.isPort) this.ports.set(lease.link?.mac ?? podMacOf(addresses[0] ?? ''), ifname);
    for (const { set, key } of podElements(lease, made.onBridge)) this.elements[set].add(key);
  }

  /** A detach has removed them. */
  detached(lease: Lease): void {
    const { hostIfname, addresses } = lease;
    for (const address of addresses) {
      const key = routeKey({ dst: hostCidr(address), metric: plainMetric[familyOf(address)], table: mainTable });
      const target = this.routes.get(key)?.target;
      if (target?.kind === 'link' && target.ifname === hostIfname) this.routes.delete(key);
    }
    for (const [mac, ifname] of this.ports) if (ifname === hostIfname) this.ports.delete(mac);
    for (const { set, key } of podElements(lease, true)) this.elements[set].delete(key);
  }

  #noteOther(operation: Exclude<Operation, MessageOperation>): void {
    switch (operation.kind) {
      case 'loadFirewall':
        this.fingerprint = operation.firewall.ruleset.fingerprint;
        for (const set of setNames) {
          this.elements[set].clear();
          for (const key of operation.firewall.elements[set]) this.elements[set].add(key);
        }
        break;
      case 'addElement':
        this.elements[operation.set].add(operation.key);
        break;
      case 'delElement':
        this.elements[operation.set].delete(operation.key);
        break;
      case 'delOverlay':
        this.#forgetOverlay();
        break;
      case 'addOverlay':
      case 'setOverlay':
      case 'addBridge':
      case 'setBridge':
      case 'delBridge':
      case 'setPort':
      case 'setSysctl':
        break;
      default:
        operation satisfies never;
    }
  }

  #noteMessage(operation: MessageOperation): void {
    switch (operation.kind) {
      case 'putFdb':
        this.fdb.set(operation.entry.mac, operation.entry.underlayAddress);
        break;
      case 'delFdb':
        this.fdb.delete(operation.entry.mac);
        break;
      case 'putNeighbour':
        this.neighbours.set(operation.neighbour.address, operation.neighbour.mac);
        break;
      case 'delNeighbour':
        this.neighbours.delete(operation.neighbour.address);
        break;
      case 'addNexthop':
        this.#putNexthop(operation.id, operation.gateway);
        break;
      case 'delNexthop':
        this.gateways.delete(operation.id);
        this.takenNexthopIds.delete(operation.id);
        if (operation.gateway !== undefined && this.nexthopIds.get(operation.gateway) === operation.id) {
          this.nexthopIds.delete(operation.gateway);
        }
        break;
      case 'putRoute': {
        const { dst, metric, target } = operation.route;
        this.#putRoute({ dst, metric, table: mainTable, target: targetOf(target, operation.nexthopId) });
        break;
      }
      case 'delRoute':
        this.routes.delete(routeKey(operation.route));
        break;
      case 'putPortEntry':
        this.ports.set(operation.portEntry.mac, operation.portEntry.ifname);
        break;
      case 'delPortEntry':
        this.#forgetPort(operation.portEntry);
        break;
      case 'setPodLink':
      case 'doomPodLink':
      case 'freeNeighbour':
      case 'addAddress':
      case 'delAddress':
        break;
      default:
        operation satisfies never;
    }
  }

  /** An entry at another port than where the bridge has the pod by now is no loss. */
  #forgetPort({ mac, ifname }: PortEntry): void {
    if (this.ports.get(mac) === ifname) this.ports.delete(mac);
  }

  #putRoute(route: ActualRoute): void {
    this.routes.set(routeKey(route), route);
  }

  #putNexthop(id: number, gateway: string | undefined): void {
    this.gateways.set(id, gateway);
    this.takenNexthopIds.add(id);
    if (gateway !== undefined) this.nexthopIds.set(gateway, id);
  }

  /** What the kernel removes with the device; nexthops on the underlay link stay, and routes through them. */
  #forgetOverlay(): void {
    for (const [id, gateway] of this.gateways) {
      if (gateway?.includes('%')) continue;
      this.gateways.delete(id);
      this.takenNexthopIds.delete(id);
      if (gateway !== undefined) this.nexthopIds.delete(gateway);
    }
    this.neighbours.clear();
    this.fdb.clear();
    for (const [key, { target }] of this.routes) {
      if (target.kind === 'nexthop' && !this.gateways.has(target.id)) this.routes.delete(key);
    }
  }
}

function targetOf(target: RouteTarget, nexthopId: number | undefined): ActualRouteTarget {
  switch (target.kind) {
    case 'peer':
      return nexthopId === undefined ? { kind: 'other' } : { kind: 'nexthop', id: nexthopId, prefsrc: target.prefsrc };
    case 'bridge':
    case 'pod':
      return { kind: 'link', ifname: target.ifname, prefsrc: target.prefsrc };
    case 'unreachable':
      return target;
    default:
      return target satisfies never;
  }
}

export function sameRouteTarget(left: ActualRouteTarget, right: ActualRouteTarget): boolean {
  if (left.kind === 'nexthop' && right.kind === 'nexthop')
    return left.id === right.id && left.prefsrc === right.prefsrc;
  if (left.kind === 'link' && right.kind === 'link') {
    return left.ifname === right.ifname && left.prefsrc === right.prefsrc;
  }
  return left.kind === right.kind;
}
