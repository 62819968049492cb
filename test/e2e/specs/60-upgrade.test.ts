// Another version of Weft under traffic, and its way back.
import { afterAll, beforeAll, expect, test } from 'vitest';

import { podClient } from '../support/clients.ts';
import { currentCluster } from '../support/environment.ts';
import { watchReadiness } from '../support/nodes.ts';
import { expectNoLoss, streamAllPairs } from '../support/stream.ts';
import { startEcho, startTcpStream } from '../support/tcp-stream.ts';
import { Workspace, type TestPod } from '../support/workspace.ts';

const cluster = currentCluster();
const { plane } = cluster;

let workspace: Workspace;
let pods: readonly TestPod[] = [];

beforeAll(async () => {
  workspace = await Workspace.create(cluster, 'upgrade');
  await workspace.addService('web', { app: 'web' });
  const wishes = cluster.nodes.map((node) => ({ name: `w-${node.name}`, node: node.name, labels: { app: 'web' } }));
  pods = await workspace.addPods(wishes);
  for (const pod of pods) await startEcho(podClient(cluster, pod));
});

afterAll(async () => {
  await workspace[Symbol.asyncDispose]();
});

/** What a change of any endpoint would change. */
async function slices(): Promise<readonly string[]> {
  const { items } = await plane.kubectlJson<{
    readonly items: readonly {
      readonly metadata: { readonly namespace: string; readonly name: string; readonly resourceVersion: string };
    }[];
  }>(['get', 'endpointslices', '-A']);
  return items
    .filter(({ metadata }) => ['upgrade', 'kube-system', 'default'].includes(metadata.namespace))
    .map(({ metadata }) => `${metadata.namespace} ${metadata.name} ${metadata.resourceVersion}`)
    .toSorted();
}

const image = async (): Promise<string> =>
  await plane.kubectl(['-n', 'weft', 'get', 'ds', 'weft', '-o', 'jsonpath={.spec.template.spec.containers[0].image}']);

test('up and down again: no packet lost, no connection broken, no node NotReady, no EndpointSlice changed, pods start all along', async () => {
  const current = await image();
  const next = `${current}-next`;
  for (const node of cluster.nodes) await node.run(['ctr', '-n', 'k8s.io', 'images', 'tag', current, next]);
  const before = await slices();
  expect(before.some((slice) => slice.startsWith('upgrade web'))).toBe(true);
  await using readiness = await watchReadiness(cluster);
  const streams = await streamAllPairs(cluster, pods);
  const connections = await Promise.all(
    pods.flatMap((from) =>
      pods.filter((to) => to !== from).map((to) => startTcpStream(podClient(cluster, from), to.address)),
    ),
  );
  for (const version of [next, current]) {
    await plane.kubectl(['-n', 'weft', 'set', 'image', 'daemonset/weft', `install=${version}`, `agent=${version}`]);
    // A pod on each node while its agent may just be away.
    const names = cluster.nodes.map((node) => `${version === next ? 'up' : 'down'}-${node.name}`);
    await workspace.addPods(names.map((name, index) => ({ name, node: cluster.nodes[index]?.name ?? '' })));
    await plane.kubectl(['-n', 'weft', 'rollout', 'status', 'daemonset/weft', '--timeout=170s']);
    await workspace.deletePods(names);
    expect(await image()).toBe(version);
  }
  const ends = await Promise.all(connections.map(async (connection) => await connection.stop()));
  console.log(`longest pause of a connection: ${Math.max(...ends.map(({ longestGapMs }) => longestGapMs))} ms`);
  for (const { label, sent } of ends) expect(sent, label).toBeGreaterThan(100);
  expect(ends.filter(({ faults }) => faults.length > 0)).toEqual([]);
  await expectNoLoss(streams);
  expect(readiness.notReady).toEqual([]);
  expect(await slices()).toEqual(before);
});
