// The agent may die; packets may not. Every agent is killed with -9 while streams run between all nodes.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { run, until } from '../cluster/host.ts';
import { podClient } from '../support/clients.ts';
import { currentCluster } from '../support/environment.ts';
import { watchReadiness } from '../support/nodes.ts';
import { agentStatus, killAgent } from '../support/ring.ts';
import { expectNoLoss, streamAllPairs } from '../support/stream.ts';
import { podPort, Workspace, type TestPod } from '../support/workspace.ts';

const cluster = currentCluster();

let workspace: Workspace;
let pods: readonly TestPod[] = [];

beforeAll(async () => {
  workspace = await Workspace.create(cluster, 'restart');
  pods = await workspace.addPods(cluster.nodes.map((node) => ({ name: `s-${node.name}`, node: node.name })));
});

afterAll(async () => {
  await workspace[Symbol.asyncDispose]();
});

describe('the agents of all nodes killed with -9 and started again by the kubelet', () => {
  test('running pods lose no packet, no node turns NotReady, the next ADD works', async () => {
    const startedBefore = new Map<string, number>();
    for (const node of cluster.nodes) startedBefore.set(node.name, (await agentStatus(node)).startedAtMs);
    await using readiness = await watchReadiness(cluster);
    const streams = await streamAllPairs(cluster, pods);

    for (const node of cluster.nodes) await killAgent(node);
    // An ADD straight after the kill waits for the agent inside the shim.
    const newcomers = cluster.nodes.map((node) => ({ name: `next-${node.name}`, node: node.name }));
    const added = await workspace.addPods(newcomers);
    for (const node of cluster.nodes) {
      await until(`a new agent is ready on ${node.name}`, 60_000, async () => {
        const status = await agentStatus(node);
        return status.ready && status.startedAtMs > (startedBefore.get(node.name) ?? 0);
      });
    }
    for (const pod of added) {
      for (const other of pods) await expect(podClient(cluster, other)).toReach(pod, { port: podPort });
    }

    await expectNoLoss(streams);
    expect(readiness.notReady).toEqual([]);
  });

  test('deleting pods while the agent is dead leaves none Terminating', async () => {
    for (const node of cluster.nodes) await killAgent(node);
    await workspace.deletePods(cluster.nodes.map((node) => `next-${node.name}`));
    for (const node of cluster.nodes) {
      await until(`the agent of ${node.name} is back and has released the addresses`, 90_000, async () => {
        const { ready, leases } = await agentStatus(node);
        return ready && leases.every((lease) => !lease.pod.startsWith('restart/next-'));
      });
    }
  });
});

describe('the agents killed with -9 while the API server hangs', () => {
  test('running pods lose no packet, and the new agents serve from what they own', async () => {
    const startedBefore = new Map<string, number>();
    for (const node of cluster.nodes) startedBefore.set(node.name, (await agentStatus(node)).startedAtMs);
    const streams = await streamAllPairs(cluster, pods);
    {
      await using _hung = await hangApiServer();
      for (const node of cluster.nodes) await killAgent(node);
      for (const node of cluster.nodes) {
        await until(`a new agent is ready on ${node.name}`, 100_000, async () => {
          const status = await agentStatus(node);
          return status.ready && status.startedAtMs > (startedBefore.get(node.name) ?? 0);
        });
      }
    }
    await expectNoLoss(streams);
  });
});

/** Stops kube-apiserver in the middle of whatever it does: connections stay open, nothing answers. */
async function hangApiServer(): Promise<AsyncDisposable> {
  const pid = Number(await run(['pgrep', '-x', 'kube-apiserver']));
  process.kill(pid, 'SIGSTOP');
  return {
    async [Symbol.asyncDispose](): Promise<void> {
      process.kill(pid, 'SIGCONT');
      await cluster.plane.kubectl(['get', '--raw', '/readyz']);
    },
  };
}
