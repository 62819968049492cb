// Executes a list of operations in order: the one module, besides pod-link.ts for single pods, that writes. Runs of
// rtnetlink messages go out as one batch, runs of set elements as one transaction. What the kernel refuses is returned
// with its words and does not stop the rest; removing what is gone already is success.
import { addressFlag, delAddress, newAddress, scope } from '#agent/netlink/addr.ts';
import { addrGenMode } from '#agent/netlink/link-af-spec.ts';
import { delLink, getLink, linkFlag, newLink, setLink } from '#agent/netlink/link.ts';
import type { LinkRequest } from '#agent/netlink/link.ts';
import type { CreateOptions, NetlinkRequest } from '#agent/netlink/message.ts';
import { delFdb, delNeighbour } from '#agent/netlink/neighbour.ts';
import { errno, NetlinkError } from '#agent/netlink/netlink-error.ts';
import { delNexthop } from '#agent/netlink/nexthop.ts';
import { addNexthop, putFdb, putNeighbour, putPeerRoute } from '#agent/netlink/peer-writes.ts';
import { delRoute, newRoute, routeFlag, routeTo, routeType } from '#agent/netlink/route.ts';
import type { RouteRequest } from '#agent/netlink/route.ts';
import { toWeftError } from '#agent/errors.ts';

import { applyBridge, isBridgeOperation, newPortEntry, portEntry } from './bridge-io.ts';
import { addressOf, familyOf, prefixLengthOf } from './cidr.ts';
import { addElements, loadFirewall, removeElements } from './firewall.ts';
import type { KernelIo } from './kernel-io.ts';
import { liveIndexOf } from './link-io.ts';
import type { ActualRoute, LinkAddress, MessageOperation, Operation, OverlayLink, Route } from './objects.ts';
import type { ElementRef } from './set-shapes.ts';
import type { DatapathSettings } from './settings.ts';

export interface Refusal {
  readonly operation: Operation;
  readonly reason: string;
  /** The kernel's errno where it was one message that it refused. */
  readonly errno?: number;
}

const upWithArp = { ifiFlags: linkFlag.up, ifiChange: linkFlag.up | linkFlag.noarp } as const;

/** Without these a new pod would not work; any other refusal is a finding. */
const essential: ReadonlySet<Operation['kind']> = new Set([
  'loadFirewall',
  'addElement',
  'addOverlay',
  'setOverlay',
  'delOverlay',
  'addBridge',
  'setBridge',
  'setPort',
  'addAddress',
]);

/** After it another reading is due: only that knows the device's ifindex, by which notifications name it. */
export function makesDevice({ kind }: Operation): boolean {
  return kind === 'addOverlay' || kind === 'addBridge';
}

export function isEssential({ operation }: Refusal): boolean {
  return essential.has(operation.kind);
}

/** Beyond this many messages a batch runs on a pool thread. */
const synchronousMessages = 200;

/** "Gone already" in the kernel's many words. */
const absent: ReadonlySet<number> = new Set([errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL]);

type Group = 'load' | 'addElements' | 'delElements' | 'overlay' | 'messages' | 'sysctls';

const groups: Readonly<Record<Operation['kind'], Group>> = {
  loadFirewall: 'load',
  addElement: 'addElements',
  delElement: 'delElements',
  addOverlay: 'overlay',
  setOverlay: 'overlay',
  delOverlay: 'overlay',
  addBridge: 'overlay',
  setBridge: 'overlay',
  delBridge: 'overlay',
  setPort: 'overlay',
  setPodLink: 'messages',
  doomPodLink: 'messages',
  addAddress: 'messages',
  delAddress: 'messages',
  putPortEntry: 'messages',
  delPortEntry: 'messages',
  putFdb: 'messages',
  delFdb: 'messages',
  putNeighbour: 'messages',
  delNeighbour: 'messages',
  freeNeighbour: 'messages',
  addNexthop: 'messages',
  delNexthop: 'messages',
  putRoute: 'messages',
  delRoute: 'messages',
  setSysctl: 'sysctls',
};

/** True for an operation that is one rtnetlink message. */
export function isMessage(operation: Operation): operation is MessageOperation {
  return groups[operation.kind] === 'messages';
}

/** Applies `operations` in order. Throws only when a socket breaks; the kernel's refusals are returned. */
export async function applyOperations(
  io: KernelIo,
  settings: DatapathSettings,
  operations: readonly Operation[],
  ifindexes: ReadonlyMap<string, number>,
  signal?: AbortSignal,
): Promise<readonly Refusal[]> {
  const applier = new Applier(io, settings, new Map(ifindexes), signal);
  for (let from = 0, to = 0; from < operations.length; from = to) {
    const group = groups[(operations[from] as Operation).kind];
    for (let next = operations[to]; next && groups[next.kind] === group; next = operations[to]) to++;
    await applier.run(group, operations.slice(from, to));
  }
  return applier.refusals;
}

class Applier {
  readonly refusals: Refusal[] = [];
  readonly #io: KernelIo;
  readonly #settings: DatapathSettings;
  readonly #ifindexes: Map<string, number>;
  readonly #signal: AbortSignal | undefined;

  constructor(
    io: KernelIo,
    settings: DatapathSettings,
    ifindexes: Map<string, number>,
    signal: AbortSignal | undefined,
  ) {
    this.#io = io;
    this.#settings = settings;
    this.#ifindexes = ifindexes;
    this.#signal = signal;
  }

  async run(group: Group, operations: readonly Operation[]): Promise<void> {
    try {
      if (group === 'load') this.#load(operations);
      else if (group === 'overlay') this.#overlay(operations);
      else if (group === 'sysctls') this.#sysctls(operations);
      else if (group === 'messages') await this.#messages(operations.filter(isMessage));
      else this.#elements(group, operations);
    } catch (error) {
      this.#signal?.throwIfAborted();
      const number = error instanceof NetlinkError ? { errno: error.errno } : {};
      const reason = toWeftError(error).message;
      for (const operation of operations) this.refusals.push({ operation, reason, ...number });
    }
  }

  /** Synchronous: an attach in between would lose its elements. */
  #load(operations: readonly Operation[]): void {
    for (const operation of operations) {
      if (operation.kind !== 'loadFirewall') continue;
      loadFirewall(this.#io, this.#settings.nftTable, operation, liveIndexOf(this.#io));
    }
  }

  #elements(group: 'addElements' | 'delElements', operations: readonly Operation[]): void {
    const elements = operations.flatMap((operation): ElementRef[] =>
      operation.kind === 'addElement' || operation.kind === 'delElement' ? [operation] : [],
    );
    const write = group === 'addElements' ? addElements : removeElements;
    write(this.#io, this.#settings.nftTable, elements, liveIndexOf(this.#io));
  }

  #sysctls(operations: readonly Operation[]): void {
    for (const operation of operations) {
      if (operation.kind === 'setSysctl') this.#io.writeSysctl(operation.name, operation.value);
    }
  }

  #overlay(operations: readonly Operation[]): void {
    for (const operation of operations) {
      if (operation.kind === 'delOverlay') {
        this.#io.route.batchOrThrow([delLink({ ifname: operation.ifname })]);
        this.#ifindexes.delete(operation.ifname);
      } else if (operation.kind === 'addOverlay') {
        this.#makeOverlay(overlayRequest(operation.link));
        this.#settle(operation.link);
      } else if (operation.kind === 'setOverlay') {
        this.#settle(operation.link);
      } else if (isBridgeOperation(operation)) {
        const ifindex = applyBridge(this.#io, operation);
        if ('link' in operation && ifindex !== undefined) this.#ifindexes.set(operation.link.ifname, ifindex);
      }
    }
  }

  /** With the number that the rules know it by; where somebody has that, with any. */
  #makeOverlay(request: LinkRequest): void {
    const [made] = this.#io.route.batch([newLink({ ...request, ifiIndex: this.#settings.overlayIfindex })]);
    if (!made.ok) this.#io.route.batchOrThrow([newLink(request)]);
  }

  /**
   * What can be set on a living device; the address generation mode before the link comes up. The MAC only where it is another: setting
   * it, be it to the same, takes every neighbour off the device, permanent ones too (neigh_changeaddr).
   */
  #settle(link: OverlayLink): void {
    const { ifname } = link;
    const [[now]] = this.#io.route.batchOrThrow([getLink({ ifname })]);
    const address = now?.address === link.mac ? {} : { address: link.mac };
    // Apart: refused where IPv6 is off.
    this.#io.route.batch([setLink({ ifname, afSpec: { inet6: { addrGenMode: addrGenMode.none } } })]);
    const [, , , answer] = this.#io.route.batchOrThrow([
      setLink({ ifname, ...address, mtu: link.mtuBytes, master: 0 }),
      setLink({ ifname, afSpec: { inet: { conf: { rpFilter: link.rpFilter, forwarding: 1 } } } }),
      setLink({ ifname, ...upWithArp }),
      getLink({ ifname }),
    ]);
    const [found] = answer;
    if (found) this.#ifindexes.set(ifname, found.ifiIndex);
  }

  async #messages(operations: readonly MessageOperation[]): Promise<void> {
    const sent: MessageOperation[] = [];
    const requests: NetlinkRequest<unknown>[] = [];
    for (const operation of operations) {
      const request = this.#request(operation);
      if (request === undefined) {
        this.refusals.push({ operation, reason: 'its link is gone' });
        continue;
      }
      sent.push(operation);
      requests.push(request);
    }
    const replies =
      requests.length > synchronousMessages
        ? await this.#io.route.batchAsync(requests, this.#signal)
        : this.#io.route.batch(requests);
    replies.forEach((reply, index) => {
      const operation = sent[index];
      if (reply.ok || !operation || isGone(operation, reply.error)) return;
      this.refusals.push({ operation, reason: reply.error.message, errno: reply.error.errno });
    });
  }

  #request(operation: MessageOperation): NetlinkRequest<unknown> | undefined {
    const overlay = this.#ifindexes.get(this.#settings.overlayDevice);
    switch (operation.kind) {
      case 'setPodLink': {
        const { ifname, alias, hostMac, routeLocalnet } = operation.link;
        return setLink({
          ifname,
          ...(operation.setMac ? { address: hostMac } : {}),
          ifalias: alias,
          ...upWithArp,
          ...(operation.link.bridge === undefined ? { master: 0 } : {}),
          afSpec: { inet: { conf: { forwarding: 1, routeLocalnet: routeLocalnet ? 1 : 0 } } },
        });
      }
      case 'doomPodLink':
        return setLink({ ifname: operation.ifname, group: this.#settings.doomedGroup });
      case 'addAddress':
      case 'delAddress':
        return addressRequest(operation.kind, operation.address, this.#ifindexes.get(operation.address.ifname));
      case 'putPortEntry':
      case 'delPortEntry': {
        const { ifname, mac } = operation.portEntry;
        const port = this.#ifindexes.get(ifname);
        if (port === undefined) return undefined;
        return operation.kind === 'putPortEntry' ? newPortEntry(port, mac) : delFdb(portEntry(port, mac));
      }
      case 'putFdb':
      case 'delFdb': {
        if (overlay === undefined) return undefined;
        const { mac, underlayAddress } = operation.entry;
        if (operation.kind === 'putFdb') return putFdb(overlay, mac, underlayAddress);
        // Without its destination: all that there is about the MAC.
        return delFdb({ ndmIfindex: overlay, lladdr: mac });
      }
      case 'putNeighbour':
      case 'delNeighbour': {
        if (overlay === undefined) return undefined;
        const { address, mac } = operation.neighbour;
        if (operation.kind === 'delNeighbour') return delNeighbour({ ndmIfindex: overlay, dst: address });
        return putNeighbour(overlay, address, mac);
      }
      case 'freeNeighbour': {
        const ndmIfindex = this.#ifindexes.get(operation.ifname);
        return ndmIfindex === undefined ? undefined : delNeighbour({ ndmIfindex, dst: operation.address });
      }
      case 'addNexthop': {
        const [gateway = '', link] = (operation.gateway ?? '').split('%');
        const oif = link === undefined ? overlay : this.#ifindexes.get(link);
        if (oif === undefined || gateway === '') return undefined;
        // On the underlay link the kernel makes sure that the peer is there; on the overlay nothing would tell it so.
        const flags = link === undefined ? routeFlag.onlink : 0;
        return addNexthop({ id: operation.id, oif, gateway, protocol: this.#settings.routeProtocol, flags });
      }
      case 'delNexthop':
        return delNexthop(operation.id);
      case 'putRoute':
        return this.#putRoute(operation.route, operation.nexthopId, { replace: operation.replaces });
      case 'delRoute':
        return this.#delRoute(operation.route);
      default:
        return operation satisfies never;
    }
  }

  #putRoute(route: Route, nexthopId: number | undefined, options: CreateOptions): NetlinkRequest<unknown> | undefined {
    const { dst, metric: priority, target } = route;
    const protocol = this.#settings.routeProtocol;
    if (target.kind === 'peer') {
      if (nexthopId === undefined) return undefined;
      const { prefsrc } = target;
      return putPeerRoute({ dst, nhId: nexthopId, prefsrc, priority, protocol }, options.replace === true);
    }
    const common: RouteRequest = {
      ...routeTo(dst),
      rtmProtocol: protocol,
      ...(priority > 0 ? { priority } : {}),
    };
    if (target.kind === 'unreachable') {
      return newRoute({ ...common, rtmType: routeType.unreachable }, options);
    }
    const oif = this.#ifindexes.get(target.ifname);
    if (oif === undefined) return undefined;
    const { prefsrc } = target;
    return newRoute({ ...common, oif, ...(prefsrc === undefined ? {} : { prefsrc }) }, options);
  }

  #delRoute(route: ActualRoute): NetlinkRequest<unknown> {
    const { target } = route;
    const oif = target.kind === 'link' ? this.#ifindexes.get(target.ifname) : undefined;
    return delRoute({
      ...routeTo(route.dst),
      rtmProtocol: this.#settings.routeProtocol,
      table: route.table,
      ...(route.metric > 0 ? { priority: route.metric } : {}),
      ...(target.kind === 'nexthop' ? { nhId: target.id } : {}),
      ...(oif === undefined ? {} : { oif }),
      ...(target.kind === 'unreachable' ? { rtmType: routeType.unreachable } : {}),
    });
  }
}

function isGone(operation: Operation, error: NetlinkError): boolean {
  const removes = /^(del|doom|free)/.test(operation.kind);
  if (removes) return absent.has(error.errno);
  return operation.kind === 'addAddress' && error.errno === errno.EEXIST;
}

function overlayRequest(link: OverlayLink): LinkRequest {
  const local = familyOf(link.local) === 4 ? { local: link.local } : { local6: link.local };
  return {
    ifname: link.ifname,
    address: link.mac,
    mtu: link.mtuBytes,
    // No underlay device is named: the routing table decides, and the overlay does not vanish with that link.
    linkinfo: { kind: 'vxlan', data: { id: link.vni, port: link.port, learning: false, ...local } },
  };
}

function addressRequest(
  kind: 'addAddress' | 'delAddress',
  address: LinkAddress,
  ifindex: number | undefined,
): NetlinkRequest<unknown> | undefined {
  if (ifindex === undefined) return undefined;
  const request = {
    ifaIndex: ifindex,
    local: addressOf(address.cidr),
    ifaPrefixlen: prefixLengthOf(address.cidr),
    ifaScope: address.linkScope ? scope.link : scope.universe,
    // Nobody else can have it, and until a duplicate has been looked for it could not be a source.
    ...(address.cidr.includes(':') ? { ifaFlags: addressFlag.nodad } : {}),
  };
  return kind === 'addAddress' ? newAddress(request) : delAddress(request);
}
