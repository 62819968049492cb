// Who asks: a pod, a node, or the host outside. A question is one `curl` for a page of agnhost's netexec, which answers with the
// name of the pod that it runs in.
import type { Cluster } from '../cluster/cluster.ts';
import type { RunResult } from '../cluster/host.ts';
import type { TestPod } from './workspace.ts';

export interface Client {
  readonly label: string;
  attempt(command: readonly string[], timeoutMs?: number): Promise<RunResult>;
}

export function podClient(cluster: Cluster, pod: TestPod): Client {
  return {
    label: `pod ${pod.name} on ${pod.node}`,
    attempt: async (command, timeoutMs = 60_000) =>
      await cluster.plane.tryKubectl(['-n', pod.namespace, 'exec', pod.name, '--', ...command], { timeoutMs }),
  };
}

export function nodeClient(cluster: Cluster, name: string): Client {
  return {
    label: `node ${name}`,
    attempt: async (command, timeoutMs = 60_000) => await cluster.node(name).attempt(command, { timeoutMs }),
  };
}

export function outsideClient(cluster: Cluster): Client {
  return {
    label: 'the host outside',
    attempt: async (command, timeoutMs = 60_000) => await cluster.attemptOutside(command, { timeoutMs }),
  };
}

// Every URL is asked at once and again until it answers or `seconds` have passed; one line "URL ANSWER" each.
const askScript = `seconds=$1; shift
for url; do (
  end=$(($(date +%s) + seconds))
  while :; do
    if out=$(curl -sS --connect-timeout 1 --max-time 3 "$url" 2>&1); then break; fi
    [ "$(date +%s)" -lt "$end" ] || { out="error: $out"; break; }
    sleep 0.1
  done
  printf '%s %s\\n' "$url" "$(printf %s "$out" | tr '\\n' ' ')"
) & done; wait`;

/** What each URL answers to this client, asking for at most `withinMs`; a URL that never answers has the last `error: …`. */
export async function ask(
  client: Client,
  urls: readonly string[],
  withinMs = 10_000,
): Promise<Readonly<Record<string, string>>> {
  const seconds = String(Math.ceil(withinMs / 1000));
  const { stdout, stderr, code } = await client.attempt(
    ['sh', '-c', askScript, 'sh', seconds, ...urls],
    withinMs + 30_000,
  );
  const answers: Record<string, string> = {};
  for (const url of urls) answers[url] = `error: no line from ${client.label} (exit ${code}): ${stderr.trim()}`;
  for (const line of stdout.split('\n')) {
    const space = line.indexOf(' ');
    if (space > 0) answers[line.slice(0, space)] = line.slice(space + 1).trim();
  }
  return answers;
}

/** The address in an answer of `/clientip`. */
export function withoutPort(answer: string): string {
  const address = answer.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1');
  return address.replace(/^::ffff:(?=\d+\.)/, '');
}
