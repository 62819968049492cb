// Where the kernel's time for one packet from pod to pod of another node goes: what the way costs in the sender's own CPU time, the
// fastest of many windows of 2 ms, and that time by groups of kernel functions, from perf's samples of the same sender. Which
// contenders: contenders.ts. Datagrams of 64 bytes which nobody reads, so waking a reader is not in it.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { buildTraffic, type Contender, startContenders } from '#test/bench/contenders.ts';
import { type Figures, rounded } from '#test/bench/figures.ts';
import { run } from '#test/support/netns.ts';

const rounds = 12;
const windows = 40;
const windowMicroseconds = 2000;
const sampledWindows = 1000;
const samplesPerSecond = 9000;

/** By the function's name, the first that matches. */
const groups: readonly (readonly [string, RegExp])[] = [
  ['nftRules', /^(nft_|sized_strscpy|strnlen|jhash|memcmp|reciprocal)/],
  ['conntrackAndNat', /conntrack|^nf_(ct|nat|confirm|nf_)|siphash|defrag|l4proto|lookup_nulls_elem/],
  ['hooks', /^nf_hook/],
  ['bridge', /^(br_|__br_|fdb_|nf_bridge|ip_sabotage|setup_pre_routing|skb_ext|__skb_ext)/],
  ['vxlan', /^(vxlan|iptunnel|ip_tunnel|udp_tunnel|gro_cell|dst_cache|skb_scrub|__ip_select_ident)/],
  ['veth', /^(veth|__dev_forward|____dev_forward|eth_type_trans)/],
  ['routesAndNeighbours', /^(__)?(fib_|ip_route|ipv4_dst|ip_skb_dst|inet_|dst_|rt_|neigh|eth_header|ip_mkroute)/],
  [
    'linksAndSoftirqs',
    /dev_|netif|napi|net_rx|backlog|softirq|local_bh|xmit|gro_|_receive|read_tsc|ktime|passthru|rcu|spin/,
  ],
  [
    'memory',
    /^(kmem|kfree|__kmalloc|kmalloc|___slab|__slab|alloc_skb|__alloc_skb|skb_|__skb|pskb|consume_skb|sk_skb|sock_w)/,
  ],
  ['ip', /^(__)?ip_/],
  ['sockets', /udp|sock|sys_|syscall|iov|_copy|copy_|user|sk_|fdget|object_size|entry_/],
];

export async function benchProfile(say: (line: string) => void): Promise<Figures> {
  await run(['perf', '--version']).catch((cause: unknown) => {
    throw new Error('there is no perf here: apt-get install linux-perf', { cause });
  });
  await run(['ip', 'link', 'set', 'lo', 'up']);
  const traffic = buildTraffic();
  const directory = await mkdtemp(join(tmpdir(), 'weft-profile-'));
  try {
    await using stack = new AsyncDisposableStack();
    const contenders = await startContenders(stack, traffic);
    const fastest = new Map(contenders.map(({ name }): [string, number] => [name, Number.POSITIVE_INFINITY]));
    say(`${rounds} rounds of ${contenders.length} contenders …`);
    for (let round = 0; round < rounds; round++) {
      for (const contender of round % 2 === 0 ? contenders : contenders.toReversed()) {
        const { fastestNs } = JSON.parse(await contender.client.exec(sender(traffic, contender, windows))) as Path;
        fastest.set(contender.name, Math.min(fastestNs, fastest.get(contender.name) ?? Number.NaN));
      }
    }
    const figures: Record<string, Figures> = {};
    for (const contender of contenders) {
      say(`samples of ${contender.name} …`);
      const ns = fastest.get(contender.name) ?? Number.NaN;
      figures[contender.name] = { nanoseconds: rounded(ns), ...(await shares(traffic, contender, ns, directory)) };
    }
    return { profile: figures };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

interface Path {
  /** Of the sender's CPU time for one packet, in the fastest window. */
  readonly fastestNs: number;
}

function sender(traffic: string, { address }: Contender, count: number): readonly string[] {
  return [traffic, 'path', address, String(count), String(windowMicroseconds)];
}

/** Nanoseconds by group: `ns` divided as the samples are. */
async function shares(traffic: string, contender: Contender, ns: number, directory: string): Promise<Figures> {
  const file = join(directory, contender.name);
  const record = ['perf', 'record', '-q', '-e', 'cpu-clock', '-F', String(samplesPerSecond), '-o', file, '--'];
  await contender.client.exec([...record, ...sender(traffic, contender, sampledWindows)]);
  const listed = await run(['perf', 'report', '-i', file, '--stdio', '-g', 'none', '--sort', 'symbol']);
  const sums = new Map<string, number>(groups.map(([name]) => [name, 0]));
  let total = 0;
  for (const [, percent, kind, symbol] of listed.matchAll(/^\s*([\d.]+)%\s+\[(.)\]\s+(\S+)/gm)) {
    const name = kind === 'k' ? groups.find(([, pattern]) => pattern.test(symbol ?? ''))?.[0] : undefined;
    sums.set(name ?? 'rest', (sums.get(name ?? 'rest') ?? 0) + Number(percent));
    total += Number(percent);
  }
  return Object.fromEntries([...sums].map(([name, percent]) => [name, rounded((percent / total) * ns)]));
}
