// A control plane that is a node, as kubeadm sets it up: its kubelet and agent run beside the API server, a taint keeps ordinary pods
// off, and nothing but Weft gives the API server its ways into pods (50-services walks them).
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { until } from '../cluster/host.ts';
import { apiServerAddress, controlPlaneTaint, familiesOf, urlHost } from '../cluster/settings.ts';
import { nodeClient, podClient } from '../support/clients.ts';
import { currentCluster } from '../support/environment.ts';
import { nodeObjects, readyCondition } from '../support/nodes.ts';
import { agentStatus } from '../support/ring.ts';
import { podPort, Workspace, type TestPod } from '../support/workspace.ts';

const cluster = currentCluster();
const { plane, settings } = cluster;
const [{ kubernetesService }] = familiesOf(settings);

describe.skipIf(settings.controlPlane !== 'node')('a control plane that is a node', () => {
  let workspace: Workspace;
  let pods: readonly TestPod[] = [];

  beforeAll(async () => {
    workspace = await Workspace.create(cluster, 'plane');
    pods = await workspace.addPods(cluster.nodes.map((node) => ({ name: `p-${node.name}`, node: node.name })));
  });

  afterAll(async () => {
    await workspace[Symbol.asyncDispose]();
  });

  test('is Ready with its taint, and its agent serves without a finding', async () => {
    const node = (await nodeObjects(cluster)).find(({ metadata }) => metadata.name === 'n1');
    if (node === undefined) throw new Error('no node n1');
    expect(readyCondition(node).status).toBe('True');
    expect(node.spec.taints).toEqual([{ key: controlPlaneTaint, effect: 'NoSchedule' }]);
    expect(await agentStatus(cluster.node('n1'))).toMatchObject({ ready: true, findings: [] });
  });

  test('gets no pod that does not tolerate it', async () => {
    await workspace.createPods([{ name: 'unwanted', node: 'n1', spec: { tolerations: [] } }]);
    await until('the scheduler says why', 60_000, async () => {
      const { status } = await plane.kubectlJson<{
        readonly status: { readonly conditions?: readonly { readonly type: string; readonly message?: string }[] };
      }>(['-n', 'plane', 'get', 'pod', 'unwanted']);
      const scheduled = status.conditions?.find(({ type }) => type === 'PodScheduled');
      return scheduled?.message?.includes('untolerated taint');
    });
    await workspace.deletePods(['unwanted']);
  });

  test('is reached by pods and nodes, by the Service and by its own address', async () => {
    const urls = [`https://${urlHost(kubernetesService)}`, `https://${urlHost(apiServerAddress(settings))}:6443`];
    const clients = [
      ...pods.map((pod) => podClient(cluster, pod)),
      ...cluster.nodes.map((node) => nodeClient(cluster, node.name)),
    ];
    for (const client of clients) {
      for (const url of urls) {
        const { stdout, stderr } = await client.attempt(['curl', '-sSk', '--max-time', '10', `${url}/version`]);
        expect(stdout, `${client.label} asked ${url}: ${stderr}`).toContain('"major"');
      }
    }
  });

  test('has pods of its own, which all others reach', async () => {
    const own = pods.find((pod) => pod.node === 'n1');
    if (own === undefined) throw new Error('no pod on n1');
    for (const pod of pods) await expect(podClient(cluster, pod)).toReach(own, { port: podPort });
  });
});
