// What the CNI verbs and main see of the datapath. Inside: desired (pure) -> diff (pure) -> apply, on the state that
// `actual` reads from the kernel by dumps.

import type { ProbeScene } from '#agent/probe/scene.ts';
import type { Condition } from '#agent/findings.ts';
import type { IpamView, Lease, PeerView } from '#agent/runtime/ipam.ts';

import type { DatapathSettings } from './settings.ts';
import type { KernelLease } from './identity.ts';

/** What ADD must build for one pod, beyond its lease. */
export interface PodLinkRequest {
  readonly lease: Lease;
  /** Absolute path of the pod's network namespace, already checked to be one. */
  readonly netnsPath: string;
  /** The namespace itself, where the caller holds it open. */
  readonly netns?: { readonly fd: number };
}

/** What was built, for the CNI result. MAC addresses are lower-case, colon-separated. */
export interface PodLink {
  readonly hostIfname: string;
  readonly hostMac: string;
  readonly podMac: string;
  readonly mtuBytes: number;
  /** Gateways as the pod sees them, one per family of the lease. */
  readonly gateways: readonly string[];
  /** The pod's addresses with the prefix length on its link; absent: all of it, the link is routed. */
  readonly addresses?: readonly string[];
  /** The routes really made in the pod, without those to the gateways. */
  readonly routes: readonly PodRoute[];
}

export interface PodRoute {
  /** CIDR; `0.0.0.0/0` is the default route. */
  readonly dst: string;
  readonly gateway: string;
  /** Absent: the main table. */
  readonly table?: number;
}

/** One thing that CHECK found altered. */
export interface LinkFault {
  readonly what: string;
  readonly expected: string;
  readonly actual: string;
}

export interface Datapath {
  /** Builds the overlay device, tables and routes for the first time and adopts what a predecessor left. */
  start(view: IpamView, leases: readonly Lease[]): Promise<void>;
  /**
   * Level-triggered: brings the kernel to what the view and the leases ask for. Calls are merged, never lost. Take both
   * values in the same tick as the call: a link that is in neither `leases` nor a running attach counts as left over.
   */
  reconcile(view: IpamView, leases: readonly Lease[]): Promise<void>;
  /** Builds the pod's link; on error everything is undone before it throws. */
  attach(request: PodLinkRequest, signal: AbortSignal): Promise<PodLink>;
  /** Removes whatever is left of the lease's link; succeeds when there is nothing. */
  detach(lease: Lease): Promise<void>;
  /** Each difference between what ADD promised and the kernel; tolerates what chained plugins may change. */
  check(request: PodLinkRequest): Promise<readonly LinkFault[]>;
  /** One line per part, for status and metrics. */
  status(): DatapathStatus;
  /** True where the kernel leads each block of the peer to it: what IPAM knows may be ahead of that. */
  isProgrammed(peer: PeerView): boolean;
  /** Leaves every kernel object in place. */
  stop(): Promise<void>;
}

/** A named condition with a next step (agent/findings.ts), for `weft status`, the log and the status page. */
export type DatapathFinding = Condition;

export interface DatapathStatus {
  readonly ready: boolean;
  readonly waitingFor: string;
  readonly overlayDevice: string;
  readonly mtuBytes: number;
  readonly vtepMac: string;
  readonly podLinks: number;
  /** How long the last round took. */
  readonly lastReconcileMs: number | undefined;
  readonly reconciles: number;
  /** Writes of rounds that nobody asked for: what notifications or the periodic comparison found. */
  readonly repairs: number;
  /** All writes of rounds, asked for or not. */
  readonly writes: number;
  readonly findings: readonly DatapathFinding[];
}

/** The part of pino's logger that the datapath uses. */
export type DatapathLog = Readonly<
  Record<'debug' | 'info' | 'warn' | 'error', (fields: object, message: string) => void>
>;

export interface DatapathOptions {
  readonly settings: DatapathSettings;
  readonly log: DatapathLog;
  /** For tests: called before each step of an attach; what it throws fails the attach there. */
  readonly beforeAttachStep?: (step: string, lease: Lease) => void;
  /** For tests: room for notifications that the agent has not read; more of them are lost. */
  readonly notificationBufferBytes?: number;
}

/** The datapath with what only the agent's own parts need. */
export interface KernelDatapath extends Datapath {
  /** The pod links that carry a readable alias and do not wait for deletion. Works before `start`. */
  inventory(): Promise<readonly KernelLease[]>;
  /** The same with host ports, limits and MACs, as far as the kernel tells. */
  kernelLeases(): Promise<readonly KernelLease[]>;
  /** Resolves when every link that DEL left behind is gone. */
  drained(): Promise<void>;
  /** Overlay mode `auto`: the peers (record names) that packets reach directly from now on; all others through the overlay. */
  setDirect(peers: ReadonlySet<string>): Promise<void>;
  /** What the probes ask about; undefined before the overlay is there. */
  scene(): ProbeScene | undefined;
}
