// The agent as a process, as the image has it (one bundled file), on a node with 110 pods among 3, 1,000 and 5,000 nodes: how long from
// its start until it serves, resident memory, and CPU while nothing happens.
//
// The peers come from the agent's own copy on disk, as after a restart while the registry is away: it keeps trying to reach two voters
// that do not exist, and probes peers that do not answer. Both cost more than a quiet cluster.

import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import type { PeerView } from '#agent/runtime/ipam.ts';
import { startsBundled } from '#test/bench/bundled.ts';
import { type Figures, rounded } from '#test/bench/figures.ts';
import { AgentHost } from '#test/support/agent-host.ts';
import { run } from '#test/support/netns.ts';

const pods = 110;
const nodeCounts = [3, 1000, 5000] as const;
const settleMs = 8000;
const idleMs = 20_000;
/** USER_HZ. */
const ticksPerSecond = 100;

export async function benchAgent(say: (line: string) => void): Promise<Figures> {
  await using host = await AgentHost.create('here');
  await startsBundled(host);
  await host.start();
  say(`${pods} pods …`);
  for (let pod = 0; pod < pods; pod++) {
    await run(['ip', 'netns', 'add', `pod-${pod}`]);
    const { code, stdout } = await host.cni('ADD', { netns: `/run/netns/pod-${pod}` });
    if (code !== 0) throw new Error(`ADD of pod ${pod} failed: ${stdout}`);
  }
  await host.stop();
  const nodes = ['1', '2', '3'].map((at) => ({ name: `host${at}`, addresses: [`192.168.50.${at}`] }));
  const lonely = { ...host.settings, nodes, voters: nodes.map(({ name }) => name) };
  await writeFile(join(host.directory, 'config.json'), JSON.stringify(lonely));
  const figures: Record<string, Figures> = {};
  for (const count of nodeCounts) {
    say(`${count} nodes …`);
    await writeFile(join(host.directory, 'state/peers.json'), JSON.stringify(peers(count - 1)));
    const began = performance.now();
    await host.start();
    const startMs = performance.now() - began;
    await programmed(host, count - 1);
    await sleep(settleMs);
    const before = await cpuTicks(host);
    const from = performance.now();
    await sleep(idleMs);
    const usedSeconds = ((await cpuTicks(host)) - before) / ticksPerSecond;
    figures[count] = {
      startMs: rounded(startMs),
      rssMegabytes: rounded(await rssMegabytes(host)),
      idleCpuPercent: rounded((usedSeconds / ((performance.now() - from) / 1000)) * 100),
    };
    await host.stop();
  }
  return { agent: figures };
}

/** Outside the own range, which the one founder owns whole. */
function peers(count: number): readonly PeerView[] {
  return Array.from({ length: count }, (_, index): PeerView => {
    const number = index + 1;
    const first = number * 128;
    return {
      name: `node${String(number).padStart(5, '0')}.0123abcd`,
      nodeName: `node${number}`,
      self: false,
      underlayAddress: `198.18.${number >> 8}.${number & 255}`,
      overlayAddresses: [`100.${64 + (first >> 16)}.${(first >> 8) & 255}.${(first & 255) + 1}`],
      blocks: [`100.${64 + (first >> 16)}.${(first >> 8) & 255}.${first & 255}/25`],
    };
  });
}

async function programmed(host: AgentHost, count: number): Promise<void> {
  const deadlineMs = performance.now() + 60_000;
  for (;;) {
    const { length } = (await run(['ip', 'nexthop'])).split('\n').filter((line) => line.includes('proto 87'));
    if (length >= count) return;
    if (performance.now() > deadlineMs) throw new Error(`${length} of ${count} peers programmed:\n${await host.log()}`);
    await sleep(50);
  }
}

async function cpuTicks({ pid }: AgentHost): Promise<number> {
  const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).replace(/^.*\) /, '').split(' ');
  return Number(fields[11]) + Number(fields[12]);
}

async function rssMegabytes({ pid }: AgentHost): Promise<number> {
  const kilobytes = /^VmRSS:\s+(\d+) kB/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1];
  return Number(kilobytes) / 1024;
}
