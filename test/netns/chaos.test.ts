// Live chaos: real agents on the lab's hosts, pods that come and go through the real shim, faults one after another. At the end no
// address was doubled, no space is lost, no lease leaked. `npm test -- --only netns test/netns/chaos.test.ts` with
//
//   CHAOS_PODS=2000 CHAOS_ROUNDS=20 CHAOS_SEED=1 CHAOS_HOSTS=4   longer, other faults, a host that does not vote
//   OUTAGE_SECONDS=600                                            the registry away for as long

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Status } from '#agent/observe/status.ts';
import { parseCidr, sizeOf } from '#ipam-peer/cidr.ts';
import { seededRandom } from '#test/sim/caspaxos-world.ts';
import { programPath } from '#test/support/programs.ts';

const directory = await mkdtemp(join(tmpdir(), 'weft-chaos-'));
process.env['LAB_OF_WEFT_DIR'] = join(directory, 'lab');
const { ChaosCluster } = await import('#test/chaos/cluster.ts');
const { faults } = await import('#test/chaos/faults.ts');
const { runPods } = await import('#test/chaos/pods.ts');

type Cluster = Awaited<ReturnType<typeof ChaosCluster.create>>;

const setting = (name: string, usual: number): number => Number(process.env[name] ?? usual);
const seed = setting('CHAOS_SEED', 1);
const rounds = setting('CHAOS_ROUNDS', 1);
const outageMs = setting('OUTAGE_SECONDS', 5) * 1000;
const weft = [process.execPath, '--disable-warning=ExperimentalWarning', programPath('weft')];
/** Three voters and a host that only asks, where there is time for it. */
const hosts = setting('CHAOS_HOSTS', 3);
const slots = 2 * hosts;

let cluster: Cluster;

beforeAll(async () => {
  cluster = await ChaosCluster.create(hosts, slots);
}, 180_000);

afterAll(async () => {
  await cluster?.[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

/** Each voter answers a read, as a host sees it. */
async function allVote(at: number, interval: number): Promise<void> {
  await expect
    .poll(async () => (await cluster.run(at, [...weft, 'voters'])).stdout, { timeout: 120_000, interval })
    .toContain('3 of 3 vote');
}

/** [first, last] of each block that a host says somebody owns, in order. */
function owned(status: Status): readonly (readonly [bigint, bigint])[] {
  const blocks = status.peers
    .flatMap(({ blocks }) => blocks)
    .map((text) => parseCidr(text) ?? expect.unreachable(text));
  return blocks
    .map((block) => [block.base, block.base + sizeOf(block) - 1n] as const)
    .toSorted((a, b) => (a[0] < b[0] ? -1 : 1));
}

/** Every address of the range has one owner, as every host sees it; nothing is leased. */
async function settled(count = hosts): Promise<void> {
  for (let at = 0; at < count; at += 1) {
    const name = cluster.hosts[at]?.name;
    const look = async (): Promise<unknown> => {
      const status = await cluster.status(at);
      if (status === undefined) return `${name} does not answer`;
      const list = owned(status);
      const gaps = list.slice(1).filter(([start], index) => start !== (list[index]?.[1] ?? 0n) + 1n);
      const size = list.reduce((sum, [start, end]) => sum + end - start + 1n, 0n);
      return {
        ready: status.ready,
        peers: status.peers.length,
        gapsAndOverlaps: gaps.length,
        size,
        leases: status.leasesTotal,
        links: status.datapath?.podLinks,
      };
    };
    await expect
      .poll(look, { timeout: 120_000, interval: 250, message: `${name} has settled` })
      .toEqual({ ready: true, peers: count, gapsAndOverlaps: 0, size: 2n ** 20n, leases: 0, links: 0 });
  }
}

describe('chaos', { timeout: 3_600_000 }, () => {
  it('doubles no address, loses no space, leaks no lease', async () => {
    const random = seededRandom(seed);
    let over = false;
    const wanted = setting('CHAOS_PODS', 200);
    const pods = runPods({ cluster, slots, random, stayMs: 2000, enough: (begun) => over && begun >= wanted });
    const world = { cluster, random, lastsMs: 1500, copies: new Map<number, string>() };
    const happened: string[] = [];
    const wreck = async (): Promise<void> => {
      for (let round = 0; round < rounds; round += 1) {
        // A disk is copied before it is set back.
        const names = ['voterSetBack', ...Object.keys(faults).toSorted(() => random() - 0.5)];
        const voter = Math.floor(random() * 3);
        for (const name of names) {
          const at = name.startsWith('voter') ? voter : Math.floor(random() * hosts);
          happened.push(`${name} host${at + 1}`);
          await faults[name]?.(world, at);
          await cluster.served(at);
          // Three voters bear one that is broken: no other breaks before this one is whole.
          await allVote(at, 1000);
        }
      }
      over = true;
    };
    const [report] = await Promise.all([pods, wreck()]);
    console.log(
      `chaos, seed ${seed}: ${report.pods} pods, ${report.failures.length} failed ADDs; ${happened.join(', ')}`,
    );
    expect(report.duplicates).toEqual([]);
    expect(report.pods).toBeGreaterThanOrEqual(wanted);
    await settled();
    for (const copy of world.copies.values()) await rm(copy, { recursive: true, force: true });
  });

  it('starts every pod inside owned space while the registry is away, and converges at once when it is back', async () => {
    const everyHost = cluster.hosts.map((_, at) => at);
    // No voter hears another: TCP between the hosts' agents is dropped.
    const drop = `nft add table inet outage
      nft 'add chain inet outage input { type filter hook input priority -300; }'
      nft add rule inet outage input tcp dport 6783 iifname eth0 drop`;
    await Promise.all(everyHost.map((at) => cluster.shell(at, drop)));
    const began = performance.now();
    const ended = (): boolean => performance.now() - began > outageMs;
    const wanted = 100;
    const pods = await runPods({
      cluster,
      slots,
      random: seededRandom(seed),
      // 100 pods in a short outage; as many as come in a long one.
      stayMs: Math.min(20_000, outageMs / 10),
      enough: (begun) => ended() && begun >= wanted,
    });
    while (!ended()) await sleep(100);
    expect(pods.failures).toEqual([]);
    expect(pods.duplicates).toEqual([]);
    expect(pods.pods).toBeGreaterThanOrEqual(100);
    const awayMs = performance.now() - began;
    await Promise.all(everyHost.map((at) => cluster.shell(at, 'nft delete table inet outage')));
    const back = Date.now();
    await allVote(hosts - 1, 100);
    const tookMs = Date.now() - back;
    console.log(
      `outage: ${Math.round(awayMs / 1000)} s, ${pods.pods} pods came and went, none failed; converged ${tookMs} ms after`,
    );
    await settled();
  });

  it('takes the space of a host over that is gone for good, once a person has said so', async () => {
    const last = hosts - 1;
    await cluster.kill(last);
    const name = cluster.hosts[last]?.name ?? '';
    const { code, stdout, stderr } = await cluster.run(0, [...weft, 'peers', 'remove', name]);
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toContain('another node takes its space over');
    const began = performance.now();
    await settled(last);
    console.log(`removed: the space of ${name} was back in use after ${Math.round(performance.now() - began)} ms`);
  });
});
