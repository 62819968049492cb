// Pod to pod across two nodes, in Weft's modes and in what people build by hand (contenders.ts), bursts of 0.2 s interleaved in one run.
// Best of the rounds for each, as ratios to host-gw by hand, because short bursts on a shared machine are slowed down but never sped up
// by others. CPU per byte, packet and request is what both processes used, the kernel's work in their name included: it depends less on
// what else runs.

import { buildTraffic, type Burst, runBurst, startContenders } from '#test/bench/contenders.ts';
import { type Figures, rounded } from '#test/bench/figures.ts';
import { run } from '#test/support/netns.ts';

const kinds = {
  tcp1: { kind: 'tcp', streams: 1 },
  tcp8: { kind: 'tcp', streams: 8 },
  packets: { kind: 'udp', streams: 1 },
  requests: { kind: 'rr', streams: 1 },
} as const;
type KindName = keyof typeof kinds;

const burstMs = 200;
const rounds = 30;

export async function benchDatapath(say: (line: string) => void): Promise<Figures> {
  await run(['ip', 'link', 'set', 'lo', 'up']);
  const traffic = buildTraffic();
  await using stack = new AsyncDisposableStack();
  const contenders = await startContenders(stack, traffic);
  const bursts = new Map<string, Burst[]>();
  for (const [name, { kind, streams }] of Object.entries(kinds)) {
    say(`${name}: ${rounds} rounds of ${contenders.length} bursts …`);
    for (let round = 0; round < rounds; round++) {
      const order = round % 2 === 0 ? contenders : contenders.toReversed();
      for (const contender of order) {
        const key = `${contender.name} ${name}`;
        const burst = await runBurst(traffic, contender, { kind, streams, milliseconds: burstMs });
        bursts.set(key, [...(bursts.get(key) ?? []), burst]);
      }
    }
  }
  return { datapath: Object.fromEntries(contenders.map(({ name }) => [name, figuresOf(bursts, name)])) };
}

/** Ratios to host-gw by hand, and the absolute figures behind them. */
function figuresOf(bursts: ReadonlyMap<string, readonly Burst[]>, name: string): Figures {
  const best = (contender: string, kind: KindName): number =>
    Math.max(...(bursts.get(`${contender} ${kind}`) ?? []).map(({ amount, tookNs }) => (amount / tookNs) * 1e9));
  const cpu = (contender: string, kind: KindName): number =>
    Math.min(...(bursts.get(`${contender} ${kind}`) ?? []).map(({ amount, cpuNs }) => cpuNs / amount));
  const cpuRatio = (kind: KindName): number => rounded(cpu(name, kind) / cpu('hostGw', kind));
  const ratio = (kind: KindName): number => rounded(best(name, kind) / best('hostGw', kind));
  return {
    tcp1: ratio('tcp1'),
    tcp8: ratio('tcp8'),
    packets: ratio('packets'),
    requests: ratio('requests'),
    cpuPerByte: cpuRatio('tcp1'),
    cpuPerPacket: cpuRatio('packets'),
    cpuPerRequest: cpuRatio('requests'),
    absolute: {
      tcp1GigabitPerSecond: rounded((best(name, 'tcp1') * 8) / 1e9),
      tcp8GigabitPerSecond: rounded((best(name, 'tcp8') * 8) / 1e9),
      packetsPerSecond: rounded(best(name, 'packets')),
      requestsPerSecond: rounded(best(name, 'requests')),
      cpuSecondsPerGigabyte: rounded(cpu(name, 'tcp1')),
      cpuMicrosecondsPerPacket: rounded(cpu(name, 'packets') / 1000),
      cpuMicrosecondsPerRequest: rounded(cpu(name, 'requests') / 1000),
    },
  };
}
