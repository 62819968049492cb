// Nodes followed over an API server that is away at start, answers late, or has registered this node anew.

import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ServerResponse } from 'node:http';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Discovery } from '#agent/discovery/discovery.ts';
import { startKubernetesDiscovery } from '#agent/discovery/kubernetes.ts';
import { reportNetworkAvailable } from '#agent/discovery/node-condition.ts';
import { sendJson, sendLine, startFakeApi, type FakeApi } from '#test/support/fake-api.ts';
import { until } from '#test/support/registry-contract.ts';

let fake: FakeApi;
let watches: ServerResponse[];
let logged: string[];
const running: Discovery[] = [];

// The Kubernetes client takes its time to load; that is not what the tests measure.
beforeAll(() => import('#agent/kubernetes/credentials.ts'), 60_000);
beforeEach(async () => {
  fake = await startFakeApi();
  watches = [];
  logged = [];
});
afterEach(async () => {
  for (const discovery of running.splice(0)) await discovery.close();
  await fake[Symbol.asyncDispose]();
});

function node(name: string, uid: string, addresses: readonly string[], resourceVersion = '1'): object {
  const internal = addresses.map((address) => ({ type: 'InternalIP', address }));
  return {
    metadata: { name, uid, resourceVersion },
    status: {
      addresses: [{ type: 'Hostname', address: name }, { type: 'ExternalIP', address: '203.0.113.9' }, ...internal],
    },
  };
}

function serve(nodes: readonly object[]): void {
  fake.answer = ({ path, query }, response) => {
    if (query.get('watch') !== null) {
      watches.push(response.writeHead(200));
      response.flushHeaders();
    } else if (path === '/api/v1/nodes') {
      const only = query.get('fieldSelector')?.replace('metadata.name=', '');
      const items = nodes.filter((one) => only === undefined || nameOf(one) === only);
      sendJson(response, 200, { metadata: { resourceVersion: '5' }, items });
    } else {
      const found = nodes.find((one) => path.endsWith(`/${nameOf(one)}`));
      sendJson(response, found === undefined ? 404 : 200, found ?? { reason: 'NotFound', message: 'not found' });
    }
  };
}

async function start(nodeName = 'host1'): Promise<Discovery> {
  const say = (...parts: readonly unknown[]): void => void logged.push(JSON.stringify(parts));
  const discovery = await startKubernetesDiscovery({
    nodeName,
    stateDir: join(fake.directory, 'state'),
    kubeConfig: fake.kubeConfig,
    log: { info: say, warn: say, error: say } as never,
  });
  running.push(discovery);
  return discovery;
}

const nameOf = (one: object): string => (one as { metadata: { name: string } }).metadata.name;
const names = (discovery: Discovery): readonly string[] => discovery.nodes().map(({ nodeName }) => nodeName);

describe('discovery', { timeout: 30_000 }, () => {
  it('knows every node at once, follows its own alone, and says what changes in uid or address only', async () => {
    serve([node('host1', 'u1', ['192.0.2.1', '2001:db8::1']), node('host2', 'u2', ['192.0.2.2'])]);
    const discovery = await start();
    expect(discovery.self).toEqual({
      nodeName: 'host1',
      nodeUid: 'u1',
      underlayAddresses: ['192.0.2.1', '2001:db8::1'],
    });
    expect(names(discovery)).toEqual(['host1', 'host2']);
    let changes = 0;
    discovery.onChange(() => (changes += 1));
    await until(() => watches.length === 1, 'the watch', 2000);
    const asked = fake.asked.filter(({ query }) => query.get('watch') !== null);
    expect(asked.map(({ query }) => query.get('fieldSelector'))).toEqual(['metadata.name=host1']);
    const watch = watches[0] as ServerResponse;
    sendLine(watch, 'MODIFIED', node('host1', 'u1', ['192.0.2.1', '2001:db8::1'], '6'));
    sendLine(watch, 'MODIFIED', node('host1', 'u1', ['192.0.2.11'], '7'));
    await until(() => discovery.self.underlayAddresses[0] === '192.0.2.11', 'the own new address', 2000);
    expect(changes).toBe(1);
    expect(discovery.nodes()[0]?.underlayAddresses).toEqual(['192.0.2.11']);
    expect(discovery.goneUids?.()).toEqual(new Set());
  });

  it('starts from its disk while the API server is away, and goes on following when it is back', async () => {
    serve([node('host1', 'u1', ['192.0.2.1'])]);
    await (await start()).close();
    const path = join(fake.directory, 'state', 'node-identity.json');
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    fake.answer = (_asked, response) => void response.destroy();
    const began = performance.now();
    const discovery = await start();
    expect(performance.now() - began).toBeLessThan(1000);
    expect(discovery.self).toMatchObject({ nodeUid: 'u1', underlayAddresses: ['192.0.2.1'] });
    serve([node('host1', 'u1', ['192.0.2.1']), node('host2', 'u2', ['192.0.2.2'])]);
    await until(() => names(discovery).length === 2, 'host2', 10_000);
  });

  it('waits for its first identity, and takes nobody else’s from the disk', async () => {
    fake.answer = (_asked, response) => sendJson(response, 503, { message: 'starting' });
    await mkdir(join(fake.directory, 'state'));
    const cloned = { nodeName: 'host9', nodeUid: 'u9', underlayAddresses: ['192.0.2.9'] };
    await writeFile(join(fake.directory, 'state', 'node-identity.json'), JSON.stringify(cloned));
    const starting = start();
    await until(() => fake.asked.length >= 2, 'a second try', 5000);
    serve([node('host1', 'u1', ['192.0.2.1'])]);
    expect((await starting).self.nodeUid).toBe('u1');
    expect(logged.join()).toContain('not of this node');
  });

  it('takes a new identity at start when the node was registered anew, and keeps its own while it runs', async () => {
    serve([node('host1', 'u1', ['192.0.2.1'])]);
    await (await start()).close();
    watches = [];
    serve([node('host1', 'u2', ['192.0.2.1'])]);
    const discovery = await start();
    expect(discovery.self.nodeUid).toBe('u2');
    expect(logged.join()).toContain('registered anew');
    const kept = await readFile(join(fake.directory, 'state', 'node-identity.json'), 'utf8');
    expect(kept).toContain('"u2"');
    await until(() => watches.length === 1, 'the watch', 2000);
    sendLine(watches[0] as ServerResponse, 'DELETED', node('host1', 'u2', ['192.0.2.1'], '6'));
    sendLine(watches[0] as ServerResponse, 'ADDED', node('host1', 'u3', ['192.0.2.1'], '7'));
    await until(() => discovery.nodes()[0]?.nodeUid === 'u3', 'the other identity', 2000);
    expect(discovery.self.nodeUid).toBe('u2');
    expect(discovery.goneUids?.()).toEqual(new Set(['u2']));
    expect(logged.filter((line) => line.includes('the Node that this agent stands for is gone'))).toHaveLength(1);
  });
});

describe('node condition', { timeout: 30_000 }, () => {
  const log = { info: () => undefined, warn: () => undefined } as never;

  it('is written once, tried until it is, and touches no other condition', async () => {
    let conditions: readonly object[] = [{ type: 'Ready', status: 'True' }];
    let labels: Readonly<Record<string, string>> = { kept: 'yes' };
    let failures = 1;
    fake.answer = ({ method, path, body }, response) => {
      if (method === 'GET')
        return sendJson(response, 200, { metadata: { uid: 'c0ffee00', labels }, status: { conditions } });
      failures -= 1;
      if (failures >= 0) return sendJson(response, 500, { message: 'later' });
      expect(path).toBe('/api/v1/nodes/host1/status');
      const patch = JSON.parse(body) as { metadata: { labels: object }; status: { conditions: readonly object[] } };
      labels = { ...labels, ...patch.metadata.labels };
      conditions = [...conditions, ...patch.status.conditions];
      return sendJson(response, 200, {});
    };
    const options = { nodeName: 'host1', kubeConfig: fake.kubeConfig, log };
    await reportNetworkAvailable(options, AbortSignal.timeout(5000));
    expect(conditions).toMatchObject([
      { type: 'Ready' },
      { type: 'NetworkUnavailable', status: 'False', reason: 'WeftIsUp' },
    ]);
    expect(labels).toEqual({ kept: 'yes', 'weft.network/part': 'c' });
    const before = fake.asked.length;
    await reportNetworkAvailable(options, AbortSignal.timeout(5000));
    expect(fake.asked.slice(before).map(({ method }) => method)).toEqual(['GET']);
  });
});
