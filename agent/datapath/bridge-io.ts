// The bridge of pod links in the kernel: its making, what a reading must show of it and of its ports, and the requests for one port.
import { WeftError } from '#agent/errors.ts';
import { addrGenMode } from '#agent/netlink/link-af-spec.ts';
import { delLink, getLink, linkFlag, newLink, setLink } from '#agent/netlink/link.ts';
import type { Link } from '#agent/netlink/link.ts';
import type { BridgePortData } from '#agent/netlink/link-kinds.ts';
import type { NetlinkRequest } from '#agent/netlink/message.ts';
import { dumpFdb, neighbourFlag, neighbourState, newFdb } from '#agent/netlink/neighbour.ts';
import type { Neighbour, NeighbourRequest } from '#agent/netlink/neighbour.ts';

import type { KernelIo } from './kernel-io.ts';
import type { ActualBridge, BridgeLink, Operation, OverlayOperation, PortEntry } from './objects.ts';

/** Of the bridge's own options: multicast goes to every port, and bridged packets pass conntrack, where it can be (br_netfilter). */
const bridgeOptions = { stpState: 0, mcastSnooping: false, nfCallIptables: true, nfCallIp6tables: true } as const;

/** Answers for what the host routes elsewhere, sends no redirects; 127.0.0.1 as with routed links (pod-elements.ts). */
const inetOptions = { forwarding: 1, proxyArp: 1, sendRedirects: 0, routeLocalnet: 1 } as const;

/** Answers to ARP at once, and takes no routes from what a pod advertises. */
export function bridgeSysctls(ifname: string): readonly (readonly [string, string])[] {
  return [
    [`net/ipv4/neigh/${ifname}/proxy_delay`, '0'],
    [`net/ipv6/conf/${ifname}/accept_ra`, '0'],
  ];
}

/** Not there: bridged packets do not pass conntrack. */
export const bridgeNetfilterSwitch = 'net/bridge/bridge-nf-call-iptables';

type BridgeOperation = Exclude<OverlayOperation, { readonly kind: 'addOverlay' | 'setOverlay' | 'delOverlay' }>;

export function isBridgeOperation(operation: Operation): operation is BridgeOperation {
  return ['addBridge', 'setBridge', 'delBridge', 'setPort'].includes(operation.kind);
}

/** Applies one operation; returns the bridge's or port's ifindex where it is there afterwards. Throws NetlinkError. */
export function applyBridge(io: KernelIo, operation: BridgeOperation): number | undefined {
  switch (operation.kind) {
    case 'delBridge':
      io.route.batchOrThrow([delLink({ ifname: operation.ifname })]);
      return undefined;
    case 'setPort': {
      const [bridge] = io.route.batchOrThrow([getLink({ ifname: operation.bridge })]);
      io.route.batchOrThrow([
        setLink({ ifname: operation.ifname, master: bridge[0]?.ifiIndex ?? 0 }),
        setPort({ ifname: operation.ifname }, portOptions),
      ]);
      // Apart: refused where the pod's end is down.
      io.route.batch([setPort({ ifname: operation.ifname }, { state: forwarding })]);
      return undefined;
    }
    case 'addBridge':
      io.route.batchOrThrow([newLink({ ifname: operation.link.ifname, linkinfo: { kind: 'bridge' } })]);
      return settleBridge(io, operation.link);
    case 'setBridge':
      return settleBridge(io, operation.link);
    default:
      return operation satisfies never;
  }
}

function settleBridge(io: KernelIo, { ifname, mac, mtuBytes }: BridgeLink): number | undefined {
  // Apart: refused where IPv6 is off.
  io.route.batch([setLink({ ifname, afSpec: { inet6: { addrGenMode: addrGenMode.none } } })]);
  const [[now]] = io.route.batchOrThrow([getLink({ ifname })]);
  // Set only where it is another: it takes the neighbours off the device.
  const address = now?.address === mac ? {} : { address: mac };
  const [, , , answer] = io.route.batchOrThrow([
    setLink({ ifname, ...address, mtu: mtuBytes, linkinfo: { kind: 'bridge', data: bridgeOptions } }),
    setLink({ ifname, master: 0, afSpec: { inet: { conf: inetOptions } } }),
    setLink({ ifname, ifiFlags: linkFlag.up, ifiChange: linkFlag.up | linkFlag.noarp }),
    getLink({ ifname }),
  ]);
  for (const [name, value] of bridgeSysctls(ifname)) {
    if ((io.readSysctl(name) ?? value) !== value) io.writeSysctl(name, value);
  }
  return answer[0]?.ifiIndex;
}

/** The bridge as planning sees it. */
export function bridgeFrom(io: KernelIo, link: Link): ActualBridge {
  const ifname = link.ifname ?? '';
  const data = link.linkinfo?.kind === 'bridge' ? link.linkinfo.data : undefined;
  const conf = link.afSpec?.inet?.conf;
  const has = (found: object | undefined, wanted: object): boolean =>
    Object.entries(wanted).every(([key, value]) => (found as Record<string, unknown> | undefined)?.[key] === value);
  return {
    ifname,
    mac: link.address ?? '',
    mtuBytes: link.mtu ?? 0,
    isBridge: data !== undefined,
    settled:
      (link.ifiFlags & (linkFlag.up | linkFlag.noarp)) === linkFlag.up &&
      (link.master ?? 0) === 0 &&
      has(data, bridgeOptions) &&
      has(conf, inetOptions) &&
      (link.afSpec?.inet6?.addrGenMode ?? addrGenMode.none) === addrGenMode.none &&
      bridgeSysctls(ifname).every(([name, value]) => (io.readSysctl(name) ?? value) === value),
  };
}

/** What every port of ours is set to; a new port has the rest of it from the kernel. */
const newPortOptions = { mode: true, learning: false } as const;
const portOptions = {
  ...newPortOptions,
  unicastFlood: true,
  mcastFlood: true,
  bcastFlood: true,
  neighSuppress: false,
  isolated: false,
} as const;
/** BR_STATE_FORWARDING (linux/if_bridge.h). The kernel sets it when the link gets its carrier, and refuses it before. */
const forwarding = 3;

/** The bridge whose port the link is; '' where it is another's, or not as a port of ours is set. */
export function portOf(link: Link, bridge: Link | undefined): string | undefined {
  if (link.master === undefined || link.master === 0) return undefined;
  const data = link.linkinfo?.slaveData ?? {};
  const forwards = data.state === forwarding || (link.ifiFlags & linkFlag.lowerUp) === 0;
  const isRight = forwards && Object.entries(portOptions).every(([key, value]) => hasOption(data, key, value));
  return link.master === bridge?.ifiIndex && isRight ? (bridge.ifname ?? '') : '';
}

/** An option that the kernel does not tell of is as it should be. */
function hasOption(data: object, key: string, value: boolean): boolean {
  return ((data as Readonly<Record<string, unknown>>)[key] ?? value) === value;
}

/** Hairpin: a pod that is sent back to itself by a Service. No learning: no pod draws another's frames by its MAC. */
export function portSettings(link: { readonly ifname: string } | { readonly ifiIndex: number }): NetlinkRequest<Link> {
  return setPort(link, newPortOptions);
}

function setPort(
  link: { readonly ifname: string } | { readonly ifiIndex: number },
  slaveData: BridgePortData,
): NetlinkRequest<Link> {
  return setLink({ ...link, linkinfo: { kind: 'veth', slaveKind: 'bridge', slaveData } });
}

/** A static entry of the bridge itself (NTF_MASTER), as `bridge fdb add … master static` makes it. */
export function portEntry(ndmIfindex: number, lladdr: string): NeighbourRequest {
  return { ndmIfindex, lladdr, ndmFlags: neighbourFlag.master, ndmState: neighbourState.noarp };
}

export function newPortEntry(ndmIfindex: number, lladdr: string): NetlinkRequest<Neighbour> {
  return newFdb(portEntry(ndmIfindex, lladdr));
}

/** EEXIST where the MAC is another port's or the bridge's own: whoever has its entry gets the frames of both. */
export function firstPortEntry(ndmIfindex: number, lladdr: string): NetlinkRequest<Neighbour> {
  return newFdb(portEntry(ndmIfindex, lladdr), {});
}

/** Throws WeftError('invalidConfig') where a port of the bridge, or the bridge itself, has the MAC. */
export function requireFreeMac(io: KernelIo, bridge: number, mac: string): void {
  const own = neighbourState.permanent | neighbourState.noarp;
  const entries = io.route.dump(dumpFdb({ master: bridge }));
  if (entries.some(({ lladdr, ndmState }) => lladdr === mac && (ndmState & own) !== 0)) throw macTaken(mac);
}

export function macTaken(mac: string): WeftError {
  return new WeftError('invalidConfig', `the MAC ${mac} is in use on this node's bridge`, { details: 'mac' });
}

/** Static entries of ports; the ports' own MACs are permanent. */
export function portEntryFrom(entry: Neighbour, names: ReadonlyMap<number, string>): readonly PortEntry[] {
  const ifname = names.get(entry.ndmIfindex);
  if (ifname === undefined || entry.lladdr === undefined || (entry.ndmState & neighbourState.noarp) === 0) return [];
  return [{ ifname, mac: entry.lladdr }];
}
