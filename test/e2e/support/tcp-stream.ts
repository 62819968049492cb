// A TCP connection between two pods over which numbered lines go and come back, twenty a second. At its end each line must have
// come back in order over the one connection.
import { until } from '../cluster/host.ts';
import type { Client } from './clients.ts';

export interface TcpStreamEnd {
  readonly label: string;
  readonly sent: number;
  /** What is wrong; empty: every line came back, in order, over a connection that stayed open. */
  readonly faults: readonly string[];
  /** Longest time between two lines that came back. */
  readonly longestGapMs: number;
}

export interface TcpStream {
  stop(): Promise<TcpStreamEnd>;
}

const echoPort = 7070;
let serial = 0;

/** Starts what sends every line back, for any number of connections. */
export async function startEcho(client: Client): Promise<void> {
  const script = `busybox nc -ll -p ${echoPort} -e cat >/dev/null 2>&1 &`;
  const { code, stderr } = await client.attempt(['sh', '-c', script]);
  if (code !== 0) throw new Error(`${client.label} cannot run nc: ${stderr}`);
}

const clientScript = `dir=$2; mkdir -p "$dir"
exec 3<>"/dev/tcp/$1/${echoPort}" || exit 1
(while read -r line <&3; do echo "$line $EPOCHREALTIME"; done; echo ended) >"$dir/log" 2>&1 &
(n=0; while [ ! -e "$dir/stop" ]; do n=$((n+1)); echo $n >&3 || break; sleep 0.05; done; echo $n >"$dir/sent.new"; mv "$dir/sent.new" "$dir/sent") >/dev/null 2>&1 &`;

/** Resolves when the first lines have come back. */
export async function startTcpStream(client: Client, address: string): Promise<TcpStream> {
  const directory = `/tmp/tcp-stream-${++serial}`;
  const label = `${client.label} to ${address} by TCP`;
  const cat = async (file: string): Promise<string> => (await client.attempt(['cat', `${directory}/${file}`])).stdout;
  await until(`${label}: connects`, 20_000, async () => {
    return (await client.attempt(['bash', '-c', clientScript, 'bash', address, directory])).code === 0;
  });
  await until(`${label}: first lines`, 10_000, async () => (await cat('log')).split('\n').length > 3);
  return {
    async stop() {
      await client.attempt(['touch', `${directory}/stop`]);
      const sent = Number(
        await until(`${label}: has stopped sending`, 20_000, async () => (await cat('sent')).trim() || undefined),
      );
      // What is still on its way after ten seconds is a fault below.
      await until(`${label}: the last line`, 10_000, async () => (await cat('log')).includes(`\n${sent} `)).catch(
        () => undefined,
      );
      return { label, sent, ...judge(await cat('log'), sent) };
    },
  };
}

function judge(log: string, sent: number): Pick<TcpStreamEnd, 'faults' | 'longestGapMs'> {
  const faults: string[] = [];
  let [last, lastMs, longestGapMs] = [0, 0, 0];
  for (const line of log.trim().split('\n')) {
    const [text = '', time = ''] = line.split(' ');
    if (text === 'ended') faults.push(`the connection ended after line ${last}`);
    else if (Number(text) !== last + 1) faults.push(`line ${text} after line ${last}`);
    if (text === 'ended') continue;
    const nowMs = Number(time) * 1000;
    if (last > 0) longestGapMs = Math.max(longestGapMs, nowMs - lastMs);
    [last, lastMs] = [Number(text), nowMs];
  }
  if (last !== sent) faults.push(`the last line that came back is ${last} of ${sent}`);
  return { faults, longestGapMs: Math.round(longestGapMs) };
}
