// A second pool, made while the cluster runs: pods of its namespace have addresses of it on every node, a pod that says otherwise does
// not, and all of them reach each other; no agent was restarted for it.
import { afterAll, beforeAll, expect, test } from 'vitest';

import { until } from '../cluster/host.ts';
import { ask, nodeClient, podClient } from '../support/clients.ts';
import { currentCluster } from '../support/environment.ts';
import { agentStatus, inBlocks } from '../support/ring.ts';
import { podPort, Workspace, type TestPod } from '../support/workspace.ts';

const cluster = currentCluster();
const blueRange = '10.64.0.0/16';

let workspace: Workspace;
let startedAtMs: readonly number[] = [];
let blue: readonly TestPod[] = [];
let plain: TestPod | undefined;

interface UniverseSpec {
  readonly ranges: readonly string[];
  readonly namespaces?: readonly string[];
}

async function makeUniverse(name: string, spec: UniverseSpec): Promise<void> {
  const universe = { apiVersion: 'weft.network/v1alpha1', kind: 'Universe', metadata: { name }, spec };
  await cluster.plane.kubectl(['create', '-f', '-'], { input: JSON.stringify(universe) });
}

async function starts(): Promise<readonly number[]> {
  return await Promise.all(cluster.nodes.map(async (node) => (await agentStatus(node)).startedAtMs));
}

beforeAll(async () => {
  startedAtMs = await starts();
  workspace = await Workspace.create(cluster, 'pooled');
});

afterAll(async () => {
  await workspace[Symbol.asyncDispose]();
});

test('pods of its namespace get addresses of it, on every node, seconds after it was made', async () => {
  await makeUniverse('blue', { ranges: [blueRange], namespaces: ['pooled'] });
  await until('every agent serves the pool', 30_000, async () => {
    const pools = await Promise.all(cluster.nodes.map(async (node) => (await agentStatus(node)).pools));
    return pools.every((list) => list.some((pool) => pool.name === 'blue'));
  });
  blue = await workspace.addPods(cluster.nodes.map((node) => ({ name: `blue-${node.name}`, node: node.name })));
  for (const pod of blue) expect(inBlocks(pod.address, [blueRange]), `${pod.name}: ${pod.address}`).toBe(true);
  const { items } = await cluster.plane.kubectlJson<{
    readonly items: readonly { readonly spec: { readonly universe?: string; readonly blocks: readonly object[] } }[];
  }>(['get', 'weftpeers']);
  const joined = items.filter((item) => item.spec.universe === 'blue' && item.spec.blocks.length > 0);
  expect(joined).toHaveLength(cluster.nodes.length);
});

test('a pod of the namespace that names the default pool gets an address of that', async () => {
  const [node] = cluster.nodes;
  const annotations = { 'weft.network/pool': 'default' };
  [plain] = await workspace.addPods([{ name: 'plain', node: node?.name ?? '', annotations }]);
  expect(inBlocks(plain?.address ?? '', ['10.32.0.0/12'])).toBe(true);
});

test('pods of both pools and the nodes reach each other', async () => {
  const pods = plain === undefined ? blue : [...blue, plain];
  const urls = pods.map((pod) => `http://${pod.address}:${podPort}/hostname`);
  const expected = Object.fromEntries(pods.map((pod, index) => [urls[index], pod.name]));
  for (const pod of pods) expect(await ask(podClient(cluster, pod), urls), `from ${pod.name}`).toEqual(expected);
  for (const node of cluster.nodes) {
    expect(await ask(nodeClient(cluster, node.name), urls), `from ${node.name}`).toEqual(expected);
  }
});

test('a pod that names a pool nobody knows says so, and starts once the pool is there', async () => {
  const [node] = cluster.nodes;
  const wish = { name: 'early', node: node?.name ?? '', annotations: { 'weft.network/pool': 'green' } };
  await workspace.createPods([wish]);
  await until('the pod tells what is wrong', 60_000, async () => {
    const { items } = await cluster.plane.kubectlJson<{ readonly items: readonly { readonly message?: string }[] }>([
      '-n',
      'pooled',
      'get',
      'events',
      '--field-selector=involvedObject.name=early',
    ]);
    return items.some(({ message = '' }) => message.includes('no pool "green": there is no Universe of that name'));
  });
  await makeUniverse('green', { ranges: ['10.65.0.0/24'] });
  const [pod] = await workspace.awaitPods([wish]);
  expect(inBlocks(pod?.address ?? '', ['10.65.0.0/24'])).toBe(true);
});

test('no agent was restarted for any of this', async () => {
  expect(await starts()).toEqual(startedAtMs);
});

test('a ServiceCIDR that is added inside the range is found by who asks the agent to look, and is none once it is gone', async () => {
  const [node] = cluster.nodes;
  if (node === undefined) throw new Error('a cluster has nodes');
  const found = async (): Promise<readonly unknown[]> => {
    const status = await node.run(['curl', '-fsS', '--max-time', '5', 'http://127.0.0.1:6785/api/status?fresh=true']);
    const { findings } = JSON.parse(status) as Awaited<ReturnType<typeof agentStatus>>;
    return findings.filter(({ name }) => name === 'rangeOverlapsServices').map(({ subject }) => subject);
  };
  expect(await found()).toEqual([]);
  const spec = { cidrs: ['10.47.240.0/24'] };
  const added = { apiVersion: 'networking.k8s.io/v1', kind: 'ServiceCIDR', metadata: { name: 'inside' }, spec };
  await cluster.plane.kubectl(['create', '-f', '-'], { input: JSON.stringify(added) });
  try {
    await until('it is found', 10_000, async () => (await found()).includes('10.47.240.0/24'));
  } finally {
    await cluster.plane.kubectl(['delete', 'servicecidr', 'inside']);
  }
  await until('it is gone', 10_000, async () => (await found()).length === 0);
});
