// `weft ipam reclaim` over real voters, and over an API server's stand-in; the agent's status is what an agent would say.
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ipamReclaim } from '#agent/cli/ipam-reclaim.ts';
import { createKeys } from '#agent/registry/peers/keys.ts';
import { openPeersRegistry } from '#agent/registry/peers/peers-registry.ts';
import { createVoterDisk } from '#agent/registry/peers/store.ts';
import { mayWrite } from '#agent/registry/peers/writers.ts';
import type { Registry } from '#agent/registry/registry.ts';
import type { Conflict } from '#agent/runtime/ipam.ts';
import { sendJson, startFakeApi } from '#test/support/fake-api.ts';
import { freePorts } from '#test/support/peers-cluster.ts';

const signal = new AbortController().signal;
const closing: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
});

const record = 'n3.1a2b3c4d';
const conflict: Conflict = { name: record, nodeName: 'n3', gone: true, blocks: ['10.44.0.0/15'] };
const value = {
  schema: 1,
  node: { name: 'n3', uid: '1a2b3c4d-0000-4000-8000-000000000003' },
  seq: 7,
  seeded: false,
  blocks: [{ cidr: '10.44.0.0/14', spare: true }],
  granting: [] as readonly unknown[],
  underlay: ['192.0.2.3'],
  overlay: ['10.44.0.1'],
  free: 1024,
  later: 'kept',
};

const founder = { name: 'n1.0a0b0c0d', uid: 'u1' };
const universe = { schema: 1, ranges: ['10.32.0.0/12'], reserved: [], founder };
const own = {
  schema: 1,
  node: { name: 'n1', uid: '0a0b0c0d-0000-4000-8000-000000000001' },
  seq: 7,
  seeded: true,
  blocks: [{ cidr: '10.32.0.0/13' }],
  granting: [],
  underlay: ['192.0.2.1'],
  overlay: ['10.32.0.1'],
  free: 1024,
};

async function directory(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'weft-reclaim-'));
  closing.push(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** Where an agent with these conflicts answers. */
async function agentWith(conflicts: readonly Conflict[]): Promise<string> {
  const peers = [{ self: true, name: 'n1.0a0b0c0d' }];
  const pools = [
    { name: 'default', conflicts, peers },
    { name: 'blue', peers: [] },
  ];
  const status = { nodeName: 'n1', pools };
  const server = createServer((_, answer) => answer.end(JSON.stringify(status)));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closing.push(() => new Promise((resolve) => server.close(resolve)));
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

describe('over voters', { timeout: 60_000 }, () => {
  async function cluster(
    conflicts: readonly Conflict[],
    fields: object = {},
  ): Promise<{ readonly config: string; readonly registry: Registry }> {
    const path = await directory();
    const [keys, others] = await createKeys(join(path, 'keys'), [
      { name: 'n1', addresses: ['127.0.0.1'] },
      { name: 'n3', addresses: ['127.0.0.1'] },
    ]);
    const [port = 0] = await freePorts(1);
    if (keys === undefined || others === undefined) throw new Error('no keys');
    createVoterDisk(join(path, 'voter.db'));
    const common = {
      voters: [{ name: 'n1', address: '127.0.0.1', port }],
      log: { info: () => undefined, warn: () => undefined },
    };
    const registry = await openPeersRegistry({
      ...common,
      self: 'n1',
      tls: { ca: keys.ca, cert: keys.cert, key: keys.key },
      statePath: join(path, 'voter.db'),
      rule: mayWrite,
    });
    closing.push(() => registry.close());
    const third = await openPeersRegistry({
      ...common,
      self: 'n3',
      vote: false,
      tls: { ca: others.ca, cert: others.cert, key: others.key },
      statePath: '',
    });
    closing.push(() => third.close());
    await expect
      .poll(() => third.create('peer', record, { ...value, ...fields }, signal), { timeout: 20_000 })
      .toMatchObject({ kind: expect.stringMatching(/ok|conflict/) as string });
    const config = join(path, 'config.json');
    await writeFile(
      config,
      JSON.stringify({
        nodeName: 'n1',
        registry: 'peers',
        nodes: [{ name: 'n1', addresses: ['127.0.0.1'] }],
        voters: ['n1'],
        peersPort: port,
        tlsCa: keys.ca,
        tlsCert: keys.cert,
        tlsKey: keys.key,
        stateDir: path,
        statusListen: await agentWith(conflicts),
      }),
    );
    return { config, registry };
  }

  test('takes out of the record what both have, and nothing else', async () => {
    const { config, registry } = await cluster([conflict], { removed: true });
    expect(await ipamReclaim(['n3', '--config', config], {})).toBe(
      `10.44.0.0/15 left the record ${record}; this node writes its own record back within seconds.\n`,
    );
    expect((await registry.get('peer', record, signal))?.value).toEqual({
      ...value,
      removed: true,
      seq: 8,
      blocks: [{ cidr: '10.46.0.0/15', spare: true }],
    });
  });

  test('of a node that was not declared gone nothing is taken: the voters refuse', async () => {
    const { config, registry } = await cluster([conflict]);
    await expect(ipamReclaim([record, '--config', config], {})).rejects.toThrow(/the voters refuse: .*of another node/);
    expect((await registry.get('peer', record, signal))?.value).toEqual(value);
  });

  test('what cannot be meant is refused with what can', async () => {
    const { config } = await cluster([{ ...conflict, gone: false }]);
    const run = (...argv: readonly string[]): Promise<string> => ipamReclaim([...argv, '--config', config], {});
    await expect(run('n3')).rejects.toThrow('say so first: weft peers remove n3');
    await expect(run('n4')).rejects.toThrow(
      `no block of this node is in a record of n4; records that have one: ${record}`,
    );
    await expect(run('n3', 'n4')).rejects.toThrow('Usage: weft ipam reclaim');
    await expect(run('--pool', 'blue')).rejects.toThrow('this node has no record in the pool blue');
  });

  test('without a name space in no record goes to this node, once every node that had a session has a record', async () => {
    const { config, registry } = await cluster([]);
    const run = async (): Promise<string> => await ipamReclaim(['--config', config], {});
    await registry.create('universe', 'default', universe, signal);
    await registry.create('peer', 'n1.0a0b0c0d', own, signal);
    await registry.create('session', 'n1.99999999.pool-blue', { schema: 1, sessionId: 'a' }, signal);
    await registry.create('session', 'n1.99999999', { schema: 1, sessionId: 'a' }, signal);
    await expect(run()).rejects.toThrow(
      'n1.99999999 had a session and has no record: what its disk knows may be just that space',
    );
    expect((await registry.get('peer', 'n1.0a0b0c0d', signal))?.value).toEqual(own);
    const session = await registry.get('session', 'n1.99999999', signal);
    if (session === undefined) throw new Error('no session');
    await registry.update(session, { ...session.value, removed: true }, signal);
    expect(await run()).toBe("10.40.0.0/14 is this node's now; it is given out once it has rested.\n");
    expect((await registry.get('peer', 'n1.0a0b0c0d', signal))?.value).toEqual({
      ...own,
      seq: 8,
      blocks: [{ cidr: '10.32.0.0/13' }, { cidr: '10.40.0.0/14', quarantine: true }],
    });
    expect(await run()).toBe("Every address of the pool default is in some node's record.\n");
  });
});

test('in Kubernetes it writes nothing and prints the command for who may', async () => {
  await using api = await startFakeApi();
  const metadata = { name: record, uid: 'uid-3', resourceVersion: '42' };
  api.answer = (_, response) => sendJson(response, 200, { metadata, spec: value });
  const config = join(await directory(), 'config.json');
  const settings = { nodeName: 'n1', kubeconfig: api.kubeConfig, statusListen: await agentWith([conflict]) };
  await writeFile(config, JSON.stringify(settings));
  const told = await ipamReclaim(['n3', '--config', config], {});
  const patch = /^ {2}kubectl patch peers\.weft\.network n3\.1a2b3c4d --type=merge -p '(.*)'$/m.exec(told)?.[1] ?? '';
  expect(JSON.parse(patch)).toEqual({
    metadata: { resourceVersion: '42' },
    spec: { seq: 8, blocks: [{ cidr: '10.46.0.0/15', spare: true }], granting: value.granting },
  });
  expect(api.asked.map(({ method }) => method)).toEqual(['GET']);
});

test('in Kubernetes it prints the command for space in no record, and only while every Node has a record', async () => {
  await using api = await startFakeApi();
  const nodes = ['n1', 'n3', 'n4'].map((name, index) => {
    const uid = [own.node.uid, value.node.uid, '44444444-0000-4000-8000-000000000004'][index];
    return { metadata: { name, uid, resourceVersion: '1' } };
  });
  const annotations = { 'weft.network/session': '{"schema":1,"sessionId":"a"}' };
  // Of n2 nothing but its Lease is left.
  const leases = ['n1.0a0b0c0d', 'n2.22222222', 'n4.44444444'].map((name) => ({
    metadata: { name, uid: `lease-${name}`, resourceVersion: '1', annotations },
  }));
  const peers = [
    { metadata: { name: 'n1.0a0b0c0d', uid: 'u1', resourceVersion: '41' }, spec: own },
    { metadata: { name: record, uid: 'u3', resourceVersion: '42' }, spec: value },
  ];
  api.answer = ({ path }, response) => {
    const list = (items: readonly unknown[]): void => sendJson(response, 200, { metadata: {}, items });
    if (path.endsWith('/universes/default'))
      sendJson(response, 200, { metadata: { name: 'default', uid: 'u', resourceVersion: '1' }, spec: universe });
    else if (path.endsWith('/peers')) list(peers);
    else if (path.endsWith('/leases')) list(leases);
    else list(nodes);
  };
  const config = join(await directory(), 'config.json');
  const settings = { nodeName: 'n1', kubeconfig: api.kubeConfig, statusListen: await agentWith([]) };
  await writeFile(config, JSON.stringify(settings));
  await expect(ipamReclaim(['--config', config], {})).rejects.toThrow(/^n4\.44444444 had a session and has no record/);
  nodes.pop();
  const told = await ipamReclaim(['--config', config], {});
  const patch = /^ {2}kubectl patch peers\.weft\.network n1\.0a0b0c0d --type=merge -p '(.*)'$/m.exec(told)?.[1] ?? '';
  expect(JSON.parse(patch)).toEqual({
    metadata: { resourceVersion: '41', labels: { 'weft.network/space-wide': '' } },
    spec: { seq: 8, blocks: [{ cidr: '10.32.0.0/13' }, { cidr: '10.40.0.0/14', quarantine: true }] },
  });
  expect(new Set(api.asked.map(({ method }) => method))).toEqual(new Set(['GET']));
});
