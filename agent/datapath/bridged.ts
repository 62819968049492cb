// Addresses that Weft gives to links of the reference `bridge` plugin (`ipam.type: weft`). The bridge has the whole range as its subnet,
// while the host has more specific routes for the blocks of every node, its own as unreachable: so each address gets a host route over
// its bridge, and the bridge answers ARP for what lies behind the host (other nodes' pods, Weft's own links).
//
// These routes have a protocol number of their own: the datapath's rounds do not know them.
import { dumpLinks } from '#agent/netlink/link.ts';
import { errno } from '#agent/netlink/netlink-error.ts';
import { readNetnsFile, writeNetnsFile } from '#agent/netlink/netns.ts';
import { delRoute, dumpRoutes, newRoute, prefixOf, type Route, routeTable, routeTo } from '#agent/netlink/route.ts';
import { NetlinkSocket } from '#agent/netlink/socket.ts';
import type { Lease } from '#agent/runtime/ipam.ts';

import { hostCidr } from './cidr.ts';
import type { DatapathSettings } from './settings.ts';

type Settings = Pick<DatapathSettings, 'netnsPath' | 'sysctlRoot' | 'routeProtocol'>;

export class BridgedAddresses implements Disposable {
  readonly #settings: Settings;
  #socket: NetlinkSocket | undefined;
  /** After a start what a predecessor left must go. */
  #isUsed = true;

  constructor(settings: Settings) {
    this.#settings = settings;
  }

  /**
   * Level-triggered: the host routes to what the leases say is on a bridge, and no others. A bridge that is not there is passed over:
   * its pods went with it. Throws NetlinkError.
   */
  sync(leases: readonly Lease[]): void {
    const bridged = leases.filter(({ owner }) => owner.onBridge !== undefined);
    // Hosts that never had one pay nothing.
    if (bridged.length === 0 && !this.#isUsed) return;
    this.#isUsed = bridged.length > 0;
    const socket = this.#open();
    const protocol = this.#settings.routeProtocol + 1;
    const names = new Map(socket.dump(dumpLinks()).map(({ ifname, ifiIndex }) => [ifname, ifiIndex]));
    const wanted = new Map<string, number>();
    for (const { addresses, owner } of bridged) {
      const oif = names.get(owner.onBridge ?? '');
      if (oif === undefined) continue;
      this.#answerArp(owner.onBridge ?? '');
      for (const address of addresses) wanted.set(hostCidr(address), oif);
    }
    const found = this.#routes();
    const stale = found.filter((route) => wanted.get(prefixOf(route)) !== route.oif);
    for (const route of found) if (wanted.get(prefixOf(route)) === route.oif) wanted.delete(prefixOf(route));
    const replies = socket.batch([
      ...stale.map((route) =>
        delRoute({
          ...routeTo(prefixOf(route)),
          ...(route.oif !== undefined && { oif: route.oif }),
          rtmProtocol: protocol,
        }),
      ),
      ...[...wanted].map(([dst, oif]) => newRoute({ ...routeTo(dst), oif, rtmProtocol: protocol }, { replace: true })),
    ]);
    for (const reply of replies) if (!reply.ok && reply.error.errno !== errno.ESRCH) throw reply.error;
  }

  /** Whether a predecessor has left any. Throws NetlinkError. */
  isInUse(): boolean {
    return this.#routes().length > 0;
  }

  #routes(): readonly Route[] {
    return this.#open().dump(dumpRoutes({ rtmProtocol: this.#settings.routeProtocol + 1, table: routeTable.main }));
  }

  #open(): NetlinkSocket {
    const { netnsPath } = this.#settings;
    return (this.#socket ??= NetlinkSocket.open({
      protocol: 'route',
      ...(netnsPath === undefined ? {} : { netnsPath }),
    }));
  }

  /** Only IPv4: for IPv6 the kernel proxies single addresses, not routes. */
  #answerArp(bridge: string): void {
    const { netnsPath, sysctlRoot } = this.#settings;
    for (const [name, value] of [
      [`net/ipv4/conf/${bridge}/proxy_arp`, '1'],
      // Without it the kernel waits up to 0.8 s before it answers for another.
      [`net/ipv4/neigh/${bridge}/proxy_delay`, '0'],
    ] as const) {
      const path = `${sysctlRoot}/${name}`;
      if (readNetnsFile(netnsPath, path) !== value) writeNetnsFile(netnsPath, path, value);
    }
  }

  [Symbol.dispose](): void {
    this.#socket?.[Symbol.dispose]();
  }
}
