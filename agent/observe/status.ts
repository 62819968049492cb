// The one picture of this node that the status API, the page, the command `weft`, readiness and the metrics all show. Built
// afresh at each question from what the parts say; pure but for the sources it asks.

import type { DatapathStatus } from '#agent/datapath/datapath.ts';
import type { Condition } from '#agent/findings.ts';
import { findingsOf } from '#agent/observe/findings.ts';
import type { Finding } from '#agent/observe/findings.ts';
import { poolStatus, sharesOf } from '#agent/observe/pools.ts';
import type { PeerStatus, PoolStatus } from '#agent/observe/pools.ts';
import type { IpamView, Lease, PeerView } from '#agent/runtime/ipam.ts';
import type { PeerPath } from '#agent/probe/scene.ts';

/** What a status is made from. A part that is not there yet is undefined. */
export interface StatusSources {
  readonly version: string;
  readonly nodeName: string;
  readonly registryEngine: string;
  readonly startedAtMs: number;
  /** Sentence on what the start is waiting for; empty once every part runs. */
  readonly starting: () => string;
  readonly ipam: () => IpamView | undefined;
  readonly leases: () => readonly Lease[];
  readonly datapath: () => DatapathStatus | undefined;
  /** Whether the kernel leads a peer's blocks to it. */
  readonly isProgrammed: (peer: PeerView) => boolean;
  /** By record name, as the probes have found it. */
  readonly paths?: () => ReadonlyMap<string, PeerPath>;
  /** What the probes and the checks of the host have found. */
  readonly conditions?: () => readonly Condition[];
  /** Looks at the kernel and the host now. */
  readonly refresh?: () => Promise<void>;
  readonly nowMs: () => number;
}

export interface ReachedPeer extends PeerStatus {
  /** The kernel leads its blocks to it; of this node itself always. What IPAM knows may be ahead of the kernel. */
  readonly programmed: boolean;
  /** Null for this node, and before the first probe. */
  readonly path: PeerPath | null;
}

export interface LeaseStatus {
  readonly addresses: readonly string[];
  readonly pool: string;
  readonly pod: string;
  readonly containerId: string;
  readonly ifname: string;
  readonly hostIfname: string;
  readonly state: Lease['state'];
  readonly sinceMs: number;
}

export interface Status {
  readonly version: string;
  readonly nodeName: string;
  readonly startedAtMs: number;
  readonly nowMs: number;
  /** True when an ADD would succeed. */
  readonly ready: boolean;
  readonly waitingFor: string;
  readonly registry: { readonly engine: string; readonly answeredAtMs: number | null };
  readonly ranges: readonly string[];
  readonly reserved: readonly string[];
  readonly overlayAddresses: readonly string[];
  readonly addresses: { readonly free: number; readonly leased: number; readonly resting: number };
  readonly peers: readonly ReachedPeer[];
  /** Every pool, `default` first; `addresses` above is that one's. */
  readonly pools: readonly PoolStatus[];
  readonly datapath: (DatapathStatus & { readonly peersProgrammed: number }) | null;
  /** At most as many as were asked for, newest first; `leasesTotal` counts all. */
  readonly leases: readonly LeaseStatus[];
  readonly leasesTotal: number;
  readonly findings: readonly Finding[];
}

export interface Readiness {
  readonly ready: boolean;
  readonly waitingFor: string;
}

/** Whether an ADD would succeed now, and if not, what it waits for. */
export function readiness(sources: StatusSources): Readiness {
  const starting = sources.starting();
  const view = sources.ipam();
  const datapath = sources.datapath();
  const waits = [
    view === undefined || view.ready ? '' : view.waitingFor || 'addresses',
    datapath === undefined || datapath.ready ? '' : datapath.waitingFor || 'the datapath',
    starting,
  ];
  const waitingFor = waits.find((wait) => wait !== '') ?? '';
  return { ready: waitingFor === '', waitingFor };
}

/** The picture now, with at most `leaseLimit` leases. */
export function buildStatus(sources: StatusSources, leaseLimit: number): Status {
  const view = sources.ipam();
  const datapath = sources.datapath();
  const leases = sources.leases();
  const nowMs = sources.nowMs();
  const paths = sources.paths?.();
  const withShares = sharesOf(view?.ranges ?? [], view?.reserved ?? []);
  const peers = (view?.peers ?? []).map((peer) => ({
    ...withShares(peer),
    programmed: peer.self || sources.isProgrammed(peer),
    path: paths?.get(peer.name) ?? null,
  }));
  const peersProgrammed = peers.filter(({ self, programmed }) => programmed && !self).length;
  const status = {
    version: sources.version,
    nodeName: sources.nodeName,
    startedAtMs: sources.startedAtMs,
    nowMs,
    ...readiness(sources),
    registry: { engine: sources.registryEngine, answeredAtMs: view?.registryAnsweredAtMs ?? null },
    ranges: view?.ranges ?? [],
    reserved: view?.reserved ?? [],
    overlayAddresses: view?.overlayAddresses ?? [],
    addresses: {
      free: view?.freeAddresses ?? 0,
      leased: view?.leasedAddresses ?? 0,
      resting: view?.restingAddresses ?? 0,
    },
    peers,
    pools: (view?.pools ?? []).map(poolStatus),
    datapath: datapath ? { ...datapath, peersProgrammed } : null,
    leases: leases
      .toSorted((a, b) => b.sinceMs - a.sinceMs)
      .slice(0, leaseLimit)
      .map((lease) => leaseStatus(lease)),
    leasesTotal: leases.length,
  };
  return { ...status, findings: findingsOf(status, sources.conditions?.()) };
}

function leaseStatus(lease: Lease): LeaseStatus {
  const { addresses, pool = 'default', containerId, ifname, hostIfname, state, sinceMs, owner } = lease;
  const pod = owner.podName === undefined ? '' : `${owner.podNamespace ?? 'default'}/${owner.podName}`;
  return { addresses, pool, pod, containerId, ifname, hostIfname, state, sinceMs };
}
