// A dual-stack cluster: every pod has an address of each family, and everything that 20-reach proves over IPv4 holds over IPv6.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { until } from '../cluster/host.ts';
import { ask, nodeClient, outsideClient, podClient, type Client } from '../support/clients.ts';
import { currentCluster } from '../support/environment.ts';
import { podPort, Workspace, type TestPod } from '../support/workspace.ts';

const cluster = currentCluster();
const page = (address: string, port: number): string => `http://[${address}]:${port}/hostname`;

let workspace: Workspace;
let pods: readonly (TestPod & { readonly address6: string })[] = [];
let service: { readonly address6: string; readonly nodePort: number };

beforeAll(async () => {
  workspace = await Workspace.create(cluster, 'dual');
  const made = await workspace.addPods(
    cluster.nodes.map((node) => ({ name: `d-${node.name}`, node: node.name, labels: { app: 'dual' } })),
  );
  const { items } = await cluster.plane.kubectlJson<{
    readonly items: readonly {
      readonly metadata: { readonly name: string };
      readonly status: { readonly podIPs: readonly { readonly ip: string }[] };
    }[];
  }>(['-n', 'dual', 'get', 'pods']);
  pods = made.map((pod) => {
    const ips = items.find(({ metadata }) => metadata.name === pod.name)?.status.podIPs.map(({ ip }) => ip) ?? [];
    expect(ips.map((ip) => (ip.includes(':') ? 6 : 4))).toEqual([4, 6]);
    return { ...pod, address6: ips[1] ?? '' };
  });
  const { nodePort } = await workspace.addService('both', { app: 'dual' }, { ipFamilyPolicy: 'RequireDualStack' });
  const { spec } = await cluster.plane.kubectlJson<{ readonly spec: { readonly clusterIPs: readonly string[] } }>([
    '-n',
    'dual',
    'get',
    'service',
    'both',
  ]);
  service = { nodePort, address6: spec.clusterIPs.find((ip) => ip.includes(':')) ?? '' };
});

afterAll(async () => {
  await workspace[Symbol.asyncDispose]();
});

const inside = (): readonly Client[] => [
  ...pods.map((pod) => podClient(cluster, pod)),
  ...cluster.nodes.map((node) => nodeClient(cluster, node.name)),
];

describe('over IPv6', () => {
  test('pods and nodes reach every pod by its address', async () => {
    const wanted = Object.fromEntries(pods.map((pod) => [page(pod.address6, podPort), pod.name]));
    for (const client of inside()) expect(await ask(client, Object.keys(wanted)), client.label).toEqual(wanted);
  });

  test('a pod on another node sees the pod’s own address', async () => {
    for (const [index, pod] of pods.entries()) {
      const other = pods[(index + 1) % pods.length];
      const url = `http://[${other?.address6}]:${podPort}/clientip`;
      const answer = (await ask(podClient(cluster, pod), [url]))[url] ?? '';
      expect(answer.replace(/^\[(.*)\]:\d+$/, '$1')).toBe(pod.address6);
    }
  });

  test('a Service is reached by its ClusterIP and every NodePort', async () => {
    const names = pods.map((pod) => pod.name);
    for (const client of inside()) {
      const [answer] = Object.values(await ask(client, [page(service.address6, 80)]));
      expect(names, client.label).toContain(answer);
    }
    for (const node of cluster.nodes) {
      const [answer] = Object.values(await ask(outsideClient(cluster), [page(node.address6, service.nodePort)]));
      expect(names, node.name).toContain(answer);
    }
  });

  test('a name resolves to both families', async () => {
    for (const pod of pods) {
      await until(`${pod.name} resolves the Service`, 20_000, async () => {
        const command = ['dig', '+short', '+search', 'both.dual.svc.cluster.local', 'AAAA'];
        const { stdout } = await podClient(cluster, pod).attempt(command);
        return stdout.trim() === service.address6;
      });
    }
  });

  test('a page larger than any packet crosses nodes both ways', async () => {
    const [from, to] = pods;
    if (from === undefined || to === undefined) throw new Error('pods are missing');
    const script = `head -c 200000 /dev/zero | tr '\\0' x >/tmp/body && curl -sS --max-time 20 -F file=@/tmp/body http://[${to.address6}]:${podPort}/upload`;
    const { code, stderr } = await podClient(cluster, from).attempt(['sh', '-c', script]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  });
});
