// Pods as a container runtime makes them: a namespace, the network configuration from the host's conflist completed as libcni
// does, the plugin executed with the CNI environment and nothing else, its result read from standard output.

import { createHash } from 'node:crypto';
import type { ChildProcess } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { conflistPath, onHost } from '#test/lab/hosts.ts';
import type { Host } from '#test/lab/hosts.ts';
import type { Runner } from '#test/lab/run.ts';

export interface Pod {
  readonly name: string;
  readonly netns: string;
  readonly host: Host;
  readonly process: PodProcess;
}

export interface RunningPod extends Pod {
  readonly address: string;
}

export interface ProbeAnswer {
  readonly ok: boolean;
  readonly ms: number;
  readonly text: string;
}

/** More than its ping and its fetch allow themselves. */
const orderTimeoutMs = 8000;

/** The program in a pod, and the orders it is given. */
export interface PodProcess {
  readonly ready: Promise<void>;
  ping(address: string): Promise<ProbeAnswer>;
  fetch(url: string): Promise<ProbeAnswer>;
}

export const podName = (index: number): string => `pod${index}`;
export const podNetns = (index: number): string => `weft-lab-${podName(index)}`;

/** Starts the pod's program in its namespace; it needs no address yet. */
export function startPodProcess(runner: Runner, name: string, netns: string): PodProcess {
  const program = fileURLToPath(new URL('pod-main.ts', import.meta.url));
  const child = runner.start(
    ['nsenter', `--net=/run/netns/${netns}`, '--', process.execPath, program, name],
    ['pipe', 'pipe', 'pipe'],
  );
  return talkTo(child, name);
}

function talkTo(child: ChildProcess, name: string): PodProcess {
  const waiting = new Map<number, (answer: ProbeAnswer) => void>();
  let stderr = '';
  let ended = '';
  let nextId = 1;
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => (stderr += chunk));
  child.stdin?.on('error', () => undefined);
  const ready = new Promise<void>((resolve, reject) => {
    if (child.stdout === null) throw new Error('a pod has pipes');
    createInterface({ input: child.stdout }).on('line', (line) => {
      if (line === 'ready') return resolve();
      const { id, ...answer } = JSON.parse(line) as ProbeAnswer & { readonly id: number };
      waiting.get(id)?.(answer);
      waiting.delete(id);
    });
    child.on('error', reject);
    child.on('close', (code) => {
      ended = `${name} ended (exit ${code}): ${stderr.trim()}`;
      reject(new Error(ended));
      for (const answer of waiting.values()) answer({ ok: false, ms: 0, text: ended });
      waiting.clear();
    });
  });
  // Looked at by who starts the pod; a pod that ends later shows in its answers.
  ready.catch(() => undefined);
  const order = async (what: Readonly<Record<string, string>>): Promise<ProbeAnswer> => {
    if (ended !== '') return { ok: false, ms: 0, text: ended };
    const id = nextId++;
    return new Promise((resolve) => {
      waiting.set(id, resolve);
      setTimeout(() => {
        if (!waiting.has(id)) return;
        // It is asked nothing more.
        ended ||= `${name} hangs`;
        resolve({ ok: false, ms: orderTimeoutMs, text: ended });
      }, orderTimeoutMs).unref();
      child.stdin?.write(`${JSON.stringify({ id, ...what })}\n`);
    });
  };
  return { ready, ping: (address) => order({ ping: address }), fetch: (url) => order({ fetch: url }) };
}

interface Conflist {
  readonly name: string;
  readonly cniVersion: string;
  readonly plugins: readonly Readonly<Record<string, unknown>>[];
}

/** Runs one CNI command for the pod through every plugin of the host's conflist. Returns the last result. */
export async function callCni(
  runner: Runner,
  command: 'ADD' | 'DEL',
  pod: Pod,
  signal: AbortSignal,
): Promise<Readonly<Record<string, unknown>>> {
  const path = join(pod.host.root, conflistPath);
  const list = JSON.parse(await readFile(path, 'utf8')) as Conflist;
  let prevResult: Readonly<Record<string, unknown>> = {};
  for (const plugin of command === 'ADD' ? list.plugins : list.plugins.toReversed()) {
    const configuration = { ...plugin, cniVersion: list.cniVersion, name: list.name };
    const stdin = JSON.stringify(
      command === 'ADD' && Object.keys(prevResult).length > 0 ? { ...configuration, prevResult } : configuration,
    );
    const env = cniEnvironment(command, pod);
    const { code, stdout, stderr } = await runner.result(onHost(pod.host, [`/opt/cni/bin/${String(plugin['type'])}`]), {
      signal,
      stdin,
      env,
      bareEnv: true,
    });
    if (code !== 0)
      throw new Error(`${command} of ${pod.name} on ${pod.host.name} failed: ${stdout.trim() || stderr.trim()}`);
    prevResult = command === 'ADD' ? (JSON.parse(stdout) as Readonly<Record<string, unknown>>) : {};
  }
  return prevResult;
}

function cniEnvironment(command: string, pod: Pod): Readonly<Record<string, string>> {
  const containerId = createHash('sha256').update(`${pod.netns} ${pod.host.name}`).digest('hex');
  return {
    CNI_COMMAND: command,
    CNI_CONTAINERID: containerId,
    CNI_NETNS: `/run/netns/${pod.netns}`,
    CNI_IFNAME: 'eth0',
    CNI_PATH: '/opt/cni/bin',
    CNI_ARGS: `IgnoreUnknown=1;K8S_POD_NAMESPACE=lab;K8S_POD_NAME=${pod.name};K8S_POD_INFRA_CONTAINER_ID=${containerId}`,
  };
}

/** ADD; the pod's address out of the result, of the family that is asked for. */
export async function addPod(runner: Runner, pod: Pod, signal: AbortSignal, family: 4 | 6 = 4): Promise<RunningPod> {
  const result = await callCni(runner, 'ADD', pod, signal);
  const ips = (result['ips'] ?? []) as readonly { readonly address: string }[];
  const first = ips.find(({ address }) => address.includes(':') === (family === 6));
  if (first === undefined) throw new Error(`ADD of ${pod.name} gave no address: ${JSON.stringify(result)}`);
  return { ...pod, address: first.address.split('/')[0] ?? '' };
}
