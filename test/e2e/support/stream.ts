// A numbered stream of packets from a pod to an address, a hundred a second. At its end each number must have come back.
import { expect } from 'vitest';

import type { Cluster } from '../cluster/cluster.ts';
import { until } from '../cluster/host.ts';
import { podClient, type Client } from './clients.ts';
import type { TestPod } from './workspace.ts';

export interface StreamEnd {
  readonly sent: number;
  /** Numbers that never came back, with the time of the last one before that did: `#412 after 04:05:01.230`. */
  readonly lost: readonly string[];
}

export interface Stream {
  readonly label: string;
  /** Ends the stream once it has run for two seconds. Packets sent in its last half second may still be under way, and are not judged. */
  stop(): Promise<StreamEnd>;
}

const perSecond = 100;
let serial = 0;

/** Resolves when the first packets have come back. */
export async function startStream(client: Client, address: string): Promise<Stream> {
  const log = `/tmp/stream-${++serial}`;
  const script = `ping -D -n -i ${1 / perSecond} ${address} >${log} 2>&1 & echo $!`;
  const started = await client.attempt(['sh', '-c', script]);
  const pid = started.stdout.trim();
  if (started.code !== 0 || pid === '') throw new Error(`${client.label} cannot run ping: ${started.stderr}`);
  const label = `${client.label} to ${address}`;
  const answers = async (): Promise<number> => Number((await client.attempt(['grep', '-c', 'bytes from', log])).stdout);
  await until(`${label}: first answers`, 10_000, async () => (await answers()) > 3);
  return {
    label,
    async stop() {
      await until(`${label}: answers for two seconds`, 30_000, async () => (await answers()) > 2 * perSecond);
      await client.attempt(['kill', '-INT', pid]);
      return await until(`${label}: summary`, 10_000, async () => {
        const { stdout } = await client.attempt(['cat', log]);
        const sent = /(\d+) packets transmitted/.exec(stdout)?.[1];
        return sent === undefined ? undefined : judge(stdout, Number(sent));
      });
    },
  };
}

/** One stream from each pod to each other. */
export async function streamAllPairs(cluster: Cluster, pods: readonly TestPod[]): Promise<readonly Stream[]> {
  const pairs = pods.flatMap((from) => pods.filter((to) => to !== from).map((to) => ({ from, to })));
  return await Promise.all(pairs.map(async ({ from, to }) => await startStream(podClient(cluster, from), to.address)));
}

/** Ends the streams; fails with the numbers of the packets that did not come back. */
export async function expectNoLoss(streams: readonly Stream[], atLeast = 100): Promise<void> {
  const ends = await Promise.all(streams.map(async (stream) => ({ label: stream.label, ...(await stream.stop()) })));
  for (const end of ends) expect(end.sent, end.label).toBeGreaterThan(atLeast);
  expect(ends.filter((end) => end.lost.length > 0)).toEqual([]);
}

function judge(log: string, sent: number): StreamEnd {
  const answeredAt = new Map<number, string>();
  // ping numbers modulo 2^16, which at this rate is eleven minutes.
  const turn = 1 << 16;
  let newest = 0;
  for (const [, time, text] of log.matchAll(/^\[([\d.]+)\] \d+ bytes from .* icmp_seq=(\d+) /gm)) {
    const turns = Math.round((newest - Number(text)) / turn);
    const number = Number(text) + Math.max(0, turns) * turn;
    newest = Math.max(newest, number);
    answeredAt.set(number, new Date(Number(time) * 1000).toISOString().slice(11, 23));
  }
  const lost: string[] = [];
  let last = 'the start';
  for (let number = 1; number <= sent - perSecond / 2; number++) {
    const time = answeredAt.get(number);
    if (time === undefined) lost.push(`#${number} after ${last}`);
    else last = time;
  }
  return { sent, lost };
}
