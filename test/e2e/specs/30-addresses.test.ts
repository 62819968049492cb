// Addresses: each pod's is its own and lies in a block of its node; blocks do not overlap; deleting pods gives everything back.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { until } from '../cluster/host.ts';
import { familiesOf } from '../cluster/settings.ts';
import { currentCluster } from '../support/environment.ts';
import { agentStatus, inBlocks, peerRecords, podLinks, routeDestinations } from '../support/ring.ts';
import { Workspace, type TestPod } from '../support/workspace.ts';

const cluster = currentCluster();
const perNode = 5;
const [{ pods: range, services: serviceRange }] = familiesOf(cluster.settings);
const servicesInside = inBlocks(serviceRange.split('/')[0] ?? '', [range]);

let workspace: Workspace;
let linksBefore: ReadonlyMap<string, number>;
let pods: readonly TestPod[] = [];

beforeAll(async () => {
  const counts = await Promise.all(
    cluster.nodes.map(async (node) => [node.name, (await podLinks(node)).length] as const),
  );
  linksBefore = new Map(counts);
  workspace = await Workspace.create(cluster, 'addresses');
  const wishes = cluster.nodes.flatMap((node) =>
    Array.from({ length: perNode }, (_, index) => ({ name: `p${index}-${node.name}`, node: node.name })),
  );
  pods = await workspace.addPods(wishes);
});

afterAll(async () => {
  await workspace[Symbol.asyncDispose]();
});

test('every node has one Peer with at least one block, and no two blocks overlap', async () => {
  const peers = await peerRecords(cluster);
  expect(peers.map((peer) => peer.node).toSorted()).toEqual(cluster.nodes.map((node) => node.name));
  const blocks = peers.flatMap((peer) => peer.blocks);
  for (const peer of peers) expect(peer.blocks.length, peer.name).toBeGreaterThan(0);
  for (const [index, block] of blocks.entries()) {
    const base = block.split('/')[0] ?? '';
    expect(inBlocks(base, blocks.toSpliced(index, 1)), `${block} lies in another block of ${blocks.join(' ')}`).toBe(
      false,
    );
    expect(inBlocks(base, [range])).toBe(true);
  }
});

describe.skipIf(!servicesInside)('the range of the Services, which lies inside the pods’', () => {
  test('is reserved: it is in no node’s blocks, and the Universe says so', async () => {
    const blocks = (await peerRecords(cluster)).flatMap((peer) => peer.blocks);
    const [base = ''] = serviceRange.split('/');
    expect(inBlocks(base, blocks), blocks.join(' ')).toBe(false);
    for (const block of blocks) {
      const inside = inBlocks(block.split('/')[0] ?? '', [serviceRange]);
      expect(inside, `${block} in ${serviceRange}`).toBe(false);
    }
    const { spec } = await cluster.plane.kubectlJson<{ readonly spec: { readonly reserved: readonly string[] } }>([
      'get',
      'universe',
      'default',
    ]);
    expect(spec.reserved).toEqual([serviceRange]);
  });

  test('is refused to a pod that asks for an address of it', async () => {
    const address = serviceRange.replace(/0\.0\/16$/, '77.7');
    const annotations = { 'weft.network/ips': address };
    const [node] = cluster.nodes;
    await workspace.createPods([{ name: 'greedy', node: node?.name ?? '', annotations }]);
    await until('the pod tells why it does not start', 60_000, async () => {
      const { items } = await cluster.plane.kubectlJson<{ readonly items: readonly { readonly message?: string }[] }>([
        '-n',
        'addresses',
        'get',
        'events',
        '--field-selector=involvedObject.name=greedy',
      ]);
      return items.some(({ message = '' }) => message.includes(address) && /reserved/i.test(message));
    });
    await workspace.deletePods(['greedy']);
  });
});

test('every pod address is unique in the cluster and inside its node’s blocks', async () => {
  const { items } = await cluster.plane.kubectlJson<{
    readonly items: readonly {
      readonly metadata: { readonly name: string };
      readonly spec: { readonly nodeName: string; readonly hostNetwork?: boolean };
      readonly status: { readonly podIP?: string };
    }[];
  }>(['get', 'pods', '-A']);
  const blocks = new Map((await peerRecords(cluster)).map((peer) => [peer.node, peer.blocks]));
  const owners = new Map<string, string>();
  for (const { metadata, spec, status } of items) {
    if (spec.hostNetwork === true || status.podIP === undefined) continue;
    expect(owners.get(status.podIP), `${metadata.name} has the address of`).toBeUndefined();
    owners.set(status.podIP, metadata.name);
    expect(inBlocks(status.podIP, blocks.get(spec.nodeName) ?? []), `${metadata.name}: ${status.podIP}`).toBe(true);
  }
  expect(owners.size).toBeGreaterThanOrEqual(pods.length);
});

test('each node’s agent leases exactly the addresses of the node’s pods', async () => {
  for (const node of cluster.nodes) {
    const { leases } = await agentStatus(node);
    const leased = leases.filter((lease) => lease.pod.startsWith('addresses/')).flatMap((lease) => lease.addresses);
    const expected = pods.filter((pod) => pod.node === node.name).map((pod) => pod.address);
    expect(leased.toSorted()).toEqual(expected.toSorted());
  }
});

test('deleting pods frees their addresses, links and routes', async () => {
  await workspace.deletePods(pods.map((pod) => pod.name));
  for (const node of cluster.nodes) {
    const addresses = pods.filter((pod) => pod.node === node.name).map((pod) => pod.address);
    await until(`leases, links and routes of ${addresses.length} pods are gone from ${node.name}`, 20_000, async () => {
      const { leases } = await agentStatus(node);
      const left = {
        leases: leases.flatMap((lease) => lease.addresses).filter((address) => addresses.includes(address)),
        routes: (await routeDestinations(node)).filter((destination) => addresses.includes(destination)),
        links: Math.max(0, (await podLinks(node)).length - (linksBefore.get(node.name) ?? 0)),
      };
      if (left.leases.length + left.routes.length + left.links === 0) return true;
      throw new Error(`left: ${JSON.stringify(left)}`);
    });
    const neighbours = await node.run(['ip', 'neigh', 'show', 'nud', 'permanent']);
    const ruleset = await node.run(['nft', 'list', 'table', 'inet', 'weft']);
    for (const address of addresses) {
      expect(neighbours, `neighbour on ${node.name}`).not.toMatch(new RegExp(`^${address} `, 'm'));
      expect(ruleset, `nft on ${node.name}`).not.toMatch(new RegExp(`\\b${address.replaceAll('.', '\\.')}\\b`));
    }
  }
});
