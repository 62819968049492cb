// Two hosts of the lab with an agent each, for the runtimes' tests: their own /etc/cni, /opt/cni, /run and network.

import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { askAgent, configureHosts, startAgent, waitForAgents } from '#test/lab/agents.ts';
import { type Host, hostNetns, makeNetns, onHost, startHost, switchNetns, wireHosts } from '#test/lab/hosts.ts';
import { Runner } from '#test/lab/run.ts';
import { labDirectory } from '#test/lab/state.ts';
import { run } from '#test/support/netns.ts';

export class RuntimeLab implements AsyncDisposable {
  readonly hosts: readonly [Host, Host];
  /** For what the runtimes keep. */
  readonly directory: string;
  readonly runner: Runner;

  private constructor(runner: Runner, hosts: readonly [Host, Host], directory: string) {
    this.runner = runner;
    this.hosts = hosts;
    this.directory = directory;
  }

  /** Resolves when both agents serve. */
  static async start(): Promise<RuntimeLab> {
    const { signal } = new AbortController();
    const runner = new Runner(randomBytes(16).toString('hex'));
    const directory = await mkdtemp(join(tmpdir(), 'weft-runtimes-'));
    await rm(labDirectory, { recursive: true, force: true });
    await run(['mkdir', '-p', labDirectory]);
    await makeNetns(runner, [switchNetns, hostNetns(1), hostNetns(2)], signal);
    await wireHosts(runner, 2, signal);
    const hosts = [await startHost(runner, 1, signal), await startHost(runner, 2, signal)] as const;
    await configureHosts(runner, hosts, signal);
    await waitForAgents(
      hosts.map((host) => startAgent(runner, host)),
      signal,
    );
    const lab = new RuntimeLab(runner, hosts, directory);
    // The lab's hosts have a fresh /sys; runtimes look for control groups although they make none.
    for (const host of hosts) await lab.on(host, ['mount', '-t', 'cgroup2', 'none', '/sys/fs/cgroup']);
    return lab;
  }

  /** Standard output of a command on a host. */
  async on(host: Host, command: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<string> {
    const { signal } = new AbortController();
    return (await this.runner.output(onHost(host, command), { signal, env })).trim();
  }

  /** How many addresses the host's agent has leased to containers. */
  async leases(host: Host): Promise<number | undefined> {
    return (await askAgent(host))?.leasesTotal;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { init } of this.hosts) init.kill('SIGKILL');
    for (const name of [switchNetns, hostNetns(1), hostNetns(2)]) await run(['ip', 'netns', 'delete', name]);
    await rm(labDirectory, { recursive: true, force: true });
    await rm(this.directory, { recursive: true, force: true });
  }
}
