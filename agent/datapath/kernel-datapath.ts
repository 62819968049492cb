// The datapath of one node: rounds of desired -> actual -> diff -> apply, asked for by reconcile, by kernel notifications
// and by the clock, beside attach and detach that work on single pods without waiting for a round.
import type { ProbeScene } from '#agent/probe/scene.ts';
import type { IpamView, Lease, PeerView } from '#agent/runtime/ipam.ts';
import { toWeftError, WeftError } from '#agent/errors.ts';

import { factsOf, type KernelFacts, type KernelReading, readKernel } from './actual.ts';
import { applyOperations, isEssential, makesDevice, type Refusal } from './apply.ts';
import { checkPodLink } from './check.ts';
import { byFamily } from './cidr.ts';
import type {
  DatapathOptions,
  DatapathStatus,
  KernelDatapath,
  LinkFault,
  PodLink,
  PodLinkRequest,
} from './datapath.ts';
import { type DesiredInput, desiredState, hostFacts, servesIpv6, underlayAddressOf } from './desired.ts';
import { diff } from './diff.ts';
import type { DirectInput } from './direct.ts';
import { DirectPaths } from './direct-paths.ts';
import { comparePauseMs, Due } from './due.ts';
import { Expected } from './expected.ts';
import { ensureForwarding, ensureIpv6 } from './forwarding.ts';
import { logNew, roundFindings } from './findings.ts';
import { Footprints } from './footprint.ts';
import { ForeignFirewalls } from './foreign-firewall.ts';
import type { KernelLease } from './identity.ts';
import { leasesOf, readLinksOf } from './inventory.ts';
import { openKernelIo, type KernelIo } from './kernel-io.ts';
import type { DesiredState, Finding, Operation } from './objects.ts';
import { listen } from './listening.ts';
import { bridgePort, podLinkPlan } from './pod-plan.ts';
import { podLinkOf, Ports } from './ports.ts';
import type { PeersTold } from './peer-changes.ts';
import { changePeers } from './peer-round.ts';
import { PodFollower } from './pod-follow.ts';
import { attachPodLink, detachPodLink, type PodLinkContext, type PodLinkPlan } from './pod-link.ts';
import { restoreNames } from './names.ts';
import { PodLinkReaper } from './reaper.ts';
import { RoundCounts, Rounds } from './rounds.ts';
import { probeScene } from './scene.ts';
import type { DatapathSettings } from './settings.ts';
import { Shaper } from './shaper.ts';
import { isProgrammed, statusOf } from './status.ts';
import { TakenRoutes } from './taken-routes.ts';
import { UdpFlows } from './udp-flows.ts';
import { busyNamesIn, isBusy, loadingAllPods, WantedPods, withoutPodLinks } from './wanted.ts';

/** Opens sockets in the settings' namespace; throws NetlinkError when it cannot. Nothing is written before `start`. */
export function createDatapath(options: DatapathOptions): KernelDatapath {
  return new NodeDatapath(options);
}

interface Plans {
  readonly desired: DesiredState;
  readonly operations: readonly Operation[];
  readonly direct: DirectInput;
}

/** How long after a refusal the next round begins, and for how long notifications are gathered before one. */
const retryMs = 1000;
const gatherMs = 20;

class NodeDatapath implements KernelDatapath {
  readonly #options: DatapathOptions;
  readonly #settings: DatapathSettings;
  readonly #io: KernelIo;
  readonly #reaper: PodLinkReaper;
  readonly #shaper: Shaper;
  readonly #context: PodLinkContext;
  readonly #rounds: Rounds;
  readonly #footprints: Footprints;
  readonly #pods = new WantedPods(() => this.#footprints.forget());
  readonly #ports: Ports;
  #portNames: ReadonlySet<string> = new Set();
  readonly #follower: PodFollower;
  readonly #direct: DirectPaths;
  readonly #foreign: ForeignFirewalls;
  readonly #flows: UdpFlows;
  readonly #taken = new TakenRoutes();
  readonly #stop = new AbortController();
  #view: IpamView | undefined;
  #desired: DesiredState | undefined;
  #reading: KernelFacts | undefined;
  #busyNames: ReadonlySet<string> = new Set();
  #listening: Disposable | undefined;
  /** What the kernel holds as far as is known, and the view that it was brought to. */
  #expected: Expected | undefined;
  #applied: PeersTold | undefined;
  #compare = true;
  /** A comparison is due for more than the clock. */
  #called = true;
  readonly #due: Due;
  /** Link addresses of peers were heard of. */
  readonly #heard: Due;
  #asked = true;
  #findings: readonly Finding[] = [];
  readonly #counts = new RoundCounts();
  #settled = false;
  #ipv6 = false;

  constructor(options: DatapathOptions) {
    this.#options = options;
    this.#settings = options.settings;
    this.#io = openKernelIo(options.settings);
    this.#reaper = new PodLinkReaper({
      io: this.#io,
      settings: options.settings,
      onRefused: (reason) => options.log.warn({ reason }, 'doomed pod links could not be deleted, trying again'),
    });
    this.#ports = new Ports(options.settings.podLink);
    this.#follower = new PodFollower(this.#io, options.log);
    this.#direct = new DirectPaths(this.#io, options.settings);
    this.#foreign = new ForeignFirewalls(this.#io, options.settings);
    this.#footprints = new Footprints(this.#io, options.settings);
    this.#flows = new UdpFlows(this.#io, options.log);
    this.#shaper = new Shaper(this.#io, options.settings, this.#reaper);
    this.#context = { io: this.#io, settings: options.settings, reaper: this.#reaper, shaper: this.#shaper };
    this.#rounds = new Rounds(() => this.#round());
    const onError = (error: unknown): void => {
      options.log.error({ error: toWeftError(error).message }, 'comparing with the kernel failed');
      this.#due.within(retryMs);
    };
    this.#due = new Due(() => {
      this.#compare = true;
      return this.#rounds.request();
    }, onError);
    this.#heard = new Due(() => this.#ask(), onError);
  }

  async start(view: IpamView, leases: readonly Lease[]): Promise<void> {
    const onChange = (reason: string): void => {
      this.#options.log.debug({ reason }, 'kernel changed, comparing');
      this.#called = true;
      this.#due.within(gatherMs);
    };
    this.#listening = listen({
      settings: this.#settings,
      io: this.#io,
      desired: () => this.#desired,
      expected: () => this.#expected,
      reading: () => this.#reading,
      bufferBytes: this.#options.notificationBufferBytes,
      pods: this.#pods,
      isShaped: (ifindex) => this.#shaper.owns(ifindex),
      isPort: (lease) => this.#ports.isPort(lease),
      isOpen: async (chains) => this.#foreign.isOpen(chains),
      ipv6: () => this.#ipv6,
      linkAddresses: () => this.#direct.macs,
      onLinkAddress: (address, mac) => {
        this.#direct.hear(address, mac);
        this.#heard.within(gatherMs);
      },
      onTaken: (routeKey) => this.#taken.note(routeKey),
      onForeign: () => this.#due.within(this.#settings.comparePeriodMs),
      onChange,
      onError: (error) => this.#options.log.error({ error: error.message }, 'kernel notifications ended'),
    });
    await this.reconcile(view, leases);
    this.#flows.forgetStale(leases);
  }

  async reconcile(view: IpamView, leases: readonly Lease[]): Promise<void> {
    this.#view = view;
    this.#pods.replace(leases);
    await this.#ask();
  }

  async #ask(): Promise<void> {
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
      if (isBusy(this.#busyNames, lease)) await this.#rounds.current;
      const plan = this.#plan(lease);
      this.#ports.made(lease);
      const link = await attachPodLink(this.#context, request, plan, signal);
      this.#pods.attached(lease);
      this.#expected?.attached(lease, { ...plan, isPort: plan.port !== undefined });
      this.#flows.forgetStale([lease]);
      return link;
    } finally {
      this.#pods.end(lease);
    }
  }

  async detach(lease: Lease): Promise<void> {
    this.#pods.begin(lease);
    try {
      if (isBusy(this.#busyNames, lease)) await this.#rounds.current;
      this.#pods.detached(lease);
      this.#expected?.detached(lease);
      detachPodLink(this.#context, lease, this.#desired?.bridge !== undefined);
      await this.#flows.forgetPod(lease);
    } finally {
      this.#pods.end(lease);
    }
  }

  async check(request: PodLinkRequest): Promise<readonly LinkFault[]> {
    const { overlayAddresses } = this.#plan(request.lease);
    const view = this.#ports.isPort(request.lease) ? this.#view : undefined;
    const port = view && bridgePort(this.#io, this.#settings.bridgeDevice, view);
    return checkPodLink(this.#context, request, overlayAddresses, port);
  }

  async inventory(): Promise<readonly KernelLease[]> {
    return await readLinksOf(this.#io, this.#settings, this.#stop.signal);
  }

  async kernelLeases(): Promise<readonly KernelLease[]> {
    return await leasesOf(this.#io, this.#settings, await this.#read(), this.#stop.signal);
  }

  #read(underlayAddress?: string): Promise<KernelReading> {
    return readKernel(this.#io, this.#settings, underlayAddress, this.#stop.signal);
  }

  async drained(): Promise<void> {
    await this.#reaper.flush();
  }

  async setDirect(peers: ReadonlySet<string>): Promise<void> {
    if (this.#direct.prove(peers)) await this.#ask();
  }

  scene(): ProbeScene | undefined {
    const [desired, view, expected, underlay] = [this.#desired, this.#view, this.#expected, this.#reading?.underlay];
    if (!desired || !view || !expected || !underlay) return undefined;
    return probeScene({ mode: this.#settings.overlayMode, view, desired, expected, underlay, macs: this.#direct.macs });
  }

  status(): DatapathStatus {
    return {
      ...statusOf(this.#settings, this.#desired, this.#settled),
      podLinks: this.#pods.list().length,
      ...this.#counts.soFar,
      findings: this.#findings,
    };
  }

  isProgrammed(peer: PeerView): boolean {
    return isProgrammed(this.#expected, peer, this.#view?.overlayAddresses ?? []);
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    this.#due.stop();
    this.#heard.stop();
    this.#listening?.[Symbol.dispose]();
    await this.#rounds.idle();
    await Promise.all([this.#flows.idle(), this.#reaper.flush()]);
    this.#reaper.stop();
    this.#io[Symbol.dispose]();
  }

  #plan(lease: Lease): PodLinkPlan {
    const { beforeAttachStep } = this.#options;
    const [io, desired, view, ipv6] = [this.#io, this.#desired, this.#view, this.#ipv6];
    const settings = { ...this.#settings, podLink: podLinkOf(lease, this.#settings.podLink) };
    const plan = podLinkPlan({ io, settings, desired, view, ipv6 });
    return beforeAttachStep ? { ...plan, beforeStep: (step) => beforeAttachStep(step, lease) } : plan;
  }

  async #round(): Promise<void> {
    const view = this.#view;
    if (!view || this.#stop.signal.aborted) return;
    const asked = this.#asked;
    this.#asked = false;
    const began = performance.now();
    this.#pods.beginRound();
    const [{ signal }, { log }] = [this.#stop, this.#options];
    if (!this.#compare && (await this.#changePeers(view, signal, began))) return;
    const called = asked || this.#called;
    this.#compare = this.#called = false;
    if (!called && (await this.#isAsItWas(view))) return this.#compareLater();
    this.#applied = undefined;
    let retry = true;
    try {
      const notForwarding = ensureForwarding(this.#io, log, servesIpv6(view) ? [4, 6] : [4]);
      this.#ipv6 = ensureIpv6(this.#io, [this.#settings.overlayDevice, this.#settings.bridgeDevice]);
      const underlayAddress = underlayAddressOf(view, this.#settings);
      this.#direct.beginReading();
      let reading = await this.#read(underlayAddress);
      let plans = this.#plans(view, reading);
      if (restoreNames(this.#io, reading.links, plans.desired, this.#pods.settledLeases).length > 0) {
        reading = await this.#read(underlayAddress);
        plans = this.#plans(view, reading);
      }
      this.#reading = factsOf(reading);
      const { desired, operations, direct } = plans;
      this.#desired = desired;
      const attached = { overlayAddresses: byFamily(view.overlayAddresses), onBridge: desired.bridge !== undefined };
      this.#expected = new Expected(reading.state);
      this.#expected.attachedAll(this.#pods.list(), this.#portNames, attached);
      this.#expected.note(operations);
      const refusals = await this.#apply(operations, reading, signal);
      const shaped = await this.#shaper.round(reading.links, this.#pods, signal);
      for (const { ifname, doomed } of reading.state.podLinks) if (doomed) this.#reaper.doom(ifname);
      const pods = { leases: this.#pods.settledLeases, links: reading.state.podLinks, ports: this.#portNames };
      this.#follower.follow({ ...pods, desired, gateway: attached.overlayAddresses.get(4) });
      this.#direct.note(refusals);
      const foreign = await this.#foreign.open(reading.foreignChains, view.ranges);
      const isOpen = desired.bridge !== undefined && !reading.bridgeNetfilter;
      this.#settled = !isOpen && !refusals.some(isEssential);
      retry = refusals.length + shaped.findings.length > 0;
      if (!retry) this.#applied = { view, direct };
      retry ||= operations.some(makesDevice);
      const written = operations.length + shaped.written;
      this.#counts.note(began, written + foreign.writes, asked ? 0 : written);
      const more = [...notForwarding, ...foreign.findings, ...shaped.findings];
      this.#findings = logNew(log, this.#findings, roundFindings({ desired, reading, refusals, more }));
      const devices = this.#footprints.devices(reading, desired);
      const isRight = this.#settled && !retry && written + foreign.writes + more.length === 0;
      if (isRight && devices) await this.#footprints.learn(devices);
    } finally {
      if (retry) this.#due.within(retryMs);
      else this.#compareLater();
    }
  }

  #compareLater(): void {
    this.#due.within(comparePauseMs(this.#settings.comparePeriodMs, this.#expected?.size ?? 0));
  }

  /** At a glance, which tells of everything that a full round would read where no pod has limits. */
  async #isAsItWas(view: IpamView): Promise<boolean> {
    const devices = this.#footprints.devices(this.#reading, this.#desired);
    this.#direct.find(view);
    if (!devices || this.#applied?.view !== view || this.#applied.direct !== this.#direct.now) return false;
    return this.#shaper.isIdle && (await this.#footprints.isKnown(devices));
  }

  /** What planning is told beside the view and the leases. */
  #given(facts: KernelFacts): Omit<DesiredInput, 'view' | 'leases' | 'direct'> {
    return { settings: this.#settings, ipv6: this.#ipv6, ports: this.#portNames, ...hostFacts(facts) };
  }

  /** Where only peers differ from what the kernel was brought to, writes just that. False: a full round is due. */
  async #changePeers(view: IpamView, signal: AbortSignal, began: number): Promise<boolean> {
    const [expected, before, facts] = [this.#expected, this.#applied, this.#reading];
    const isSimple = this.#settings.podLink === 'bridge' || this.#portNames.size === 0;
    if (!expected || !before || !facts || !isSimple || !this.#pods.isSettled) return false;
    const own = { io: this.#io, taken: this.#taken, direct: this.#direct, findings: this.#findings };
    const round = changePeers({ ...own, given: this.#given(facts), expected, before, facts, view, signal });
    if (!round) return false;
    this.#applied = undefined;
    const { written, told } = await round;
    this.#counts.note(began, written);
    this.#applied = told;
    // The probes are told of another way to a peer as of another state.
    if (told && told.direct !== before.direct && this.#desired) this.#desired = { ...this.#desired };
    return told !== undefined;
  }

  /** From here to the first write nothing else runs, so names that an attach has touched are known. */
  #plans(view: IpamView, reading: KernelReading): Plans {
    const untouchable = this.#pods.untouchable;
    const leases = this.#pods.list();
    this.#portNames = this.#ports.names(leases, reading.state.podLinks);
    const direct = this.#direct.input(view, reading);
    const common = { view, ...this.#given(reading), direct };
    const settling = this.#pods.settledLeases;
    const desired = desiredState({ ...common, leases: settling });
    this.#pods.settle(settling);
    const different = diff(desired, withoutPodLinks(reading.state, untouchable));
    const operations = loadingAllPods(
      different,
      () => desiredState({ ...common, leases: this.#pods.inTable }).firewall,
    );
    return { desired, operations, direct };
  }

  async #apply(
    operations: readonly Operation[],
    reading: KernelFacts,
    signal: AbortSignal,
  ): Promise<readonly Refusal[]> {
    if (operations.length === 0) return [];
    this.#busyNames = busyNamesIn(operations);
    try {
      const writes = this.#taken.retake(operations);
      const refusals = await applyOperations(this.#io, this.#settings, writes, reading.ifindexes, signal);
      this.#expected?.refused(refusals.map(({ operation }) => operation));
      for (const operation of operations) if (operation.kind === 'doomPodLink') this.#reaper.doom(operation.ifname);
      return refusals;
    } finally {
      this.#busyNames = new Set();
    }
  }
}
