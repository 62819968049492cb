// Builds the parts of the agent, starts and stops them; nothing else.
//
//   status, metrics ─▶ discovery ─▶ registry ─▶ IPAM ─▶ CNI socket, kept DELs ─▶ datapath, following changes ─▶ CNI served
//
// The datapath's first round comes after the kept DELs: links of pods that went while no agent ran are missing for a reason.
// Whoever looks can ask from the first step on what the start is waiting for. No step waits for the network once the node has
// started before: discovery and IPAM go on from their durable copies. Stopping goes the other way round and leaves the kernel
// as it is: running pods lose no packet.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { del } from '#agent/cni/del.ts';
import { owedFindings } from '#agent/cni/owed-dels.ts';
import { startCniServer } from '#agent/cni/server.ts';
import type { CniServer } from '#agent/cni/server.ts';
import { compileSoon } from '#agent/compile-soon.ts';
import { loadConfig } from '#agent/config.ts';
import { poolOf } from '#agent/config/formats.ts';
import type { Config } from '#agent/config.ts';
import { BridgedAddresses } from '#agent/datapath/bridged.ts';
import { datapathSettings } from '#agent/datapath/from-config.ts';
import { Segment } from '#agent/datapath/segment.ts';
import { createDatapath } from '#agent/datapath/kernel-datapath.ts';
import type { KernelDatapath } from '#agent/datapath/datapath.ts';
import { defaultDatapathSettings } from '#agent/datapath/settings.ts';
import type { Discovery } from '#agent/discovery/discovery.ts';
import { openDiscovery, openRegistry, reportFindings, serviceRangesOf } from '#agent/engines.ts';
import { errorCatalogue, toWeftError } from '#agent/errors.ts';
import { netnsInfo, openNetns } from '#agent/netlink/netns.ts';
import { follow } from '#agent/follow.ts';
import { startHealth } from '#agent/health.ts';
import type { Health } from '#agent/health.ts';
import { staySmall } from '#agent/memory.ts';
import { createLogger } from '#agent/observe/log.ts';
import type { Logger } from '#agent/observe/log.ts';
import type { Finding } from '#agent/observe/findings.ts';
import { createMetrics } from '#agent/observe/metrics.ts';
import type { Metrics } from '#agent/observe/metrics.ts';
import { startObserving } from '#agent/observe/server.ts';
import { buildStatus } from '#agent/observe/status.ts';
import type { StatusSources } from '#agent/observe/status.ts';
import { version } from '#agent/observe/version.ts';
import { leasesFromLinks, leasesFromNamespaces, namedByDisk } from '#agent/recovery.ts';
import type { Registry } from '#agent/registry/registry.ts';
import { withSharedWatch } from '#agent/registry/shared-watch.ts';
import { type IpamWithDelegated, withDelegatedLeases } from '#agent/runtime/delegated.ts';
import { openPools, type PoolOpening } from '#agent/runtime/pools.ts';
import { withKnownPeers } from '#agent/runtime/known-peers.ts';
import { type IpamOptions, startIpam } from '#agent/runtime/start.ts';
import type { RunningIpam } from '#agent/runtime/start.ts';
import { linkedHere, type IpamView, type Lease, type OwedDels } from '#agent/runtime/ipam.ts';
import { routesInUse } from '#agent/survey.ts';
import { defaultUniverse } from '#ipam-peer/records.ts';
import { namedUnderlay, underlayOf, withUnderlay } from '#agent/underlay.ts';

/** The parts that are there so far, which the status shows while the start goes on. */
interface Parts {
  starting: string;
  /** Underlay address that the settings name; ''. */
  readonly underlay: string;
  discovery?: Discovery;
  ipam?: IpamWithDelegated;
  datapath?: KernelDatapath;
  segment?: Segment;
  health?: Health;
}

/** A stop that hangs must not hold up an upgrade: the kernel state stays either way. */
const stopWithinMs = 10_000;

/** Runs the agent until SIGTERM or SIGINT. Throws WeftError when a part cannot start. */
export async function runAgent(
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): Promise<undefined> {
  const { config, sources: given, notes } = loadConfig({ argv, env });
  const log = createLogger(config);
  log.info({ version, node: config.nodeName, ...bySource(given) }, 'weft agent starts');
  for (const note of notes) log.warn({ part: 'config' }, note);
  const parts: Parts = { starting: 'the first step', underlay: namedUnderlay(config) };
  const sources = statusSources(config, parts);
  crashWithState(log, sources);
  const stack = new AsyncDisposableStack();
  stack.use(staySmall());
  const ending = new AbortController();
  stopOnSignal(log, stack, ending);
  try {
    await start({ config, log, parts, sources, stack, signal: ending.signal });
  } catch (error) {
    // The signal's own stop ends the process; what it cut short is no failure.
    if (ending.signal.aborted) return undefined;
    await stack.disposeAsync();
    throw error;
  }
  return undefined;
}

function statusSources(config: Config, parts: Parts): StatusSources {
  return {
    version,
    nodeName: config.nodeName,
    registryEngine: config.registry,
    startedAtMs: Date.now(),
    starting: () => parts.starting,
    ipam: () => currentView(parts),
    leases: () => parts.ipam?.leases() ?? [],
    datapath: () => parts.datapath?.status(),
    isProgrammed: (peer) => parts.datapath?.isProgrammed(peer) ?? false,
    paths: () => parts.health?.paths() ?? new Map(),
    conditions: () => [
      ...(parts.health?.conditions() ?? []),
      ...(parts.segment?.findings() ?? []),
      ...owedFindings(parts.ipam?.owed.all() ?? []),
    ],
    refresh: async () => {
      const { ipam, datapath, health } = parts;
      const view = currentView(parts);
      // Before the first round the datapath must not begin.
      if (!ipam || !datapath || !health || !view) return;
      await datapath.reconcile(view, linkedHere(ipam.leases()));
      await health.check();
    },
    nowMs: () => Date.now(),
  };
}

function currentView({ ipam, discovery, underlay }: Parts): IpamView | undefined {
  return ipam && withUnderlay(ipam.view(), discovery?.nodes() ?? [], underlay);
}

/** `{ "file /etc/weft/config.json": ["registry", "nodes"] }`: what is not a default, and who said it. */
function bySource(given: ReadonlyMap<string, string>): Readonly<Record<string, readonly string[]>> {
  const groups = Map.groupBy(given, ([, source]) => source);
  return Object.fromEntries([...groups].map(([source, entries]) => [source, entries.map(([key]) => key)]));
}

interface Start {
  readonly config: Config;
  readonly log: Logger;
  readonly parts: Parts;
  readonly sources: StatusSources;
  readonly stack: AsyncDisposableStack;
  readonly signal: AbortSignal;
}

async function start(given: Start): Promise<void> {
  const { config, log, parts, sources, stack, signal } = given;
  const began = performance.now();
  const step = (name: string): Logger => {
    parts.starting = name;
    log.debug({ tookMs: Math.round(performance.now() - began) }, `start: ${name}`);
    return log.child({ part: name });
  };
  step('status');
  const metrics = createMetrics(sources);
  const observers = await startObserving({ ...config, sources, metrics });
  stack.defer(() => observers.close());

  const discovery = await openDiscovery(config, step('discovery'), signal);
  parts.discovery = discovery;
  stack.defer(() => discovery.close());

  const registry = withSharedWatch(await openRegistry(config, step('registry')));
  stack.defer(() => registry.close());

  const datapath = createDatapath({ settings: datapathSettings(config, parts.underlay), log: step('datapath') });
  parts.datapath = datapath;
  stack.defer(() => datapath.stop());
  // Without its leases the datapath would take the links and routes of running pods for left over ones.
  const bridged = stack.use(new BridgedAddresses(datapathSettings(config, parts.underlay)));
  const hasPods = bridged.isInUse() || (await datapath.inventory()).length > 0;
  const lost = hasPods && !existsSync(statePath(config));

  const ipam = await openIpam(config, step('ipam'), { registry, discovery, datapath, underlay: parts.underlay });
  parts.ipam = ipam;
  stack.defer(() => ipam.close());
  const segment = stack.use(new Segment(datapathSettings(config, parts.underlay), step('segment')));
  parts.segment = segment;
  // A lost state directory: the links know whose they are. And they must be right before anything is given back through them.
  ipam.keepForeign(segment.leasesOfLinks(Date.now()));
  segment.sync(ipam.leases());
  await undoPendingLeases({ ipam, datapath, segment, owed: ipam.owed, log });
  const begin = async (): Promise<void> => {
    await datapath.start(withUnderlay(ipam.view(), discovery.nodes(), parts.underlay), linkedHere(ipam.leases()));
    const health = startHealth({
      config,
      datapath,
      discovery,
      log: log.child({ part: 'health' }),
      serviceRanges: (until) => serviceRangesOf(config, until),
      view: () => withUnderlay(ipam.view(), discovery.nodes(), parts.underlay),
    });
    parts.health = health;
    stack.defer(() => health.stop());
    const findings = (): readonly Finding[] => buildStatus(sources, 0).findings;
    const told = reportFindings(config, log.child({ part: 'events' }), { node: discovery.self, findings }, signal);
    told.catch((error: unknown) => log.warn({ err: error }, 'findings are told by no more events'));
    stack.defer(follow(config, log, { ipam, datapath, bridged, segment, discovery, health, underlay: parts.underlay }));
  };
  const served = { ipam, owed: ipam.owed, datapath, bridged, segment, ...(lost ? {} : { beforeServing: begin }) };
  const cni = await openCni(config, step('cni'), served, metrics);
  stack.defer(() => cni.close());
  if (lost) {
    parts.starting = 'the leases of a lost state directory';
    log.warn('the state directory was lost while pods run; their links stay as they are until the leases are back');
    await ipam.whenReady(signal);
    ipam.keepForeign(leasesFromLinks(await datapath.kernelLeases(), Date.now()));
    await begin();
  }
  parts.starting = '';
  compileSoon();
  log.info({ tookMs: Math.round(performance.now() - began) }, 'every part runs');
}

const statePath = (config: Config): string => join(config.stateDir, 'state.db');

interface IpamNeeds {
  readonly registry: Registry;
  readonly discovery: Discovery;
  readonly datapath: KernelDatapath;
  readonly underlay: string;
}

async function openIpam(config: Config, log: Logger, needs: IpamNeeds): Promise<IpamWithDelegated> {
  const { registry, discovery, datapath, underlay } = needs;
  const stores = { folder: join(config.stateDir, 'pools'), file: 'state.db' };
  const open = async ({ name, ownAddresses, others, mine }: PoolOpening): Promise<RunningIpam> => {
    const isDefault = name === defaultUniverse;
    const folder = isDefault ? config.stateDir : join(stores.folder, name);
    const { ranges, reserved } = isDefault ? config : { ranges: [], reserved: [] };
    const ipam: RunningIpam = await startIpam({
      registry,
      statePath: join(folder, stores.file),
      node: { ...discovery.self, underlayAddresses: underlayOf(discovery, underlay) },
      universe: { name, ranges, reserved, ownAddresses },
      restMs: config.restTimeMs,
      allocateWaitMs: config.allocateWaitMs,
      survey: async (signal) => [
        ...(await others(signal)),
        ...(await serviceRangesOf(config, signal)),
        ...routesInUse(ownRoutes),
      ],
      recoverLeases: async (signal, known) => {
        const onOthersLinks = leasesFromNamespaces({ isOwn: ownRoutes.isOwnDevice }, Date.now());
        const onOwnLinks = leasesFromLinks(await datapath.kernelLeases(), Date.now());
        return await mine([...onOwnLinks, ...namedByDisk(onOthersLinks, known)], signal);
      },
      cutLeases: async (leases) => {
        for (const lease of leases) await datapath.detach(lease);
      },
      ...(discovery.nodeExists && { nodeExists: discovery.nodeExists.bind(discovery) }),
      timing: timingOf(config),
      log,
    });
    return withKnownPeers(ipam, { path: join(folder, 'peers.json'), registry, log });
  };
  const path = join(config.stateDir, 'pools.json');
  const pools = await openPools({
    registry,
    path,
    stores,
    defaultRanges: config.ranges,
    declared: config.pools.map(poolOf),
    open,
    log,
  });
  return withDelegatedLeases(pools, join(config.stateDir, 'delegated.db'));
}

const { routeProtocol: ownProtocol, overlayDevice, bridgeDevice, podLinkPrefix } = defaultDatapathSettings;
const ownRoutes = {
  ownProtocol,
  isOwnDevice: (name: string) => [overlayDevice, bridgeDevice].includes(name) || name.startsWith(podLinkPrefix),
};

function timingOf({ takeOverAfterMs, sessionTermMs }: Config): NonNullable<IpamOptions['timing']> {
  return { takeOverAfterMs, sessionTermMs, sessionRenewMs: Math.ceil(sessionTermMs / 3) };
}

function openCni(
  config: Config,
  log: Logger,
  parts: {
    readonly ipam: RunningIpam;
    readonly owed: OwedDels;
    readonly datapath: KernelDatapath;
    readonly bridged: BridgedAddresses;
    readonly segment: Segment;
    readonly beforeServing?: () => Promise<void>;
  },
  metrics: Metrics,
): Promise<CniServer> {
  return startCniServer({
    ...parts,
    socketPath: config.socket,
    spoolDir: config.spoolDir,
    collect: {
      everyMs: config.collectMs,
      hostLinks: async () =>
        new Set([
          ...(await parts.datapath.inventory()).map(({ hostIfname }) => hostIfname),
          ...parts.segment.linkNames(),
        ]),
    },
    inspectNetns: (path) => {
      const { isNetns, ino } = netnsInfo(path);
      return { isNetns, inode: BigInt(ino) };
    },
    openNetns,
    observe: (verb, outcome, durationMs) =>
      metrics.cniRequest(verb || 'none', outcome === 'ok' ? 0 : errorCatalogue[outcome].cniCode, durationMs),
    log,
  });
}

/** An ADD that a crash cut short left a pending lease, perhaps a link: nobody was told of either. */
async function undoPendingLeases(parts: Parameters<typeof del>[1]): Promise<void> {
  const undo = async (lease: Lease): Promise<void> => {
    await del(lease, parts);
    const { containerId, ifname } = lease;
    parts.log.info({ containerId, ifname }, 'undone: an ADD that a crash had cut short');
  };
  // At once: a plugin that gives addresses may hang, and nothing is served meanwhile.
  await Promise.all(parts.ipam.leases().flatMap((lease) => (lease.state === 'pending' ? [undo(lease)] : [])));
}

function stopOnSignal(log: Logger, stack: AsyncDisposableStack, ending: AbortController): void {
  const stop = (name: NodeJS.Signals): void => {
    log.info({ signal: name }, 'stopping; the kernel state stays, pods go on');
    ending.abort();
    setTimeout(() => {
      log.error('a part did not stop in time');
      process.exit(1);
    }, stopWithinMs).unref();
    stack.disposeAsync().then(
      () => process.exit(0),
      (error: unknown) => {
        log.error({ err: error }, 'stopping failed');
        process.exit(1);
      },
    );
  };
  for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, stop);
}

/** A broken invariant must not go on: the state goes to the log, the process ends, its successor starts from what is durable. */
function crashWithState(log: Logger, sources: StatusSources): void {
  const crash = (error: unknown): void => {
    let state: unknown;
    try {
      state = buildStatus(sources, 100);
    } catch (cause) {
      state = String(cause);
    }
    log.fatal({ err: error, state }, 'weft agent ends: a defect');
    process.exit(70);
  };
  process.on('uncaughtException', crash);
  process.on('unhandledRejection', crash);
}

// `weft agent` is the usual door; a bundle of the command holds this file too and must not run it by itself.
if (import.meta.main && /main\.[cm]?[jt]s$/.test(process.argv[1] ?? '')) {
  runAgent(process.argv.slice(2), process.env).catch((thrown: unknown) => {
    const error = toWeftError(thrown);
    process.stderr.write(`weft: ${error.message.replaceAll('\n', '\nweft: ')}\n      ${error.nextStep}\n`);
    process.exitCode = error.kind === 'invalidSetting' ? 2 : 1;
  });
}
