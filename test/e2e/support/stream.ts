// A numbered stream of packets from a pod to an address, a hundred a second. At its end each number must have come back.
import { until } from '../cluster/host.ts';
import type { Client } from './clients.ts';

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

function judge(log: string, sent: number): StreamEnd {
  const answeredAt = new Map<number, string>();
  for (const [, time, number] of log.matchAll(/^\[([\d.]+)\] \d+ bytes from .* icmp_seq=(\d+) /gm)) {
    answeredAt.set(Number(number), new Date(Number(time) * 1000).toISOString().slice(11, 23));
  }
  const lost: string[] = [];
  let last = 'the start';
  // ping numbers modulo 2^16, which at this rate is eleven minutes.
  for (let number = 1; number <= sent - perSecond / 2; number++) {
    const time = answeredAt.get(number);
    if (time === undefined) lost.push(`#${number} after ${last}`);
    else last = time;
  }
  return { sent, lost };
}
