// The datapath of one node: rounds of desired -> actual -> diff -> apply, asked for by reconcile, by kernel notifications
// and by the clock, beside attach and detach that work on single pods without waiting for a round.
import { errno } from '#agent/netlink/netlink-error.ts';
import type { IpamView, Lease } from '#agent/runtime/ipam.ts';
import { toWeftError, WeftError } from '#agent/errors.ts';

import { readKernel } from './actual.ts';
import type { KernelReading } from './actual.ts';
import { applyOperations } from './apply.ts';
import type { Refusal } from './apply.ts';
import { checkPodLink } from './check.ts';
import { familyOf } from './cidr.ts';
import type { Datapath, DatapathStatus, LinkFault, PodLink, PodLinkRequest } from './datapath.ts';
import { desiredState, servesIpv6, underlayAddressOf } from './desired.ts';
import { diff } from './diff.ts';
import { DirectPaths } from './direct-paths.ts';
import { ensureForwarding } from './forwarding.ts';
import { parseAlias } from './identity.ts';
import type { LinkAlias } from './identity.ts';
import { openKernelIo } from './kernel-io.ts';
import type { KernelIo } from './kernel-io.ts';
import type { DesiredState, Finding, Operation } from './objects.ts';
import { attachPodLink, detachPodLink } from './pod-link.ts';
import type { PodLinkContext, PodLinkPlan } from './pod-link.ts';
import { PodLinkReaper } from './reaper.ts';
import { Rounds } from './rounds.ts';
import type { DatapathSettings } from './settings.ts';
import { forgetFlows } from './udp-flows.ts';
import { busyNamesOf, namesOf, WantedPods, withoutPodLinks, withPodsOf } from './wanted.ts';
import { watchKernel } from './watch.ts';

/** The part of pino's logger that the datapath uses. */
export interface DatapathLog {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface DatapathOptions {
  readonly settings: DatapathSettings;
  readonly log: DatapathLog;
  /** For tests: called before each step of an attach; what it throws fails the attach there. */
  readonly beforeAttachStep?: (step: string, lease: Lease) => void;
}

/** A pod link found in the kernel, by which leases can be rebuilt. */
export interface KernelLease extends LinkAlias {
  readonly hostIfname: string;
}

/** The datapath with what only the agent's own parts need. */
export interface KernelDatapath extends Datapath {
  /** The pod links that carry a readable alias and do not wait for deletion. Works before `start`. */
  inventory(): Promise<readonly KernelLease[]>;
  /** Resolves when every link that DEL left behind is gone. */
  drained(): Promise<void>;
  /** Overlay mode `auto`: the peers (record names) that packets reach directly from now on; all others through the overlay. */
  setDirect(peers: ReadonlySet<string>): Promise<void>;
}

/** Opens sockets in the settings' namespace; throws NetlinkError when it cannot. Nothing is written before `start`. */
export function createDatapath(options: DatapathOptions): KernelDatapath {
  return new NodeDatapath(options);
}

/** How long after a refusal the next round begins. */
const retryMs = 1000;
/** How long notifications are gathered before a round. */
const gatherMs = 20;

class NodeDatapath implements KernelDatapath {
  readonly #options: DatapathOptions;
  readonly #settings: DatapathSettings;
  readonly #io: KernelIo;
  readonly #reaper: PodLinkReaper;
  readonly #context: PodLinkContext;
  readonly #rounds: Rounds;
  readonly #pods = new WantedPods();
  readonly #direct: DirectPaths;
  readonly #stop = new AbortController();
  #view: IpamView | undefined;
  #desired: DesiredState | undefined;
  #reading: KernelReading | undefined;
  #busyNames: ReadonlySet<string> = new Set();
  #watch: Disposable | undefined;
  #timer: NodeJS.Timeout | undefined;
  #asked = true;
  #findings: readonly Finding[] = [];
  #lastReconcileMs: number | undefined;
  #reconciles = 0;
  #repairs = 0;
  #settled = false;
  #ipv6 = false;
  #notForwarding: readonly Finding[] = [];

  constructor(options: DatapathOptions) {
    this.#options = options;
    this.#settings = options.settings;
    this.#io = openKernelIo(options.settings);
    this.#reaper = new PodLinkReaper({
      io: this.#io,
      settings: options.settings,
      onRefused: (reason) => options.log.warn({ reason }, 'doomed pod links could not be deleted, trying again'),
    });
    this.#direct = new DirectPaths(this.#io, options.settings);
    this.#context = { io: this.#io, settings: options.settings, reaper: this.#reaper };
    this.#rounds = new Rounds(() => this.#round());
  }

  async start(view: IpamView, leases: readonly Lease[]): Promise<void> {
    this.#watch = watchKernel({
      settings: this.#settings,
      isWantedPod: (ifname) => this.#pods.has(ifname),
      desired: () => this.#desired,
      reading: () => this.#reading,
      linkAddresses: () => this.#direct.macs,
      io: this.#io,
      onChange: (reason) => {
        this.#options.log.debug({ reason }, 'kernel changed, comparing');
        this.#schedule(gatherMs);
      },
      onError: (error) => this.#options.log.error({ error: error.message }, 'kernel notifications ended'),
    });
    await this.reconcile(view, leases);
  }

  async reconcile(view: IpamView, leases: readonly Lease[]): Promise<void> {
    this.#view = view;
    this.#pods.replace(leases);
    this.#asked = true;
    await this.#rounds.request();
  }

  async attach(request: PodLinkRequest, signal: AbortSignal): Promise<PodLink> {
    const { lease } = request;
    if (!lease.hostIfname.startsWith(this.#settings.podLinkPrefix)) {
      throw new WeftError('internal', `"${lease.hostIfname}" does not begin with ${this.#settings.podLinkPrefix}`);
    }
    this.#pods.begin(lease);
    try {
      if (busyNamesOf(lease).some((name) => this.#busyNames.has(name))) await this.#rounds.current;
      const link = await attachPodLink(this.#context, request, this.#plan(lease), signal);
      this.#pods.attached(lease);
      await forgetFlows('stale', this.#io, lease, this.#options.log);
      return link;
    } finally {
      this.#pods.end(lease);
    }
  }

  async detach(lease: Lease): Promise<void> {
    this.#pods.begin(lease);
    try {
      if (busyNamesOf(lease).some((name) => this.#busyNames.has(name))) await this.#rounds.current;
      this.#pods.detached(lease);
      detachPodLink(this.#context, lease);
      await forgetFlows('pod', this.#io, lease, this.#options.log);
    } finally {
      this.#pods.end(lease);
    }
  }

  async check(request: PodLinkRequest): Promise<readonly LinkFault[]> {
    return checkPodLink(this.#context, request, this.#plan(request.lease).overlayAddresses);
  }

  async inventory(): Promise<readonly KernelLease[]> {
    const reading = await readKernel(this.#io, this.#settings, undefined, this.#stop.signal);
    return reading.state.podLinks.flatMap((link) => {
      const alias = link.doomed ? undefined : parseAlias(link.alias);
      return alias ? [{ ...alias, hostIfname: link.ifname }] : [];
    });
  }

  async drained(): Promise<void> {
    await this.#reaper.flush();
  }

  async setDirect(peers: ReadonlySet<string>): Promise<void> {
    if (!this.#direct.prove(peers)) return;
    this.#asked = true;
    await this.#rounds.request();
  }

  status(): DatapathStatus {
    const desired = this.#desired;
    const waitingFor = desired === undefined ? 'the first round' : desired.waitingFor;
    const refused = this.#settled ? '' : 'the kernel to accept the state (see findings)';
    return {
      ready: waitingFor === '' && this.#settled,
      waitingFor: waitingFor === '' ? refused : waitingFor,
      overlayDevice: this.#settings.overlayDevice,
      mtuBytes: desired?.overlay?.mtuBytes ?? 0,
      vtepMac: desired?.overlay?.mac ?? '',
      peersProgrammed: desired?.nexthops.length ?? 0,
      podLinks: this.#pods.list().length,
      lastReconcileMs: this.#lastReconcileMs,
      reconciles: this.#reconciles,
      repairs: this.#repairs,
      findings: this.#findings,
    };
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    clearTimeout(this.#timer);
    this.#watch?.[Symbol.dispose]();
    await this.#rounds.idle();
    clearTimeout(this.#timer);
    await this.#reaper.flush();
    this.#reaper.stop();
    this.#io[Symbol.dispose]();
  }

  #plan(lease: Lease): PodLinkPlan {
    const overlay = this.#desired?.overlay;
    const view = this.#view;
    if (!overlay || !view || view.overlayAddresses.length === 0) {
      throw new WeftError('notReady', `the overlay waits for ${this.#desired?.waitingFor ?? 'its first round'}`);
    }
    const { beforeAttachStep } = this.#options;
    return {
      mtuBytes: overlay.mtuBytes,
      overlayAddresses: new Map(view.overlayAddresses.map((address) => [familyOf(address), address])),
      ipv6: this.#ipv6,
      ...(beforeAttachStep ? { beforeStep: (step: string) => beforeAttachStep(step, lease) } : {}),
    };
  }

  #schedule(delayMs: number): void {
    if (this.#stop.signal.aborted) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#rounds.request().catch((error: unknown) => {
        this.#options.log.error({ error: toWeftError(error).message }, 'comparing with the kernel failed');
        this.#schedule(retryMs);
      });
    }, delayMs);
    this.#timer.unref();
  }

  async #round(): Promise<void> {
    const view = this.#view;
    if (!view || this.#stop.signal.aborted) return;
    const asked = this.#asked;
    this.#asked = false;
    const began = performance.now();
    let retry = true;
    this.#pods.beginRound();
    const { signal } = this.#stop;
    try {
      this.#notForwarding = ensureForwarding(this.#io, this.#options.log, servesIpv6(view) ? [4, 6] : [4]);
      this.#ipv6 = this.#hasIpv6();
      const underlayAddress = underlayAddressOf(view, this.#settings);
      const reading = await readKernel(this.#io, this.#settings, underlayAddress, signal);
      this.#reading = reading;
      const { desired, operations } = this.#plans(view, reading);
      this.#desired = desired;
      const refusals = await this.#apply(operations, reading, signal);
      for (const { ifname, doomed } of reading.state.podLinks) if (doomed) this.#reaper.doom(ifname);
      this.#direct.note(refusals);
      this.#settled = !refusals.some(({ operation }) => essential.has(operation.kind));
      retry = refusals.length > 0;
      this.#reconciles++;
      if (!asked) this.#repairs += operations.length;
      this.#lastReconcileMs = performance.now() - began;
      this.#report(desired, reading, refusals);
    } finally {
      this.#schedule(retry ? retryMs : this.#settings.comparePeriodMs);
    }
  }

  /** From here to the first write nothing else runs, so names that an attach has touched are known. */
  #plans(view: IpamView, reading: KernelReading): { desired: DesiredState; operations: readonly Operation[] } {
    const untouchable = this.#pods.untouchable;
    const leases = this.#pods.list();
    const common = {
      view,
      settings: this.#settings,
      underlayMtuBytes: reading.underlay?.mtuBytes,
      ipv6: this.#ipv6,
      direct: this.#direct.input(view, reading),
    };
    const desired = desiredState({
      ...common,
      leases: leases.filter((lease) => !untouchable.has(lease.hostIfname)),
    });
    const operations = diff(desired, withoutPodLinks(reading.state, untouchable)).map((operation) =>
      // A load replaces every element, so it must hold those of untouchable pods too.
      operation.kind === 'loadFirewall'
        ? { ...operation, firewall: withPodsOf(operation.firewall, desiredState({ ...common, leases }).firewall) }
        : operation,
    );
    return { desired, operations };
  }

  async #apply(
    operations: readonly Operation[],
    reading: KernelReading,
    signal: AbortSignal,
  ): Promise<readonly Refusal[]> {
    if (operations.length === 0) return [];
    this.#busyNames = new Set(operations.flatMap(namesOf));
    try {
      const refusals = await applyOperations(this.#io, this.#settings, operations, reading.ifindexes, signal);
      for (const operation of operations) if (operation.kind === 'doomPodLink') this.#reaper.doom(operation.ifname);
      return refusals;
    } finally {
      this.#busyNames = new Set();
    }
  }

  #hasIpv6(): boolean {
    const off =
      this.#io.readSysctl(`net/ipv6/conf/${this.#settings.overlayDevice}/disable_ipv6`) ??
      this.#io.readSysctl('net/ipv6/conf/default/disable_ipv6');
    return off === '0';
  }

  #report(desired: DesiredState, reading: KernelReading, refusals: readonly Refusal[]): void {
    const findings: Finding[] = [...desired.findings];
    const present = new Set(reading.state.podLinks.map((link) => link.ifname));
    for (const { ifname } of desired.podLinks) {
      if (present.has(ifname)) continue;
      findings.push({ name: 'podLinkMissing', subject: ifname, message: `${ifname} is leased but not in the kernel` });
    }
    if (reading.underlay && !reading.underlay.up) {
      findings.push({ name: 'underlayDown', subject: reading.underlay.ifname, message: 'the underlay link is down' });
    }
    findings.push(...this.#notForwarding);
    for (const { hook, chain } of reading.foreignDrops) {
      const what = hook === 'forward' ? 'pod traffic' : `UDP port ${this.#settings.vxlanPort}`;
      findings.push({
        name: hook === 'forward' ? 'forwardPolicyDrops' : 'inputPolicyDrops',
        subject: chain,
        message: `chain ${chain} drops by policy and may drop ${what}`,
      });
    }
    findings.push(...refusals.map(findingOf));
    const known = new Set(this.#findings.map((finding) => JSON.stringify(finding)));
    for (const finding of findings) {
      if (!known.has(JSON.stringify(finding))) this.#options.log.warn({ ...finding }, 'finding');
    }
    this.#findings = findings;
  }
}

/** Without these a new pod would not work; any other refusal is a finding. */
const essential: ReadonlySet<Operation['kind']> = new Set([
  'loadFirewall',
  'addElement',
  'addOverlay',
  'setOverlay',
  'delOverlay',
  'addAddress',
]);

function findingOf({ operation, reason, errno: number }: Refusal): Finding {
  if (operation.kind === 'putRoute' && number === errno.EEXIST) {
    const { dst } = operation.route;
    return { name: 'routeConflict', subject: dst, message: `somebody else's route to ${dst} is in the way` };
  }
  return { name: 'kernelRefused', subject: operation.kind, message: reason };
}
