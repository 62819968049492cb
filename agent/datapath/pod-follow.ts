// What the node lends to a pod's link at its ADD can change while the pod runs: the MTU with the underlay's, the bridge's address with the
// node's overlay address. Running pods get it too. Their end is in their own namespace, so it is entered where it can be.
import { delNeighbour, newNeighbour } from '#agent/netlink/neighbour.ts';
import { addressFamily } from '#agent/netlink/ip-text.ts';
import { getLink, setLink } from '#agent/netlink/link.ts';
import { netnsInfo } from '#agent/netlink/netns.ts';
import { dumpRoutes, newRoute, routeTable, routeTo } from '#agent/netlink/route.ts';
import { NetlinkSocket } from '#agent/netlink/socket.ts';
import type { Lease } from '#agent/runtime/ipam.ts';

import { familyOf } from './cidr.ts';
import { hostMac } from './identity.ts';
import type { KernelIo } from './kernel-io.ts';
import type { ActualPodLink, DesiredState } from './objects.ts';

export interface Followed {
  readonly desired: DesiredState;
  readonly leases: readonly Lease[];
  readonly links: readonly ActualPodLink[];
  /** Host interface names of ports of the bridge, and the bridge's address. */
  readonly ports: ReadonlySet<string>;
  readonly gateway: string | undefined;
}

export class PodFollower {
  readonly #io: KernelIo;
  readonly #log: { info(fields: object, message: string): void };
  /** The bridge's address that running pods were told. */
  #gateway: string | undefined;

  constructor(io: KernelIo, log: { info(fields: object, message: string): void }) {
    this.#io = io;
    this.#log = log;
  }

  /** Brings running pods up to date. Never fails: what cannot be entered stays. */
  follow({ desired, leases, links, ports, gateway }: Followed): void {
    if (!desired.overlay) return;
    const { mtuBytes } = desired.overlay;
    const moved = gateway !== undefined && gateway !== this.#gateway;
    this.#gateway = gateway;
    const byName = new Map(links.map((link) => [link.ifname, link]));
    const followed = leases.filter((lease) => {
      const link = byName.get(lease.hostIfname);
      if (!link || link.doomed) return false;
      const mtu = link.mtuBytes !== mtuBytes && followMtu(this.#io, lease, link.mtuBytes, mtuBytes);
      const way = moved && ports.has(lease.hostIfname) && followGateway(lease, gateway);
      return mtu || way;
    });
    if (followed.length === 0) return;
    const names = followed.map(({ hostIfname }) => hostIfname);
    this.#log.info({ links: names, mtuBytes }, 'running pods were brought up to date');
  }
}

/**
 * Both ends or none: the kernel drops, without a word, what is longer than the MTU of the end that it arrives at. A pod's end that was made
 * smaller on purpose (tuning) stays.
 */
function followMtu(io: KernelIo, lease: Lease, from: number, to: number): boolean {
  const setHost = (): boolean => io.route.batch([setLink({ ifname: lease.hostIfname, mtu: to })])[0].ok;
  if (to > from && !setHost()) return false;
  const entered = inPod(lease, (socket) => {
    const [[link]] = socket.batchOrThrow([getLink({ ifname: lease.ifname })]);
    const mtu = link?.mtu ?? 0;
    if (mtu === from || mtu > to) socket.batchOrThrow([setLink({ ifname: lease.ifname, mtu: to })]);
    return true;
  });
  return to > from || (entered && setHost());
}

/** True where the pod's default route led through another address. */
function followGateway(lease: Lease, gateway: string): boolean {
  if (!lease.addresses.some((address) => familyOf(address) === 4)) return false;
  return inPod(lease, (socket) => {
    const [[link]] = socket.batchOrThrow([getLink({ ifname: lease.ifname })]);
    const oif = link?.ifiIndex ?? 0;
    const stale = socket
      .dump(dumpRoutes({ rtmFamily: addressFamily.inet }))
      .find((route) => route.rtmDstLen === 0 && route.oif === oif && route.gateway !== gateway);
    if (!stale?.gateway) return false;
    socket.batchOrThrow([
      newNeighbour({ ndmIfindex: oif, dst: gateway, lladdr: hostMac }),
      newRoute({ ...routeTo(`${gateway}/32`), oif }, { replace: true }),
      newRoute(
        { ...routeTo('0.0.0.0/0'), oif, gateway, table: stale.table ?? routeTable.main, ...prefsrcOf(stale.prefsrc) },
        { replace: true },
      ),
    ]);
    socket.batch([delNeighbour({ ndmIfindex: oif, dst: stale.gateway })]);
    return true;
  });
}

function prefsrcOf(prefsrc: string | undefined): { readonly prefsrc?: string } {
  return prefsrc === undefined ? {} : { prefsrc };
}

/** False where the namespace is gone, is another's, or the kernel refuses. */
function inPod({ owner }: Lease, work: (socket: NetlinkSocket) => boolean): boolean {
  const { netnsPath, netnsInode } = owner;
  try {
    if (netnsPath === '' || BigInt(netnsInfo(netnsPath).ino) !== netnsInode) return false;
    using socket = NetlinkSocket.open({ protocol: 'route', netnsPath, receiveBufferBytes: 128 << 10 });
    return work(socket);
  } catch {
    return false;
  }
}
