// The `kubernetes` engine against a real kube-apiserver and etcd: the contract suite with the agent's own rights, then what only
// a real API server shows: rights, schema, write-once fields, restarts, expired watches.

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { NodeIdentity, PeerNode } from '#agent/discovery/discovery.ts';
import { startKubernetesDiscovery } from '#agent/discovery/kubernetes.ts';
import { reportNetworkAvailable } from '#agent/discovery/node-condition.ts';
import type { Registry, RegistryRecord, WatchEvent } from '#agent/registry/registry.ts';
import { openKubernetesRegistry } from '#agent/registry/kubernetes/kubernetes-registry.ts';
import { openKubeApi, type KubeApi } from '#agent/kubernetes/api.ts';
import { listAll, type KubeObject } from '#agent/kubernetes/list-watch.ts';
import { startApiServer, type ApiServer } from '#test/support/api-server.ts';
import { registryContract, sampleValue, until } from '#test/support/registry-contract.ts';
import { clusterPrograms } from './registry-programs.ts';

const signal = new AbortController().signal;
const deploy = new URL('../../deploy/base/', import.meta.url).pathname;
const warnings: string[] = [];
const log = {
  info: () => undefined,
  warn: (...parts: readonly unknown[]) => void warnings.push(JSON.stringify(parts)),
};

let server: ApiServer;
let serverStarting: Promise<ApiServer> | undefined;

/** One server for the whole file; started by whoever comes first. */
function sharedServer(): Promise<ApiServer> {
  serverStarting ??= (async () => {
    const started = await startApiServer(await clusterPrograms());
    const files = ['namespace.yaml', 'crd.yaml', 'rbac.yaml'].flatMap((name) => ['-f', join(deploy, name)]);
    const applied = await started.kubectl(['apply', ...files]);
    if (applied.code !== 0) throw new Error(applied.output);
    const established = await started.kubectl([
      'wait',
      '--for=condition=Established',
      '--timeout=30s',
      'crd/peers.weft.network',
      'crd/universes.weft.network',
    ]);
    if (established.code !== 0) throw new Error(established.output);
    return started;
  })();
  return serverStarting;
}

function openAs(who: 'admin' | 'weft'): Promise<Registry> {
  return openKubernetesRegistry({ namespace: 'weft', kubeConfig: server.kubeConfig(who), log: log as never });
}

beforeAll(async () => {
  server = await sharedServer();
}, 120_000);
afterAll(async () => {
  await server?.[Symbol.asyncDispose]();
});

registryContract('kubernetes', async () => {
  server = await sharedServer();
  return {
    // Admin's rights: the agent may not delete a Universe, which the suite does.
    open: () => openAs('admin'),
    [Symbol.asyncDispose]: async () => undefined,
  };
});

describe('with the rights of the agent', () => {
  it('does with peers and sessions all that the registry offers, and reads and updates the universe', async () => {
    await using registry = disposable(await openAs('weft'));
    for (const kind of ['peer', 'session'] as const) {
      const made = await registry.create(kind, `rights-${kind}`, sampleValue(kind, 1), signal);
      if (made.kind !== 'ok') throw new Error(JSON.stringify(made));
      const updated = await registry.update(made.record, sampleValue(kind, 2), signal);
      if (updated.kind !== 'ok') throw new Error(JSON.stringify(updated));
      expect(await registry.list(kind, signal)).toContainEqual(updated.record);
      expect(await registry.delete(updated.record, signal)).toEqual({ kind: 'ok' });
    }
    await applyUniverse('rights');
    const universe = (await registry.get('universe', 'rights', signal)) as RegistryRecord;
    const founder = { name: 'host1.00000000', uid: '3f0c9a52-0000-4000-8000-000000000001' };
    const founded = await registry.update(universe, { ...universe.value, founder }, signal);
    expect(founded).toMatchObject({ kind: 'ok', record: { value: { founder } } });
  });

  it('is refused, with the reason, what the agent must not do', async () => {
    await using registry = disposable(await openAs('weft'));
    await applyUniverse('kept');
    const kept = (await registry.get('universe', 'kept', signal)) as RegistryRecord;
    expect(await registry.delete(kept, signal)).toMatchObject({
      kind: 'refused',
      reason: expect.stringContaining('cannot delete resource "universes"'),
    });
    const weft = openWeft();
    const attempts = [
      { method: 'DELETE', path: '/apis/weft.network/v1alpha1/peers' },
      {
        method: 'PATCH',
        path: '/apis/weft.network/v1alpha1/peers/x',
        body: {},
        contentType: 'application/merge-patch+json',
      },
      { method: 'GET', path: '/api/v1/secrets' },
      { method: 'GET', path: '/api/v1/pods' },
      { method: 'GET', path: '/apis/coordination.k8s.io/v1/namespaces/kube-system/leases' },
      { method: 'PATCH', path: '/api/v1/nodes/x', body: {}, contentType: 'application/merge-patch+json' },
    ] as const;
    for (const attempt of attempts) {
      expect(await weft.call(attempt, signal), attempt.path).toMatchObject({ status: 403 });
    }
    weft.close();
  });
});

describe('the schema', () => {
  it('refuses malformed records, naming the field', async () => {
    await using registry = disposable(await openAs('weft'));
    const good = sampleValue('peer', 1);
    const bad: readonly (readonly [object, RegExp])[] = [
      [{ ...good, node: undefined }, /spec.node/],
      [{ ...good, seq: -1 }, /spec.seq/],
      [{ ...good, seq: 'one' }, /spec.seq/],
      [{ ...good, blocks: [{ cidr: '10.32.0.1/12' }] }, /host bits/],
      [{ ...good, blocks: [{ cidr: 'not a block' }] }, /blocks\[0\].cidr/],
      [{ ...good, blocks: Array.from({ length: 200 }, () => ({ cidr: '10.32.0.0/24' })) }, /must have at most 128/],
      [{ ...good, granting: [{ id: 1, cidr: '10.32.0.0/24' }] }, /granting\[0\].to/],
      [{ ...good, underlay: ['10.0.0.256'] }, /must be an address/],
    ];
    for (const [value, reason] of bad) {
      const outcome = await registry.create('peer', 'malformed', value as never, signal);
      expect(outcome).toMatchObject({ kind: 'refused', reason: expect.stringMatching(reason) });
    }
  });

  it('keeps an heir, and lets founder and the founded ranges be written once', async () => {
    await using registry = disposable(await openAs('weft'));
    const made = await registry.create('peer', 'heir', sampleValue('peer', 1), signal);
    if (made.kind !== 'ok') throw new Error(JSON.stringify(made));
    const heir = { name: 'host2.11111111', uid: '3f0c9a52-0000-4000-8000-000000000002' };
    const closed = await registry.update(made.record, { ...sampleValue('peer', 2), heir }, signal);
    if (closed.kind !== 'ok') throw new Error(JSON.stringify(closed));
    const other = { ...heir, name: 'host3.22222222' };
    expect(await registry.update(closed.record, sampleValue('peer', 3), signal)).toMatchObject({
      kind: 'refused',
      reason: expect.stringContaining('an heir is not removed'),
    });
    await applyUniverse('once');
    const universe = (await registry.get('universe', 'once', signal)) as RegistryRecord;
    const founded = await registry.update(universe, { ...universe.value, founder: heir }, signal);
    if (founded.kind !== 'ok') throw new Error(JSON.stringify(founded));
    for (const change of [{ founder: other }, { founder: undefined }, { ranges: ['10.0.0.0/8'] }]) {
      const outcome = await registry.update(founded.record, { ...founded.record.value, ...change }, signal);
      expect(outcome).toMatchObject({ kind: 'refused' });
    }
  });

  it('keeps labels and the annotation of kubectl when the agent updates, also from a copied record', async () => {
    await using registry = disposable(await openAs('weft'));
    await applyUniverse('labels');
    const record = (await registry.get('universe', 'labels', signal)) as RegistryRecord;
    const copy = structuredClone(record);
    const founder = { name: 'host1.00000000', uid: '3f0c9a52-0000-4000-8000-000000000001' };
    const reserved = ['10.43.0.0/16'];
    expect(await registry.update(copy, { ...copy.value, founder, reserved }, signal)).toMatchObject({ kind: 'ok' });
    const shown = await server.kubectl(['get', 'universe', 'labels', '-o', 'json']);
    const { metadata } = JSON.parse(shown.output) as { readonly metadata: Record<string, Record<string, string>> };
    expect(metadata['labels']).toEqual({ 'app.kubernetes.io/name': 'weft' });
    expect(metadata['annotations']).toHaveProperty(['kubectl.kubernetes.io/last-applied-configuration']);
    expect((await applyUniverse('labels')).output).toContain('unchanged');
  });

  it('prints what an operator looks for', async () => {
    await using registry = disposable(await openAs('weft'));
    const value = { ...sampleValue('peer', 1), blocks: [{ cidr: '10.32.0.0/13' }], underlay: ['192.0.2.7'] };
    expect(await registry.create('peer', 'printed', value, signal)).toMatchObject({ kind: 'ok' });
    const { output } = await server.kubectl(['get', 'weftpeers', 'printed']);
    expect(output).toMatch(/NAME +NODE +UNIVERSE +BLOCKS +UNDERLAY/);
    expect(output).toMatch(/printed +host1 +10\.32\.0\.0\/13 +192\.0\.2\.7/);
  });
});

describe('nodes', () => {
  it('are discovered, one as its peer asks for it, missed when they are gone; the own one is told that its network is up', async () => {
    await createNode('node1', '192.0.2.1');
    await createNode('node2', '192.0.2.2');
    const stateDir = join(server.directory, 'state');
    const kubeConfig = server.kubeConfig('weft');
    const discovery = await startKubernetesDiscovery({
      nodeName: 'node1',
      stateDir,
      kubeConfig,
      lookEveryMs: 500,
      log: log as never,
    });
    expect(discovery.self.underlayAddresses).toEqual(['192.0.2.1']);
    const known = (): string =>
      discovery
        .nodes()
        .map(({ nodeName }) => nodeName)
        .toSorted()
        .join();
    expect(known()).toBe('node1,node2');
    const peerOf = ({ nodeName: name, nodeUid: uid, underlayAddresses: underlay }: NodeIdentity): PeerNode => {
      return { name, uid, underlay, takenOver: false };
    };
    const second = discovery.nodes().filter(({ nodeName }) => nodeName === 'node2');
    const node3 = { nodeName: 'node3', nodeUid: await createNode('node3', '192.0.2.3'), underlayAddresses: [] };
    const stop = discovery.attend?.({
      peerNodes: () => [...second, node3].map(peerOf),
      wards: () => second.map(peerOf),
      onChange: () => () => undefined,
    });
    await until(() => known() === 'node1,node2,node3', 'node3', 5000);
    await server.kubectl(['delete', 'node', 'node2']);
    await until(() => known() === 'node1,node3', 'the deletion', 5000);
    expect(discovery.goneUids?.()).toEqual(new Set(second.map(({ nodeUid }) => nodeUid)));
    stop?.();
    await reportNetworkAvailable({ nodeName: 'node1', kubeConfig, log: log as never }, signal);
    const path = '{.status.conditions[?(@.type=="NetworkUnavailable")].reason}';
    const shown = await server.kubectl(['get', 'node', 'node1', '-o', `jsonpath=${path}`]);
    expect(shown.output).toBe('WeftIsUp');
    await discovery.close();
  }, 30_000);
});

it('lists over several pages of a real server, at one revision', async () => {
  const path = '/apis/weft.network/v1alpha1/peers';
  const whole = await listAll(server.admin, path, {}, signal);
  const paged = await listAll(server.admin, path, { limit: '7' }, signal);
  expect(whole.objects.length).toBeGreaterThan(100);
  expect(paged.objects).toEqual(whole.objects);
});

describe('trouble', () => {
  it('fails plainly without the CRDs, instead of reading that nothing exists', async () => {
    await using registry = disposable(await openAs('admin'));
    const missing = { path: '/apis/weft.network/v1alpha1/nothing/x', method: 'GET' } as const;
    expect(await server.admin.call(missing, signal)).toMatchObject({ status: 404 });
    expect(await registry.get('peer', 'nobody', signal)).toBeUndefined();
    await server.kubectl(['delete', 'crd', 'universes.weft.network']);
    await expect(registry.get('universe', 'x', signal)).rejects.toMatchObject({ kind: 'registry' });
    expect(await registry.update(universeNever, {}, signal)).toMatchObject({ kind: 'refused' });
    await server.kubectl(['apply', '-f', join(deploy, 'crd.yaml')]);
  }, 30_000);

  it('survives an API server that goes away: writes are unknown, reads throw, the watch goes on where it was', async () => {
    await using registry = disposable(await openAs('weft'));
    const made = await registry.create('peer', 'away', sampleValue('peer', 1), signal);
    if (made.kind !== 'ok') throw new Error(JSON.stringify(made));
    const events: WatchEvent[] = [];
    const stop = new AbortController();
    const watching = (async () => {
      for await (const event of registry.watch('peer', stop.signal)) if (event.name === 'away') events.push(event);
    })();
    await until(() => events.length === 1, 'the first event', 5000);
    await server.stop();
    await expect(registry.get('peer', 'away', signal)).rejects.toMatchObject({ kind: 'registry' });
    expect(await registry.update(made.record, sampleValue('peer', 2), signal)).toMatchObject({ kind: 'unknown' });
    expect(await registry.delete(made.record, signal)).toMatchObject({ kind: 'unknown' });
    await server.start();
    const updated = await registry.update(made.record, sampleValue('peer', 3), signal);
    if (updated.kind !== 'ok') throw new Error(JSON.stringify(updated));
    await until(() => events.at(-1)?.record?.version === updated.record.version, 'the update', 30_000);
    expect(events).toHaveLength(2);
    stop.abort();
    await watching;
  }, 90_000);
});

const universeNever: RegistryRecord = { kind: 'universe', name: 'x', uid: 'u', version: '1', value: {} };

async function applyUniverse(name: string): Promise<{ readonly code: number; readonly output: string }> {
  const example = await readFile(join(deploy, '../examples/universe.yaml'), 'utf8');
  // What the founder adds to `reserved` must outlive the next apply: then the file must not name the field.
  const text = example.replace('name: default', `name: ${name}`).replace(/^ *reserved: \[\]\n/m, '');
  const applied = await server.kubectl(['apply', '-f', '-'], text);
  if (applied.code !== 0) throw new Error(applied.output);
  return applied;
}

/** Resolves to its uid. */
async function createNode(name: string, address: string): Promise<string> {
  const status = { addresses: [{ type: 'InternalIP', address }] };
  const node = { apiVersion: 'v1', kind: 'Node', metadata: { name }, status };
  const made = await server.admin.call({ method: 'POST', path: '/api/v1/nodes', body: node }, signal);
  if (made.status !== 201) throw new Error(JSON.stringify(made.body));
  return (made.body as KubeObject).metadata.uid;
}

function disposable(registry: Registry): Registry & AsyncDisposable {
  return { ...registry, [Symbol.asyncDispose]: () => registry.close() };
}

function openWeft(): KubeApi {
  return openKubeApi({ kubeConfig: server.kubeConfig('weft') });
}
