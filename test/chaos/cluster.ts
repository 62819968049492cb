// The lab's hosts with real agents for chaos: each can be killed, frozen, cut off, robbed of its disk and brought back. Uses the
// lab's folder, so set LAB_OF_WEFT_DIR before this is loaded.

import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { askAgent, configureHosts, logTail, startAgent, type Agent } from '#test/lab/agents.ts';
import { cleanUp } from '#test/lab/cleanup.ts';
import { conflistPath, hostNetns, makeNetns, onHost, startHost, switchNetns, wireHosts } from '#test/lab/hosts.ts';
import type { Host } from '#test/lab/hosts.ts';
import { poll, Runner, type RunResult } from '#test/lab/run.ts';
import { ownIdentity, writeState, type LabState } from '#test/lab/state.ts';
import type { Status } from '#agent/observe/status.ts';

const signal = new AbortController().signal;
/** Long, because the machine may do other things: what must be quick is measured apart. */
const settleWithinMs = 120_000;

export class ChaosCluster implements AsyncDisposable {
  readonly hosts: readonly Host[];
  readonly #runner: Runner;
  readonly #state: LabState;
  readonly #agents: Agent[];

  private constructor(runner: Runner, state: LabState, hosts: readonly Host[]) {
    this.#runner = runner;
    this.#state = state;
    this.hosts = hosts;
    this.#agents = hosts.map((host) => startAgent(runner, host));
  }

  /** `count` hosts, the first three of them voters, and `slots` namespaces for pods. Resolves when every agent serves. */
  static async create(count: number, slots: number): Promise<ChaosCluster> {
    const indexes = Array.from({ length: count }, (_, at) => at + 1);
    const pods = Array.from({ length: slots }, (_, at) => slotNetns(at));
    // Pods' namespaces come and go; they are written down so that a cleanup finds what is left of them.
    const made = [switchNetns, ...indexes.map(hostNetns)];
    const netns = [...made, ...pods];
    const mark = randomBytes(16).toString('hex');
    const state: LabState = { mark, ...(await ownIdentity()), netns, madeNetnsMount: false };
    await writeState(state);
    const runner = new Runner(mark);
    try {
      await makeNetns(runner, made, signal);
      await wireHosts(runner, count, signal);
      const hosts = await Promise.all(indexes.map((index) => startHost(runner, index, signal)));
      await configureHosts(runner, hosts, signal);
      await Promise.all(hosts.map((host) => hurry(host)));
      const cluster = new ChaosCluster(runner, state, hosts);
      await Promise.all(hosts.map((_, at) => cluster.served(at)));
      return cluster;
    } catch (error) {
      await cleanUp(state);
      throw error;
    }
  }

  /** Runs a program on a host to its end, whatever it comes to. */
  async run(
    at: number,
    command: readonly string[],
    options: { readonly stdin?: string; readonly env?: Readonly<Record<string, string>> } = {},
  ): Promise<RunResult> {
    const bare = options.env === undefined ? {} : { bareEnv: true as const };
    return this.#runner.result(onHost(this.#host(at), command), { signal, ...options, ...bare });
  }

  /** A new namespace for a slot's next pod, in the place of the last one's. */
  async freshNetns(slot: number): Promise<void> {
    await this.dropNetns(slot);
    await makeNetns(this.#runner, [slotNetns(slot)], signal);
  }

  async dropNetns(slot: number): Promise<void> {
    if (!existsSync(`/run/netns/${slotNetns(slot)}`)) return;
    await this.#runner.output(['ip', 'netns', 'delete', slotNetns(slot)], { signal });
  }

  /** The same in a shell; throws when it fails. */
  async shell(at: number, script: string): Promise<void> {
    const { code, stderr } = await this.run(at, ['sh', '-c', script]);
    if (code !== 0) throw new Error(`on host ${at + 1}: ${script}: ${stderr}`);
  }

  async status(at: number): Promise<Status | undefined> {
    return askAgent(this.#host(at));
  }

  kick(at: number, name: 'SIGKILL' | 'SIGSTOP' | 'SIGCONT'): void {
    process.kill(this.#agent(at).pid, name);
  }

  /** Kills the agent and waits until it is gone. */
  async kill(at: number): Promise<void> {
    const agent = this.#agent(at);
    if (agent.ended() === undefined) this.kick(at, 'SIGKILL');
    await poll(
      async () => agent.ended(),
      () => 'a killed agent does not end',
      { signal, timeoutMs: 10_000 },
    );
  }

  start(at: number): void {
    this.#agents[at] = startAgent(this.#runner, this.#host(at));
  }

  /** Resolves when a host's agent would serve an ADD; starts it again, as systemd does, when it has ended. */
  async served(at: number): Promise<Status> {
    const host = this.#host(at);
    let last: Status | undefined;
    return poll(
      async () => {
        if (this.#agent(at).ended() !== undefined) this.start(at);
        last = await askAgent(host);
        return last?.ready === true && existsSync(join(host.root, conflistPath)) ? last : undefined;
      },
      () => `the agent on ${host.name} waits for ${last?.waitingFor ?? 'its own start'}:\n${logTail(host)}`,
      { signal, timeoutMs: settleWithinMs, everyMs: 100 },
    );
  }

  /** A host's file or folder, seen from here. */
  path(at: number, path: string): string {
    return join(this.#host(at).root, path);
  }

  /** Removes what a folder holds, not the folder, on which something is mounted. */
  async empty(at: number, folder: string, keep: readonly string[] = []): Promise<void> {
    const path = this.path(at, folder);
    for (const name of await readdir(path)) {
      if (!keep.includes(name)) await rm(join(path, name), { recursive: true, force: true });
    }
  }

  log(at: number): string {
    return logTail(this.#host(at));
  }

  #host(at: number): Host {
    const host = this.hosts[at];
    if (host === undefined) throw new Error(`there is no host ${at}`);
    return host;
  }

  #agent(at: number): Agent {
    const agent = this.#agents[at];
    if (agent === undefined) throw new Error(`there is no agent ${at}`);
    return agent;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // A frozen process takes no SIGTERM.
    for (const [at, agent] of this.#agents.entries()) if (agent.ended() === undefined) this.kick(at, 'SIGCONT');
    await cleanUp(this.#state);
  }
}

/** Short periods, so that a test need not wait for minutes: pods that went without a DEL, and how long a lost disk's session stands. */
async function hurry(host: Host): Promise<void> {
  const path = join(host.root, 'etc/weft/config.json');
  const settings = JSON.parse(await readFile(path, 'utf8')) as object;
  await writeFile(path, JSON.stringify({ ...settings, collectMs: 2000, sessionTermMs: 4000, takeOverAfterMs: 2000 }));
}

export const slotNetns = (slot: number): string => `weft-lab-slot${slot}`;
