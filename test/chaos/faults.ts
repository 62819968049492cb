// What happens to hosts: one fault at a time, undone before the next, since three voters bear one. Each leaves the host serving.

import { cp, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ChaosCluster } from '#test/chaos/cluster.ts';

export interface FaultWorld {
  readonly cluster: ChaosCluster;
  readonly random: () => number;
  /** How long what lasts lasts. */
  readonly lastsMs: number;
  /** Copies of voters' disks, by host. */
  readonly copies: Map<number, string>;
}

type Fault = (world: FaultWorld, at: number) => Promise<void>;

const state = 'var/lib/weft';

export const faults: Readonly<Record<string, Fault>> = {
  /** kill -9, and again while it starts. */
  killed: async ({ cluster, random }, at) => {
    await cluster.kill(at);
    cluster.start(at);
    await sleep(random() * 1500);
    await cluster.kill(at);
    cluster.start(at);
  },

  frozen: async ({ cluster, lastsMs }, at) => {
    cluster.kick(at, 'SIGSTOP');
    await sleep(lastsMs);
    cluster.kick(at, 'SIGCONT');
  },

  /** Cut off from all other hosts; its pods come and go meanwhile. */
  partitioned: async ({ cluster, lastsMs }, at) => {
    await cluster.shell(
      at,
      `nft add table inet chaos
       nft 'add chain inet chaos input { type filter hook input priority -300; }'
       nft 'add chain inet chaos output { type filter hook output priority -300; }'
       nft add rule inet chaos input iifname eth0 drop
       nft add rule inet chaos output oifname eth0 drop`,
    );
    await sleep(lastsMs);
    await cluster.shell(at, 'nft delete table inet chaos');
  },

  /** The state directory's file system is full: leases, promises and spooled DELs cannot be written. */
  diskFull: async ({ cluster, lastsMs }, at) => {
    await cluster.shell(
      at,
      `mount -o remount,size=16m /${state}; dd if=/dev/zero of=/${state}/filler bs=64k 2>/dev/null; test -s /${state}/filler`,
    );
    await sleep(lastsMs);
    await cluster.shell(at, `rm /${state}/filler; mount -o remount,size=256m /${state}`);
  },

  /** The voter's disk as it was some faults ago; of a host that does not vote, nothing. */
  voterSetBack: async ({ cluster, copies }, at) => {
    await cluster.kill(at);
    const copy = copies.get(at);
    copies.set(at, await copyVoterDisk(cluster, at));
    if (copy !== undefined) {
      await removeVoterDisk(cluster, at);
      for (const name of await readdir(copy)) await cp(join(copy, name), cluster.path(at, `${state}/${name}`));
      await rm(copy, { recursive: true });
    }
    cluster.start(at);
  },

  voterWiped: async ({ cluster }, at) => {
    await cluster.kill(at);
    await removeVoterDisk(cluster, at);
    cluster.start(at);
  },

  /** All leases and the voter's disk are gone; the node's identity is not, and its pods run. */
  stateWiped: async ({ cluster }, at) => {
    await cluster.kill(at);
    await cluster.empty(at, state, ['node-uid', 'spool']);
    cluster.start(at);
  },
};

const voterFiles = async (cluster: ChaosCluster, at: number): Promise<readonly string[]> =>
  (await readdir(cluster.path(at, state))).filter((name) => name.startsWith('voter.db'));

async function copyVoterDisk(cluster: ChaosCluster, at: number): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'weft-chaos-disk-'));
  for (const name of await voterFiles(cluster, at)) await cp(cluster.path(at, `${state}/${name}`), join(folder, name));
  return folder;
}

async function removeVoterDisk(cluster: ChaosCluster, at: number): Promise<void> {
  for (const name of await voterFiles(cluster, at)) await rm(cluster.path(at, `${state}/${name}`));
}
