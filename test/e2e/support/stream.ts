// A numbered stream of packets from a pod to an address, a hundred a second, that counts what comes back.
import { until } from '../cluster/host.ts';
import type { Client } from './clients.ts';

export interface Stream {
  readonly label: string;
  /** Ends the stream and resolves to the counts; the last packet has had a second to come back. */
  stop(): Promise<{ readonly sent: number; readonly received: number }>;
}

let serial = 0;

/** Resolves when the first packets have come back. */
export async function startStream(client: Client, address: string): Promise<Stream> {
  const log = `/tmp/stream-${++serial}`;
  const script = `ping -n -i 0.01 -W 1 ${address} >${log} 2>&1 & echo $!`;
  const started = await client.attempt(['sh', '-c', script]);
  const pid = started.stdout.trim();
  if (started.code !== 0 || pid === '') throw new Error(`${client.label} cannot run ping: ${started.stderr}`);
  const label = `${client.label} to ${address}`;
  await until(`${label}: first answers`, 10_000, async () => {
    return (await client.attempt(['sh', '-c', `grep -c 'bytes from' ${log}`])).stdout.trim() > '3';
  });
  return {
    label,
    async stop() {
      await client.attempt(['kill', '-INT', pid]);
      const summary = await until(`${label}: summary`, 10_000, async () => {
        const { stdout } = await client.attempt(['tail', '-n', '4', log]);
        return /(\d+) packets transmitted, (\d+) received/.exec(stdout) ?? undefined;
      });
      return { sent: Number(summary[1]), received: Number(summary[2]) };
    },
  };
}
