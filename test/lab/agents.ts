// One agent a host, with its default paths, the registry `peers`, and keys that the lab makes.

import { existsSync, openSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { request } from 'node:http';
import { basename, join } from 'node:path';
import type { Status } from '#agent/observe/status.ts';
import { conflistPath, onHost } from '#test/lab/hosts.ts';
import type { Host } from '#test/lab/hosts.ts';
import { poll } from '#test/lab/run.ts';
import type { Runner } from '#test/lab/run.ts';
import { labDirectory } from '#test/lab/state.ts';
import { programPath } from '#test/support/programs.ts';

const weft = programPath('weft');

export const logPath = (host: Pick<Host, 'name'>): string => join(labDirectory, `${host.name}.log`);

const weftOn = (host: Host, ...args: readonly string[]): readonly string[] =>
  onHost(host, [process.execPath, '--disable-warning=ExperimentalWarning', weft, ...args]);

/** Keys, settings and plugin on every host, as an operator makes them: `weft init` on the first, its files on the others. */
export async function configureHosts(
  runner: Runner,
  hosts: readonly Host[],
  signal: AbortSignal,
  ranges: readonly string[] = [],
): Promise<void> {
  const [first] = hosts;
  if (first === undefined) return;
  const all = hosts.map(({ name, address }) => `${name}=${address}`);
  const option = ranges.length === 0 ? [] : ['--ranges', ranges.join(',')];
  const settings = async (): Promise<void> => {
    await runner.output(weftOn(first, 'init', ...all, ...option), { signal });
    await Promise.all(
      hosts.slice(1).map(async (host) => {
        const stdin = await readFile(join(first.root, 'etc/weft/cluster', `${host.name}.json`), 'utf8');
        await runner.output(weftOn(host, 'init', '--from', '-'), { signal, stdin });
      }),
    );
  };
  await Promise.all([settings(), ...hosts.map((host) => runner.output(weftOn(host, 'install'), { signal }))]);
}

/** An agent's process; `ended` is undefined while it runs. */
export interface Agent {
  readonly host: Host;
  readonly pid: number;
  readonly ended: () => string | undefined;
}

export function startAgent(runner: Runner, host: Host): Agent {
  const log = openSync(logPath(host), 'a', 0o600);
  const child = runner.start(weftOn(host, 'agent', '--log-format', 'text'), ['ignore', log, log]);
  let ended: string | undefined;
  child.on('close', (code, signal) => (ended = `exit ${code ?? signal}`));
  child.on('error', (error) => (ended = error.message));
  return { host, pid: child.pid ?? 0, ended: () => ended };
}

/** The agent's own words about itself; undefined while it does not answer. */
export async function askAgent(host: Host): Promise<Status | undefined> {
  return new Promise((resolve) => {
    const asked = request(
      { socketPath: host.statusSocket, path: '/api/status', agent: false, timeout: 3000 },
      (answer) => {
        let body = '';
        answer.setEncoding('utf8').on('data', (chunk: string) => (body += chunk));
        answer.on('end', () => resolve(answer.statusCode === 200 ? (JSON.parse(body) as Status) : undefined));
        answer.on('error', () => resolve(undefined));
      },
    );
    asked.on('timeout', () => asked.destroy());
    asked.on('error', () => resolve(undefined));
    asked.end();
  });
}

/** Waits until every agent would serve an ADD, the conflist is there, and each leads packets to all the others as these share the range. */
export async function waitForAgents(agents: readonly Agent[], signal: AbortSignal): Promise<readonly Status[]> {
  const agreed = async (): Promise<readonly Status[] | undefined> => {
    const statuses = await waitForEach(agents, signal);
    const shares = statuses.map(({ peers }) => JSON.stringify(peers.map(({ name, blocks }) => [name, blocks])));
    return new Set(shares).size > 1 ? undefined : statuses;
  };
  return poll(agreed, () => 'the agents do not agree on who has which addresses', { signal, timeoutMs: 60_000 });
}

async function waitForEach(agents: readonly Agent[], signal: AbortSignal): Promise<readonly Status[]> {
  return Promise.all(
    agents.map(async (agent) => {
      let last: Status | undefined;
      const settled = async (): Promise<Status | undefined> => {
        const ended = agent.ended();
        if (ended !== undefined)
          throw new Error(`the agent on ${agent.host.name} ended (${ended}):\n${logTail(agent.host)}`);
        last = (await askAgent(agent.host)) ?? last;
        // A runtime makes no pod before the configuration is there.
        const told = existsSync(join(agent.host.root, conflistPath));
        return told && last !== undefined && isSettled(last, agents.length) ? last : undefined;
      };
      const trouble = (): string => {
        const waits =
          last === undefined
            ? 'does not answer'
            : last.ready
              ? 'does not know all others'
              : `waits for ${last.waitingFor}`;
        return `the agent on ${agent.host.name} ${waits}:\n${logTail(agent.host)}`;
      };
      return poll(settled, trouble, { signal, timeoutMs: 60_000 });
    }),
  );
}

function isSettled(status: Status, hosts: number): boolean {
  const complete = status.peers.filter(
    ({ blocks, overlayAddresses, programmed }) => programmed && blocks.length > 0 && overlayAddresses.length > 0,
  );
  return status.ready && complete.length === hosts;
}

/** The last lines of an agent's log, for a failure's message. */
export function logTail(host: Pick<Host, 'name'>): string {
  try {
    const lines = readFileSync(logPath(host), 'utf8').trimEnd().split('\n').slice(-15);
    return `last lines of ${basename(logPath(host))}:\n  ${lines.join('\n  ')}`;
  } catch {
    return '(no log)';
  }
}
