// Builds the parts of the agent, starts and stops them; nothing else.
//
//   status, metrics ─▶ discovery ─▶ registry ─▶ IPAM ─▶ datapath ─▶ CNI socket ─▶ follow changes
//
// Whoever looks can ask from the first step on what the start is waiting for. No step waits for the network once the node has
// started before: discovery and IPAM go on from their durable copies. Stopping goes the other way round and leaves the kernel
// as it is: running pods lose no packet.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { startCniServer } from '#agent/cni/server.ts';
import { writeConflist } from '#agent/cni/conflist.ts';
import { canServe } from '#agent/cni/status.ts';
import { loadConfig } from '#agent/config.ts';
import type { Config } from '#agent/config.ts';
import { createDatapath } from '#agent/datapath/kernel-datapath.ts';
import type { KernelDatapath } from '#agent/datapath/kernel-datapath.ts';
import { defaultDatapathSettings } from '#agent/datapath/settings.ts';
import type { Discovery } from '#agent/discovery/discovery.ts';
import { openDiscovery, openRegistry } from '#agent/engines.ts';
import { errorCatalogue, toWeftError } from '#agent/errors.ts';
import { netnsInfo } from '#agent/netlink/netns.ts';
import { createLogger } from '#agent/observe/log.ts';
import type { Logger } from '#agent/observe/log.ts';
import { createMetrics } from '#agent/observe/metrics.ts';
import { startObserving } from '#agent/observe/server.ts';
import { buildStatus } from '#agent/observe/status.ts';
import type { StatusSources } from '#agent/observe/status.ts';
import { version } from '#agent/observe/version.ts';
import { startIpam } from '#agent/runtime/start.ts';
import type { RunningIpam } from '#agent/runtime/start.ts';
import type { IpamView } from '#agent/runtime/ipam.ts';
import { withUnderlay } from '#agent/underlay.ts';

/** The parts that are there so far, which the status shows while the start goes on. */
interface Parts {
  starting: string;
  discovery?: Discovery;
  ipam?: RunningIpam;
  datapath?: KernelDatapath;
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
  log.info({ version, node: config.nodeName, settings: Object.fromEntries(given) }, 'weft agent starts');
  for (const note of notes) log.warn({ part: 'config' }, note);
  const parts: Parts = { starting: 'the first step' };
  const sources = statusSources(config, parts);
  crashWithState(log, sources);
  const stack = new AsyncDisposableStack();
  stopOnSignal(log, stack);
  try {
    await start(config, log, parts, sources, stack);
  } catch (error) {
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
    ipam: () => currentView(config, parts),
    leases: () => parts.ipam?.leases() ?? [],
    datapath: () => parts.datapath?.status(),
    nowMs: () => Date.now(),
  };
}

function currentView(config: Config, { ipam, discovery }: Parts): IpamView | undefined {
  return ipam && withUnderlay(ipam.view(), discovery?.nodes() ?? [], config.underlayAddress);
}

async function start(
  config: Config,
  log: Logger,
  parts: Parts,
  sources: StatusSources,
  stack: AsyncDisposableStack,
): Promise<void> {
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

  const discovery = await openDiscovery(config, step('discovery'));
  parts.discovery = discovery;
  stack.defer(() => discovery.close());

  const registry = await openRegistry(config, step('registry'));
  stack.defer(() => registry.close());

  const ipam = await startIpam({
    registry,
    statePath: join(config.stateDir, 'state.db'),
    node: { ...discovery.self, underlayAddresses: underlayOf(config, discovery) },
    universe: { name: 'default', ranges: config.ranges, reserved: config.reserved },
    restMs: config.restTimeMs,
    allocateWaitMs: config.allocateWaitMs,
    log: step('ipam'),
  });
  parts.ipam = ipam;
  stack.defer(() => ipam.close());

  const datapath = createDatapath({ settings: datapathSettings(config), log: step('datapath') });
  parts.datapath = datapath;
  stack.defer(() => datapath.stop());
  await undoPendingLeases(ipam, datapath, log);
  await datapath.start(withUnderlay(ipam.view(), discovery.nodes(), config.underlayAddress), ipam.leases());

  const cni = await startCniServer({
    ipam,
    datapath,
    socketPath: config.socket,
    spoolDir: config.spoolDir,
    inspectNetns: (path) => {
      const { isNetns, ino } = netnsInfo(path);
      return { isNetns, inode: BigInt(ino) };
    },
    observe: (verb, outcome, durationMs) =>
      metrics.cniRequest(verb || 'none', outcome === 'ok' ? 0 : errorCatalogue[outcome].cniCode, durationMs),
    log: step('cni'),
  });
  stack.defer(() => cni.close());
  parts.starting = '';
  stack.defer(follow(config, log, { ipam, datapath, discovery }));
  log.info({ tookMs: Math.round(performance.now() - began) }, 'every part runs');
}

const underlayOf = (config: Config, discovery: Discovery): readonly string[] =>
  config.underlayAddress === '' ? discovery.self.underlayAddresses : [config.underlayAddress];

/** A container's own /proc/sys is read-only; the DaemonSet mounts the part that the datapath writes beside it. */
const hostSysctlRoot = '/host/proc/sys';

function datapathSettings(config: Config): typeof defaultDatapathSettings {
  return {
    ...defaultDatapathSettings,
    vxlanPort: config.vxlanPort,
    vni: config.vxlanVni,
    nonMasqueradeCidrs: config.nonMasqueradeRanges,
    underlayAddress: config.underlayAddress || undefined,
    comparePeriodMs: config.resyncMs,
    ...(existsSync(`${hostSysctlRoot}/net`) && { sysctlRoot: hostSysctlRoot }),
  };
}

/** An ADD that a crash cut short left a pending lease, perhaps a link: nobody was told of either. */
async function undoPendingLeases(ipam: RunningIpam, datapath: KernelDatapath, log: Logger): Promise<void> {
  for (const lease of ipam.leases()) {
    if (lease.state !== 'pending') continue;
    await datapath.detach(lease);
    ipam.release(lease, lease.generation);
    log.info({ containerId: lease.containerId, ifname: lease.ifname }, 'undone: an ADD that a crash had cut short');
  }
}

type Running = Required<Omit<Parts, 'starting'>>;

/** Hands changes of ownership and addresses to the datapath, and writes the conflist once pods can start. Returns how to stop. */
function follow(config: Config, log: Logger, { ipam, datapath, discovery }: Running): () => void {
  let handled = '';
  let announced = false;
  const announce = async (): Promise<void> => {
    if (announced || !canServe(ipam, datapath).ready) return;
    announced = true;
    try {
      const written = await writeConflist(config.conflistPath);
      const { overlayAddresses, peers } = ipam.view();
      const blocks = peers.find((peer) => peer.self)?.blocks ?? [];
      log.info(
        { overlayAddresses, blocks, ...(written ? { conflist: config.conflistPath } : {}) },
        'ready: pods can start here',
      );
    } catch (error) {
      announced = false;
      log.error({ err: error }, 'cannot write the network configuration; trying again');
    }
  };
  const change = async (): Promise<void> => {
    const view = withUnderlay(ipam.view(), discovery.nodes(), config.underlayAddress);
    const { ranges, reserved, peers, overlayAddresses } = view;
    // Leases come and go without the datapath's rounds: attach and detach have done their work already.
    const wanted = JSON.stringify([ranges, reserved, peers, overlayAddresses]);
    if (wanted !== handled) {
      handled = wanted;
      await datapath.reconcile(view, ipam.leases());
    }
    await announce();
  };
  const onChange = (): void => {
    change().catch((error: unknown) => {
      handled = '';
      log.error({ err: toWeftError(error) }, 'the kernel does not follow; trying again');
    });
  };
  const stops = [
    ipam.onChange(onChange),
    discovery.onChange(() => {
      ipam.setUnderlay(underlayOf(config, discovery));
      onChange();
    }),
  ];
  const timer = setInterval(onChange, config.resyncMs);
  timer.unref();
  // Until pods can start there may be no further change to wake for, such as a kernel that refuses at first.
  const early = setInterval(() => (announced ? clearInterval(early) : onChange()), 500);
  early.unref();
  onChange();
  return () => {
    for (const stop of stops) stop();
    clearInterval(timer);
    clearInterval(early);
  };
}

function stopOnSignal(log: Logger, stack: AsyncDisposableStack): void {
  const stop = (name: NodeJS.Signals): void => {
    log.info({ signal: name }, 'stopping; the kernel state stays, pods go on');
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
