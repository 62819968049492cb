// The last file of a run: Weft is uninstalled by the three lines of docs/operate.md and leaves nothing; another network takes the
// cluster over; then Weft is installed over what that one, flannel and Weave Net left, which its agents name.
import { afterAll, describe, expect, test } from 'vitest';

import { until } from '../cluster/host.ts';
import type { ClusterNode } from '../cluster/node.ts';
import { installReferenceNetwork } from '../cluster/reference-network.ts';
import { podClient } from '../support/clients.ts';
import { currentCluster } from '../support/environment.ts';
import { manifestUrl } from '../support/manifest-server.ts';
import { nodeObjects, readyCondition } from '../support/nodes.ts';
import { agentStatus, inBlocks, routeDestinations } from '../support/ring.ts';
import { podPort, Workspace, type PodWish, type TestPod } from '../support/workspace.ts';

const cluster = currentCluster();
const { plane } = cluster;
const deploy = new URL('../../../deploy/', import.meta.url).pathname;

let workspace: Workspace;
const wishes = (word: string): readonly PodWish[] =>
  cluster.nodes.map((node) => ({ name: `${word}-${node.name}`, node: node.name }));

afterAll(async () => {
  await workspace?.[Symbol.asyncDispose]();
});

async function expectMutual(pods: readonly TestPod[]): Promise<void> {
  for (const from of pods) {
    for (const to of pods) await expect(podClient(cluster, from)).toReach(to, { port: podPort, withinMs: 30_000 });
  }
}

const lines = async (node: ClusterNode, command: string): Promise<readonly string[]> =>
  (await node.attempt(['sh', '-c', command])).stdout.split('\n').filter((line) => line.trim() !== '');

describe('uninstalling', () => {
  test('takes three lines', async () => {
    workspace = await Workspace.create(cluster, 'leaving');
    await workspace.addPods(wishes('weft'));
    const beganMs = performance.now();
    await plane.kubectl(['-n', 'weft', 'delete', 'daemonset', 'weft']);
    await plane.kubectl(['apply', '-f', `${deploy}uninstall.yaml`]);
    await plane.kubectl(['-n', 'weft', 'rollout', 'status', 'daemonset/weft-uninstall', '--timeout=150s']);
    await plane.kubectl(['delete', '-f', manifestUrl(cluster.settings), '--ignore-not-found', '--timeout=120s']);
    console.log(`uninstalled in ${((performance.now() - beganMs) / 1000).toFixed(1)} s`);
  });

  test('leaves no link, route, nexthop, rule, table, file or directory of Weft on any node', async () => {
    for (const node of cluster.nodes) {
      expect(await lines(node, 'ip -o link show | grep weft'), node.name).toEqual([]);
      expect(await lines(node, 'ip nexthop; nft list ruleset | grep -i weft; iptables-save | grep -i weft')).toEqual(
        [],
      );
      const inRange = (await routeDestinations(node)).filter((to) =>
        inBlocks(to.split('/')[0] ?? '', ['10.32.0.0/12']),
      );
      expect(inRange.filter((to) => /^\d/.test(to))).toEqual([]);
      expect(await lines(node, 'ls -d /run/weft /var/lib/weft; ls -A /etc/cni/net.d')).toEqual([]);
      // The runtime starts no pod of any network without it.
      expect(await lines(node, 'ls -A /opt/cni/bin')).toEqual(['loopback']);
    }
  });

  test('leaves no object of Weft in the cluster', async () => {
    const kinds =
      'namespaces,customresourcedefinitions,clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings';
    await until('every object is gone', 60_000, async () => {
      const names = await plane.kubectl(['get', kinds, '-o', 'name']);
      const ours = names.split('\n').filter((name) => /weft/.test(name));
      if (ours.length === 0) return true;
      throw new Error(ours.join());
    });
  });

  test('lets another network take over: pods of before end, new ones run', async () => {
    for (const node of cluster.nodes) await node.run(['sh', '-c', 'cp /node/bin/cni/* /opt/cni/bin/']);
    await installReferenceNetwork(cluster.nodes);
    await until('every node is Ready', 60_000, async () => {
      return (await nodeObjects(cluster)).every((node) => readyCondition(node).status === 'True');
    });
    await workspace.deletePods(wishes('weft').map(({ name }) => name));
    const pods = await workspace.addPods(wishes('other'));
    for (const pod of pods) expect(inBlocks(pod.address, ['10.244.0.0/16']), pod.address).toBe(true);
    await expectMutual(pods);
  });
});

describe('installing over what other networks left', () => {
  const [first, second] = cluster.nodes;
  const conf = '{"cniVersion":"0.3.1","name":"cbr0","plugins":[{"type":"flannel"},{"type":"portmap"}]}';

  test('begins with a look: the doctor names it before Weft is there', async () => {
    if (first === undefined || second === undefined) throw new Error('two nodes are needed');
    await first.run(['ip', 'link', 'add', 'flannel.1', 'type', 'vxlan', 'id', '1', 'dstport', '8472', 'dev', 'eth0']);
    await first.run(['iptables', '-N', 'FLANNEL-FWD']);
    await first.run(['tee', '/etc/cni/net.d/10-flannel.conflist'], { input: conf });
    await second.run(['ip', 'link', 'add', 'weave', 'type', 'bridge']);
    await second.run(['ip', 'addr', 'add', '172.30.0.1/16', 'dev', 'weave']);
    await second.run(['iptables', '-t', 'nat', '-N', 'WEAVE']);
    await plane.kubectl(['apply', '-f', `${deploy}before-install.yaml`]);
    const log = await until('the doctor has ended', 90_000, async () => {
      const job = ['-n', 'kube-system', 'get', 'job', 'weft-doctor', '-o', 'jsonpath={.status.conditions[*].type}'];
      if (!/Complete|Failed/.test(await plane.kubectl(job))) return undefined;
      return await plane.kubectl(['-n', 'kube-system', 'logs', 'job/weft-doctor']);
    });
    // The scheduler chose the node; each has the bridge of the network before.
    expect(log).toContain('leftoverNetwork: cni0');
    expect(log).toContain('docs/leftovers.md');
    await plane.kubectl(['delete', '-f', `${deploy}before-install.yaml`]);
  });

  test('works: new pods are Weft’s and reach each other', async () => {
    await plane.kubectl(['apply', '-f', manifestUrl(cluster.settings)]);
    await plane.kubectl(['-n', 'weft', 'rollout', 'status', 'daemonset/weft', '--timeout=150s']);
    await workspace.deletePods(wishes('other').map(({ name }) => name));
    const pods = await workspace.addPods(wishes('again'));
    for (const pod of pods) expect(inBlocks(pod.address, ['10.32.0.0/12']), pod.address).toBe(true);
    await expectMutual(pods);
  });

  test('is told of by status, log and metrics of the nodes where it is', async () => {
    const wanted = [
      { node: first, subjects: ['flannel.1', 'cni0', 'FLANNEL-FWD', '10-flannel.conflist'] },
      { node: second, subjects: ['weave', 'WEAVE', 'cni0'] },
    ];
    for (const { node, subjects } of wanted) {
      if (node === undefined) throw new Error('a node is missing');
      await until(`${node.name} names ${subjects.join()}`, 120_000, async () => {
        const { findings } = await agentStatus(node);
        const messages = findings
          .filter(({ name }) => name === 'leftoverNetwork')
          .map(({ message }) => String(message).split(':')[0]);
        if (subjects.every((subject) => messages.includes(subject))) return true;
        throw new Error(messages.join());
      });
      const metrics = await node.run(['curl', '-sS', '--max-time', '5', `http://${node.address}:6782/metrics`]);
      expect(metrics).toMatch(/^weft_findings\{severity="warning"\} [1-9]/m);
    }
    const log = await plane.kubectl([
      '-n',
      'weft',
      'logs',
      '-l',
      'app.kubernetes.io/name=weft',
      '-c',
      'agent',
      '--tail=-1',
    ]);
    expect(log).toMatch(/"name":"leftoverNetwork","subject":"flannel\.1"/);
  });
});
