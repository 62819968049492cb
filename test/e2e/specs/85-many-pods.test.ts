// As many pods on one node as a kubelet takes (110): all start and answer from another node, and the agent's memory is told.
// Not in every run, for it takes minutes: `npm run test:e2e -- 10-install 85-many-pods`.
import { afterAll, beforeAll, expect, test } from 'vitest';

import { until } from '../cluster/host.ts';
import type { ClusterNode } from '../cluster/node.ts';
import { images } from '../cluster/settings.ts';
import { currentCluster } from '../support/environment.ts';
import { agentStatus } from '../support/ring.ts';
import { Workspace, type TestPod } from '../support/workspace.ts';

const cluster = currentCluster();
const most = 110;

let workspace: Workspace;

beforeAll(async () => {
  workspace = await Workspace.create(cluster, 'many');
});

afterAll(async () => {
  await workspace[Symbol.asyncDispose]();
}, 400_000);

/** Resident memory of the node's agent in MB, all processes of its name together. */
async function agentMegabytes(node: ClusterNode): Promise<number> {
  const script = 'for p in $(pgrep -f "/opt/weft/bin/[w]eft agent"); do grep VmRSS "/proc/$p/status"; done';
  const text = await node.run(['sh', '-c', script]);
  return Math.round([...text.matchAll(/(\d+) kB/g)].reduce((sum, [, kb]) => sum + Number(kb), 0) / 1024);
}

test('110 pods on one node', { timeout: 600_000 }, async () => {
  const [node, other] = cluster.nodes;
  if (node === undefined || other === undefined) throw new Error('two nodes are needed');
  const { items } = await cluster.plane.kubectlJson<{ readonly items: readonly unknown[] }>([
    'get',
    'pods',
    '-A',
    `--field-selector=spec.nodeName=${node.name}`,
  ]);
  const before = await agentMegabytes(node);
  const beganMs = performance.now();
  const wishes = Array.from({ length: most - items.length }, (_, index) => ({
    name: `m${index}`,
    node: node.name,
    container: { image: images.pause, args: [], readinessProbe: null },
  }));
  const pods: readonly TestPod[] = await workspace.addPods(wishes, 400_000);
  const seconds = (performance.now() - beganMs) / 1000;
  const silent = new Set(pods.map((pod) => pod.address));
  await until('every pod answers from another node', 60_000, async () => {
    const script = 'for a; do ping -c1 -W1 "$a" >/dev/null && echo "$a"; done';
    const { stdout } = await other.attempt(['sh', '-c', script, 'sh', ...silent]);
    for (const address of stdout.split('\n')) silent.delete(address);
    return silent.size === 0;
  });
  const { leasesTotal, findings } = await agentStatus(node);
  const after = await agentMegabytes(node);
  console.log(
    `${pods.length} pods more in ${seconds.toFixed(0)} s; agent ${before} MB before, ${after} MB with ${most} pods`,
  );
  expect(leasesTotal).toBeGreaterThanOrEqual(pods.length);
  expect(findings).toEqual([]);
  expect(after).toBeLessThan(256);
});
