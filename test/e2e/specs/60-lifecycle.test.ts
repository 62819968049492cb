// Nodes and versions come and go: an upgrade and its way back under traffic, a node that is added, dies, and comes again under
// the same name.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { attempt, until } from '../cluster/host.ts';
import { ClusterNode } from '../cluster/node.ts';
import { podClient } from '../support/clients.ts';
import { currentCluster } from '../support/environment.ts';
import { nodeObjects, readyCondition, watchReadiness } from '../support/nodes.ts';
import { inBlocks, peerRecords } from '../support/ring.ts';
import { startStream, type Stream } from '../support/stream.ts';
import { podPort, Workspace, type TestPod } from '../support/workspace.ts';

const cluster = currentCluster();
const { plane } = cluster;

let workspace: Workspace;
let pods: readonly TestPod[] = [];

/** Hours and minutes become seconds, so that a takeover can be watched; the last step back is only the file's, for whoever restarts. */
async function configure(settings: object): Promise<void> {
  const patch = { data: { 'config.json': JSON.stringify(settings) } };
  await plane.kubectl(['-n', 'weft', 'patch', 'configmap', 'weft', '--type=merge', '-p', JSON.stringify(patch)]);
}

beforeAll(async () => {
  await configure({ sessionTermMs: 20_000, takeOverAfterMs: 20_000 });
  await plane.kubectl(['-n', 'weft', 'rollout', 'restart', 'daemonset/weft']);
  await plane.kubectl(['-n', 'weft', 'rollout', 'status', 'daemonset/weft', '--timeout=170s']);
  workspace = await Workspace.create(cluster, 'lifecycle');
  await workspace.addService('web', { app: 'web' });
  const wishes = cluster.nodes.map((node) => ({ name: `w-${node.name}`, node: node.name, labels: { app: 'web' } }));
  pods = await workspace.addPods(wishes);
});

afterAll(async () => {
  await configure({});
  await workspace[Symbol.asyncDispose]();
});

async function allPairs(): Promise<readonly Stream[]> {
  const pairs = pods.flatMap((from) => pods.filter((to) => to !== from).map((to) => ({ from, to })));
  return await Promise.all(pairs.map(async ({ from, to }) => await startStream(podClient(cluster, from), to.address)));
}

async function expectNoLoss(streams: readonly Stream[]): Promise<void> {
  const ends = await Promise.all(streams.map(async (stream) => ({ label: stream.label, ...(await stream.stop()) })));
  for (const end of ends) expect(end.sent, end.label).toBeGreaterThan(100);
  expect(ends.filter((end) => end.lost.length > 0)).toEqual([]);
}

/** What a change of any endpoint would change. */
async function slices(): Promise<readonly string[]> {
  const { items } = await plane.kubectlJson<{
    readonly items: readonly { readonly metadata: { readonly name: string; readonly resourceVersion: string } }[];
  }>(['-n', 'lifecycle', 'get', 'endpointslices']);
  return items.map(({ metadata }) => `${metadata.name} ${metadata.resourceVersion}`).toSorted();
}

describe('another version under traffic', () => {
  const image = async (): Promise<string> =>
    await plane.kubectl([
      '-n',
      'weft',
      'get',
      'ds',
      'weft',
      '-o',
      'jsonpath={.spec.template.spec.containers[0].image}',
    ]);

  test('up and down again: no packet lost, no node NotReady, no EndpointSlice changed, pods start all along', async () => {
    const current = await image();
    const next = `${current}-next`;
    for (const node of cluster.nodes) await node.run(['ctr', '-n', 'k8s.io', 'images', 'tag', current, next]);
    const before = await slices();
    await using readiness = await watchReadiness(cluster);
    const streams = await allPairs();
    for (const version of [next, current]) {
      await plane.kubectl(['-n', 'weft', 'set', 'image', 'daemonset/weft', `install=${version}`, `agent=${version}`]);
      // A pod on each node while its agent may just be away.
      const names = cluster.nodes.map((node) => `${version === next ? 'up' : 'down'}-${node.name}`);
      await workspace.addPods(names.map((name, index) => ({ name, node: cluster.nodes[index]?.name ?? '' })));
      await plane.kubectl(['-n', 'weft', 'rollout', 'status', 'daemonset/weft', '--timeout=170s']);
      await workspace.deletePods(names);
      expect(await image()).toBe(version);
    }
    await expectNoLoss(streams);
    expect(readiness.notReady).toEqual([]);
    expect(await slices()).toEqual(before);
  });
});

describe('a fourth node', () => {
  // Its processes end with this file, so this file takes it away again.
  const fourth = new ClusterNode(4, cluster.paths);
  let firstPeer = '';

  afterAll(async () => {
    await fourth.crash();
    await plane.tryKubectl(['delete', 'node', fourth.name, '--ignore-not-found', '--wait=false']);
  });

  test('joins: it turns Ready, owns a block, and its pods talk to all others', async () => {
    await fourth.boot(plane, cluster.settings);
    await expectReady(fourth.name);
    const [pod] = await workspace.addPods([{ name: 'p-n4', node: fourth.name }]);
    if (pod === undefined) throw new Error('no pod');
    const peer = await peerOf(fourth.name);
    firstPeer = peer.name;
    expect(inBlocks(pod.address, peer.blocks), `${pod.address} in ${peer.blocks.join()}`).toBe(true);
    for (const other of pods) {
      await expect(podClient(cluster, pod)).toReach(other, { port: podPort });
      await expect(podClient(cluster, other)).toReach(pod, { port: podPort });
    }
  });

  test('dies and is deleted: the others lose nothing', async () => {
    const streams = await allPairs();
    await fourth.crash();
    await plane.kubectl(['delete', 'node', fourth.name]);
    await until('its pod is gone', 90_000, async () => {
      await plane.tryKubectl([
        '-n',
        'lifecycle',
        'delete',
        'pod',
        'p-n4',
        '--force',
        '--grace-period=0',
        '--ignore-not-found',
      ]);
      return (await workspace.pods()).every((pod) => pod.name !== 'p-n4');
    });
    await expectNoLoss(streams);
  });

  test('leaves its space to the others, without anyone’s help', async () => {
    const before = (await peerRecords(cluster)).flatMap((peer) => peer.blocks);
    await until('its record is gone, and every block has an owner', 150_000, async () => {
      const peers = await peerRecords(cluster);
      if (peers.some((peer) => peer.name === firstPeer)) return false;
      const owned = peers.flatMap((peer) => peer.blocks);
      return before.every((block) => inBlocks(block.split('/')[0] ?? '', owned));
    });
  });

  test('comes again under the same name, with an empty disk: a new node with space of its own', async () => {
    await fourth.boot(plane, cluster.settings);
    await expectReady(fourth.name);
    const [pod] = await workspace.addPods([{ name: 'again-n4', node: fourth.name }]);
    if (pod === undefined) throw new Error('no pod');
    const { items } = await plane.kubectlJson<{
      readonly items: readonly {
        readonly metadata: { readonly name: string };
        readonly spec: { readonly node: { readonly uid: string } };
      }[];
    }>(['get', 'peers.weft.network']);
    const uid = (await nodeObjects(cluster)).find((node) => node.metadata.name === fourth.name)?.metadata.uid;
    const own = items.find((peer) => peer.spec.node.uid === uid);
    expect(own?.metadata.name).not.toBe(firstPeer);
    const blocks = (await peerRecords(cluster)).find((peer) => peer.name === own?.metadata.name)?.blocks ?? [];
    expect(inBlocks(pod.address, blocks), `${pod.address} in ${blocks.join()}`).toBe(true);
    for (const other of pods) await expect(podClient(cluster, other)).toReach(pod, { port: podPort });
    expect((await attempt(['ping', '-c', '1', '-W', '5', fourth.address])).code).toBe(0);
    await workspace.deletePods(['again-n4']);
  });
});

async function expectReady(name: string): Promise<void> {
  await until(`${name} is Ready`, 120_000, async () => {
    const node = (await nodeObjects(cluster)).find((one) => one.metadata.name === name);
    return node !== undefined && readyCondition(node).status === 'True';
  });
}

async function peerOf(node: string): Promise<{ readonly name: string; readonly blocks: readonly string[] }> {
  return await until(`${node} owns a block`, 60_000, async () => {
    return (await peerRecords(cluster)).find((peer) => peer.node === node && peer.blocks.length > 0);
  });
}
