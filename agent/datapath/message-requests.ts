// The one rtnetlink message that each operation on a small object is.
import { addressFlag, delAddress, newAddress, scope } from '#agent/netlink/addr.ts';
import { linkFlag, setLink } from '#agent/netlink/link.ts';
import type { CreateOptions, NetlinkRequest } from '#agent/netlink/message.ts';
import { delFdb, delNeighbour } from '#agent/netlink/neighbour.ts';
import { delNexthop } from '#agent/netlink/nexthop.ts';
import { addNexthop, putFdb, putNeighbour, putPeerRoute } from '#agent/netlink/peer-writes.ts';
import { delRoute, newRoute, routeFlag, routeTo, routeType } from '#agent/netlink/route.ts';
import type { RouteRequest } from '#agent/netlink/route.ts';

import { newPortEntry, portEntry } from './bridge-io.ts';
import { addressOf, prefixLengthOf } from './cidr.ts';
import type { ActualRoute, LinkAddress, MessageOperation, Route } from './objects.ts';
import type { DatapathSettings } from './settings.ts';

export const upWithArp: Readonly<Record<'ifiFlags' | 'ifiChange', number>> = {
  ifiFlags: linkFlag.up,
  ifiChange: linkFlag.up | linkFlag.noarp,
};

export class MessageRequests {
  readonly #settings: DatapathSettings;
  readonly #ifindexes: ReadonlyMap<string, number>;

  /** `ifindexes` is looked at for each operation anew. */
  constructor(settings: DatapathSettings, ifindexes: ReadonlyMap<string, number>) {
    this.#settings = settings;
    this.#ifindexes = ifindexes;
  }

  /** Undefined where its link is not there. */
  of(operation: MessageOperation): NetlinkRequest<unknown> | undefined {
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
