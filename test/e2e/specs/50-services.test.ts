// What kube-proxy, CoreDNS and the API server build on the pod network: every kind of Service, host-network pods, names of pods,
// and the API server's own ways into a pod.
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { killChild, until } from '../cluster/host.ts';
import { familiesOf, urlHost } from '../cluster/settings.ts';
import { ask, nodeClient, outsideClient, podClient, withoutPort, type Client } from '../support/clients.ts';
import { currentCluster } from '../support/environment.ts';
import { routeControlPlane } from '../support/ring.ts';
import { webhook } from '../support/webhook.ts';
import { podPort, Workspace, type TestPod } from '../support/workspace.ts';

const cluster = currentCluster();
const nodeNames = cluster.nodes.map((node) => node.name);
const [first, second, third] = cluster.nodes as readonly [
  (typeof cluster.nodes)[number],
  (typeof cluster.nodes)[number],
  (typeof cluster.nodes)[number],
];
const [family] = familiesOf(cluster.settings);
const recordType = cluster.settings.families === 'ipv6' ? 'AAAA' : 'A';
const hostPodPort = 18080;

/** Sends one packet to $1, port $2 or 90, and prints the one that comes back. */
const udpScript = 'exec 3<>"/dev/udp/$1/${2:-90}" && echo hostname >&3 && timeout 2 dd bs=200 count=1 <&3 2>/dev/null';

let workspace: Workspace;
let pods: readonly TestPod[] = [];
let hostPods: readonly TestPod[] = [];

beforeAll(async () => {
  workspace = await Workspace.create(cluster, 'services');
  pods = await workspace.addPods(nodeNames.map((node) => ({ name: `web-${node}`, node, labels: { app: 'web' } })));
  hostPods = await workspace.addPods(
    nodeNames.map((node) => ({
      name: `host-${node}`,
      node,
      labels: { app: 'host' },
      spec: { hostNetwork: true },
      container: {
        args: ['netexec', `--http-port=${hostPodPort}`, '--udp-port=18081'],
        readinessProbe: { tcpSocket: { port: hostPodPort }, periodSeconds: 1 },
      },
    })),
  );
});

afterAll(async () => {
  await workspace[Symbol.asyncDispose]();
});

const podOn = (node: string): TestPod => {
  const pod = pods.find((one) => one.node === node);
  if (pod === undefined) throw new Error(`no pod on ${node}`);
  return pod;
};
const clients = (): readonly Client[] => [
  ...pods.map((pod) => podClient(cluster, pod)),
  ...nodeNames.map((node) => nodeClient(cluster, node)),
];
const one = async (client: Client, url: string, withinMs?: number): Promise<string> =>
  (await ask(client, [url], withinMs))[url] ?? '';

describe('a Service', () => {
  test('with externalTrafficPolicy Local shows the pod the client’s own address, on the pod’s node only', async () => {
    const local = await workspace.addService(
      'local',
      { node: second.name, app: 'web' },
      { externalTrafficPolicy: 'Local' },
    );
    const outside = outsideClient(cluster);
    const answer = await one(outside, `http://${urlHost(second.address)}:${local.nodePort}/clientip`);
    expect(withoutPort(answer)).toBe(family.outside);
    // kube-proxy drops it on the others: no pod of the Service is there.
    const elsewhere = await one(outside, `http://${urlHost(first.address)}:${local.nodePort}/clientip`, 2000);
    expect(elsewhere).toMatch(/^error: /);
  });

  test('with externalTrafficPolicy Cluster answers on every node', async () => {
    const service = await workspace.addService('anywhere', { node: third.name, app: 'web' });
    for (const node of cluster.nodes) {
      expect(await one(outsideClient(cluster), `http://${urlHost(node.address)}:${service.nodePort}/hostname`)).toBe(
        'web-n3',
      );
    }
  });

  test('with session affinity sends one client to one pod', async () => {
    const sticky = await workspace.addService('sticky', { app: 'web' }, { sessionAffinity: 'ClientIP' });
    for (const client of [podClient(cluster, podOn('n1')), nodeClient(cluster, 'n2'), outsideClient(cluster)]) {
      const host = client.label.startsWith('the host')
        ? `${urlHost(first.address)}:${sticky.nodePort}`
        : urlHost(sticky.address);
      // Alone: of several at once each may be kube-proxy's first, on another core.
      const its = await one(client, `http://${host}/hostname`);
      expect(its).toMatch(/^web-n\d$/);
      const urls = Array.from({ length: 12 }, (_, index) => `http://${host}/hostname?${index}`);
      const answers = new Set(Object.values(await ask(client, urls)));
      expect([...answers], client.label).toEqual([its]);
    }
  });

  test('without it spreads over the pods of all nodes', async () => {
    const spread = await workspace.addService('spread', { app: 'web' });
    const seen = new Set<string>();
    await until('every pod has answered', 30_000, async () => {
      const urls = Array.from({ length: 12 }, (_, index) => `http://${urlHost(spread.address)}/hostname?${index}`);
      for (const answer of Object.values(await ask(podClient(cluster, podOn('n1')), urls))) seen.add(answer);
      return pods.every((pod) => seen.has(pod.name));
    });
    expect([...seen].toSorted()).toEqual(pods.map((pod) => pod.name));
  });

  test('whose only pod is the client itself answers it (hairpin)', async () => {
    const own = await workspace.addService('own', { node: 'n1', app: 'web' });
    expect(await one(podClient(cluster, podOn('n1')), `http://${urlHost(own.address)}/hostname`)).toBe('web-n1');
  });

  test('without a ClusterIP names its pods’ addresses', async () => {
    await workspace.addService('headless', { app: 'web' }, { type: 'ClusterIP', clusterIP: 'None' });
    for (const client of clients()) {
      await expectNames(
        client,
        'headless.services.svc.cluster.local',
        pods.map((pod) => pod.address),
      );
    }
  });

  test('over UDP carries a question and its answer across nodes', async () => {
    const ports = [{ port: 90, targetPort: 8081, protocol: 'UDP' }];
    const udp = await workspace.addService('udp', { node: 'n3', app: 'web' }, { ports });
    for (const client of clients()) {
      await until(`${client.label} is answered`, 20_000, async () => {
        const { stdout } = await client.attempt(['bash', '-c', udpScript, 'bash', udp.address]);
        return stdout.trim() === 'web-n3';
      });
    }
  });

  test('over host-network pods is reached from pods, and their nodes', async () => {
    const ports = [{ port: 80, targetPort: hostPodPort }];
    for (const node of nodeNames) {
      const service = await workspace.addService(`on-${node}`, { node, app: 'host' }, { ports });
      for (const client of clients()) {
        expect(await one(client, `http://${urlHost(service.address)}/hostname`), client.label).toBe(node);
      }
    }
  });
});

describe('host-network pods', () => {
  test('and pods reach each other both ways, on each pair of nodes', async () => {
    for (const pod of pods) {
      const urls = cluster.nodes.map((node) => `http://${urlHost(node.address)}:${hostPodPort}/hostname`);
      expect(Object.values(await ask(podClient(cluster, pod), urls)), pod.name).toEqual(nodeNames);
    }
    for (const host of hostPods) {
      const urls = pods.map((pod) => `http://${urlHost(pod.address)}:${podPort}/hostname`);
      expect(Object.values(await ask(podClient(cluster, host), urls)), host.name).toEqual(pods.map((pod) => pod.name));
    }
  });
});

describe('a port of the node that a pod asks for (hostPort)', () => {
  const [tcp, udp] = [18088, 18089];
  const everywhere = (): readonly Client[] => [...clients(), outsideClient(cluster)];

  beforeAll(async () => {
    const ports = [
      { containerPort: podPort, hostPort: tcp },
      { containerPort: 8081, hostPort: udp, protocol: 'UDP' },
    ];
    await workspace.addPods([{ name: 'ported', node: second.name, container: { ports } }]);
  });

  test('leads to it from outside, from every pod and every node, also its own', async () => {
    const url = `http://${urlHost(second.address)}:${tcp}/hostname`;
    for (const client of everywhere()) expect(await one(client, url), client.label).toBe('ported');
    const own = podClient(cluster, { name: 'ported', namespace: 'services', node: second.name, address: '' });
    expect(await one(own, url), own.label).toBe('ported');
  });

  test('shows the pod who asks', async () => {
    const answer = await one(outsideClient(cluster), `http://${urlHost(second.address)}:${tcp}/clientip`);
    expect(withoutPort(answer)).toBe(family.outside);
  });

  test('carries UDP', async () => {
    for (const client of everywhere()) {
      await until(`${client.label} is answered`, 20_000, async () => {
        const { stdout } = await client.attempt(['bash', '-c', udpScript, 'bash', second.address, String(udp)]);
        return stdout.trim() === 'ported';
      });
    }
  });

  test('is that node’s only, and closed when the pod is gone', async () => {
    const closed = async (address: string): Promise<void> => {
      expect(await one(outsideClient(cluster), `http://${urlHost(address)}:${tcp}/hostname`, 2000)).toMatch(/^error: /);
    };
    await closed(first.address);
    await workspace.deletePods(['ported']);
    await closed(second.address);
  });
});

describe('names', () => {
  test('of pods by their address resolve from every node and pod', async () => {
    for (const client of clients()) {
      for (const pod of pods) {
        await expectNames(client, `${pod.address.replaceAll(/[.:]/g, '-')}.services.pod.cluster.local`, [pod.address]);
      }
    }
  });
});

const whereItIs =
  cluster.settings.controlPlane === 'node' ? 'in the first node’s host network' : 'which is no node and has routes';
describe(`the API server, ${whereItIs},`, () => {
  beforeAll(async () => {
    await routeControlPlane(cluster);
  });

  test('proxies to a pod and to a Service', async () => {
    await workspace.addService('proxied', { app: 'web' });
    const base = '/api/v1/namespaces/services';
    for (const pod of pods) {
      const path = `${base}/pods/${pod.name}:${podPort}/proxy/hostname`;
      expect(await cluster.plane.kubectl(['get', '--raw', path])).toBe(pod.name);
    }
    const answer = await cluster.plane.kubectl(['get', '--raw', `${base}/services/proxied:80/proxy/hostname`]);
    expect(pods.map((pod) => pod.name)).toContain(answer);
  });

  test('calls a webhook that runs in a pod', async () => {
    await using hook = await webhook(cluster, workspace, 'n3');
    await until('the webhook is asked', 30_000, async () => {
      const { code, stderr } = await cluster.plane.tryKubectl(['-n', 'services', 'create', 'configmap', 'refused']);
      return code !== 0 && stderr.includes(hook.answer);
    });
  });

  test('forwards a port', async () => {
    const child = spawn(
      join(cluster.paths.bin, 'kubectl'),
      [`--kubeconfig=${cluster.plane.kubeconfig}`, '-n', 'services', 'port-forward', 'pod/web-n2', `:${podPort}`],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    try {
      const line = await new Promise<string>((resolve, reject) => {
        createInterface({ input: child.stdout }).once('line', resolve);
        child.once('exit', (code) => reject(new Error(`kubectl port-forward: exit ${String(code)}`)));
      });
      const port = /127\.0\.0\.1:(\d+)/.exec(line)?.[1];
      const answer = await fetch(`http://127.0.0.1:${port}/hostname`);
      expect(await answer.text()).toBe('web-n2');
    } finally {
      await killChild(child);
    }
  });
});

async function expectNames(client: Client, name: string, addresses: readonly string[]): Promise<void> {
  await until(`${client.label} resolves ${name} to ${addresses.join()}`, 20_000, async () => {
    const { stdout } = await client.attempt(['dig', '+short', '+time=2', `@${family.dns}`, name, recordType]);
    const found = stdout.trim().split('\n').toSorted();
    if (found.join() === addresses.toSorted().join()) return true;
    throw new Error(`answered ${found.join()}`);
  });
}
