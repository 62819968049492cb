// What the admission policies cost in a large cluster: `node test/e2e/admission-cost.ts [COUNT [IMAGES]]` makes COUNT Peers and COUNT Nodes
// (5,000) with IMAGES images each (0; a Node with 50 has 12 KB) on a real API server and prints median times: of an agent's writes (one that
// no policy compares, one that adds a block and is compared with each Peer of the same part, one that makes somebody an heir and is
// compared with each Node of the same part), and of what others do to Leases. docs/performance.md has the figures.
import type { KubeApi, KubeRequest } from '#agent/kubernetes/api.ts';
import { nodePart, partLabel } from '#agent/kubernetes/node-part.ts';
import { peerLabels } from '#agent/registry/kubernetes/peer-labels.ts';
import { addNode, addNodeAgent, done, type NodeAgent } from './support/node-agents.ts';
import { startGuardedServer, policiesAct } from './support/privilege-world.ts';
import { creation, leases, patch, peerOf, peers, refTo, stored, withSpec } from './support/weft-objects.ts';

const count = Number(process.argv[2] ?? 5000);
const images = Number(process.argv[3] ?? 0);
const writes = 15;

/** Milliseconds, median, of `writes` runs; each must be answered by success. */
async function median(api: KubeApi, requestOf: (run: number) => Promise<KubeRequest> | KubeRequest): Promise<string> {
  const tookMs: number[] = [];
  for (let run = 0; run < writes; run += 1) {
    const request = await requestOf(run);
    const beganMs = performance.now();
    await done(api, request);
    tookMs.push(performance.now() - beganMs);
  }
  return `${(tookMs.toSorted((x, y) => x - y)[writes >> 1] ?? 0).toFixed(0)} ms`;
}

/** The label that an agent puts on its Node. */
async function label(node: string, uid: string): Promise<void> {
  await insist(patch(`/api/v1/nodes/${node}`, { metadata: { labels: { [partLabel]: nodePart(uid) } } }));
}

/** A request that found the API server too busy to answer in time may have taken effect. */
async function insist(request: KubeRequest): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    const answer = await server.admin.call(request, new AbortController().signal).catch((error: unknown) => {
      if (attempt === 5) throw error;
      return undefined;
    });
    if (answer === undefined) continue;
    if (answer.status < 300 || (attempt > 1 && answer.status === 409)) return;
    throw new Error(`${request.method} ${request.path}: ${JSON.stringify(answer.body)}`);
  }
}

function leaseOf(namespace: string, name: string): object {
  return { apiVersion: 'coordination.k8s.io/v1', kind: 'Lease', metadata: { name, namespace }, spec: {} };
}

await using server = await startGuardedServer();
const a = await addNodeAgent(server, 'a');
const b = await addNodeAgent(server, 'b');
await policiesAct(server, a, b);
for (const agent of [a, b]) {
  await done(agent.api, creation(peerOf(agent)));
  await label(agent.node, agent.nodeUid);
}

const batch = 16;
for (let at = 0; at < count; at += batch) {
  const indexes = Array.from({ length: Math.min(batch, count - at) }, (_, offset) => at + offset);
  await Promise.all(
    indexes.map(async (index) => {
      const node = `node-${index}`;
      const uid = await addNode(server, node, images);
      await label(node, uid);
      const name = `${node}.${uid.slice(0, 8)}`;
      const cidr = `10.${64 + (index >> 10)}.${(index >> 2) & 255}.${(index & 3) * 64}/26`;
      const spec = { schema: 1, node: { name: node, uid }, seq: 1, blocks: [{ cidr }], underlay: ['192.0.2.1'] };
      const metadata = { name, labels: peerLabels(undefined, spec) };
      const body = { apiVersion: 'weft.network/v1alpha1', kind: 'Peer', metadata, spec };
      await insist({ method: 'POST', path: peers, body });
    }),
  );
}

// Records of nodes that are gone, for `a` to become the heir of.
const dead: NodeAgent[] = [];
for (let run = 0; run < writes; run += 1) {
  const agent = await addNodeAgent(server, `dead-${run}`);
  await done(agent.api, creation(peerOf(agent)));
  await done(server.admin, { method: 'DELETE', path: `/api/v1/nodes/${agent.node}` });
  dead.push(agent);
}
const plain = await median(a.api, async (run) => await withSpec(a, { free: run + 1 }));
const block = await median(a.api, async (run) => {
  return await withSpec(a, {
    blocks: Array.from({ length: run + 1 }, (_, index) => ({ cidr: `10.32.${index}.0/24` })),
  });
});
const heir = refTo(await stored(a));
const inherited = await median(a.api, async (run) => await withSpec(dead[run] ?? a, { heir }));
const settled = await median(a.api, async (run) => await withSpec(dead[run] ?? a, { seq: 2 }));
const elsewhere = leases.replace('/weft/', '/kube-node-lease/');
const made = await median(server.admin, (run) => creation(leaseOf('kube-node-lease', `n${run}`), elsewhere));
const removed = await median(server.admin, (run) => ({ method: 'DELETE', path: `${elsewhere}/n${run}` }));
console.log(
  `${count} Nodes of ${images} images and as many Peers, medians of ${writes}: plain update ${plain}, a block added ${block}, heir set ${inherited}, ` +
    `heir's write ${settled}, a kubelet's Lease made ${made}, deleted ${removed}`,
);
for (const agent of [a, b, ...dead]) agent[Symbol.dispose]();
