// Pods on all three nodes fetch pages from each other: by address, through a ClusterIP, through a NodePort, by DNS name; so do
// the nodes themselves and a host outside the cluster.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { urlHost } from '../cluster/settings.ts';
import { ask, nodeClient, outsideClient, podClient, withoutPort } from '../support/clients.ts';
import { currentCluster } from '../support/environment.ts';
import { podPort, Workspace, type TestPod, type TestService } from '../support/workspace.ts';

const cluster = currentCluster();
const nodeNames = cluster.nodes.map((node) => node.name);

let workspace: Workspace;
let pods: readonly TestPod[] = [];
/** Per node one Service whose only endpoints are the pods of that node. */
const services = new Map<string, TestService>();

beforeAll(async () => {
  workspace = await Workspace.create(cluster, 'reach');
  for (const node of nodeNames) services.set(node, await workspace.addService(`web-${node}`, { node }));
  pods = await workspace.addPods(
    nodeNames.flatMap((node) => ['a', 'b'].map((letter) => ({ name: `${letter}-${node}`, node }))),
  );
});

afterAll(async () => {
  await workspace[Symbol.asyncDispose]();
});

const podsOn = (node: string): readonly string[] => pods.filter((pod) => pod.node === node).map((pod) => pod.name);
const page = (host: string, port = 80): string => `http://${urlHost(host)}:${port}/hostname`;

/** Asks one URL per Service and expects each to be answered by a pod of the Service's node. */
async function expectServices(
  client: Parameters<typeof ask>[0],
  url: (service: TestService, node: string) => readonly string[],
): Promise<void> {
  const wanted = [...services].flatMap(([node, service]) => url(service, node).map((one) => ({ url: one, node })));
  const answers = await ask(
    client,
    wanted.map((one) => one.url),
  );
  for (const one of wanted) {
    expect(podsOn(one.node), `${client.label} asked ${one.url}: ${answers[one.url]}`).toContain(answers[one.url]);
  }
}

describe('pods', () => {
  test('reach every pod, on their own node and on the others, by its address', async () => {
    const expected = Object.fromEntries(pods.map((pod) => [page(pod.address, podPort), pod.name]));
    for (const pod of pods) {
      expect(await ask(podClient(cluster, pod), Object.keys(expected)), `asked by ${pod.name}`).toEqual(expected);
    }
  });

  test('are seen with their own address by a pod on another node', async () => {
    for (const [index, pod] of pods.entries()) {
      const other = pods[(index + 2) % pods.length];
      if (other === undefined) throw new Error('no other pod');
      const url = `http://${urlHost(other.address)}:${podPort}/clientip`;
      const answer = (await ask(podClient(cluster, pod), [url]))[url] ?? '';
      expect(withoutPort(answer), `${pod.name} asked ${other.name}`).toBe(pod.address);
    }
  });

  test('reach the pods of every node through a ClusterIP', async () => {
    for (const pod of pods) await expectServices(podClient(cluster, pod), (service) => [page(service.address)]);
  });

  test('reach the pods of every node through every node’s NodePort', async () => {
    for (const pod of pods.filter((one) => one.name.startsWith('a-'))) {
      await expectServices(podClient(cluster, pod), (service) =>
        cluster.nodes.map((node) => page(node.address, service.nodePort)),
      );
    }
  });

  test('reach a Service by each form of its DNS name', async () => {
    for (const pod of pods) {
      await expectServices(podClient(cluster, pod), ({ name, namespace }) => [
        page(name),
        page(`${name}.${namespace}`),
        page(`${name}.${namespace}.svc`),
        page(`${name}.${namespace}.svc.cluster.local`),
      ]);
    }
  });

  test('carry a page larger than any packet in both directions across nodes', async () => {
    const [from, to] = [pods.find((pod) => pod.node === 'n1'), pods.find((pod) => pod.node === 'n2')];
    if (from === undefined || to === undefined) throw new Error('pods are missing');
    const bytes = 200_000;
    const script = `head -c ${bytes} /dev/zero | tr '\\0' x >/tmp/body && curl -sS --max-time 20 -F file=@/tmp/body http://${urlHost(to.address)}:${podPort}/upload && wc -c </tmp/body`;
    const { code, stdout, stderr } = await podClient(cluster, from).attempt(['sh', '-c', script]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toContain(String(bytes));
  });
});

describe('nodes', () => {
  test('reach the pods of every node by address', async () => {
    const expected = Object.fromEntries(pods.map((pod) => [page(pod.address, podPort), pod.name]));
    for (const node of nodeNames) {
      expect(await ask(nodeClient(cluster, node), Object.keys(expected)), `asked by ${node}`).toEqual(expected);
    }
  });

  test('reach pods on the other nodes through a ClusterIP', async () => {
    for (const node of nodeNames) await expectServices(nodeClient(cluster, node), (service) => [page(service.address)]);
  });

  test('reach pods on the other nodes through their own NodePort', async () => {
    for (const node of cluster.nodes) {
      await expectServices(nodeClient(cluster, node.name), (service) => [page(node.address, service.nodePort)]);
    }
  });
});

describe('a host outside the cluster', () => {
  test('asks any node’s NodePort and is answered by a pod on another node', async () => {
    await expectServices(outsideClient(cluster), (service) =>
      cluster.nodes.map((node) => page(node.address, service.nodePort)),
    );
  });
});
