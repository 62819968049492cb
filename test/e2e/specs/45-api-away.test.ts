// The API server is gone while pods come and go: static pods, which kubelets run from files, start, crash and end on every node;
// streams between other pods go on. What fits into the node's own space needs nobody's leave.
// `npm run test:e2e -- --only cluster 10-install 45-api-away --outage-minutes 10` keeps it away for longer.
import { afterAll, beforeAll, expect, test } from 'vitest';

import { until } from '../cluster/host.ts';
import type { ClusterNode } from '../cluster/node.ts';
import { podClient } from '../support/clients.ts';
import { currentCluster, currentRun } from '../support/environment.ts';
import { agentStatus, killAgent } from '../support/ring.ts';
import * as pod from '../support/static-pods.ts';
import { expectNoLoss, streamAllPairs } from '../support/stream.ts';
import { podPort, Workspace, type TestPod } from '../support/workspace.ts';

const cluster = currentCluster();
const outageMs = currentRun().outageMinutes * 60_000;
const rounds = 3;
/** A long outage kills them several times. */
const roundsBetweenKills = 20;

let workspace: Workspace;
let pods: readonly TestPod[] = [];

beforeAll(async () => {
  workspace = await Workspace.create(cluster, 'away');
  pods = await workspace.addPods(cluster.nodes.map((node) => ({ name: `s-${node.name}`, node: node.name })));
  const exits = { command: ['sh', '-c', 'sleep 2; exit 1'] };
  for (const node of cluster.nodes) await pod.putStaticPod(node, 'crashing', exits);
});

afterAll(async () => {
  for (const node of cluster.nodes) await pod.removeStaticPod(node, 'crashing');
  await workspace[Symbol.asyncDispose]();
});

const failures = async (): Promise<readonly string[]> =>
  (await Promise.all(cluster.nodes.map(pod.failedSandboxes))).flat().filter((line) => !line.includes('refused-'));

test('a sandbox that cannot be made is noticed here', async () => {
  const [node] = cluster.nodes;
  if (node === undefined) throw new Error('no node');
  await pod.putStaticPod(node, 'refused', { annotations: { 'weft.network/ips': '192.0.2.1' } });
  await until('the runtime fails to make it', 60_000, async () => {
    return (await pod.failedSandboxes(node)).some((line) => line.includes('refused-'));
  });
  await pod.removeStaticPod(node, 'refused');
});

test(
  'pods start, crash and end on every node, agents restart, no sandbox fails, and no packet of the others is lost',
  { timeout: 400_000 + 1.5 * outageMs },
  async () => {
    const failedBefore = await failures();
    const streams = await streamAllPairs(cluster, pods);
    const beganMs = performance.now();
    let done = 0;
    {
      await using _gone = await cluster.plane.stopApiServer();
      while (done < rounds || performance.now() - beganMs < outageMs) {
        if (done % roundsBetweenKills === 1) await restartAgents();
        done += 1;
        await Promise.all(cluster.nodes.map(async (node) => await churn(node, `static-${done}`)));
      }
      const seconds = Math.round((performance.now() - beganMs) / 1000);
      console.log(`${done} rounds on each node in ${seconds} s without the API server`);
    }
    await expectNoLoss(streams, 500);
    expect(await failures()).toEqual(failedBefore);
  },
);

test('with the API server back, new pods run and reach the old ones', { timeout: 400_000 }, async () => {
  const names = cluster.nodes.map((node) => ({ name: `after-${node.name}`, node: node.name }));
  for (const added of await workspace.addPods(names, 240_000)) {
    for (const other of pods) await expect(podClient(cluster, added)).toReach(other, { port: podPort });
  }
});

async function restartAgents(): Promise<void> {
  const started = await Promise.all(cluster.nodes.map(async (node) => (await agentStatus(node)).startedAtMs));
  for (const node of cluster.nodes) await killAgent(node);
  for (const [index, node] of cluster.nodes.entries()) {
    await until(`a new agent is ready on ${node.name}`, 400_000, async () => {
      const { ready, startedAtMs } = await agentStatus(node);
      return ready && startedAtMs > (started[index] ?? 0);
    });
  }
}

/** One pod from a file: it gets a lease and answers its node, also after its sandbox crashed; without the file all is gone. */
async function churn(node: ClusterNode, name: string): Promise<void> {
  await pod.putStaticPod(node, name);
  const lease = await pod.answeringLease(node, name);
  await pod.crashSandbox(node, name);
  await pod.answeringLease(node, name, lease);
  await pod.removeStaticPod(node, name);
  await until(`${name} on ${node.name} is gone`, 90_000, async () => (await pod.leaseOf(node, name)) === undefined);
}
