// Killed at every step: the agent ends by SIGKILL after each single kernel or store operation of an ADD and of a DEL, of a pod that
// has everything a link can have. Afterwards a start, or a start and a DEL, leaves what was there before, by full dumps of the node
// and the pod. The steps are shared out among several hosts, which work at the same time.

import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, expect, test } from 'vitest';

import { openStore } from '#agent/runtime/store.ts';
import type { Lease } from '#ipam-peer/events.ts';
import { AgentHost } from '#test/support/agent-host.ts';
import { type KernelDump, kernelDump } from '#test/support/kernel-dump.ts';
import { TestNetns } from '#test/support/netns.ts';
import { ensureShim } from '../../../cni-shim/build.ts';

const program = fileURLToPath(new URL('../../support/stepping-agent.ts', import.meta.url));
const hosts = 3;
const conf = {
  runtimeConfig: {
    mac: '02:00:5e:00:00:01',
    portMappings: [
      { hostPort: 8080, containerPort: 80, protocol: 'tcp' },
      { hostPort: 5353, containerPort: 53, protocol: 'udp' },
    ],
    bandwidth: { ingressRate: 8_000_000, egressRate: 8_000_000 },
  },
};

beforeAll(() => ensureShim());

/** A host whose agent can be told to die; what it did is read from the steps' file. */
class Stepping implements AsyncDisposable {
  readonly host: AgentHost;
  readonly netns: TestNetns;
  readonly #trap: string;
  #serial = 0;

  private constructor(host: AgentHost, netns: TestNetns) {
    this.host = host;
    this.netns = netns;
    this.#trap = join(host.directory, 'trap');
  }

  static async create(settings: Readonly<Record<string, unknown>>): Promise<Stepping> {
    const host = await AgentHost.create('own netns', { restTimeMs: 0, resyncMs: 3_600_000, ...settings });
    if (host.netns === undefined) throw new Error('the host has no namespace of its own');
    host.program = [process.execPath, program];
    host.env = { TEST_TRAP: join(host.directory, 'trap') };
    await host.start();
    return new Stepping(host, host.netns);
  }

  /** The next steps count from 1, and the agent dies after the `last`. */
  async arm(last: number): Promise<void> {
    await writeFile(this.#trap, `${++this.#serial} ${last}`);
  }

  /** Names of the steps since the trap was armed last. */
  async steps(): Promise<readonly string[]> {
    const text = await readFile(`${this.#trap}.steps`, 'utf8').catch(() => '');
    const own = text.split('\n').filter((line) => line.startsWith(`${this.#serial} `));
    return own.map((line) => line.split(' ')[2] ?? '');
  }

  /** The agent lives again, whether or not it died, and no trap is set. What the disk held of leases in between. */
  async revive(): Promise<readonly Lease[]> {
    await this.arm(0);
    await this.host.stop('SIGKILL');
    const store = openStore(join(this.host.directory, 'state/state.db'));
    const { leases } = store.load();
    store.close();
    await this.host.start();
    return leases;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.host[Symbol.asyncDispose]();
  }
}

interface Death {
  /** False where the verb had fewer steps. */
  readonly died: boolean;
  readonly steps: readonly string[];
}

/** Kills at one step of a verb. */
async function killAt(at: Stepping, verb: 'ADD' | 'DEL', last: number): Promise<Death> {
  await using pod = await TestNetns.create('pod');
  const everything = async (): Promise<readonly KernelDump[]> => [await kernelDump(at.netns), await kernelDump(pod)];
  const before = await everything();
  if (verb === 'DEL') expect(await at.host.cni('ADD', { netns: pod.path, conf })).toMatchObject({ code: 0 });
  await at.arm(last);
  const call = await at.host.cni(verb, { netns: pod.path, conf });
  if (verb === 'DEL') expect(call, 'a DEL is never refused').toMatchObject({ code: 0 });
  // The last steps of a DEL come behind its answer.
  const settled = async (): Promise<boolean> =>
    at.host.ended !== '' ||
    (call.code === 0 && (verb === 'ADD' || !(await at.netns.exec(['ip', '-o', 'link'])).match(/weft[pb]/)));
  await expect.poll(settled, { timeout: 10_000 }).toBe(true);
  const died = at.host.ended !== '';
  if (verb === 'ADD') expect(call.code === 0, 'an ADD that was answered was done').toBe(!died);
  const steps = await at.steps();
  const leases = await at.revive();
  expect(
    leases.every(({ containerId }) => containerId === pod.name),
    'no lease of an earlier pod',
  ).toBe(true);
  // An active lease may be of a pod that runs: the DEL that follows every ADD, failed ones too, takes it. Others the start has undone.
  if (leases.some(({ state }) => state === 'active') || last % 2 === 0) {
    expect(await at.host.cni('DEL', { netns: pod.path, conf })).toMatchObject({ code: 0 });
  }
  const message = `${verb} killed after step ${last}, ${steps.at(-1)}`;
  await expect.poll(everything, { timeout: 15_000, message }).toEqual(before);
  return { died, steps };
}

test.each<[string, Readonly<Record<string, unknown>>]>([['routed', {}]])(
  'pod link %s',
  async (_name, settings) => {
    const seen = { ADD: new Set<string>(), DEL: new Set<string>() };
    const deaths = { ADD: 0, DEL: 0 };
    const shares = Array.from({ length: hosts }, async (_value, share) => {
      await using at = await Stepping.create(settings);
      for (const verb of ['ADD', 'DEL'] as const) {
        for (let last = 1 + share; ; last += hosts) {
          const { died, steps } = await killAt(at, verb, last);
          for (const step of steps) seen[verb].add(step);
          if (!died) break;
          deaths[verb] += 1;
        }
      }
    });
    await Promise.all(shares);
    // Whoever makes fewer steps, or other ones, has hidden some from the trap.
    const ofAdd = 'newLink newSetElement setLink newAddress newNeighbour newRoute newTbf newClsact newRedirect store';
    expect([...seen.ADD]).toEqual(expect.arrayContaining(ofAdd.split(' ')));
    expect([...seen.DEL]).toEqual(expect.arrayContaining('delSetElement setLink delRoute store delLink'.split(' ')));
    expect(deaths.ADD).toBeGreaterThan(18);
    expect(deaths.DEL).toBeGreaterThan(4);
  },
  600_000,
);
