// Reads and writes what shaping.ts describes, pod by pod: on ADD and DEL, and in every round of the datapath. Writing is whole and
// repeatable: whatever is left of an earlier try is replaced.
import { getLink, isUp, linkFlag, newLink, setLink } from '#agent/netlink/link.ts';
import type { Link } from '#agent/netlink/link.ts';
import { errno } from '#agent/netlink/netlink-error.ts';
import {
  delClsact,
  dumpIngressFilters,
  dumpQdiscs,
  newClsact,
  newRedirect,
  newTbf,
  redirectTarget,
  tbfOptions,
  tbfTicks,
  tcParent,
} from '#agent/netlink/traffic-control.ts';
import type { TcObject } from '#agent/netlink/traffic-control.ts';
import { toWeftError, WeftError } from '#agent/errors.ts';
import type { Lease, LinkOptions } from '#agent/runtime/ipam.ts';

import type { KernelIo } from './kernel-io.ts';
import type { Finding } from './objects.ts';
import type { PodLinkReaper } from './reaper.ts';
import type { DatapathSettings } from './settings.ts';
import { desiredShaping, limitOf, shaperName, shapingFaults } from './shaping.ts';
import type { ActualBucket, ActualShaping, DesiredShaping } from './shaping.ts';
import type { WantedPods } from './wanted.ts';

/** What one round did. */
export interface ShapingRound {
  readonly written: number;
  readonly findings: readonly Finding[];
}

export class Shaper {
  readonly #io: KernelIo;
  readonly #settings: DatapathSettings;
  readonly #reaper: PodLinkReaper;
  /** Links whose qdiscs are ours, by ifindex. */
  #owned: ReadonlySet<number> = new Set();

  constructor(io: KernelIo, settings: DatapathSettings, reaper: PodLinkReaper) {
    this.#io = io;
    this.#settings = settings;
    this.#reaper = reaper;
  }

  /** Limits a pod's link that is there. Throws NetlinkError, WeftError('kernel'); `doom` takes back what was made. */
  put(lease: Lease, ifindex: number): void {
    const shaping = desiredShaping(lease, this.#settings);
    if (!shaping) return;
    this.#owned = new Set([...this.#owned, ifindex, ...putShaping(this.#io, shaping, ifindex)]);
  }

  /** What is not on the pod's link itself waits for its deletion with it. Throws NetlinkError. */
  doom(lease: Lease): void {
    const shaping = desiredShaping(lease, this.#settings);
    if (shaping?.egress) this.#doomLink(shaping.shaper);
  }

  /** No pod has a limit. */
  get isIdle(): boolean {
    return this.#owned.size === 0;
  }

  /** True where a qdisc or filter that went from this link, or the link itself, is missed. */
  owns(ifindex: number): boolean {
    return this.#owned.has(ifindex);
  }

  /** Makes the limits of the wanted pods right and dooms shapers that no pod has. What is untouchable is left alone. */
  async round(
    links: readonly Link[],
    pods: Pick<WantedPods, 'list' | 'untouchable'>,
    signal: AbortSignal,
  ): Promise<ShapingRound> {
    const leases = pods.list();
    const isBusy = (hostIfname: string): boolean => pods.untouchable.has(hostIfname);
    const wanted = leases.flatMap((lease) => desiredShaping(lease, this.#settings) ?? []);
    const found = await readShapings(this.#io, links, wanted, signal);
    const byName = new Map(found.map((shaping) => [shaping.ifname, shaping]));
    const indexes = new Map(links.map((link) => [link.ifname, link.ifiIndex]));
    const owned = new Set<number>();
    const findings: Finding[] = [];
    let written = 0;
    for (const shaping of wanted) {
      const ifindex = indexes.get(shaping.ifname);
      if (ifindex === undefined) continue;
      owned.add(ifindex);
      const shaper = indexes.get(shaping.shaper);
      if (shaper !== undefined) owned.add(shaper);
      if (isBusy(shaping.ifname) || shapingFaults(shaping, byName.get(shaping.ifname), tbfTicks).length === 0) continue;
      written++;
      try {
        for (const made of putShaping(this.#io, shaping, ifindex)) owned.add(made);
      } catch (error) {
        const message = `its limits cannot be set: ${toWeftError(error).message}`;
        findings.push({ name: 'kernelRefused', subject: shaping.ifname, message });
      }
    }
    this.#owned = owned;
    return { written: written + this.#doomStale(links, leases, isBusy), findings };
  }

  #doomStale(links: readonly Link[], leases: readonly Lease[], isBusy: (hostIfname: string) => boolean): number {
    const { shaperPrefix, podLinkPrefix, doomedGroup } = this.#settings;
    const names = new Set(leases.map((lease) => shaperName(lease.hostIfname, this.#settings)));
    let doomed = 0;
    for (const { ifname = '', group } of links.filter(isShaper)) {
      const pod = podLinkPrefix + ifname.slice(shaperPrefix.length);
      if (!ifname.startsWith(shaperPrefix) || isBusy(pod)) continue;
      if (group === doomedGroup) this.#reaper.doom(ifname);
      else if (!names.has(ifname)) {
        this.#doomLink(ifname);
        doomed++;
      }
    }
    return doomed;
  }

  /** Somebody else's link of that name stays. */
  #doomLink(ifname: string): void {
    const [found] = this.#io.route.batch([getLink({ ifname })]);
    const link = found.ok ? found.answers[0] : undefined;
    if (!link || !isShaper(link)) return;
    const [reply] = this.#io.route.batch([setLink({ ifiIndex: link.ifiIndex, group: this.#settings.doomedGroup })]);
    if (reply.ok) this.#reaper.doom(ifname);
    else if (reply.error.errno !== errno.ENODEV) throw reply.error;
  }
}

/** Directions in which a pod's limit is not as it should be; `host` is the host end of its link. Throws NetlinkError. */
export async function readShapingFaults(
  io: KernelIo,
  settings: DatapathSettings,
  lease: Lease,
  host: Link,
): Promise<readonly ('ingress' | 'egress')[]> {
  const shaping = desiredShaping(lease, settings);
  if (!shaping) return [];
  const [reply] = io.route.batch([getLink({ ifname: shaping.shaper })]);
  const links = reply.ok ? [host, ...reply.answers] : [host];
  const [found] = await readShapings(io, links, [shaping]);
  return shapingFaults(shaping, found, tbfTicks);
}

/** The limits that pod links have, by the names of their host ends. Throws NetlinkError. */
export async function readLimits(
  io: KernelIo,
  settings: DatapathSettings,
  links: readonly Link[],
  hostIfnames: readonly string[],
  signal: AbortSignal,
): Promise<ReadonlyMap<string, NonNullable<LinkOptions['bandwidth']>>> {
  const wanted = hostIfnames.map((ifname) => ({ ifname, shaper: shaperName(ifname, settings) }));
  const found = await readShapings(io, links, wanted, signal);
  return new Map(
    found.flatMap(({ ifname, ingress, egress }) => {
      if (!ingress && !egress) return [];
      const limits = { ...(ingress && { ingress: limitOf(ingress) }), ...(egress && { egress: limitOf(egress) }) };
      return [[ifname, limits] as const];
    }),
  );
}

/** Returns the ifindex of the ifb, if one is needed. */
function putShaping(io: KernelIo, shaping: DesiredShaping, ifindex: number): readonly number[] {
  const { ingress, egress } = shaping;
  if (ingress) io.route.batchOrThrow([newTbf(ifindex, ingress)]);
  if (!egress) return [];
  const shaper = putShaper(io, shaping.shaper);
  const [removed, ...made] = io.route.batch([
    delClsact(ifindex),
    newTbf(shaper, egress),
    newClsact(ifindex),
    newRedirect(ifindex, shaper),
  ]);
  if (!removed.ok && removed.error.errno !== errno.EINVAL && removed.error.errno !== errno.ENOENT) throw removed.error;
  for (const reply of made) if (!reply.ok) throw reply.error;
  return [shaper];
}

/** The ifb, up; its ifindex. */
function putShaper(io: KernelIo, ifname: string): number {
  const up = { ifiFlags: linkFlag.up, ifiChange: linkFlag.up };
  const linkinfo = { kind: 'other', kindName: 'ifb' } as const;
  const [made, found] = io.route.batch([
    newLink({ ifname, numTxQueues: 1, numRxQueues: 1, ...up, linkinfo }),
    getLink({ ifname }),
  ]);
  if (!made.ok && made.error.errno !== errno.EEXIST) throw made.error;
  const link = found.ok ? found.answers[0] : undefined;
  if (!link || !isShaper(link)) throw new WeftError('kernel', `${ifname} is there, but it is no ifb of ours`);
  // One that is left of an earlier try may be down or wait for its deletion.
  if (!made.ok) io.route.batchOrThrow([setLink({ ifiIndex: link.ifiIndex, group: 0, ...up })]);
  return link.ifiIndex;
}

function isShaper(link: Link): boolean {
  return link.linkinfo?.kind === 'other' && link.linkinfo.kindName === 'ifb';
}

/** What there is of the shaping of some links; one listing of all qdiscs, and one of filters for each link that has a shaper. */
async function readShapings(
  io: KernelIo,
  links: readonly Link[],
  wanted: readonly Pick<DesiredShaping, 'ifname' | 'shaper'>[],
  signal?: AbortSignal,
): Promise<readonly ActualShaping[]> {
  if (wanted.length === 0) return [];
  const byName = new Map(links.map((link) => [link.ifname, link]));
  const roots = new Map<number, TcObject>();
  for (const qdisc of await io.route.dumpAsync(dumpQdiscs(), signal)) {
    if (qdisc.parent === tcParent.root) roots.set(qdisc.ifindex, qdisc);
  }
  const shapings: ActualShaping[] = [];
  for (const { ifname, shaper } of wanted) {
    const link = byName.get(ifname);
    if (!link) continue;
    const ifb = byName.get(shaper);
    const led = ifb && isShaper(ifb) && isUp(ifb) && (await leadsTo(io, link.ifiIndex, ifb.ifiIndex, signal));
    shapings.push({
      ifname,
      ingress: bucketFrom(roots.get(link.ifiIndex)),
      egress: led ? bucketFrom(roots.get(ifb.ifiIndex)) : undefined,
    });
  }
  return shapings;
}

async function leadsTo(io: KernelIo, from: number, to: number, signal: AbortSignal | undefined): Promise<boolean> {
  try {
    const filters = await io.route.dumpAsync(dumpIngressFilters(from), signal);
    return filters.some((filter) => redirectTarget(filter) === to);
  } catch {
    signal?.throwIfAborted();
    return false;
  }
}

function bucketFrom(qdisc: TcObject | undefined): ActualBucket | undefined {
  const options = qdisc && tbfOptions(qdisc);
  if (!options?.parms) return undefined;
  const { rate, limit, buffer } = options.parms;
  return { bytesPerSecond: Number(options.rate64 ?? rate), bufferTicks: buffer, limitBytes: limit };
}
