// IPAM: what a lease costs in the core, what a node of a large cluster keeps in memory, and what a cluster of 10, 1,000 and 5,000
// nodes writes and routes when its nodes join one after another and all at once.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { CoreEvent, LeaseWish } from '#ipam-peer/events.ts';
import { formatPeer } from '#ipam-peer/records.ts';
import type { State } from '#ipam-peer/state.ts';
import { step } from '#ipam-peer/step.ts';
import { peersOf } from '#ipam-peer/view.ts';
import { type Boot, Cluster } from '#test/bench/ipam-boot.ts';
import { type Figures, median, rounded } from '#test/bench/figures.ts';
import { Bench as Hands, cidrs, type Hand } from '#test/unit/ipam-peer/harness.ts';

const rounds = 15;
const leasesPerRound = 2000;
const largePeers = 5000;
const largeLeases = 1000;

export async function benchIpam(say: (line: string) => void): Promise<Figures> {
  const boots: Record<string, Figures> = {};
  for (const peers of [10, 1000, largePeers]) {
    boots[String(peers)] = {
      oneAfterAnother: figuresOf(boot(peers, true, say)),
      allAtOnce: figuresOf(boot(peers, false, say)),
    };
  }
  return { ipam: { core: core(say), memory: memory(say), join: boots } };
}

function wish(containerId: string): LeaseWish {
  const owner = { podNamespace: 'default', podName: containerId, network: 'weft', netnsPath: '', netnsInode: 0n };
  return { containerId, ifname: 'eth0', generation: 'g', sinceMs: 0, hostIfname: 'weftp0', owner, addresses: [] };
}

function founder(ranges: readonly string[]): Hand {
  const bench = new Hands();
  const hand = bench.peer('n1', { ranges: cidrs(...ranges), restMs: 0 }).start();
  bench.settle();
  return hand;
}

/** Leases made, made active and freed, a second; the registry and the disk are not in it. */
function core(say: (line: string) => void): Figures {
  const figures: Record<string, number> = {};
  for (const [name, ranges] of [
    ['ipv4', ['10.32.0.0/12']],
    ['dualStack', ['10.32.0.0/12', 'fd00:32::/64']],
  ] as const) {
    const { state } = founder(ranges).sim;
    if (state === undefined) throw new Error('no core');
    for (let index = 0; index < largeLeases; index++)
      take(state, { kind: 'allocate', ticket: 0, wish: wish(`old-${index}`) });
    const rates = Array.from({ length: rounds }, (_, round) => rate(state, round));
    figures[`${name}LeasesPerSecond`] = rounded(median(rates));
    say(`${name}: ${figures[`${name}LeasesPerSecond`]} leases a second`);
  }
  return figures;
}

type Untimed = CoreEvent extends infer E ? (E extends CoreEvent ? Omit<E, 'nowMs' | 'random'> : never) : never;
let nowMs = 1e6;

function take(state: State, event: Untimed): void {
  step(state, { ...event, nowMs: (nowMs += 0.01), random: 0.5 });
}

function rate(state: State, round: number): number {
  const startMs = performance.now();
  for (let index = 0; index < leasesPerRound; index++) {
    const made = wish(`${round}-${index}`);
    take(state, { kind: 'allocate', ticket: index, wish: made });
    take(state, { kind: 'activate', ...made });
    take(state, { kind: 'free', ...made });
  }
  return leasesPerRound / ((performance.now() - startMs) / 1000);
}

/** Heap that a node of a large cluster keeps for the others' records and for its own leases. */
function memory(say: (line: string) => void): Figures {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const heap = (): number => {
    collect();
    return process.memoryUsage().heapUsed;
  };
  const hand = founder(['10.32.0.0/12']);
  const { state } = hand.sim;
  if (state === undefined) throw new Error('no core');
  const texts = Array.from({ length: largePeers }, (_, index) => recordText(hand, index));
  const before = heap();
  for (const [index, text] of texts.entries()) {
    const stored = {
      name: `node-${index}.x`,
      uid: `uid-${index}`,
      version: `v${index}`,
      value: JSON.parse(text) as unknown,
    };
    take(state, { kind: 'hint', name: stored.name, record: stored });
  }
  const withPeers = heap();
  for (let index = 0; index < largeLeases; index++)
    take(state, { kind: 'allocate', ticket: 0, wish: wish(`pod-${index}`) });
  const withLeases = heap();
  const startMs = performance.now();
  const shown = peersOf(state).length;
  const viewMs = performance.now() - startMs;
  if (shown !== largePeers + 1 || state.leases.size !== largeLeases)
    throw new Error('not every record or lease is there');
  say(`${largePeers} records ${Math.round((withPeers - before) / 1e6)} MB`);
  return {
    peers: largePeers,
    recordsMb: rounded((withPeers - before) / 1e6),
    leases: largeLeases,
    leasesMb: rounded((withLeases - withPeers) / 1e6),
    viewOfAllPeersMs: rounded(viewMs),
  };
}

/** The record of a peer that has settled: one block, its addresses, nothing under way. */
function recordText(hand: Hand, index: number): string {
  const [block] = cidrs(`10.${32 + (index >> 8)}.${index & 255}.0/24`);
  if (block === undefined) throw new Error('no block');
  const record = hand.bench.record('n1');
  const node = { name: `node-${index}`, uid: `${String(index).padStart(8, '0')}-0000-4000-8000-000000000000` };
  const overlay = [`10.${32 + (index >> 8)}.${index & 255}.1`];
  return JSON.stringify(formatPeer({ ...record, node, seq: 6, seeded: false, blocks: [{ cidr: block }], overlay }));
}

function boot(peers: number, inTurn: boolean, say: (line: string) => void): Boot {
  const startMs = performance.now();
  const cluster = new Cluster();
  for (let index = 0; index < peers; index++) {
    cluster.start(index);
    if (inTurn) cluster.settle();
  }
  cluster.settle();
  const result = cluster.result();
  const how = inTurn ? 'one after another' : 'all at once';
  say(`${peers} peers ${how}: ${result.routes} routes, took ${Math.round((performance.now() - startMs) / 1000)} s`);
  return result;
}

function figuresOf({ peers, settledMs, writes, reads, routes, ...boot }: Boot): Figures {
  return {
    settledSeconds: rounded(settledMs / 1000),
    writesPerJoin: rounded(writes / peers),
    readsPerJoin: rounded(reads / peers),
    routesPerPeer: routes - 1,
    mostBlocksOfOnePeer: boot.mostBlocksOfOnePeer,
    watchedKbPerPeer: rounded(boot.watchedBytes / 1000),
    listKb: rounded(boot.listBytes / 1000),
  };
}
