// What the `peers` engine does when processes die, disks stay, certificates are wrong and requests are malformed. Real TLS, real
// disks; voters that are killed run as processes of their own.

import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { stat } from 'node:fs/promises';
import { request } from 'node:https';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, describe, expect, it } from 'vitest';
import { createKeys, type NodeKeys } from '#agent/registry/peers/keys.ts';
import { openVoterStore } from '#agent/registry/peers/store.ts';
import { readTlsFiles } from '#agent/registry/peers/tls.ts';
import type { Registry, RegistryRecord, WatchEvent } from '#agent/registry/registry.ts';
import { createPeersCluster, type PeersCluster } from '#test/support/peers-cluster.ts';
import { programPath } from '#test/support/programs.ts';
import { sampleValue, until } from '#test/support/registry-contract.ts';

const signal = new AbortController().signal;
const disposals: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const dispose of disposals.splice(0).toReversed()) await dispose();
}, 20_000);

async function cluster(voters: number): Promise<PeersCluster> {
  const made = await createPeersCluster(voters);
  disposals.push(async () => made[Symbol.asyncDispose]());
  return made;
}

async function open(peers: PeersCluster, name: string, keys?: NodeKeys): Promise<Registry> {
  const registry = await peers.open(name, keys);
  disposals.push(() => registry.close());
  return registry;
}

async function create(registry: Registry, name: string): Promise<RegistryRecord> {
  const outcome = await registry.create('peer', name, sampleValue('peer', 0), signal);
  if (outcome.kind !== 'ok') throw new Error(JSON.stringify(outcome));
  return outcome.record;
}

interface NodeProcess {
  readonly child: ChildProcess;
  ask(op: string, name: string): Promise<unknown>;
  kill(): Promise<void>;
}

async function startNode(peers: PeersCluster, name: string): Promise<NodeProcess> {
  const options = {
    self: name,
    voters: peers.voters,
    tls: peers.keys.get(name),
    statePath: peers.statePath(name),
    trustAfterMs: 300,
  };
  const args = ['--disable-warning=ExperimentalWarning', programPath('peers-node'), JSON.stringify(options)];
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const waiting = new Map<number, (result: unknown) => void>();
  const ready = Promise.withResolvers<void>();
  createInterface({ input: child.stdout }).on('line', (line) => {
    const message = JSON.parse(line) as { ready?: boolean; id?: number; result?: unknown; error?: string };
    if (message.ready === true) ready.resolve();
    else waiting.get(message.id ?? -1)?.(message.error ?? message.result);
  });
  child.once('exit', () => ready.reject(new Error(`${name} ended before it was ready`)));
  await ready.promise;
  let nextId = 0;
  const kill = async (): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
  };
  disposals.push(kill);
  return {
    child,
    kill,
    ask: (op, recordName) =>
      new Promise((resolve) => {
        nextId += 1;
        waiting.set(nextId, resolve);
        const line = { id: nextId, op, kind: 'peer', name: recordName, value: sampleValue('peer', 0) };
        child.stdin?.write(`${JSON.stringify(line)}\n`);
      }),
  };
}

describe('voters that die', { timeout: 30_000 }, () => {
  it('works between three processes while each is killed and started again in turn', async () => {
    const peers = await cluster(3);
    const names = peers.voters.map((voter) => voter.name);
    const nodes = new Map(await Promise.all(names.map(async (name) => [name, await startNode(peers, name)] as const)));
    expect(await nodes.get('host1')?.ask('create', 'counter')).toMatchObject({ kind: 'ok' });
    let confirmed = 0;
    let unknown = 0;
    for (const victim of [...names, ...names]) {
      await nodes.get(victim)?.kill();
      for (const name of names) {
        if (name === victim) continue;
        for (let turn = 0; turn < 3; turn += 1) {
          const outcome = (await nodes.get(name)?.ask('increment', 'counter')) as { readonly kind: string };
          if (outcome.kind === 'ok') confirmed += 1;
          else if (outcome.kind === 'unknown') unknown += 1;
        }
      }
      nodes.set(victim, await startNode(peers, victim));
    }
    const last = (await nodes.get('host2')?.ask('get', 'counter')) as RegistryRecord;
    expect(Number(last.value['seq'])).toBeGreaterThanOrEqual(confirmed);
    expect(Number(last.value['seq'])).toBeLessThanOrEqual(confirmed + unknown);
    // One at a time and a majority always up: nothing is in doubt.
    expect({ confirmed, unknown }).toEqual({ confirmed: 36, unknown: 0 });
  }, 120_000);

  it('keeps what was confirmed when all voters stop and start again from their disks', async () => {
    const peers = await cluster(3);
    const first = await Promise.all(peers.voters.map(({ name }) => peers.open(name)));
    const record = await create(first[0] as Registry, 'kept');
    await Promise.all(first.map((registry) => registry.close()));
    await Promise.all(peers.voters.map(({ name }) => open(peers, name)));
    const client = await open(peers, 'client1');
    expect(await client.get('peer', 'kept', signal)).toEqual(record);
    expect(await client.list('peer', signal)).toEqual([record]);
  });

  it('reports a lost majority: reads throw, writes are unknown, and both work again when it is back', async () => {
    const peers = await cluster(3);
    const one = await open(peers, 'host1');
    const short = AbortSignal.timeout(300);
    await expect(one.get('peer', 'x', short)).rejects.toThrow();
    await expect(one.list('peer', signal)).rejects.toMatchObject({ kind: 'registry' });
    expect(await one.create('peer', 'x', sampleValue('peer', 0), AbortSignal.timeout(300))).toMatchObject({
      kind: 'unknown',
    });
    await open(peers, 'host2');
    expect(await one.get('peer', 'x', signal)).toBeUndefined();
    // Each of the two that run says so once, however often it has asked.
    const silent = peers.warnings.filter((line) => /^\[{"voter":"host3".*"voter does not answer"]$/.test(line));
    expect(silent.length).toBeLessThanOrEqual(2);
    expect(silent.length).toBeGreaterThan(0);
  });
});

describe('watch', { timeout: 30_000 }, () => {
  it('tells clients of a change within 100 ms, also while a voter is down', async () => {
    const peers = await cluster(3);
    const [one] = await Promise.all(['host1', 'host2'].map((name) => open(peers, name)));
    const client = await open(peers, 'client1');
    const events: WatchEvent[] = [];
    const stop = new AbortController();
    const watching = (async () => {
      for await (const event of client.watch('peer', stop.signal)) events.push(event);
    })();
    let record = await create(one as Registry, 'watched');
    await until(() => events.length > 0, 'first event', 1000);
    const lateMs: number[] = [];
    for (let seq = 1; seq <= 20; seq += 1) {
      const outcome = await one?.update(record, sampleValue('peer', seq), signal);
      if (outcome?.kind !== 'ok') throw new Error(JSON.stringify(outcome));
      record = outcome.record;
      const start = performance.now();
      await until(() => events.at(-1)?.record?.version === record.version, `change ${seq}`, 1000);
      lateMs.push(performance.now() - start);
    }
    stop.abort();
    await watching;
    lateMs.sort((a, b) => a - b);
    expect(lateMs[10]).toBeLessThan(100);
    // Quiet in between: one event for each change, none twice.
    expect(events.length).toBe(21);
  });
});

describe('certificates', { timeout: 30_000 }, () => {
  it('refuses a node whose certificate another authority signed', async () => {
    const peers = await cluster(1);
    await open(peers, 'host1');
    const [stranger] = await createKeys(join(peers.directory, 'other-keys'), [{ name: 'client1', addresses: [] }]);
    const own = peers.keys.get('client1') as NodeKeys;
    const forged = await open(peers, 'client1', { ...(stranger as NodeKeys), ca: own.ca });
    await expect(forged.get('peer', 'x', AbortSignal.timeout(500))).rejects.toThrow();
    expect(await forged.create('peer', 'x', sampleValue('peer', 0), AbortSignal.timeout(500))).toMatchObject({
      kind: 'unknown',
    });
    const honest = await open(peers, 'client1');
    expect(await honest.get('peer', 'x', signal)).toBeUndefined();
  });

  it('does not talk to a voter that cannot prove its name', async () => {
    const peers = await cluster(1);
    await open(peers, 'host1', peers.keys.get('client2'));
    const client = await open(peers, 'client1');
    await expect(client.get('peer', 'x', AbortSignal.timeout(500))).rejects.toThrow();
    expect(peers.warnings.join('\n')).toContain('its certificate is that of client2, not of host1');
  });

  it('requires a certificate and TLS 1.3', async () => {
    const peers = await cluster(1);
    await open(peers, 'host1');
    const tls = await readTlsFiles(peers.keys.get('client1') as NodeKeys);
    await expect(post(peers, { ca: tls.ca }, '{}')).rejects.toThrow();
    await expect(post(peers, { ...tls, maxVersion: 'TLSv1.2' }, '{}')).rejects.toThrow(/version|alert/i);
  });

  it('wants an odd number of voters', async () => {
    const peers = await createPeersCluster(2);
    disposals.push(async () => peers[Symbol.asyncDispose]());
    await expect(peers.open('host1')).rejects.toMatchObject({ kind: 'invalidSetting' });
  });

  it('says which TLS file is missing', async () => {
    const peers = await cluster(1);
    const keys = { ...(peers.keys.get('host1') as NodeKeys), key: join(peers.directory, 'nowhere.pem') };
    await expect(peers.open('host1', keys)).rejects.toMatchObject({
      kind: 'invalidSetting',
      message: expect.stringContaining('nowhere.pem'),
    });
  });
});

describe('malformed requests', { timeout: 30_000 }, () => {
  it('refuses what is not of the protocol, and stays up', async () => {
    const peers = await cluster(1);
    const voter = await open(peers, 'host1');
    const tls = await readTlsFiles(peers.keys.get('client1') as NodeKeys);
    const ballot = { counter: 1, proposer: 'p' };
    const bodies: readonly unknown[] = [
      {},
      [],
      { key: 'peer/a' },
      { key: 'node/a', request: { kind: 'read' } },
      { key: 'peer/../a', request: { kind: 'read' } },
      { key: 'peer/a', request: { kind: 'prepare', ballot: { counter: '1', proposer: 'p' } } },
      { key: 'peer/a', request: { kind: 'prepare', ballot: { counter: 2 ** 53, proposer: 'p' } } },
      { key: 'peer/a', request: { kind: 'prepare', ballot, extra: true } },
      { key: 'peer/a', request: { kind: 'accept', ballot, voterId: 'v', cell: { uid: 'u' } } },
    ];
    for (const body of bodies) expect(await post(peers, tls, JSON.stringify(body))).toBe(400);
    expect(await post(peers, tls, 'not json')).toBe(400);
    expect(await post(peers, tls, `"${'x'.repeat(100_000)}"`)).toBe(413);
    expect(await post(peers, tls, JSON.stringify({ key: 'peer/a', request: { kind: 'read' } }))).toBe(200);
    expect(await voter.get('peer', 'a', signal)).toBeUndefined();
  });
});

describe('voter store', { timeout: 30_000 }, () => {
  it('is private, keeps its id, and is never open twice', async () => {
    const peers = await cluster(1);
    const path = peers.statePath('host1');
    const first = openVoterStore(path);
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    expect(() => openVoterStore(path)).toThrow(/locked/);
    const { diskId } = first;
    first[Symbol.dispose]();
    using second = openVoterStore(path);
    expect(second.diskId).toBe(diskId);
  });
});

function post(peers: PeersCluster, tls: object, body: string): Promise<number | undefined> {
  const port = peers.voters[0]?.port;
  const headers = { 'content-type': 'application/json' };
  return new Promise((resolve, reject) => {
    const outgoing = request(
      { ...tls, agent: false, host: '127.0.0.1', port, path: '/v1/acceptor', method: 'POST', headers },
      (incoming) => {
        incoming.resume();
        incoming.on('end', () => resolve(incoming.statusCode));
        incoming.on('error', reject);
      },
    );
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}
