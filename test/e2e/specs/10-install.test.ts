// One `kubectl apply` of the one file, as users do it, turns a cluster without any pod network Ready; no pod CIDR is allocated.
import { beforeAll, describe, expect, test } from 'vitest';

import { defaultImage, renderManifest, manifestPath } from '../../../deploy/generate.ts';
import { readFile } from 'node:fs/promises';
import { until } from '../cluster/host.ts';
import { currentCluster } from '../support/environment.ts';
import { nodeObjects, readyCondition } from '../support/nodes.ts';
import { manifestUrl } from '../support/manifest-server.ts';

const cluster = currentCluster();

describe.skipIf(cluster.settings.cni !== 'none')('installing with one apply', () => {
  beforeAll(async () => {
    expect(await readFile(manifestPath, 'utf8'), 'deploy/weft.yaml is generated: node deploy/generate.ts').toBe(
      await renderManifest(),
    );
  });

  test('before: nodes are NotReady, have no network configuration, no plugin and no pod CIDR', async () => {
    for (const node of await nodeObjects(cluster)) {
      expect(readyCondition(node)).toMatchObject({ status: 'False' });
      expect(readyCondition(node).message).toMatch(/cni/i);
      expect(node.spec.podCIDR).toBeUndefined();
      const { stdout } = await cluster.node(node.metadata.name).attempt(['ls', '/etc/cni/net.d', '/opt/cni/bin']);
      expect(stdout.trim().split(/\s+/)).toEqual(['/etc/cni/net.d:', '/opt/cni/bin:']);
    }
  });

  test('before: `weft doctor --before-install` in a plain container finds nothing in the way', async () => {
    const [node] = cluster.nodes;
    const capabilities = ['CAP_NET_ADMIN', 'CAP_NET_RAW', 'CAP_SYS_ADMIN'].flatMap((name) => ['--cap-add', name]);
    const mount = 'type=bind,src=/proc/sys/net,dst=/host/proc/sys/net,options=rbind:ro';
    const where = ['--rm', '--net-host', '--mount', mount, ...capabilities, defaultImage, 'doctor'];
    const run = ['ctr', '-n', 'k8s.io', 'run', ...where, 'weft', 'doctor', '--before-install'];
    expect(await node?.attempt(run)).toMatchObject({ code: 0, stdout: 'no findings\n' });
  });

  test('rp_filter is 1 on every node, as distributions set it', async () => {
    for (const node of cluster.nodes) {
      const values = await node.run(['sysctl', '-n', 'net.ipv4.conf.all.rp_filter', 'net.ipv4.conf.eth0.rp_filter']);
      expect(values.trim().split('\n')).toEqual(['1', '1']);
    }
  });

  test('kubectl apply -f http://…/weft.yaml turns every node Ready', async () => {
    const beganMs = performance.now();
    await cluster.plane.kubectl(['apply', '-f', manifestUrl(cluster.settings)]);
    await cluster.plane.kubectl(['wait', '--for=condition=Ready', 'node', '--all', '--timeout=100s']);
    console.log(`nodes Ready ${((performance.now() - beganMs) / 1000).toFixed(1)} s after the apply`);
  });

  test('the agents are available, and pods that waited for a network run', async () => {
    await cluster.plane.kubectl(['-n', 'weft', 'rollout', 'status', 'daemonset/weft', '--timeout=60s']);
    await cluster.plane.kubectl(['-n', 'kube-system', 'rollout', 'status', 'deployment/coredns', '--timeout=60s']);
  });

  test('after: still no pod CIDR; the plugin, the loopback plugin and the configuration are in place', async () => {
    for (const node of await nodeObjects(cluster)) expect(node.spec.podCIDR).toBeUndefined();
    for (const node of cluster.nodes) {
      const listed = (await node.run(['ls', '/etc/cni/net.d', '/opt/cni/bin'])).trim().split(/\s+/);
      expect(listed).toEqual(['/etc/cni/net.d:', '05-weft.conflist', '/opt/cni/bin:', 'loopback', 'weft']);
    }
  });

  test('each node says that its network is up: NetworkUnavailable=False, reason WeftIsUp', async () => {
    await until('the condition on every node', 20_000, async () => {
      const nodes = await nodeObjects(cluster);
      const told = nodes.map((node) => node.status.conditions.find(({ type }) => type === 'NetworkUnavailable'));
      return told.every((condition) => condition?.status === 'False' && condition.reason === 'WeftIsUp');
    });
  });

  test('`weft status` in each agent says ready; `kubectl get weftpeers` shows who holds what', async () => {
    const { items } = await cluster.plane.kubectlJson<{
      readonly items: readonly { readonly metadata: { readonly name: string } }[];
    }>(['-n', 'weft', 'get', 'pods']);
    expect(items.length).toBe(cluster.nodes.length);
    for (const { metadata } of items) {
      const text = await cluster.plane.kubectl([
        '-n',
        'weft',
        'exec',
        metadata.name,
        '-c',
        'agent',
        '--',
        'weft',
        'status',
        '--json',
      ]);
      expect(JSON.parse(text)).toMatchObject({ ready: true, findings: [], registry: { engine: 'kubernetes' } });
    }
    const table = await cluster.plane.kubectl(['get', 'weftpeers']);
    for (const node of cluster.nodes)
      expect(table).toMatch(new RegExp(`^${node.name}\\.\\S+ +${node.name} .*${node.address} `, 'm'));
  });

  test('an agent has the capabilities that the manifest lists, a seccomp filter, and no way to more', async () => {
    for (const node of cluster.nodes) {
      const status = await node.run([
        'sh',
        '-c',
        'cat "/proc/$(pgrep -f "/opt/weft/bin/[w]eft agent" | head -1)/status"',
      ]);
      const field = (name: string): string => new RegExp(`^${name}:\\s+(\\S+)`, 'm').exec(status)?.[1] ?? '';
      // CAP_NET_ADMIN 12, CAP_NET_RAW 13, CAP_SYS_ADMIN 21.
      const wanted = ((1n << 12n) | (1n << 13n) | (1n << 21n)).toString(16).padStart(16, '0');
      for (const set of ['CapEff', 'CapPrm', 'CapBnd']) expect(field(set), set).toBe(wanted);
      expect({ noNewPrivs: field('NoNewPrivs'), seccomp: field('Seccomp') }).toEqual({ noNewPrivs: '1', seccomp: '2' });
    }
  });

  test('applying the same file again changes nothing', async () => {
    const output = await cluster.plane.kubectl(['apply', '-f', manifestUrl(cluster.settings)]);
    const changed = output.split('\n').filter((line) => line !== '' && !line.endsWith(' unchanged'));
    expect(changed).toEqual([]);
  });
});
