// Killed at every step: the agent ends by SIGKILL after each single kernel or store operation of an ADD and of a DEL, of a pod that
// has everything a pod can ask for: an address and a MAC by name, host ports, limits both ways. Afterwards a start, or a start and a
// DEL, leaves what was there before, by full dumps of the node and the pod. The steps are shared out among several hosts, which work
// at the same time. Of pod link `bridge` only what is done otherwise than with `routed` is tried, unless EVERY_STEP=all, which also tries
// pods with another plugin's address, a DHCP server's too.

import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';

import { openStore } from '#agent/runtime/store.ts';
import type { Lease } from '#ipam-peer/events.ts';
import { AgentHost, type CniCallOptions } from '#test/support/agent-host.ts';
import { referencePlugins } from '#test/support/conf-list.ts';
import { DhcpSegment } from '#test/support/dhcp-segment.ts';
import { type KernelDump, kernelDump } from '#test/support/kernel-dump.ts';
import { TestNetns } from '#test/support/netns.ts';
import { programPath } from '#test/support/programs.ts';
import { ensureShim } from '../../../cni-shim/build.ts';

const everything = {
  runtimeConfig: {
    // Inside the pool, and nobody's before: the node claims its space in the rehearsal.
    ips: ['10.45.6.7'],
    mac: '02:00:5e:00:00:01',
    portMappings: [
      { hostPort: 8080, containerPort: 80, protocol: 'tcp' },
      { hostPort: 5353, containerPort: 53, protocol: 'udp' },
    ],
    bandwidth: { ingressRate: 8_000_000, egressRate: 8_000_000 },
  },
};

const isAll = process.env['EVERY_STEP'] === 'all';
type Verb = 'ADD' | 'DEL';
type PodCall = Pick<CniCallOptions, 'conf' | 'env'>;

beforeAll(() => ensureShim());

/** A host whose agent can be told to die; what it did is read from the steps' file. */
class Stepping implements AsyncDisposable {
  readonly host: AgentHost;
  readonly netns: TestNetns;
  readonly segment: DhcpSegment | undefined;
  readonly #trap: string;
  #serial = 0;

  private constructor(host: AgentHost, netns: TestNetns, segment: DhcpSegment | undefined) {
    this.host = host;
    this.netns = netns;
    this.segment = segment;
    this.#trap = join(host.directory, 'trap');
  }

  static async create(settings: Readonly<Record<string, unknown>>): Promise<Stepping> {
    const host = await AgentHost.create('own netns', { restTimeMs: 0, resyncMs: 3_600_000, ...settings });
    if (host.netns === undefined) throw new Error('the host has no namespace of its own');
    host.program = [process.execPath, programPath('stepping-agent')];
    host.env = { TEST_TRAP: join(host.directory, 'trap') };
    const segment = settings['dhcpUplink'] === undefined ? undefined : await DhcpSegment.create(host.netns);
    await segment?.startServer();
    await segment?.startDaemon();
    await host.start();
    return new Stepping(host, host.netns, segment);
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
    const leases = ['state.db', 'delegated.db'].flatMap((name) => leasesIn(join(this.host.directory, 'state', name)));
    await this.host.start();
    return leases;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.host[Symbol.asyncDispose]();
    await this.segment?.[Symbol.asyncDispose]();
  }
}

/** Without what a bridge learns of a segment outside; a table that is loaded anew comes last. */
async function nodeDump(netns: TestNetns): Promise<KernelDump> {
  const found = await kernelDump(netns);
  const fdb = found.fdb.filter((entry) => !/ dev lan0 master weftbr1\s*$/.test(entry));
  return { ...found, fdb, nft: found.nft.toSorted() };
}

function leasesIn(path: string): readonly Lease[] {
  if (!existsSync(path)) return [];
  const store = openStore(path);
  const { leases } = store.load();
  store.close();
  return leases;
}

/** Kills after one step of a verb; its name, or undefined where the verb had fewer steps this time. */
async function killAt(at: Stepping, verb: Verb, last: number, call: PodCall): Promise<string | undefined> {
  await using pod = await TestNetns.create('pod');
  const dumps = async (): Promise<readonly KernelDump[]> => [await nodeDump(at.netns), await kernelDump(pod)];
  const before = await dumps();
  if (verb === 'DEL') expect(await at.host.cni('ADD', { netns: pod.path, ...call })).toMatchObject({ code: 0 });
  await at.arm(last);
  const answer = await at.host.cni(verb, { netns: pod.path, ...call });
  if (verb === 'DEL') expect(answer, 'a DEL is never refused').toMatchObject({ code: 0 });
  // The last steps of a DEL come behind its answer.
  const settled = async (): Promise<boolean> =>
    at.host.ended !== '' ||
    (answer.code === 0 && (verb === 'ADD' || !(await at.netns.exec(['ip', '-o', 'link'])).match(/weft[pbs][0-9a-f]/)));
  await expect.poll(settled, { timeout: 20_000 }).toBe(true);
  const died = at.host.ended !== '';
  if (verb === 'ADD') expect(answer.code === 0, 'an ADD that was answered was done').toBe(!died);
  const steps = await at.steps();
  const leases = await at.revive();
  expect(
    leases.every(({ containerId }) => containerId === pod.name),
    'no lease of an earlier pod',
  ).toBe(true);
  // An active lease may be of a pod that runs: the DEL that follows every ADD, failed ones too, takes it. Others the start has undone.
  if (leases.some(({ state }) => state === 'active') || last % 2 === 0) {
    expect(await at.host.cni('DEL', { netns: pod.path, ...call })).toMatchObject({ code: 0 });
  }
  const message = `${verb} killed after step ${last}, ${steps.at(-1)}`;
  await expect.poll(dumps, { timeout: 20_000, interval: 100, message }).toEqual(before);
  return died ? steps.at(-1) : undefined;
}

/** The steps of both verbs that live to their end, twice the same: the first ADD claims space, and what follows from it comes later. */
async function rehearse(at: Stepping, call: PodCall): Promise<Record<Verb, readonly string[]>> {
  await using pod = await TestNetns.create('pod');
  const perform = async (verb: Verb): Promise<readonly string[]> => {
    await at.arm(0);
    expect(await at.host.cni(verb, { netns: pod.path, ...call })).toMatchObject({ code: 0 });
    if (verb === 'DEL') await expect.poll(() => at.steps(), { timeout: 20_000 }).toContain('delLink');
    return await at.steps();
  };
  let before = '';
  for (let time = 0; time < 10; time++) {
    const steps = { ADD: await perform('ADD'), DEL: await perform('DEL') };
    if (JSON.stringify(steps) === before) return steps;
    before = JSON.stringify(steps);
  }
  throw new Error(`the steps are others every time: ${before}`);
}

interface World {
  readonly hosts: number;
  readonly settings: Readonly<Record<string, unknown>>;
  /** Names that are among the steps of ADD, and of DEL; absent: those of a pod link of the datapath. */
  readonly ofAdd: string;
  readonly ofDel?: string;
  /** How many steps the agent must at least have died after; absent: those of a pod with everything. */
  readonly least?: Readonly<Record<Verb, number>>;
  /** Which steps of a verb the agent dies after, counted from 1; absent: all. */
  readonly chosen?: (steps: readonly string[], verb: Verb) => readonly number[];
  /** How pods of a host, whose directory is given, are called for; absent: with everything. */
  readonly callOf?: (directory: string, segment: DhcpSegment | undefined) => PodCall;
}

/** Of a port of the bridge: what comes between the link's making and its limits, and its way out of the bridge. */
function ofPort(steps: readonly string[], verb: Verb): readonly number[] {
  const [from, to] = verb === 'ADD' ? ['newLink', 'newTbf'] : ['setLink', 'store'];
  return numbers(steps).slice(steps.indexOf(from), steps.indexOf(to));
}

const numbers = (steps: readonly string[]): readonly number[] => steps.map((_name, at) => at + 1);

/** The address is another plugin's. */
function delegated(directory: string): PodCall {
  const { ips: _ips, ...runtimeConfig } = everything.runtimeConfig;
  const ipam = { type: 'host-local', ranges: [[{ subnet: '10.93.0.0/24' }]], dataDir: join(directory, 'networks') };
  return { conf: { runtimeConfig, ipam }, env: { CNI_PATH: referencePlugins } };
}

/** A DHCP server gives it, through the pod's link. */
const dhcp: World = {
  hosts: 1,
  settings: { dhcpUplink: 'lan0' },
  ofAdd: 'store newLink nftables setLink newFdb newAddress newRoute',
  ofDel: 'nftables delLink store',
  least: { ADD: 12, DEL: 3 },
  callOf: (_directory, segment) => ({
    conf: { name: 'lan', ipam: segment?.ipam },
    env: { CNI_PATH: referencePlugins },
  }),
};

const ofRouted = 'newLink newSetElement setLink newAddress newNeighbour newRoute newTbf newClsact newRedirect store';
const worlds: Readonly<Record<string, World>> = {
  routed: {
    hosts: 3,
    settings: {},
    ofAdd: ofRouted,
  },
  bridge: {
    hosts: 1,
    settings: { podLink: 'bridge' },
    ofAdd: 'newLink newSetElement setLink newFdb newAddress newNeighbour newRoute newTbf newClsact newRedirect store',
    ...(isAll ? {} : { chosen: ofPort, least: { ADD: 6, DEL: 2 } }),
  },
  ...(isAll ? { delegated: { hosts: 1, settings: {}, ofAdd: ofRouted, callOf: delegated }, dhcp } : {}),
};

const usualLeast = { ADD: 19, DEL: 5 } as const;
const usualDel = 'delSetElement setLink delRoute store delLink';

async function killInEvery({
  hosts,
  settings,
  ofAdd,
  ofDel = usualDel,
  least = usualLeast,
  chosen,
  callOf,
}: World): Promise<void> {
  const deaths = { ADD: new Set<string>(), DEL: new Set<string>() };
  const shares = Array.from({ length: hosts }, async (_value, share) => {
    await using at = await Stepping.create(settings);
    const call = callOf?.(at.host.directory, at.segment) ?? { conf: everything };
    const steps = await rehearse(at, call);
    // Whoever makes other steps has hidden some from the trap.
    expect(steps.ADD).toEqual(expect.arrayContaining(ofAdd.split(' ')));
    expect(steps.DEL).toEqual(expect.arrayContaining(ofDel.split(' ')));
    for (const verb of ['ADD', 'DEL'] as const) {
      const all = chosen?.(steps[verb], verb) ?? numbers(steps[verb]);
      for (const last of all.filter((number) => number % hosts === share)) {
        const name = await killAt(at, verb, last, call);
        if (name !== undefined) deaths[verb].add(`${last} ${name}`);
      }
    }
  });
  await Promise.all(shares);
  expect(deaths.ADD.size).toBeGreaterThanOrEqual(least.ADD);
  expect(deaths.DEL.size).toBeGreaterThanOrEqual(least.DEL);
}

// The machine's processors are what all of it waits for: the worlds are tried at the same time.
test('pod links routed and bridge', { timeout: 600_000 }, async () => {
  const named = process.env['EVERY_STEP_WORLD'];
  await Promise.all(
    Object.entries(worlds).flatMap(([name, world]) => ((named ?? name) === name ? [killInEvery(world)] : [])),
  );
});
