// The API server hangs while pods come and go: static pods, which the kubelet runs from files, are started and removed on every
// node; streams between other pods go on. What fits into the node's own space needs nobody's leave.
import { afterAll, beforeAll, expect, test } from 'vitest';

import { run, until } from '../cluster/host.ts';
import type { ClusterNode } from '../cluster/node.ts';
import { images } from '../cluster/settings.ts';
import { podClient } from '../support/clients.ts';
import { currentCluster } from '../support/environment.ts';
import { agentStatus, killAgent } from '../support/ring.ts';
import { startStream } from '../support/stream.ts';
import { Workspace, type TestPod } from '../support/workspace.ts';

const cluster = currentCluster();
const rounds = 3;

let workspace: Workspace;
let pods: readonly TestPod[] = [];

beforeAll(async () => {
  workspace = await Workspace.create(cluster, 'away');
  pods = await workspace.addPods(cluster.nodes.map((node) => ({ name: `s-${node.name}`, node: node.name })));
});

afterAll(async () => {
  await workspace[Symbol.asyncDispose]();
});

test('static pods start and end on every node, agents restart, and no packet of the others is lost', async () => {
  const pairs = pods.flatMap((from) => pods.filter((to) => to !== from).map((to) => ({ from, to })));
  const streams = await Promise.all(
    pairs.map(async ({ from, to }) => await startStream(podClient(cluster, from), to.address)),
  );
  const pid = Number(await run(['pgrep', '-x', 'kube-apiserver']));
  process.kill(pid, 'SIGSTOP');
  try {
    for (let round = 1; round <= rounds; round += 1) {
      if (round === 2) for (const node of cluster.nodes) await killAgent(node);
      await Promise.all(cluster.nodes.map(async (node) => await churn(node, round)));
    }
  } finally {
    process.kill(pid, 'SIGCONT');
  }
  await cluster.plane.kubectl(['get', '--raw', '/readyz']);
  const ends = await Promise.all(streams.map(async (stream) => ({ label: stream.label, ...(await stream.stop()) })));
  for (const end of ends) expect(end.sent, end.label).toBeGreaterThan(1000);
  expect(ends.filter((end) => end.lost.length > 0)).toEqual([]);
});

/** One pod from a file: it gets a lease and answers its node; without the file, both are gone. */
async function churn(node: ClusterNode, round: number): Promise<void> {
  const name = `static-${round}`;
  const file = `/etc/kubernetes/manifests/${name}.json`;
  const lease = async (): Promise<string | undefined> =>
    (await agentStatus(node)).leases.find(({ pod }) => pod === `default/${name}-${node.name}`)?.addresses[0];
  await node.run(['sh', '-c', 'cat >"$1.new" && mv "$1.new" "$1"', 'sh', file], { input: JSON.stringify(podOf(name)) });
  const address = await until(`${name} on ${node.name} has an address`, 90_000, lease);
  await until(`${name} on ${node.name} answers`, 60_000, async () => {
    return (await node.attempt(['ping', '-c', '1', '-W', '1', address])).code === 0;
  });
  await node.run(['rm', file]);
  await until(`${name} on ${node.name} is gone`, 90_000, async () => (await lease()) === undefined);
}

function podOf(name: string): unknown {
  const container = { name: 'pause', image: images.tools, imagePullPolicy: 'Never', args: ['pause'] };
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace: 'default' },
    spec: { terminationGracePeriodSeconds: 0, enableServiceLinks: false, containers: [container] },
  };
}
