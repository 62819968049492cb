// Whatever happens to the agent or to other peers: of a numbered UDP stream at 1 kHz in each direction no number is lost, and of a TCP
// stream no segment has to be sent again.
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { build } from 'esbuild';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { DatapathSettings } from '#agent/datapath/settings.ts';
import type { IpamView, PeerView } from '#agent/runtime/ipam.ts';
import { programPath } from '#test/support/programs.ts';

import { Lab, ping, until } from './lab.ts';
import type { LabHost, Pod } from './lab.ts';
import { tcpStream, udpStream } from './stream.ts';

const script = fileURLToPath(new URL('agent-process.ts', import.meta.url));
const addon = fileURLToPath(new URL('../../../agent/native/build/weft.node', import.meta.url));

/** The same agent as one file, built with rules, counters, nexthops' addresses and a route metric that differ from these sources'. */
async function otherBuild(directory: string): Promise<string> {
  const outfile = join(directory, 'other-build.mjs');
  const changes: readonly (readonly [RegExp, RegExp, string])[] = [
    [/datapath\/ruleset\.ts$/, /pod_spoofed/g, 'pod_spoofed_v2'],
    [/datapath\/desired\.ts$/, /const linkLocal = onIpv6 &&/, 'const linkLocal ='],
    [/datapath\/settings\.ts$/, /poolMetric: 4_294_967_295/, 'poolMetric: 4_294_967_294'],
  ];
  await build({
    entryPoints: [script],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node24',
    banner: { js: "import { createRequire as r } from 'node:module'; const require = r(import.meta.url);" },
    plugins: [
      {
        name: 'another version',
        setup(plugins) {
          for (const [filter, text, replacement] of changes) {
            plugins.onLoad({ filter }, async ({ path }) => {
              const source = await readFile(path, 'utf8');
              if (!text.test(source)) throw new Error(`${path} has no ${text.source} to change`);
              return { contents: source.replace(text, replacement), loader: 'ts' };
            });
          }
        },
      },
    ],
  });
  return outfile;
}

/** An agent's datapath in a process of its own. */
class AgentProcess {
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess) {
    this.#child = child;
  }

  static async start(
    host: LabHost,
    settings: Partial<DatapathSettings>,
    program = programPath('agent-process'),
  ): Promise<AgentProcess> {
    const input = JSON.stringify({ view: host.view(), leases: host.leases, settings }, (_key, value: unknown) =>
      typeof value === 'bigint' ? String(value) : value,
    );
    const child = spawn('nsenter', [`--net=${host.netns.path}`, '--', process.execPath, program, input], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, WEFT_ADDON: addon },
    });
    const told = await Promise.race([once(child.stdout, 'data'), once(child, 'exit').then(() => undefined)]);
    if (told === undefined) throw new Error('the agent ended instead of starting');
    return new AgentProcess(child);
  }

  async kill(): Promise<void> {
    const gone = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await gone;
  }
}

const addressOf = (pod: Pod): string => pod.lease.addresses[0] ?? '';

function manyPeers(count: number): readonly PeerView[] {
  return Array.from({ length: count }, (_, index): PeerView => {
    const number = index + 1;
    return {
      name: `node${number}.0123abcd`,
      nodeName: `node${number}`,
      self: false,
      underlayAddress: `198.18.${number >> 8}.${number & 255}`,
      overlayAddresses: [],
      blocks: [`10.46.${number >> 6}.${(number & 63) << 2}/30`],
    };
  });
}

describe.each(['vxlan', 'direct'] as const)('overlay mode %s', { timeout: 60_000 }, (overlayMode) => {
  let lab: Lab;
  let host: LabHost;
  let pods: readonly [Pod, Pod];
  let directory = '';
  let newer = '';
  const settings = { overlayMode, comparePeriodMs: 500 } as const;

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'weft-no-loss-'));
    newer = await otherBuild(directory);
    lab = await Lab.create(2, { settings });
    host = lab.host(0);
    pods = [await host.addPod(), await lab.host(1).addPod()];
    // A new peer's link address is learnt from its first packets (mode direct).
    await until('both directions are open', async () => {
      const [near, far] = pods;
      const ways = [ping(near.netns, addressOf(far)), ping(far.netns, addressOf(near))];
      return (await Promise.allSettled(ways)).every(({ status }) => status === 'fulfilled');
    });
  });
  afterAll(async () => {
    await lab[Symbol.asyncDispose]();
    await rm(directory, { recursive: true, force: true });
  });

  async function whileStreaming(work: () => Promise<void>): Promise<void> {
    const [near, far] = pods;
    const streams = [await udpStream(near, far), await udpStream(far, near), await tcpStream(near, far)];
    const before = await Promise.all(streams.map(async (stream) => stream.received()));
    try {
      await work();
      await until('all streams go on', async () => {
        const now = await Promise.all(streams.map(async (stream) => stream.received()));
        return now.every((count, index) => count > (before[index] ?? 0) + 200);
      });
    } finally {
      const ends = [];
      for (const stream of streams) ends.push(await stream.stop());
      for (const end of ends) expect(end).toMatchObject({ lost: 0, retransmitted: 0 });
    }
  }

  const withPeers = async (peers: (others: readonly PeerView[]) => readonly PeerView[]): Promise<void> => {
    lab.viewPatch = (view): IpamView => ({ ...view, peers: peers(view.peers) });
    await host.reconcile();
  };

  const third: PeerView = {
    name: 'c.0123abcd',
    nodeName: 'c',
    self: false,
    underlayAddress: '192.0.2.3',
    overlayAddresses: ['10.44.0.1'],
    blocks: ['10.44.0.0/15'],
  };

  it('a peer is added, changed and removed', async () => {
    await whileStreaming(async () => {
      for (let round = 0; round < 10; round++) {
        await withPeers((peers) => [...peers, third]);
        await withPeers((peers) => [...peers, { ...third, blocks: ['10.44.0.0/16'], underlayAddress: '192.0.2.33' }]);
        await withPeers((peers) => peers);
      }
    });
  });

  it('1,000 peers are added and removed', async () => {
    await whileStreaming(async () => {
      await withPeers((peers) => [...peers, ...manyPeers(1000)]);
      expect(host.datapath.status().findings).toEqual([]);
      expect(host.peersProgrammed()).toBe(1001);
      await withPeers((peers) => peers);
      expect(host.peersProgrammed()).toBe(1);
    });
  });

  it('the agent stops and starts', async () => {
    await whileStreaming(async () => {
      for (let round = 0; round < 5; round++) {
        await host.stop();
        await host.start();
      }
    });
  });

  it('the agent is killed and started again, is replaced by another build, and comes back', async () => {
    await host.stop();
    await whileStreaming(async () => {
      for (let round = 0; round < 2; round++) await (await AgentProcess.start(host, settings)).kill();
      const upgraded = await AgentProcess.start(host, settings, newer);
      expect(await host.netns.exec(['nft', 'list', 'counters', 'table', 'inet', 'weft'])).toContain('pod_spoofed_v2');
      await upgraded.kill();
      await host.start();
      expect(await host.netns.exec(['nft', 'list', 'counters', 'table', 'inet', 'weft'])).not.toContain('_v2');
    });
  });
});
