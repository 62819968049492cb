// The two stores on a disk that is full, and under kill -9: what was said to be durable is there, what failed is not, and both work
// on once there is room.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createVoterDisk, openVoterStore } from '#agent/registry/peers/store.ts';
import { openStore, type Store } from '#agent/runtime/store.ts';
import type { Lease } from '#ipam-peer/events.ts';
import { run } from '#test/support/netns.ts';

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'weft-stores-'));
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

const leaseOf = (at: number): Lease => ({
  containerId: `c${at}`,
  ifname: 'eth0',
  generation: 'ab',
  addresses: [`10.32.${at >> 8}.${at & 255}`],
  owner: { podName: 'x'.repeat(2000), network: 'weft', netnsPath: '/run/netns/x', netnsInode: 1n },
  state: 'active',
  sinceMs: at,
  hostIfname: `weftp${at}`,
});

/** Writes until the disk is full; answers how many were written. */
function fill(write: (at: number) => void): number {
  for (let at = 1; at < 10_000; at += 1) {
    try {
      write(at);
    } catch (error) {
      expect(error).toMatchObject({ kind: 'store', message: expect.stringMatching(/full/) });
      return at - 1;
    }
  }
  return expect.unreachable('the disk is never full');
}

async function onSmallDisk(work: (folder: string) => Promise<void>): Promise<void> {
  const disk = join(directory, 'disk');
  await mkdir(disk);
  await run(['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', disk]);
  try {
    await work(disk);
  } finally {
    await run(['umount', '--lazy', disk]);
  }
}

describe('on a full disk', { timeout: 60_000 }, () => {
  it('a lease that cannot be written fails and leaves nothing, those before it stay, and room is all that is needed', async () => {
    await onSmallDisk(async (disk) => {
      const path = join(disk, 'state/state.db');
      let store: Store = openStore(path);
      await writeFile(join(disk, 'filler'), Buffer.alloc(1 << 20));
      const written = fill((at) => store.persist([{ kind: 'lease', lease: leaseOf(at) }], 'full'));
      expect(written).toBeGreaterThan(10);
      expect(store.load().leases).toHaveLength(written);
      store.close();
      await rm(join(disk, 'filler'));
      store = openStore(path);
      expect(store.load().leases).toHaveLength(written);
      store.persist([{ kind: 'lease', lease: leaseOf(9999) }], 'full');
      expect(store.load().leases).toHaveLength(written + 1);
      store.close();
    });
  });

  it('a voter promises nothing that it cannot write, and goes on when there is room', async () => {
    await onSmallDisk(async (disk) => {
      const path = join(disk, 'state/voter.db');
      createVoterDisk(path);
      await writeFile(join(disk, 'filler'), Buffer.alloc(1 << 20));
      using store = openVoterStore(path);
      const cell = { uid: 'u', version: '1.p', writer: 'host1', lineage: [], value: { x: 'x'.repeat(2000) } };
      const write = (at: number): void => {
        const ballot = { counter: at, proposer: 'p' };
        store.commit(() => store.write(`peer/n${at}`, { promised: ballot, accepted: ballot, cell }));
      };
      const written = fill(write);
      expect(store.highestCounter()).toBe(written);
      expect(store.read(`peer/n${written + 1}`).promised.counter).toBe(0);
      await rm(join(disk, 'filler'));
      write(written + 1);
      expect(store.highestCounter()).toBe(written + 1);
    });
  });
});

describe('kill -9', { timeout: 60_000 }, () => {
  it.for(['leases', 'promises'] as const)('loses none of the %s that were said to be durable', async (what) => {
    const path = join(directory, 'state/file.db');
    if (what === 'promises') createVoterDisk(path);
    let last = 0;
    for (let round = 0; round < 3; round += 1) {
      const script = new URL('../support/store-writer.ts', import.meta.url).pathname;
      const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', script, what, path], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const enough = 20 + round * 30;
      let said = 0;
      for await (const line of createInterface({ input: child.stdout })) {
        said = Number(line);
        if (said === enough) child.kill('SIGKILL');
      }
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
      expect(child.signalCode).toBe('SIGKILL');
      expect(said).toBeGreaterThanOrEqual(enough);
      last = Math.max(last, said);
      if (what === 'leases') {
        const store = openStore(path);
        expect(store.load().leases.length).toBeGreaterThanOrEqual(last);
        store.close();
      } else {
        using store = openVoterStore(path);
        for (let at = 1; at <= said; at += 1) expect(store.read(`peer/n${at}`).promised.counter).toBe(at);
      }
    }
  });
});
