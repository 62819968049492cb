// A node comes and goes: it joins, reboots with its disk, gets another address, another name, dies, and comes again with an empty
// disk. The others lose nothing, and no address is lost.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { attempt, until } from '../cluster/host.ts';
import { ClusterNode } from '../cluster/node.ts';
import { podClient } from '../support/clients.ts';
import { currentCluster } from '../support/environment.ts';
import { nodeObjects, readyCondition } from '../support/nodes.ts';
import { agentStatus, inBlocks, peerRecords, podLinks, type PeerRecord } from '../support/ring.ts';
import { expectNoLoss, streamAllPairs } from '../support/stream.ts';
import { podPort, Workspace, type TestPod } from '../support/workspace.ts';

const cluster = currentCluster();
const { plane } = cluster;

let workspace: Workspace;
let pods: readonly TestPod[] = [];

/** Hours and minutes become seconds, so that a takeover can be watched; the last step back is only the file's, for whoever restarts. */
async function configure(settings: object): Promise<void> {
  const patch = { data: { 'config.json': JSON.stringify(settings) } };
  await plane.kubectl(['-n', 'weft', 'patch', 'configmap', 'weft', '--type=merge', '-p', JSON.stringify(patch)]);
}

beforeAll(async () => {
  await configure({ sessionTermMs: 20_000, takeOverAfterMs: 20_000 });
  await plane.kubectl(['-n', 'weft', 'rollout', 'restart', 'daemonset/weft']);
  await plane.kubectl(['-n', 'weft', 'rollout', 'status', 'daemonset/weft', '--timeout=170s']);
  workspace = await Workspace.create(cluster, 'lifecycle');
  pods = await workspace.addPods(cluster.nodes.map((node) => ({ name: `w-${node.name}`, node: node.name })));
});

afterAll(async () => {
  await configure({});
  await workspace[Symbol.asyncDispose]();
});

describe('a fourth node', () => {
  // Its processes end with this file, so this file takes it away again.
  let fourth = new ClusterNode(4, cluster.paths, cluster.settings);
  let firstPeer: PeerRecord;
  const records = new Set<string>();

  afterAll(async () => {
    await fourth.crash();
    for (const name of ['n4', 'n4-renamed']) {
      await plane.tryKubectl(['delete', 'node', name, '--ignore-not-found', '--wait=false']);
      // The garbage collector would take a minute, in which the next specs still count its agent.
      const here = ['-A', `--field-selector=spec.nodeName=${name}`, '--force', '--grace-period=0'];
      await plane.tryKubectl(['delete', 'pods', ...here, '--timeout=60s']);
    }
  });

  async function addPod(name: string): Promise<TestPod> {
    const [pod] = await workspace.addPods([{ name, node: fourth.name }]);
    if (pod === undefined) throw new Error('no pod');
    return pod;
  }

  async function expectMutual(pod: TestPod): Promise<void> {
    for (const other of pods) {
      await expect(podClient(cluster, pod)).toReach(other, { port: podPort, withinMs: 30_000 });
      await expect(podClient(cluster, other)).toReach(pod, { port: podPort, withinMs: 30_000 });
    }
  }

  test('joins: it turns Ready, owns a block, and its pods talk to all others', async () => {
    await fourth.boot(plane);
    await expectReady(fourth.name);
    const pod = await addPod('p-n4');
    firstPeer = await peerOf(fourth.name);
    records.add(firstPeer.name);
    expect(inBlocks(pod.address, firstPeer.blocks), `${pod.address} in ${firstPeer.blocks.join()}`).toBe(true);
    await expectMutual(pod);
  });

  test('reboots with its disk: it keeps its record and its blocks, its pods come again, no old lease or link stays', async () => {
    const before = await agentStatus(fourth);
    const streams = await streamAllPairs(cluster, pods);
    await fourth.halt();
    await fourth.powerOn(plane);
    await until('its agent serves again', 120_000, async () => {
      const { ready, startedAtMs } = await agentStatus(fourth);
      return ready && startedAtMs > before.startedAtMs;
    });
    const pod = await until('its pod answers', 120_000, async () => {
      const found = (await workspace.pods()).find(({ name }) => name === 'p-n4');
      const [other] = pods;
      if (found === undefined || other === undefined) return undefined;
      const url = `http://${found.address}:${podPort}/hostname`;
      const { stdout } = await podClient(cluster, other).attempt(['curl', '-sS', '--max-time', '2', url]);
      return stdout.trim() === 'p-n4' ? found : undefined;
    });
    await expectMutual(pod);
    const peer = await peerOf(fourth.name);
    expect({ name: peer.name, blocks: peer.blocks }).toEqual({ name: firstPeer.name, blocks: firstPeer.blocks });
    expect(inBlocks(pod.address, peer.blocks), `${pod.address} in ${peer.blocks.join()}`).toBe(true);
    await until('leases and links are those of the pods that run', 150_000, async () => {
      const { leases } = await agentStatus(fourth);
      const held = leases.map(({ hostIfname }) => hostIfname).toSorted();
      const links = (await podLinks(fourth)).toSorted();
      const old = before.leases.filter(({ hostIfname }) => held.includes(hostIfname));
      if (old.length === 0 && held.join() === links.join() && held.length > 0) return true;
      throw new Error(`leases ${held.join()}, links ${links.join()}, from before ${JSON.stringify(old)}`);
    });
    await expectNoLoss(streams);
  });

  test('gets another address: the others follow, its pods keep theirs and go on', async () => {
    const [pod] = (await workspace.pods()).filter(({ name }) => name === 'p-n4');
    if (pod === undefined) throw new Error('no pod p-n4');
    const [was, streams] = [fourth.address, await streamAllPairs(cluster, pods)];
    await fourth.changeAddress(5);
    for (const node of cluster.nodes) {
      await until(`${node.name} sends to the new address`, 90_000, async () => {
        const entries = await node.run(['bridge', 'fdb', 'show', 'dev', 'weft0']);
        return entries.includes(`dst ${fourth.address} `) && !entries.includes(`dst ${was} `);
      });
    }
    // A kubelet that has just started knows its pods once it has asked the API server for them.
    await until('its kubelet knows the pod', 60_000, async () => {
      return (await podClient(cluster, pod).attempt(['true'])).code === 0;
    });
    await expectMutual(pod);
    await until('its record names the new address', 60_000, async () => {
      const table = await plane.kubectl(['get', 'weftpeers', '--no-headers']);
      return new RegExp(`^${firstPeer.name} .* ${fourth.address} `, 'm').test(table);
    });
    await expectNoLoss(streams);
  });

  test('comes up with its disk under another name: a new node, which uses nothing of the old one’s space', async () => {
    await fourth.halt();
    fourth = new ClusterNode(4, cluster.paths, cluster.settings, 'n4-renamed');
    await fourth.powerOn(plane);
    await expectReady(fourth.name);
    const pod = await addPod('renamed');
    const peer = await peerOf(fourth.name);
    records.add(peer.name);
    expect(peer.name).not.toBe(firstPeer.name);
    expect(inBlocks(pod.address, peer.blocks), `${pod.address} in ${peer.blocks.join()}`).toBe(true);
    expect(inBlocks(pod.address, firstPeer.blocks)).toBe(false);
    await expectMutual(pod);
    await plane.kubectl(['delete', 'node', 'n4']);
  });

  test('dies and is deleted: the others lose nothing', async () => {
    const streams = await streamAllPairs(cluster, pods);
    await fourth.crash();
    await plane.kubectl(['delete', 'node', fourth.name]);
    for (const name of ['p-n4', 'renamed']) {
      await until(`${name} is gone`, 90_000, async () => {
        const force = ['--force', '--grace-period=0', '--ignore-not-found'];
        await plane.tryKubectl(['-n', 'lifecycle', 'delete', 'pod', name, ...force]);
        return (await workspace.pods()).every((pod) => pod.name !== name);
      });
    }
    await expectNoLoss(streams);
  });

  test('leaves its space to the others, without anyone’s help', async () => {
    const before = (await peerRecords(cluster)).flatMap((peer) => peer.blocks);
    await until('its records are gone, and every block has an owner', 220_000, async () => {
      const peers = await peerRecords(cluster);
      if (peers.some((peer) => records.has(peer.name))) return false;
      const owned = peers.flatMap((peer) => peer.blocks);
      return before.every((block) => inBlocks(block.split('/')[0] ?? '', owned));
    });
  });

  test('comes again under its first name, with an empty disk: a new node with space of its own', async () => {
    fourth = new ClusterNode(4, cluster.paths, cluster.settings);
    await fourth.boot(plane);
    await expectReady(fourth.name);
    const pod = await addPod('again-n4');
    const { items } = await plane.kubectlJson<{
      readonly items: readonly {
        readonly metadata: { readonly name: string };
        readonly spec: { readonly node: { readonly uid: string } };
      }[];
    }>(['get', 'peers.weft.network']);
    const uid = (await nodeObjects(cluster)).find((node) => node.metadata.name === fourth.name)?.metadata.uid;
    const own = items.find((peer) => peer.spec.node.uid === uid);
    expect(own?.metadata.name).not.toBe(firstPeer.name);
    const blocks = (await peerRecords(cluster)).find((peer) => peer.name === own?.metadata.name)?.blocks ?? [];
    expect(inBlocks(pod.address, blocks), `${pod.address} in ${blocks.join()}`).toBe(true);
    for (const other of pods) await expect(podClient(cluster, other)).toReach(pod, { port: podPort });
    expect((await attempt(['ping', '-c', '1', '-W', '5', fourth.address])).code).toBe(0);
    await workspace.deletePods(['again-n4']);
  });
});

async function expectReady(name: string): Promise<void> {
  await until(`${name} is Ready`, 120_000, async () => {
    const node = (await nodeObjects(cluster)).find((one) => one.metadata.name === name);
    return node !== undefined && readyCondition(node).status === 'True';
  });
}

async function peerOf(node: string): Promise<PeerRecord> {
  return await until(`${node} owns a block`, 60_000, async () => {
    return (await peerRecords(cluster)).find((peer) => peer.node === node && peer.blocks.length > 0);
  });
}
