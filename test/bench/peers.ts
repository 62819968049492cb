// Thousands of peers in one node's kernel: programmed from nothing, one more, one gone, a whole comparison that finds nothing to do,
// all gone. Of every step the time, the kernel objects written, and of the first the memory that the kernel took for them.
//
// The time is that of `reconcile`, from IPAM's view to the last acknowledgement; `fromNothingFirstRoundMs` is the same in the process's first round,
// before the code is compiled, as an agent that starts has it. `…CpuMs` is what the process and the kernel in its name used: on a
// machine that is busy with other things it tells more than the time.

import { readFile } from 'node:fs/promises';

import { type Figures, median, rounded } from '#test/bench/figures.ts';
import { createDatapath } from '#agent/datapath/kernel-datapath.ts';
import type { KernelDatapath } from '#agent/datapath/datapath.ts';
import { defaultDatapathSettings } from '#agent/datapath/settings.ts';
import type { IpamView, PeerView } from '#agent/runtime/ipam.ts';
import { run } from '#test/support/netns.ts';

const counts = [1000, 5000] as const;
const rounds = 7;
const underlay = '192.0.2.1';

export async function benchPeers(say: (line: string) => void): Promise<Figures> {
  for (const command of [
    ['ip', 'link', 'set', 'lo', 'up'],
    ['ip', 'link', 'add', 'bench0', 'type', 'veth', 'peer', 'name', 'bench1'],
    ['ip', 'address', 'add', `${underlay}/24`, 'dev', 'bench0'],
    ['ip', 'link', 'set', 'bench0', 'up'],
    ['ip', 'link', 'set', 'bench1', 'up'],
  ]) {
    await run(command);
  }
  const figures: Record<string, Figures> = {};
  const settings = { ...defaultDatapathSettings, comparePeriodMs: 3_600_000 };
  const silent = (): void => {};
  const datapath = createDatapath({ settings, log: { debug: silent, info: silent, warn: silent, error: silent } });
  try {
    await datapath.start(viewOf(0), []);
    for (const count of counts) {
      say(`${rounds} rounds of ${count} peers …`);
      figures[count] = await measure(datapath, count);
    }
  } finally {
    await datapath.reconcile(viewOf(0), []);
    await datapath.stop();
  }
  return { peers: figures };
}

async function measure(datapath: KernelDatapath, count: number): Promise<Figures> {
  const times: Record<'fromNothing' | 'compare' | 'oneMore' | 'oneGone' | 'allGone', number[]> = {
    fromNothing: [],
    compare: [],
    oneMore: [],
    oneGone: [],
    allGone: [],
  };
  const cpu = { fromNothing: [], compare: [], oneMore: [], oneGone: [], allGone: [] } as Record<
    keyof typeof times,
    number[]
  >;
  const writes: Record<string, number> = {};
  const kernelBytes: number[] = [];
  const step = async (name: keyof typeof times, peers: number): Promise<void> => {
    const view = viewOf(peers);
    const before = datapath.status().writes;
    const began = performance.now();
    const usedBefore = process.cpuUsage();
    await datapath.reconcile(view, []);
    times[name].push(performance.now() - began);
    const { user, system } = process.cpuUsage(usedBefore);
    cpu[name].push((user + system) / 1000);
    writes[`${name}Writes`] = datapath.status().writes - before;
    const { findings } = datapath.status();
    const peersProgrammed = view.peers.filter((peer) => datapath.isProgrammed(peer)).length;
    if (peersProgrammed !== peers || findings.length > 0) {
      throw new Error(`${name}: ${peersProgrammed} of ${peers} peers, ${JSON.stringify(findings)}`);
    }
  };
  for (let round = 0; round < rounds; round++) {
    const emptyBytes = await slabBytes();
    await step('fromNothing', count);
    kernelBytes.push((await slabBytes()) - emptyBytes);
    await step('compare', count);
    await step('oneMore', count + 1);
    await step('oneGone', count);
    await step('allGone', 0);
  }
  const firstMs = rounded(times.fromNothing[0] ?? Number.NaN);
  const typical = Object.entries(times).map(([name, ms]) => [`${name}Ms`, rounded(median(ms))] as const);
  const used = Object.entries(cpu).map(([name, ms]) => [`${name}CpuMs`, rounded(median(ms))] as const);
  return {
    ...Object.fromEntries([...typical, ...used]),
    fromNothingFirstRoundMs: firstMs,
    fromNothingBestMs: rounded(Math.min(...times.fromNothing)),
    ...writes,
    kernelMegabytes: rounded(median(kernelBytes) / 2 ** 20),
  };
}

/** What the whole machine's kernel holds in slabs and per-CPU areas: other work is in it, hence the median of the rounds. */
async function slabBytes(): Promise<number> {
  const text = await readFile('/proc/meminfo', 'utf8');
  const kilobytes = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0);
  return (kilobytes('Slab') + kilobytes('Percpu')) * 1024;
}

/** Peers with addresses of 198.18.0.0/15 (benchmarking, RFC 2544) and a /25 each out of 10.40.0.0/13. */
function viewOf(count: number): IpamView {
  const self: PeerView = {
    name: 'bench.0123abcd',
    nodeName: 'bench',
    self: true,
    underlayAddress: underlay,
    overlayAddresses: ['10.32.0.1'],
    blocks: ['10.32.0.0/13'],
  };
  const others = Array.from({ length: count }, (_, index): PeerView => {
    const first = (index + 1) * 128;
    return {
      name: `node${String(index + 1).padStart(5, '0')}.0123abcd`,
      nodeName: `node${index + 1}`,
      self: false,
      underlayAddress: `198.18.${(index + 1) >> 8}.${(index + 1) & 255}`,
      overlayAddresses: [],
      blocks: [`10.${40 + (first >> 16)}.${(first >> 8) & 255}.${first & 255}/25`],
    };
  });
  return {
    ranges: ['10.32.0.0/12'],
    reserved: [],
    peers: [self, ...others],
    overlayAddresses: ['10.32.0.1'],
    freeAddresses: 1000,
    leasedAddresses: 0,
    restingAddresses: 0,
    ready: true,
    waitingFor: '',
    registryAnsweredAtMs: 0,
  };
}
