// Kernel notifications: a thread of the addon drains the socket while JavaScript is busy; here its chunks become decoded
// messages. Lost ones are an overrun, upon which the listener reads everything anew.

import { monitorEvent, nativeAddon, type MonitorHandle, type NativeAddon } from '#agent/native/addon.ts';
import { WeftError } from '#agent/errors.ts';

import { addressFormat, addressMessage, type Address } from './addr.ts';
import { linkMessage, linkSummaryFormat, type LinkSummary } from './link.ts';
import { type MessageHeader, readMessages } from './message.ts';
import { neighbourFormat, neighbourMessage, type Neighbour } from './neighbour.ts';
import { fromNative, NetlinkError } from './netlink-error.ts';
import { nexthopFormat, nexthopMessage, type Nexthop } from './nexthop.ts';
import { type OwnPorts } from './own-ports.ts';
import { routeFormat, routeMessage, type Route } from './route.ts';
import { filterMessage, qdiscMessage, tcFormat, type TcObject } from './traffic-control.ts';
import { readS32 } from './wire.ts';

/** RTNLGRP_* (linux/rtnetlink.h). */
const groupNumbers = {
  link: 1,
  neigh: 3,
  tc: 4,
  ipv4Ifaddr: 5,
  ipv4Route: 7,
  ipv6Ifaddr: 9,
  ipv6Route: 11,
  nexthop: 32,
} as const;
export type MonitorGroup = keyof typeof groupNumbers;

export type Notification =
  | { readonly kind: 'newLink' | 'delLink'; readonly link: LinkSummary }
  | { readonly kind: 'newAddress' | 'delAddress'; readonly address: Address }
  | { readonly kind: 'newRoute' | 'delRoute'; readonly route: Route }
  /** FDB entries too: family AF_BRIDGE. */
  | { readonly kind: 'newNeighbour' | 'delNeighbour'; readonly neighbour: Neighbour }
  | { readonly kind: 'newNexthop' | 'delNexthop'; readonly nexthop: Nexthop }
  | { readonly kind: 'delQdisc' | 'delFilter'; readonly object: TcObject }
  | { readonly kind: 'other'; readonly type: number; readonly payload: Uint8Array };

export interface NetlinkMonitorOptions {
  readonly groups: readonly MonitorGroup[];
  readonly netnsPath?: string;
  /** The socket's; default 2 MiB, which the kernel doubles. */
  readonly receiveBufferBytes?: number;
  /** Notifications waiting for JavaScript beyond this are dropped, and reported as an overrun; default 16 MiB. */
  readonly pendingLimitBytes?: number;
  /** Kinds that matter to the listener; the others are not decoded. Absent: every kind. */
  readonly kinds?: readonly Notification['kind'][];
  /** Of these kinds the listener does not see what requests from `ports` have caused: the kernel drops it, as soon as it is told of a port. */
  readonly ignored?: { readonly kinds: ReadonlySet<Notification['kind']>; readonly ports: OwnPorts };
  /** Of several `newLink` about one link only the last is told and decoded: an ADD makes half a dozen. */
  readonly latestLinks?: boolean;
  /** Some notifications, in order, as many as came since the last call. */
  readonly onMessages: (notifications: readonly Notification[]) => void;
  /** Some were lost: read the kernel's state anew. */
  readonly onOverrun: () => void;
  /** Somebody, this process too, has changed a ruleset of nftables within the last half second; and once in the beginning. */
  readonly onRuleset?: () => void;
  /** The monitor ended or got what it cannot read; it reports nothing after a NetlinkError. */
  readonly onError: (error: WeftError) => void;
}

const routeProtocolNumber = 0;
const rulesetEveryMs = 500;

const kindOf: ReadonlyMap<number, Notification['kind']> = new Map<number, Notification['kind']>([
  [linkMessage.new, 'newLink'],
  [linkMessage.delete, 'delLink'],
  [addressMessage.new, 'newAddress'],
  [addressMessage.delete, 'delAddress'],
  [routeMessage.new, 'newRoute'],
  [routeMessage.delete, 'delRoute'],
  [neighbourMessage.new, 'newNeighbour'],
  [neighbourMessage.delete, 'delNeighbour'],
  [nexthopMessage.new, 'newNexthop'],
  [nexthopMessage.delete, 'delNexthop'],
  [qdiscMessage.delete, 'delQdisc'],
  [filterMessage.delete, 'delFilter'],
]);

function decode(kind: Notification['kind'], bytes: Buffer, type: number, start: number, end: number): Notification {
  switch (kind) {
    case 'newLink':
    case 'delLink':
      return { kind, link: linkSummaryFormat.read(bytes, start, end) };
    case 'newAddress':
    case 'delAddress':
      return { kind, address: addressFormat.read(bytes, start, end) };
    case 'newRoute':
    case 'delRoute':
      return { kind, route: routeFormat.read(bytes, start, end) };
    case 'newNeighbour':
    case 'delNeighbour':
      return { kind, neighbour: neighbourFormat.read(bytes, start, end) };
    case 'newNexthop':
    case 'delNexthop':
      return { kind, nexthop: nexthopFormat.read(bytes, start, end) };
    case 'delQdisc':
    case 'delFilter':
      return { kind, object: tcFormat.read(bytes, start, end) };
    case 'other':
      return { kind, type, payload: new Uint8Array(bytes.subarray(start, end)) };
    default:
      return kind satisfies never;
  }
}

/** MOST_PORTS of monitor.c. */
const mostIgnoredPorts = 64;

/** Position of `ifi_index` in struct ifinfomsg (linux/rtnetlink.h). */
const linkIndexAt = 4;

/** The messages without each `newLink` that a later one about the same link replaces. */
function latestLinks(bytes: Buffer): readonly MessageHeader[] {
  const messages: (MessageHeader | undefined)[] = [];
  const positions = new Map<number, number>();
  for (const message of readMessages(bytes)) {
    const { type, start, end } = message;
    if (type === linkMessage.new && end - start > linkIndexAt + 4) {
      const ifindex = readS32(bytes, start + linkIndexAt);
      const replaced = positions.get(ifindex);
      if (replaced !== undefined) messages[replaced] = undefined;
      positions.set(ifindex, messages.length);
    }
    messages.push(message);
  }
  return messages.filter((message) => message !== undefined);
}

/** Listens until disposed; after that nothing is called. It does not keep the process alive. */
export class NetlinkMonitor implements Disposable {
  readonly #addon: NativeAddon;
  readonly #options: NetlinkMonitorOptions;
  #handle: MonitorHandle | undefined;
  #following: Disposable | undefined;

  private constructor(addon: NativeAddon, options: NetlinkMonitorOptions) {
    this.#addon = addon;
    this.#options = options;
  }

  /** Throws NetlinkError. What happens after `open` returns is reported; what was before is not. */
  static open(options: NetlinkMonitorOptions): NetlinkMonitor {
    const addon = nativeAddon();
    const monitor = new NetlinkMonitor(addon, options);
    try {
      monitor.#handle = addon.monitorOpen(
        routeProtocolNumber,
        options.netnsPath ?? null,
        options.groups.map((group) => groupNumbers[group]),
        options.receiveBufferBytes ?? 2 << 20,
        options.pendingLimitBytes ?? 16 << 20,
        options.onRuleset ? rulesetEveryMs : 0,
        (kind, value) => monitor.#take(kind, value),
      );
    } catch (error) {
      throw fromNative(error, 'netlink monitor');
    }
    monitor.#following = options.ignored?.ports.follow((ports) => monitor.#ignore(ports));
    return monitor;
  }

  #ignore(ports: ReadonlySet<number>): void {
    if (this.#handle === undefined) return;
    const types = [...kindOf].flatMap(([type, kind]) => (this.#options.ignored?.kinds.has(kind) ? [type] : []));
    const some = [...ports].slice(-mostIgnoredPorts);
    try {
      this.#addon.monitorIgnore(this.#handle, types, some);
    } catch {
      // Without the filter the same is dropped here, later.
    }
  }

  #take(kind: number, value: Buffer | number): void {
    if (this.#handle === undefined) return;
    if (kind === monitorEvent.overrun) this.#options.onOverrun();
    else if (kind === monitorEvent.generation) this.#options.onRuleset?.();
    else if (typeof value === 'number')
      this.#options.onError(new NetlinkError({ request: 'netlink monitor', errno: value }));
    else this.#takeChunk(value);
  }

  #takeChunk(bytes: Buffer): void {
    const { kinds, ignored } = this.#options;
    const notifications: Notification[] = [];
    try {
      for (const { type, port, start, end } of this.#options.latestLinks ? latestLinks(bytes) : readMessages(bytes)) {
        const kind = kindOf.get(type) ?? 'other';
        if (kinds?.includes(kind) === false || (ignored?.kinds.has(kind) && ignored.ports.has(port))) continue;
        notifications.push(decode(kind, bytes, type, start, end));
      }
    } catch (error) {
      // A message that cannot be read is a message lost.
      if (!(error instanceof WeftError)) throw error;
      this.#options.onError(error);
      this.#options.onOverrun();
    }
    if (notifications.length > 0) this.#options.onMessages(notifications);
  }

  [Symbol.dispose](): void {
    if (this.#handle === undefined) return;
    this.#following?.[Symbol.dispose]();
    this.#addon.monitorClose(this.#handle);
    this.#handle = undefined;
  }
}
