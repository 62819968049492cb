// `npm start`: the lab. Cleans up after a killed predecessor, builds hosts, agents and pods, shows what they reach, stays up until
// Ctrl-C (or, with --once, not at all), and removes every trace however it ends.

import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { configureHosts, startAgent, waitForAgents } from '#test/lab/agents.ts';
import type { Agent } from '#test/lab/agents.ts';
import { cleanUp, succeed } from '#test/lab/cleanup.ts';
import { forwardStatus } from '#test/lab/forward.ts';
import { hostNetns, makeNetns, startHost, switchNetns, wireHosts } from '#test/lab/hosts.ts';
import type { Host } from '#test/lab/hosts.ts';
import { isFull, matrixText, probeAll } from '#test/lab/matrix.ts';
import { parseOptions, usage, UsageError } from '#test/lab/options.ts';
import type { LabOptions } from '#test/lab/options.ts';
import { addPod, callCni, podName, podNetns, startPodProcess } from '#test/lab/pods.ts';
import type { RunningPod } from '#test/lab/pods.ts';
import { createProgress } from '#test/lab/progress.ts';
import type { Progress } from '#test/lab/progress.ts';
import { poll, Runner } from '#test/lab/run.ts';
import { labDirectory, ownIdentity, writeState } from '#test/lab/state.ts';
import type { LabState } from '#test/lab/state.ts';
import { nextSteps, splitText } from '#test/lab/words.ts';

const say = (text: string): void => void process.stdout.write(`${text}\n`);
// Whoever read this may be gone: a terminal that was closed, `| head`, a `tee` that Ctrl-C ended first. The lab still cleans up.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);
const complain = (text: string): void => void process.stderr.write(`weft lab: ${text}\n`);
const indexes = (count: number): readonly number[] => Array.from({ length: count }, (_, at) => at + 1);

/** The usual range, and one of unique local addresses (RFC 4193). */
const bothFamilies: readonly string[] = ['10.32.0.0/12', 'fd57:6566:7400::/48'];

interface Lab {
  readonly agents: readonly Agent[];
  readonly pods: readonly RunningPod[];
  readonly full: boolean;
}

async function planState({ nodes, pods }: LabOptions): Promise<LabState> {
  const netns = [switchNetns, ...indexes(nodes).map(hostNetns), ...indexes(pods).map(podNetns)];
  const taken = netns.filter((name) => existsSync(`/run/netns/${name}`));
  if (taken.length > 0) {
    throw new Error(
      `network namespaces with the lab's names exist already, made by somebody else: ${taken.join(', ')}; remove each with: ip netns delete NAME`,
    );
  }
  const mounts = readFileSync('/proc/self/mounts', 'utf8').split('\n');
  const madeNetnsMount = !mounts.some((line) => line.split(' ')[1] === '/run/netns');
  return { mark: randomBytes(16).toString('hex'), ...(await ownIdentity()), netns, madeNetnsMount };
}

async function makeHosts(
  runner: Runner,
  { nodes }: LabOptions,
  state: LabState,
  signal: AbortSignal,
): Promise<readonly Host[]> {
  await makeNetns(runner, state.netns, signal);
  await wireHosts(runner, nodes, signal);
  return await Promise.all(indexes(nodes).map((index) => startHost(runner, index, signal)));
}

async function build(options: LabOptions, state: LabState, progress: Progress, signal: AbortSignal): Promise<Lab> {
  const runner = new Runner(state.mark);
  progress.step(`making ${options.nodes} hosts and a switch`);
  const hosts = await makeHosts(runner, options, state, signal).catch((error: Error) => {
    if (!/operation not permitted|permission denied/i.test(error.message)) throw error;
    throw new Error(
      `this root may not make network namespaces, links or mounts; in a container start the lab with all rights (docker run --privileged).\n${error.message}`,
      { cause: error },
    );
  });
  progress.step('keys, settings and the CNI plugin on each host');
  await configureHosts(runner, hosts, signal, options.ipv6 ? bothFamilies : []);
  progress.step(`starting ${options.nodes} agents; they agree on the range`);
  const agents = hosts.map((host) => startAgent(runner, host));
  const statuses = waitForAgents(agents, signal);
  // Started beside the agents, to use the time that these need.
  const plain = indexes(options.pods).map((index) => {
    const host = hosts[(index - 1) % hosts.length];
    if (host === undefined) throw new Error('a lab has hosts');
    const [name, netns] = [podName(index), podNetns(index)];
    return { name, netns, host, process: startPodProcess(runner, name, netns) };
  });
  await Promise.all([statuses, ...plain.map((pod) => pod.process.ready)]);
  progress.step(`adding ${options.pods} pods through the CNI plugin`);
  const pods = await Promise.all(plain.map((pod) => addPod(runner, pod, signal, options.ipv6 ? 6 : 4)));
  progress.step('pings and HTTP fetches between all pods');
  const cells = await probeAll(pods, signal);
  const settled = await waitForAgents(agents, signal);
  progress.done();
  if (pods.length > 1) {
    say('Every pod to every other, ping / HTTP fetch in milliseconds:\n');
    say(matrixText(pods, cells));
  }
  if (settled[0] !== undefined) say(splitText(settled[0]));
  return { agents, pods, full: isFull(cells) };
}

/** DEL of every pod, and the agents' own count of leases at the end. */
async function removePods({ agents, pods }: Lab, mark: string, signal: AbortSignal): Promise<void> {
  const runner = new Runner(mark);
  await Promise.all(pods.map((pod) => callCni(runner, 'DEL', pod, signal)));
  const left = async (): Promise<true | undefined> => {
    const statuses = await waitForAgents(agents, signal);
    return statuses.every(({ leasesTotal }) => leasesTotal === 0) ? true : undefined;
  };
  await poll(left, () => 'addresses are still leased after every pod was removed', { signal, timeoutMs: 10_000 });
}

async function stay(lab: Lab, mark: string, ended: AbortSignal): Promise<void> {
  const first = lab.agents[0]?.host;
  if (first === undefined) return;
  const forward = await forwardStatus(first.statusSocket);
  say(nextSteps(forward.port, lab.pods));
  const agents = [...lab.agents];
  // As the kubelet or systemd does.
  const watch = setInterval(() => {
    for (const [at, { host, ended: how }] of agents.entries()) {
      if (how() === undefined) continue;
      complain(`the agent on ${host.name} ended (${how()}), started again; its log: ${labDirectory}/${host.name}.log`);
      agents[at] = startAgent(new Runner(mark), host);
    }
  }, 2000);
  await new Promise((resolve) => ended.addEventListener('abort', resolve, { once: true }));
  clearInterval(watch);
  forward.close();
}

async function lab(options: LabOptions): Promise<number> {
  const ending = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => ending.abort());
  const cleaned = await succeed();
  if (cleaned !== undefined) complain(`removed ${cleaned}`);
  const state = await planState(options);
  await writeState(state);
  const progress = createProgress(options.once ? 6 : 5);
  let code = 0;
  try {
    const built = await build(options, state, progress, ending.signal);
    code = built.full ? 0 : 1;
    if (options.once) {
      progress.step('removing the pods through the CNI plugin');
      await removePods(built, state.mark, ending.signal);
      progress.done();
      say(
        built.full
          ? 'Every pod reaches every other; every address is free again.'
          : 'NOT every pod reaches every other.',
      );
    } else await stay(built, state.mark, ending.signal);
  } catch (error) {
    progress.done();
    code = ending.signal.aborted ? 130 : 1;
    if (!ending.signal.aborted) complain((error as Error).message);
  } finally {
    if (!options.once || ending.signal.aborted) complain('cleaning up');
    await cleanUp(state);
  }
  return code;
}

try {
  const options = parseOptions(process.argv.slice(2));
  if (options === undefined) say(usage);
  else if (process.getuid?.() !== 0)
    throw new UsageError('this needs root, because it makes network namespaces; try: sudo npm start');
  else process.exitCode = await lab(options);
} catch (error) {
  complain((error as Error).message);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
