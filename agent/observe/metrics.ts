// Prometheus metrics. Gauges are read from the status at scrape time, so that nothing has to be kept in step; only the CNI
// requests are counted as they happen. docs/metrics.md is generated from these definitions.

import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { DatapathStatus } from '#agent/datapath/datapath.ts';
import type { PeerPath } from '#agent/probe/scene.ts';
import { buildStatus } from '#agent/observe/status.ts';
import type { PoolStatus } from '#agent/observe/pools.ts';
import type { ReachedPeer, Status, StatusSources } from '#agent/observe/status.ts';

export interface Metrics {
  /** Text in Prometheus' exposition format. */
  text(): Promise<string>;
  readonly contentType: string;
  /** Counts one CNI call; `code` is the CNI error code, 0 for success. */
  cniRequest(command: string, code: number, durationMs: number): void;
  /** Name, type and help of each, for the docs. */
  describe(): Promise<readonly MetricDescription[]>;
}

export interface MetricDescription {
  readonly name: string;
  readonly type: string;
  readonly help: string;
  readonly labels: readonly string[];
}

type Value = number | Readonly<Record<string, number>>;

interface Reading {
  readonly name: string;
  readonly help: string;
  /** Label whose values are the keys of what `read` gives. */
  readonly label?: string;
  readonly counter?: true;
  readonly read: (status: Status, datapath: Partial<DatapathStatus>) => Value;
}

const seconds = (ms: number): number => ms / 1000;
const yes = (truth: boolean | undefined): number => (truth === true ? 1 : 0);

function byPool(status: Status, read: (pool: PoolStatus) => number): Value {
  return Object.fromEntries(status.pools.map((pool) => [pool.name, read(pool)]));
}

/** Everything that is read at scrape time. */
const readings: readonly Reading[] = [
  {
    name: 'weft_build_info',
    help: 'The running version, value 1.',
    label: 'version',
    read: (s) => ({ [s.version]: 1 }),
  },
  { name: 'weft_ready', help: '1 when an ADD would succeed.', read: (s) => yes(s.ready) },
  {
    name: 'weft_start_time_seconds',
    help: 'Start of the agent, seconds since the epoch.',
    read: (s) => seconds(s.startedAtMs),
  },
  {
    name: 'weft_addresses',
    help: 'Addresses of this node by state: free, leased, resting.',
    label: 'state',
    read: (s) => s.addresses,
  },
  {
    name: 'weft_owned_addresses',
    help: 'Addresses in the blocks that this node owns.',
    read: (s) => s.peers.find((peer) => peer.self)?.addresses ?? 0,
  },
  {
    name: 'weft_pool_addresses',
    help: 'Addresses that the nodes share in a pool; like all counts of a pool of the family of which it has less.',
    label: 'pool',
    read: (s) => byPool(s, (pool) => pool.addresses),
  },
  {
    name: 'weft_pool_available_addresses',
    help: 'Addresses of a pool that this node could still get at: its own free ones and those that other nodes offer, to within a factor of two.',
    label: 'pool',
    read: (s) => byPool(s, (pool) => pool.availableAddresses),
  },
  {
    name: 'weft_pool_free_addresses',
    help: 'Free addresses of this node in a pool.',
    label: 'pool',
    read: (s) => byPool(s, (pool) => pool.freeAddresses),
  },
  {
    name: 'weft_pool_leased_addresses',
    help: 'Leased addresses of this node in a pool, of both families.',
    label: 'pool',
    read: (s) => byPool(s, (pool) => pool.leasedAddresses),
  },
  { name: 'weft_peers', help: 'Nodes with a record in the registry, this one included.', read: (s) => s.peers.length },
  {
    name: 'weft_peer_blocks',
    help: 'Blocks over all nodes; each is a route.',
    read: (s) => s.peers.reduce((total, peer) => total + peer.blocks.length, 0),
  },
  {
    name: 'weft_registry_silence_seconds',
    help: "Time since the registry's last answer, or since the start when there was none.",
    read: (s) => seconds(s.nowMs - (s.registry.answeredAtMs ?? s.startedAtMs)),
  },
  {
    name: 'weft_findings',
    help: 'Things that an operator should look at, by severity; `weft status` names them.',
    label: 'severity',
    read: (s) => ({
      warning: s.findings.filter((finding) => finding.severity === 'warning').length,
      error: s.findings.filter((finding) => finding.severity === 'error').length,
    }),
  },
  {
    name: 'weft_datapath_ready',
    help: '1 when the overlay and its rules are in the kernel.',
    read: (_, d) => yes(d.ready),
  },
  {
    name: 'weft_datapath_peers',
    help: 'Peers whose blocks the kernel leads to them.',
    read: (s) => s.datapath?.peersProgrammed ?? 0,
  },
  { name: 'weft_datapath_pod_links', help: 'Pod links in the kernel.', read: (_, d) => d.podLinks ?? 0 },
  { name: 'weft_datapath_mtu_bytes', help: 'MTU of the overlay and of new pods.', read: (_, d) => d.mtuBytes ?? 0 },
  {
    name: 'weft_datapath_reconciles_total',
    help: "Comparisons of the kernel's state with what it should be.",
    counter: true,
    read: (_, d) => d.reconciles ?? 0,
  },
  {
    name: 'weft_datapath_repairs_total',
    help: 'Kernel objects that had to be put right.',
    counter: true,
    read: (_, d) => d.repairs ?? 0,
  },
  {
    name: 'weft_datapath_last_reconcile_seconds',
    help: 'How long the last comparison took.',
    read: (_, d) => seconds(d.lastReconcileMs ?? 0),
  },
  {
    name: 'weft_peer_paths',
    help: 'Peers by what the probes say: ok, lossy, silent, unknown (not probed yet).',
    label: 'state',
    read: (s) => pathStates(s.peers),
  },
  {
    name: 'weft_peers_direct',
    help: 'Peers that packets reach without the overlay (overlay modes direct and auto).',
    read: (s) => s.peers.filter(({ path }) => path?.via === 'direct').length,
  },
  {
    name: 'weft_peer_round_trip_seconds',
    help: 'Round trip of the last answered probe through the overlay. Per-peer series: see above.',
    label: 'peer',
    read: (s) => perPeer(s.peers, ({ rttMs }) => (rttMs === undefined ? undefined : seconds(rttMs))),
  },
  {
    name: 'weft_peer_loss_ratio',
    help: 'Part of the last 20 probes through the overlay that got no answer, 0 to 1.',
    label: 'peer',
    read: (s) => perPeer(s.peers, ({ lossPercent }) => (lossPercent === undefined ? undefined : lossPercent / 100)),
  },
  {
    name: 'weft_peer_path_mtu_bytes',
    help: "Largest IP packet that reaches the peer's underlay address whole, up to what the overlay needs.",
    label: 'peer',
    read: (s) => perPeer(s.peers, ({ pathMtuBytes }) => pathMtuBytes),
  },
  { name: 'process_resident_memory_bytes', help: 'Resident memory.', read: () => process.memoryUsage.rss() },
  {
    name: 'process_cpu_seconds_total',
    help: 'CPU time of the agent, user and system.',
    counter: true,
    read: () => {
      const { user, system } = process.cpuUsage();
      return (user + system) / 1e6;
    },
  },
];

const mostPeerSeries = 100;

/** With more peers than that only those that something is wrong with: the number of series must not grow with the cluster. */
function perPeer(peers: readonly ReachedPeer[], pick: (path: PeerPath) => number | undefined): Value {
  const others = peers.filter(({ self }) => !self);
  const shown = others.length <= mostPeerSeries ? others : others.filter((peer) => pathState(peer) !== 'ok');
  const values = shown.slice(0, mostPeerSeries).flatMap(({ nodeName, path }) => {
    const value = path === null ? undefined : pick(path);
    return value === undefined ? [] : [[nodeName, value] as const];
  });
  return Object.fromEntries(values);
}

function pathState({ path }: ReachedPeer): 'ok' | 'lossy' | 'silent' | 'unknown' {
  if (path?.lossPercent === undefined) return 'unknown';
  if (path.lossPercent === 0) return 'ok';
  return path.lossPercent === 100 ? 'silent' : 'lossy';
}

function pathStates(peers: readonly ReachedPeer[]): Value {
  const states = { ok: 0, lossy: 0, silent: 0, unknown: 0 };
  for (const peer of peers) if (!peer.self) states[pathState(peer)]++;
  return states;
}

function write(metric: Gauge | Counter, label: string | undefined, value: Value, counter: boolean): void {
  // A counter is read from its owner as a total: start it again and add the whole.
  metric.reset();
  const entries = typeof value === 'number' ? [[undefined, value] as const] : Object.entries(value);
  for (const [key, amount] of entries) {
    const labels = label === undefined || key === undefined ? {} : { [label]: key };
    if (counter) (metric as Counter).inc(labels, amount);
    else (metric as Gauge).set(labels, amount);
  }
}

/** All metrics of one agent; `sources` are asked once a scrape. */
export function createMetrics(sources: StatusSources): Metrics {
  const registry = new Registry();
  const pairs = readings.map((reading) => {
    const options = {
      name: reading.name,
      help: reading.help,
      labelNames: reading.label === undefined ? [] : [reading.label],
      registers: [registry],
    };
    return { reading, metric: reading.counter === true ? new Counter(options) : new Gauge(options) };
  });
  const requests = new Counter({
    name: 'weft_cni_requests_total',
    help: 'CNI calls answered, by verb and CNI error code (0: success).',
    labelNames: ['command', 'code'],
    registers: [registry],
  });
  const durations = new Histogram({
    name: 'weft_cni_duration_seconds',
    help: 'From the arrival of a CNI call to its answer.',
    labelNames: ['command'],
    buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 20],
    registers: [registry],
  });
  return {
    contentType: registry.contentType,
    text: () => {
      const status = buildStatus(sources, 0);
      for (const { reading, metric } of pairs) {
        write(metric, reading.label, reading.read(status, status.datapath ?? {}), reading.counter === true);
      }
      return registry.metrics();
    },
    cniRequest: (command, code, durationMs) => {
      requests.inc({ command, code: String(code) });
      durations.observe({ command }, seconds(durationMs));
    },
    describe: async () => {
      const labels = new Map<string, readonly string[]>([
        ['weft_cni_requests_total', ['command', 'code']],
        ['weft_cni_duration_seconds', ['command']],
        ...readings.map(({ name, label }) => [name, label === undefined ? [] : [label]] as const),
      ]);
      const all = await registry.getMetricsAsJSON();
      return all.map(({ name, help, type }) => ({ name, help, type: String(type), labels: labels.get(name) ?? [] }));
    },
  };
}

/** docs/metrics.md whole. */
export function metricsMarkdown(descriptions: readonly MetricDescription[]): string {
  const rows = descriptions.map(({ name, type, help, labels }) => {
    const shown = labels.map((label) => `\`${label}\``).join(', ');
    return `| \`${name}\` | ${type} | ${shown} | ${help} |`;
  });
  return [
    '# Metrics',
    '',
    'Served as `/metrics` on TCP 6782 (setting `metricsListen`), in the format of Prometheus. Units are in the names.',
    'No label carries a pod or container. Series with the label `peer` are there for every peer up to 100 of them; with more, only for peers',
    'that the probes find something wrong with (at most 100), so that the number of series does not grow with the cluster.',
    '',
    'This page is generated from `agent/observe/metrics.ts`; a test compares the two.',
    '',
    '| metric | type | labels | meaning |',
    '| --- | --- | --- | --- |',
    ...rows,
    '',
  ].join('\n');
}
