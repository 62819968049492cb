// The SQLite store: what comes back, what a damaged or foreign file is told, and that a failed transaction leaves nothing.
import { chmod, mkdir, mkdtemp, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { WeftError } from '#agent/errors.ts';
import { openStore } from '#agent/runtime/store.ts';
import type { DurablePeer, Lease } from '#ipam-peer/events.ts';
import { emptyDurable } from '#ipam-peer/state.ts';
import { cidrs } from '#test/unit/ipam-peer/harness.ts';

const peer: DurablePeer = {
  uid: 'u1',
  seq: 9,
  blocks: cidrs('10.32.0.0/13'),
  doubt: 'v7',
  overlay: ['10.32.0.1'],
  universe: { name: 'default', uid: 'u0', ranges: cidrs('10.32.0.0/12'), reserved: cidrs('10.43.0.0/16') },
};

const lease: Lease = {
  containerId: 'c1',
  ifname: 'eth0',
  generation: 'ab',
  addresses: ['10.32.0.2'],
  owner: { podName: 'p', podNamespace: 'ns', network: 'weft', netnsPath: '/run/netns/x', netnsInode: 4026532000n },
  state: 'active',
  sinceMs: 1700000000000,
  hostIfname: 'weftp0123456789',
};

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'weft-store-'));
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

function opening(path: string): WeftError {
  try {
    openStore(path, 100).close();
  } catch (error) {
    if (error instanceof WeftError) return error;
    throw error;
  }
  throw new Error('opened');
}

describe('the store', () => {
  test('gives back what was persisted, in a directory for root only', async () => {
    const path = join(directory, 'sub', 'state.sqlite');
    const store = openStore(path);
    expect(store.load()).toEqual(emptyDurable);
    store.persist([{ kind: 'peer', peer }], 'full');
    store.persist([{ kind: 'lease', lease }], 'normal');
    store.close();
    const again = openStore(path);
    expect(again.load()).toEqual({ peer, leases: [lease], resting: [] });
    again.persist([{ kind: 'unlease', lease }], 'normal');
    expect(again.load()).toEqual({ peer, leases: [], resting: ['10.32.0.2'] });
    again.persist([{ kind: 'rested', addresses: ['10.32.0.2'] }], 'normal');
    expect(again.load().resting).toEqual([]);
    again.close();
    expect((await stat(join(directory, 'sub'))).mode & 0o777).toBe(0o700);
  });

  test('a second agent on the same state is told so', () => {
    const path = join(directory, 'state.sqlite');
    const first = openStore(path);
    first.persist([{ kind: 'peer', peer }], 'full');
    expect(opening(path).message).toContain(path);
    first.close();
  });

  test.for([
    'not a database',
    'cut short',
    'of a later version',
    'a directory',
    'with a row that is no JSON',
    'with a lease that is none',
  ])('a file that is %s is an error that names the path', async (damage) => {
    const path = join(directory, 'state.sqlite');
    const store = openStore(path);
    store.persist([{ kind: 'peer', peer }], 'full');
    for (let index = 0; index < 200; index++) {
      store.persist([{ kind: 'lease', lease: { ...lease, containerId: `c${index}` } }], 'normal');
    }
    store.close();
    if (damage === 'not a database') await writeFile(path, 'hello '.repeat(1000));
    else if (damage === 'cut short') await truncate(path, 8192 + 100);
    else if (damage === 'a directory') {
      await rm(path);
      await mkdir(path);
    } else {
      const database = new DatabaseSync(path);
      if (damage === 'of a later version') database.exec('PRAGMA user_version = 9');
      else if (damage === 'with a row that is no JSON') database.exec("UPDATE peer SET value = '{'");
      else database.exec(`UPDATE leases SET value = '{"owner":{"netnsInode":"1"}}' WHERE container_id = 'c7'`);
      database.close();
    }
    const error = ((): WeftError => {
      try {
        const opened = openStore(path);
        try {
          opened.load();
        } finally {
          opened.close();
        }
      } catch (thrown) {
        if (thrown instanceof WeftError) return thrown;
        throw thrown;
      }
      throw new Error('nothing noticed');
    })();
    expect(error.kind).toBe('store');
    expect(error.message).toContain(path);
    if (damage === 'of a later version') expect(error.message).toContain('version 9');
    // Nothing was repaired behind the operator's back.
    if (damage === 'not a database') expect(await readFile(path, 'utf8')).toMatch(/^hello/);
  });

  test('a transaction that fails leaves nothing of itself', () => {
    const path = join(directory, 'state.sqlite');
    const store = openStore(path);
    const broken = { ...lease, containerId: undefined as unknown as string };
    expect(() =>
      store.persist(
        [
          { kind: 'lease', lease },
          { kind: 'lease', lease: broken },
        ],
        'normal',
      ),
    ).toThrow(WeftError);
    expect(store.load().leases).toEqual([]);
    store.persist([{ kind: 'lease', lease }], 'normal');
    expect(store.load().leases).toEqual([lease]);
    store.close();
  });

  test('the mode of an existing directory is corrected', async () => {
    await chmod(directory, 0o755);
    openStore(join(directory, 'state.sqlite')).close();
    expect((await stat(directory)).mode & 0o777).toBe(0o700);
  });
});
