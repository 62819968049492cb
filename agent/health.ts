// What the agent watches beside its own work: the ways to the peers (probes), and now and then the host around it (the checks of
// `weft doctor`). A finding that is new goes to the log once.

import type { Config } from '#agent/config.ts';
import { datapathSettings } from '#agent/datapath/from-config.ts';
import type { KernelDatapath } from '#agent/datapath/datapath.ts';
import { openKernelIo } from '#agent/datapath/kernel-io.ts';
import type { Discovery } from '#agent/discovery/discovery.ts';
import { hostConditions } from '#agent/doctor/checks.ts';
import type { CheckedNode } from '#agent/doctor/checks.ts';
import { gatherFacts } from '#agent/doctor/facts.ts';
import type { FactsMemory } from '#agent/doctor/facts.ts';
import { toWeftError } from '#agent/errors.ts';
import type { Condition } from '#agent/findings.ts';
import type { Logger } from '#agent/observe/log.ts';
import { certificateConditions, readCertificateEnds } from '#agent/registry/peers/certificate-ends.ts';
import { startProber } from '#agent/probe/prober.ts';
import type { PeerPath } from '#agent/probe/scene.ts';
import type { IpamView } from '#agent/runtime/ipam.ts';
import { formatCidr } from '#ipam-peer/cidr.ts';
import type { InUse } from '#ipam-peer/events.ts';

export interface Health {
  /** By record name. */
  paths(): ReadonlyMap<string, PeerPath>;
  conditions(): readonly Condition[];
  /** There may be other peers. */
  look(): void;
  /** Looks at the host now: somebody wants to know whether what they did has helped. */
  check(): Promise<void>;
  stop(): void;
}

export interface HealthOptions {
  readonly config: Config;
  readonly datapath: Pick<KernelDatapath, 'scene' | 'setDirect'>;
  readonly discovery: Pick<Discovery, 'nodes'>;
  readonly view: () => IpamView;
  /** What the cluster gives to Services. Rejects when it does not tell. */
  readonly serviceRanges: (signal: AbortSignal) => Promise<readonly InUse[]>;
  readonly log: Logger;
}

const firstCheckMs = 2000;
const checkEveryMs = 60_000;
/** Thousands of nodes ask the API server. */
const servicesEveryMs = 3_600_000;
const servicesWithinMs = 3000;

/** Starts when the datapath has had its first round. */
export function startHealth(options: HealthOptions): Health {
  const { config, datapath, log } = options;
  const prober = startProber({
    scene: () => datapath.scene(),
    setDirect: (peers) => datapath.setDirect(peers),
    intervalMs: config.probeIntervalMs,
    log,
  });
  const memory: FactsMemory = {};
  // Those that the registry has loaded: new ones in their place help after a restart.
  const ends = config.registry === 'peers' ? readCertificateEnds({ ca: config.tlsCa, cert: config.tlsCert }) : [];
  const services = new Services(options.serviceRanges);
  let host: readonly Condition[] = [];
  let told = new Set<string>();
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;
  const check = async (isAsked: boolean): Promise<void> => {
    try {
      const serviceRanges = await services.now(isAsked);
      host = [...certificateConditions(await ends, Date.now()), ...(await checkHost(options, memory, serviceRanges))];
    } catch (error) {
      log.debug({ reason: toWeftError(error).message }, 'the host could not be checked');
    }
    const found = [...host, ...prober.findings()];
    for (const condition of found) if (!told.has(JSON.stringify(condition))) log.warn({ ...condition }, 'finding');
    told = new Set(found.map((condition) => JSON.stringify(condition)));
    if (!stopped) schedule(checkEveryMs);
  };
  let checking: Promise<void> | undefined;
  const checkOnce = (isAsked = true): Promise<void> => {
    clearTimeout(timer);
    return (checking ??= check(isAsked).finally(() => (checking = undefined)));
  };
  const schedule = (delayMs: number): void => {
    timer = setTimeout(() => void checkOnce(false), delayMs);
    timer.unref();
  };
  schedule(firstCheckMs);
  return {
    paths: () => prober.paths(),
    conditions: () => [...host, ...prober.findings()],
    look: () => prober.look(),
    check: () => checkOnce(),
    stop: () => {
      stopped = true;
      services.stop();
      clearTimeout(timer);
      prober.stop();
    },
  };
}

/** What the cluster gives to Services, asked for now and then: a ServiceCIDR may come at any time. */
class Services {
  readonly #ask: HealthOptions['serviceRanges'];
  readonly #stop = new AbortController();
  #told: CheckedNode['serviceRanges'] = [];
  // Not all nodes ask at the same time.
  #askedAtMs = performance.now() - Math.random() * servicesEveryMs;

  constructor(ask: HealthOptions['serviceRanges']) {
    this.#ask = ask;
  }

  /** As last told: an API server that is away hides nothing. */
  async now(isAsked: boolean): Promise<CheckedNode['serviceRanges']> {
    if (!isAsked && performance.now() - this.#askedAtMs < servicesEveryMs) return this.#told;
    this.#askedAtMs = performance.now();
    try {
      const signal = AbortSignal.any([this.#stop.signal, AbortSignal.timeout(servicesWithinMs)]);
      const told = await this.#ask(signal);
      // What was guessed from one address says too much.
      this.#told = told.flatMap(({ cidr, by, toldBy }) => (toldBy ? [] : [{ cidr: formatCidr(cidr), by }]));
    } catch {
      // Asked again in an hour.
    }
    return this.#told;
  }

  stop(): void {
    this.#stop.abort();
  }
}

async function checkHost(
  { config, discovery, view }: HealthOptions,
  memory: FactsMemory,
  serviceRanges: CheckedNode['serviceRanges'],
): Promise<readonly Condition[]> {
  const settings = datapathSettings(config, '');
  using io = openKernelIo(settings);
  const { ranges, reserved, peers } = view();
  const self = peers.find((peer) => peer.self);
  const { conflistPath } = config;
  const facts = await gatherFacts({ io, settings, conflistPath, underlayAddress: self?.underlayAddress, memory });
  const machineIds = discovery
    .nodes()
    .flatMap(({ nodeName, machineId }): readonly (readonly [string, string])[] =>
      machineId === undefined ? [] : [[nodeName, machineId]],
    );
  return hostConditions(
    facts,
    {
      ranges,
      reserved,
      ownBlocks: self?.blocks ?? [],
      underlayAddress: self?.underlayAddress,
      peers: peers.filter((peer) => !peer.self),
      machineIds: new Map(machineIds),
      serviceAddress: process.env['KUBERNETES_SERVICE_HOST'],
      serviceRanges,
      conflistPath,
    },
    settings,
  );
}
