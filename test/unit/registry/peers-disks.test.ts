// What the `peers` engine does when a voter's disk is not what it was: new, wiped, set back, copied to a second machine, in
// another's place. Real TLS, real disks.

import { copyFile, mkdir, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterEach, describe, expect, it } from 'vitest';
import { openPeersRegistry } from '#agent/registry/peers/peers-registry.ts';
import { createVoterDisk, openVoterStore } from '#agent/registry/peers/store.ts';
import type { Registry, RegistryRecord } from '#agent/registry/registry.ts';
import { retiredSession } from '#ipam-peer/caspaxos/session.ts';
import { createPeersCluster, type PeersCluster } from '#test/support/peers-cluster.ts';
import { sampleValue } from '#test/support/registry-contract.ts';

const signal = new AbortController().signal;
const disposals: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const dispose of disposals.splice(0).toReversed()) await dispose();
}, 20_000);

async function cluster(voters: number, trustAfterMs = 30_000): Promise<PeersCluster> {
  const made = await createPeersCluster(voters, { trustAfterMs });
  disposals.push(async () => made[Symbol.asyncDispose]());
  return made;
}

async function open(peers: PeersCluster, name: string): Promise<Registry> {
  const registry = await peers.open(name);
  disposals.push(() => registry.close());
  return registry;
}

/** Opens nodes and waits until every voter among them has joined with enough others. */
async function openAll(peers: PeersCluster, ...names: readonly string[]): Promise<readonly Registry[]> {
  const before = names.map((name) => peers.joins(name));
  const opened = await Promise.all(names.map((name) => peers.open(name)));
  disposals.push(() => Promise.all(opened.map((registry) => registry.close())));
  await Promise.all(names.map((name, at) => joined(peers, name, (before[at] ?? 0) + 1)));
  return opened;
}

/** Tries again while the outcome is unknown: voters may still be joining, and the machine may be busy. */
async function create(registry: Registry, name: string, seq = 0): Promise<RegistryRecord> {
  for (let tries = 0; tries < 10; tries += 1) {
    const outcome = await registry.create('peer', name, sampleValue('peer', seq), signal);
    if (outcome.kind === 'ok') return outcome.record;
    const there = await registry.get('peer', name, signal).catch(() => undefined);
    if (there !== undefined) return there;
  }
  throw new Error(`no ${name}`);
}

async function joined(peers: PeersCluster, name: string, times: number): Promise<void> {
  await expect.poll(() => peers.joins(name), { timeout: 30_000 }).toBeGreaterThanOrEqual(times);
}

async function update(registry: Registry, record: RegistryRecord, seq: number): Promise<RegistryRecord> {
  const outcome = await registry.update(record, sampleValue('peer', seq), signal);
  if (outcome.kind !== 'ok') throw new Error(JSON.stringify(outcome));
  return outcome.record;
}

/** The registers that a stopped voter has on its disk, by key, with their content. */
function contentOf(peers: PeersCluster, name: string): Readonly<Record<string, unknown>> {
  using store = openVoterStore(peers.statePath(name));
  return Object.fromEntries(store.registersAfter('', 1000).map(({ key, register }) => [key, register.cell?.value]));
}

describe('a voter whose disk', { timeout: 120_000 }, () => {
  it('was wiped answers nothing until the others have handed over everything', async () => {
    const peers = await cluster(3);
    const first = await openAll(peers, 'host1', 'host2', 'host3');
    const records: RegistryRecord[] = [];
    for (let at = 0; at < 70; at += 10) {
      const batch = Array.from({ length: 10 }, (_, more) => create(first[0] as Registry, `n${at + more}`, at));
      records.push(...(await Promise.all(batch)));
    }
    await first[0]?.delete(records[0] as RegistryRecord, signal);
    await Promise.all(first.map((registry) => registry.close()));
    await rm(dirname(peers.statePath('host3')), { recursive: true });
    // One of the others is not enough: what host3 had voted for with host2 may be known to host2 alone.
    const one = await open(peers, 'host1');
    const wiped = await peers.open('host3');
    await expect(wiped.get('peer', 'n1', AbortSignal.timeout(1500))).rejects.toThrow();
    expect(peers.warnings.join('\n')).toContain('its disk is new or not the newest');
    const two = await open(peers, 'host2');
    expect(await wiped.get('peer', 'n1', signal)).toEqual(records[1]);
    await expect
      .poll(() => peers.warnings.filter((line) => line.includes('"this voter does not vote"')).length)
      .toBe(1);
    await expect.poll(() => wiped.list('peer', signal).then((list) => list.length), { timeout: 30_000 }).toBe(69);
    await Promise.all(['host1', 'host2', 'host3'].map((name) => joined(peers, name, 2)));
    // It votes again: with host2 gone, host1 and it are a majority.
    await two.close();
    await expect.poll(() => one.get('peer', 'n69', signal), { timeout: 20_000 }).toEqual(records[69]);
    await wiped.close();
    const content = contentOf(peers, 'host3');
    expect(Object.keys(content)).toHaveLength(70);
    // The tombstone came along.
    expect(content['peer/n0']).toBeNull();
  });

  it('was set back to an older copy takes over what it has missed before it votes', async () => {
    const peers = await cluster(3);
    const [one, two, three] = (await openAll(peers, 'host1', 'host2', 'host3')) as [Registry, Registry, Registry];
    let record = await create(one, 'kept');
    await three.close();
    const path = peers.statePath('host3');
    await copyFile(path, `${path}.older`);
    const again = await peers.open('host3');
    await joined(peers, 'host3', 2);
    record = await update(again, record, 1);
    await again.close();
    await copyFile(`${path}.older`, path);
    for (const suffix of ['-wal', '-shm']) await rm(`${path}${suffix}`, { force: true });
    const setBack = await open(peers, 'host3');
    await expect.poll(() => setBack.get('peer', 'kept', signal), { timeout: 20_000 }).toEqual(record);
    expect(peers.warnings.join('\n')).toContain('its disk was set back, or the machine was copied');
    await joined(peers, 'host3', 3);
    await two.close();
    // host1 and host3 are the majority now.
    await expect.poll(() => one.get('peer', 'kept', signal), { timeout: 20_000 }).toEqual(record);
    await update(one, record, 2);
  });

  it('goes on on a second machine too makes no second majority', async () => {
    const peers = await cluster(3);
    const [one, two, three] = (await openAll(peers, 'host1', 'host2', 'host3')) as [Registry, Registry, Registry];
    let record = await create(one, 'counter');
    await three.close();
    const path = peers.statePath('host3');
    const copy = `${path}.copy/voter.db`;
    await mkdir(dirname(copy));
    await copyFile(path, copy);
    const original = await open(peers, 'host3');
    // The copy has the name, the certificate and the disk; nobody reaches it, but it reaches the others and itself.
    const keys = peers.keys.get('host3');
    if (keys === undefined) throw new Error('no keys');
    const clone = await openPeersRegistry({
      self: 'host3',
      voters: peers.voters,
      listen: { address: '127.0.0.1', port: 0 },
      tls: keys,
      statePath: copy,
      log: { info: () => undefined, warn: () => undefined } as never,
      trustAfterMs: 30_000,
      rule: () => undefined,
    });
    disposals.push(() => clone.close());
    let confirmed = 0;
    for (let round = 0; round < 12; round += 1) {
      for (const registry of [original, clone, two]) {
        const current = (await registry.get('peer', 'counter', AbortSignal.timeout(20_000))) as RegistryRecord;
        const outcome = await registry.update(current, sampleValue('peer', seqOf(current) + 1), signal);
        if (outcome.kind === 'ok') confirmed += 1;
      }
    }
    record = (await one.get('peer', 'counter', signal)) as RegistryRecord;
    expect(seqOf(record)).toBeGreaterThanOrEqual(confirmed);
    expect(confirmed).toBeGreaterThan(0);
  });

  it('is of the version before goes on as a voter', async () => {
    const peers = await cluster(1);
    const path = peers.statePath('host1');
    await rm(path);
    {
      const database = new DatabaseSync(path);
      database.exec(`CREATE TABLE voter (id TEXT NOT NULL) STRICT; INSERT INTO voter VALUES ('an id');
        CREATE TABLE registers (key TEXT PRIMARY KEY, promised_counter INTEGER NOT NULL, promised_proposer TEXT NOT NULL,
          accepted_counter INTEGER NOT NULL, accepted_proposer TEXT NOT NULL, version TEXT NOT NULL, cell TEXT,
          change INTEGER NOT NULL) STRICT, WITHOUT ROWID;
        INSERT INTO registers VALUES ('peer/old', 3, 'p', 3, 'p', '3.p',
          '{"uid":"u","version":"3.p","writer":"host1","lineage":[],"value":{"x":1}}', 1);
        PRAGMA user_version = 1`);
      database.close();
    }
    const one = await open(peers, 'host1');
    expect(await one.get('peer', 'old', signal)).toMatchObject({ uid: 'u', value: { x: 1 } });
    await create(one, 'new');
  });

  it('is the only one and was lost stops the start, with the way out', async () => {
    const peers = await cluster(1);
    await rm(peers.statePath('host1'));
    await expect(peers.open('host1')).rejects.toMatchObject({
      kind: 'store',
      message: expect.stringMatching(/only voter.*weft init.*weft voters restore/),
    });
  });

  it('was made by weft init needs nobody at the first start', async () => {
    const peers = await cluster(3, 300);
    const [one] = await Promise.all(['host1', 'host2'].map((name) => open(peers, name)));
    await create(one as Registry, 'first');
    createVoterDisk(peers.statePath('host3'));
    expect(contentOf(peers, 'host3')).toEqual({});
  });
});

describe('another voter in the place of one that is gone', { timeout: 120_000 }, () => {
  it('joins from the rest, and what the old one still says does not count', async () => {
    const peers = await cluster(3);
    const before = await openAll(peers, 'host1', 'host2', 'host3');
    const record = await create(before[0] as Registry, 'kept');
    await Promise.all(before.map((registry) => registry.close()));
    const oldList = peers.voters;
    peers.replaceVoter('host3', 'client1');
    const [one, two, fresh] = (await openAll(peers, 'host1', 'host2', 'client1')) as [Registry, Registry, Registry];
    await expect.poll(() => fresh.get('peer', 'kept', signal), { timeout: 20_000 }).toEqual(record);
    await two.close();
    const next = await update(one, record, 1);
    expect(await fresh.get('peer', 'kept', signal)).toEqual(next);
    // The old voter comes back with the old list: its own vote and host1's would be a majority of that.
    const keys = peers.keys.get('host3');
    if (keys === undefined) throw new Error('no keys');
    const old = await openPeersRegistry({
      self: 'host3',
      voters: oldList.filter(({ name }) => name !== 'client1'),
      listen: { address: '127.0.0.1', port: 0 },
      tls: keys,
      statePath: peers.statePath('host3'),
      log: { info: () => undefined, warn: () => undefined } as never,
      trustAfterMs: 100,
      rule: () => undefined,
    });
    disposals.push(() => old.close());
    await expect(old.get('peer', 'kept', AbortSignal.timeout(2000))).rejects.toThrow();
    await one.close();
    using store = openVoterStore(peers.statePath('host1'));
    expect(store.membership().sessions['host3']).toBe(retiredSession);
  });
});

function seqOf(record: RegistryRecord): number {
  return Number(record.value['seq']);
}
