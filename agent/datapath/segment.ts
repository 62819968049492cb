// The segment of segment-plan.ts in the kernel. One attachment is made in two parts, because the address comes through its link: `attach`
// makes the link, over which only questions to DHCP servers pass, `give` what the server said. Taking down is in two parts too: `mute`
// takes the addresses' right to send, `detach` the link, and in between the plugin gives the addresses back through it.
//
// Level-triggered: `sync` brings bridge, uplink, ports and table to what settings and leases ask for, and writes nothing where they are.
// Everything but the deletion of links is synchronous, so a round never sees an attachment half-way.
import { dumpAddresses, scope } from '#agent/netlink/addr.ts';
import { addrGenMode } from '#agent/netlink/link-af-spec.ts';
import { delLink, dumpLinks, getLink, isUp, type Link, linkFlag, newLink, setLink } from '#agent/netlink/link.ts';
import { dumpFdb, neighbourFlag, neighbourState, newFdb } from '#agent/netlink/neighbour.ts';
import { errno } from '#agent/netlink/netlink-error.ts';
import { getOperstate } from '#agent/netlink/pod-writes.ts';
import { NetlinkSocket } from '#agent/netlink/socket.ts';
import { WeftError } from '#agent/errors.ts';
import { isOnSegment, type Lease } from '#agent/runtime/ipam.ts';

import { requireFreeMac } from './bridge-io.ts';
import type { LinkFault, PodLink, PodRoute } from './datapath.ts';
import type { DatapathLog } from './datapath.ts';
import { logNew } from './findings.ts';
import { readBridgeFingerprint } from './firewall.ts';
import { openKernelIo, type KernelIo } from './kernel-io.ts';
import { readLink } from './link-io.ts';
import type { Finding } from './objects.ts';
import { awaitCarrier, openPodNetns } from './pod-link.ts';
import { removePodRules } from './pod-routes.ts';
import {
  leaseOfLink,
  segmentAlias,
  segmentDevice,
  type SegmentGift,
  segmentMac,
  segmentPrefix,
  segmentRuleset,
  segmentTable,
  uplinkProblem,
} from './segment-plan.ts';
import { givePod, podFaults, raisePod } from './segment-pod.ts';
import type { DatapathSettings } from './settings.ts';

export type SegmentSettings = Pick<DatapathSettings, 'netnsPath' | 'sysctlRoot' | 'dhcpUplink'>;

const ethernet = 1; // ARPHRD_ETHER
const bridgeOptions = { stpState: 0, mcastSnooping: false } as const;
/** No MAC is learnt from a pod, and no pod hears what is sent to others. */
const portOptions = { mode: false, learning: false, unicastFlood: false } as const;

export class Segment implements Disposable {
  readonly #settings: SegmentSettings;
  readonly #log: Pick<DatapathLog, 'warn'>;
  #io: KernelIo | undefined;
  #isUsed = true;
  /** Leases by host interface name, with their addresses once these are given. */
  #pods: ReadonlyMap<string, Lease> = new Map();
  /** Host interface names of links on their way out, which a round leaves alone. */
  readonly #leaving = new Set<string>();
  #findings: readonly Finding[] = [];

  constructor(settings: SegmentSettings, log: Pick<DatapathLog, 'warn'>) {
    this.#settings = settings;
    this.#log = log;
  }

  /** False: no uplink is named, and `ipam.type: dhcp` is refused. */
  get isConfigured(): boolean {
    return this.#settings.dhcpUplink !== '';
  }

  findings(): readonly Finding[] {
    return this.#findings;
  }

  /** Host interface names of its pods' links, as far as the last round or attachment saw them. */
  linkNames(): readonly string[] {
    if (!this.#isUsed) return [];
    return this.#links().flatMap(({ ifname = '' }) => (ifname.startsWith(segmentPrefix) ? [ifname] : []));
  }

  /** The leases that the pods' links tell of. Throws NetlinkError. */
  leasesOfLinks(nowMs: number): readonly Lease[] {
    const links = this.#links();
    const bridge = links.find(({ ifname }) => ifname === segmentDevice);
    const pods = links.filter(({ ifname = '' }) => ifname.startsWith(segmentPrefix));
    if (bridge === undefined || pods.length === 0) return [];
    const macs = new Map([...this.#entries(bridge)].map(([mac, ifindex]) => [ifindex, mac]));
    return pods.flatMap((pod) => leaseOfLink(pod, macs.get(pod.ifiIndex), nowMs) ?? []);
  }

  /** Brings the kernel to the leases. Throws NetlinkError. */
  sync(leases: readonly Lease[]): void {
    const known = this.#pods;
    const ours = leases.filter((lease) => isOnSegment(lease));
    this.#pods = new Map(
      ours.map((lease) => {
        const before = known.get(lease.hostIfname);
        const isMore = before?.generation === lease.generation && before.addresses.length > lease.addresses.length;
        return [lease.hostIfname, isMore ? before : lease];
      }),
    );
    const isWanted = this.isConfigured || ours.length > 0;
    if (!isWanted && !this.#isUsed) return;
    const links = this.#links();
    const made = links.filter(({ ifname = '' }) => ifname === segmentDevice || ifname.startsWith(segmentPrefix));
    // After a start what a predecessor left must go; hosts that never had one pay nothing from here on, nor open anything.
    this.#isUsed = isWanted || made.length > 0 || this.#io !== undefined;
    if (!this.#isUsed) return;
    const strays = made.filter(({ ifname = '' }) => ifname !== segmentDevice && !this.#isOurs(ifname));
    const io = this.#kernel();
    if (strays.length > 0) io.route.batchOrThrow(strays.map(({ ifiIndex }) => delLink({ ifiIndex })));
    if (!isWanted) return this.#remove(links);
    const bridge = this.#bridge(links);
    const problem = this.#uplink(links, bridge);
    const missing = this.#ports(links, bridge);
    this.#findings = logNew(this.#log, this.#findings, [
      ...(problem === undefined
        ? []
        : [{ name: 'uplinkUnusable', subject: this.#settings.dhcpUplink, message: problem } as const]),
      ...missing.map((subject): Finding => ({
        name: 'podLinkMissing',
        subject,
        message: `${subject} is leased but not in the kernel`,
      })),
    ]);
  }

  /** Makes the link of a lease that has no address yet. Throws WeftError; nothing of it is left then. */
  async attach(lease: Lease, netnsPath: string, signal: AbortSignal): Promise<PodLink> {
    signal.throwIfAborted();
    const io = this.#kernel();
    const links = this.#links();
    const bridge = this.#bridge(links);
    const problem = this.#uplink(links, bridge);
    if (problem !== undefined) throw new WeftError('notReady', `the setting dhcpUplink cannot be met: ${problem}`);
    const mtuBytes = links.find(({ ifname }) => ifname === this.#settings.dhcpUplink)?.mtu ?? 1500;
    const mac = macOf(lease);
    requireFreeMac(io, bridge, mac);
    const { hostIfname, ifname } = lease;
    using netns = openPodNetns(netnsPath);
    const peer = { ifname, address: mac, mtu: mtuBytes, netNsFd: netns.fd };
    const [made] = io.route.batch([
      newLink({ ifname: hostIfname, mtu: mtuBytes, linkinfo: { kind: 'veth', data: { peer } } }),
    ]);
    if (!made.ok) throw made.error.errno === errno.EEXIST ? existing(io, lease) : made.error;
    try {
      this.#put(lease);
      const host = readLink(io, hostIfname);
      if (host === undefined) throw new WeftError('kernel', `${hostIfname} was made and is gone`);
      this.#settlePort(lease, host.ifiIndex, bridge);
      raisePod(this.#settings, netnsPath, ifname);
      await awaitCarrier(io, [getOperstate({ ifiIndex: host.ifiIndex })], signal);
      return { hostIfname, hostMac: host.address ?? '', podMac: mac, mtuBytes, gateways: [], routes: [] };
    } catch (error) {
      await this.detach(lease);
      throw error;
    }
  }

  /** Gives the pod its addresses and routes, and the right to send from them. Returns the routes really made. */
  give(lease: Lease, netnsPath: string, gift: SegmentGift): readonly PodRoute[] {
    this.#put(lease);
    this.#kernel().route.batchOrThrow([setLink({ ifname: lease.hostIfname, ifalias: segmentAlias(lease) })]);
    return givePod(lease, netnsPath, gift);
  }

  /** From here on the pod may only talk to DHCP servers: its address may be another's soon. */
  mute(lease: Lease): void {
    if (!this.#pods.has(lease.hostIfname)) return;
    this.#leaving.add(lease.hostIfname);
    this.#load();
  }

  /** Resolves when the link is gone; succeeds when there is none. */
  async detach(lease: Lease): Promise<void> {
    const io = this.#kernel();
    this.#leaving.add(lease.hostIfname);
    try {
      removePodRules(lease);
      const [reply] = await io.route.batchAsync([delLink({ ifname: lease.hostIfname })]);
      if (!reply.ok && reply.error.errno !== errno.ENODEV) throw reply.error;
      this.#pods = new Map([...this.#pods].filter(([name]) => name !== lease.hostIfname));
      this.#load();
    } finally {
      this.#leaving.delete(lease.hostIfname);
    }
  }

  /** Each difference between what ADD promised and the kernel. Throws NetlinkError. */
  faults(lease: Lease, netnsPath: string): readonly LinkFault[] {
    const links = this.#links();
    const bridge = links.find(({ ifname }) => ifname === segmentDevice);
    const uplink = links.find(({ ifname }) => ifname === this.#settings.dhcpUplink);
    const host = links.find(({ ifname }) => ifname === lease.hostIfname);
    const differences: [string, string, string][] = [
      [`link ${lease.hostIfname}`, 'up', host === undefined ? 'absent' : isUp(host) ? 'up' : 'down'],
      [`bridge of ${lease.hostIfname}`, segmentDevice, nameOf(links, host?.master)],
      [`bridge of ${this.#settings.dhcpUplink}`, segmentDevice, nameOf(links, uplink?.master)],
      [`entry of ${macOf(lease)}`, lease.hostIfname, nameOf(links, bridge && this.#entries(bridge).get(macOf(lease)))],
      [`nft table ${segmentTable}`, 'as loaded', this.#isLoaded() ? 'as loaded' : 'another or none'],
    ];
    return [
      ...differences
        .filter(([, expected, actual]) => expected !== actual)
        .map(([what, expected, actual]) => ({ what, expected, actual })),
      ...podFaults(lease, netnsPath),
    ];
  }

  [Symbol.dispose](): void {
    this.#io?.[Symbol.dispose]();
  }

  #kernel(): KernelIo {
    return (this.#io ??= openKernelIo(this.#settings));
  }

  #links(): readonly Link[] {
    const { netnsPath } = this.#settings;
    if (this.#io !== undefined) return this.#io.route.dump(dumpLinks());
    // Most hosts are looked at once and never again.
    using socket = NetlinkSocket.open({ protocol: 'route', ...(netnsPath === undefined ? {} : { netnsPath }) });
    return socket.dump(dumpLinks());
  }

  #isOurs(hostIfname: string): boolean {
    return this.#pods.has(hostIfname) || this.#leaving.has(hostIfname);
  }

  #put(lease: Lease): void {
    this.#isUsed = true;
    this.#pods = new Map([...this.#pods, [lease.hostIfname, lease]]);
    this.#load();
  }

  #remove(links: readonly Link[]): void {
    this.#isUsed = false;
    this.#findings = [];
    const io = this.#kernel();
    const bridge = links.find(({ ifname }) => ifname === segmentDevice);
    // The uplink is free with it, and stays as it is.
    if (bridge?.linkinfo?.kind === 'bridge') io.route.batchOrThrow([delLink({ ifiIndex: bridge.ifiIndex })]);
    if (readBridgeFingerprint(io, segmentTable).length > 0) io.nft.run(`delete table bridge ${segmentTable}`);
  }

  /** Its ifindex. */
  #bridge(links: readonly Link[]): number {
    const { route } = this.#kernel();
    // What the table drops must be dropped before the first frame.
    this.#load();
    const found = links.find(({ ifname }) => ifname === segmentDevice);
    const flags = linkFlag.up | linkFlag.noarp;
    if (found?.linkinfo?.kind === 'bridge' && (found.ifiFlags & flags) === flags) return found.ifiIndex;
    if (found?.linkinfo?.kind !== 'bridge') {
      if (found !== undefined) throw new WeftError('kernel', `the host has a link ${segmentDevice} that is no bridge`);
      route.batchOrThrow([newLink({ ifname: segmentDevice, linkinfo: { kind: 'bridge', data: bridgeOptions } })]);
    }
    // Apart: refused where IPv6 is off.
    route.batch([setLink({ ifname: segmentDevice, afSpec: { inet6: { addrGenMode: addrGenMode.none } } })]);
    route.batchOrThrow([setLink({ ifname: segmentDevice, ifiFlags: flags, ifiChange: flags })]);
    const [[bridge]] = route.batchOrThrow([getLink({ ifname: segmentDevice })]);
    return bridge?.ifiIndex ?? 0;
  }

  /** Makes the uplink a port, and sets an earlier one free; why it cannot be, undefined when it is. */
  #uplink(links: readonly Link[], bridge: number): string | undefined {
    const { dhcpUplink: name } = this.#settings;
    const { route } = this.#kernel();
    const former = links.filter(
      ({ ifname = '', master }) => master === bridge && ifname !== name && !ifname.startsWith(segmentPrefix),
    );
    if (former.length > 0) route.batchOrThrow(former.map(({ ifiIndex }) => setLink({ ifiIndex, master: 0 })));
    if (name === '') return undefined;
    const link = links.find(({ ifname }) => ifname === name);
    const addresses = link === undefined ? [] : route.dump(dumpAddresses({ ifaIndex: link.ifiIndex }));
    const problem = uplinkProblem(
      name,
      link && {
        isEthernet: link.ifiType === ethernet,
        isLoopback: (link.ifiFlags & linkFlag.loopback) !== 0,
        master: link.master === bridge ? segmentDevice : nameOf(links, link.master),
        addresses: addresses
          .filter(({ ifaIndex, ifaScope }) => ifaIndex === link.ifiIndex && ifaScope !== scope.link)
          .map(({ local, address, ifaPrefixlen }) => `${local ?? address}/${ifaPrefixlen}`),
      },
    );
    if (problem !== undefined || link === undefined) return problem;
    if (link.master === bridge && isUp(link)) return undefined;
    const { ifiIndex } = link;
    const [joined, up] = route.batch([
      setLink({ ifiIndex, master: bridge }),
      setLink({ ifiIndex, ifiFlags: linkFlag.up, ifiChange: linkFlag.up }),
    ]);
    if (!joined.ok) return `${name} cannot be a port of ${segmentDevice}: ${joined.error.message}`;
    return up.ok ? undefined : `${name} does not come up: ${up.error.message}`;
  }

  /** Puts the ports right; names of those that are not there. */
  #ports(links: readonly Link[], bridge: number): readonly string[] {
    const byName = new Map(links.map((link) => [link.ifname, link]));
    const entries = this.#entries({ ifiIndex: bridge });
    const missing: string[] = [];
    for (const [name, lease] of this.#pods) {
      if (this.#leaving.has(name)) continue;
      const link = byName.get(name);
      if (link === undefined) {
        if (lease.state === 'active') missing.push(name);
        continue;
      }
      const { mode, learning, unicastFlood } = link.linkinfo?.slaveData ?? {};
      const isSettled =
        link.master === bridge &&
        isUp(link) &&
        link.ifalias === segmentAlias(lease) &&
        mode === portOptions.mode &&
        learning === portOptions.learning &&
        unicastFlood === portOptions.unicastFlood &&
        entries.get(macOf(lease)) === link.ifiIndex;
      if (!isSettled) this.#settlePort(lease, link.ifiIndex, bridge);
    }
    return missing;
  }

  #settlePort(lease: Lease, ifiIndex: number, bridge: number): void {
    const { route } = this.#kernel();
    // Apart: refused where IPv6 is off.
    route.batch([setLink({ ifiIndex, afSpec: { inet6: { addrGenMode: addrGenMode.none } } })]);
    route.batchOrThrow([
      setLink({ ifiIndex, ifalias: segmentAlias(lease), master: bridge }),
      setLink({ ifiIndex, linkinfo: { kind: 'veth', slaveKind: 'bridge', slaveData: portOptions } }),
      // Sticky: a frame from the segment with the pod's MAC as its source does not move the entry to the uplink.
      newFdb(
        {
          ndmIfindex: ifiIndex,
          lladdr: macOf(lease),
          ndmFlags: neighbourFlag.master | neighbourFlag.sticky,
          ndmState: neighbourState.noarp,
        },
        { replace: true },
      ),
      setLink({ ifiIndex, ifiFlags: linkFlag.up, ifiChange: linkFlag.up }),
    ]);
  }

  /** Port by MAC, of sticky entries. */
  #entries({ ifiIndex }: Pick<Link, 'ifiIndex'>): ReadonlyMap<string, number> {
    const entries = this.#kernel().route.dump(dumpFdb({ master: ifiIndex }));
    return new Map(
      entries.flatMap(({ lladdr, ndmFlags, ndmIfindex }) =>
        lladdr === undefined || (ndmFlags & neighbourFlag.sticky) === 0 ? [] : [[lladdr, ndmIfindex] as const],
      ),
    );
  }

  #rendered(): ReturnType<typeof segmentRuleset> {
    return segmentRuleset(
      [...this.#pods.values()].map((lease) => ({
        ifname: lease.hostIfname,
        mac: macOf(lease),
        addresses: this.#leaving.has(lease.hostIfname) ? [] : lease.addresses,
      })),
      this.#settings.dhcpUplink,
    );
  }

  #isLoaded(): boolean {
    const found = readBridgeFingerprint(this.#kernel(), segmentTable);
    return found.join('\n') === this.#rendered().fingerprint.join('\n');
  }

  #load(): void {
    if (!this.#isLoaded()) this.#kernel().nft.run(this.#rendered().text);
  }
}

/** The MAC asked for, else the attachment's. */
function macOf(lease: Lease): string {
  return lease.link?.mac ?? segmentMac(lease);
}

function nameOf(links: readonly Link[], ifindex: number | undefined): string {
  if (ifindex === undefined || ifindex === 0) return '';
  return links.find(({ ifiIndex }) => ifiIndex === ifindex)?.ifname ?? String(ifindex);
}

function existing(io: KernelIo, { hostIfname, ifname }: Lease): WeftError {
  if (readLink(io, hostIfname)) {
    return new WeftError('attachmentExists', `the host already has the link ${hostIfname} of this attachment`);
  }
  return new WeftError('interfaceExists', `the pod already has an interface named ${ifname}`);
}
