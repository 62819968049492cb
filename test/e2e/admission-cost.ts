// What the admission policies cost in a large cluster: `node test/e2e/admission-cost.ts [COUNT]` makes COUNT Nodes and Peers (5,000)
// on a real API server and prints the median time of an agent's writes: one that no policy compares, one that adds a block
// (compared with each Peer of the same part), one that becomes an heir (compared with each Node). docs/security.md has the figures.
import type { KubeRequest } from '#agent/kubernetes/api.ts';
import { peerLabels } from '#agent/registry/kubernetes/peer-labels.ts';
import { addNode, addNodeAgent, done, type NodeAgent } from './support/node-agents.ts';
import { startGuardedServer, policiesAct } from './support/privilege-world.ts';
import { creation, peerOf, peers, refTo, stored, withSpec } from './support/weft-objects.ts';

const count = Number(process.argv[2] ?? 5000);
const writes = 15;

/** Milliseconds, median, of `writes` runs; each must be answered by 200. */
async function median(agent: NodeAgent, spec: (run: number) => Promise<[NodeAgent, object]>): Promise<number> {
  const tookMs: number[] = [];
  for (let run = 0; run < writes; run += 1) {
    const request = await withSpec(...(await spec(run)));
    const beganMs = performance.now();
    await done(agent.api, request);
    tookMs.push(performance.now() - beganMs);
  }
  return tookMs.toSorted((x, y) => x - y)[writes >> 1] ?? 0;
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

await using server = await startGuardedServer();
const a = await addNodeAgent(server, 'a');
const b = await addNodeAgent(server, 'b');
await policiesAct(server, a, b);
for (const agent of [a, b]) await done(agent.api, creation(peerOf(agent)));

const batch = 16;
for (let at = 0; at < count; at += batch) {
  const indexes = Array.from({ length: Math.min(batch, count - at) }, (_, offset) => at + offset);
  await Promise.all(
    indexes.map(async (index) => {
      const node = `node-${index}`;
      const uid = await addNode(server, node);
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
const plainMs = await median(a, async (run) => [a, { free: run + 1 }]);
const blockMs = await median(a, async (run) => [
  a,
  { blocks: Array.from({ length: run + 1 }, (_, index) => ({ cidr: `10.32.${index}.0/24` })) },
]);
const heir = refTo(await stored(a));
const heirMs = await median(a, async (run) => [dead[run] ?? a, { heir }]);
console.log(
  `${count} Nodes and Peers, median of ${writes}: plain update ${plainMs.toFixed(0)} ms, a block added ${blockMs.toFixed(0)} ms, heir set ${heirMs.toFixed(0)} ms`,
);
for (const agent of [a, b, ...dead]) agent[Symbol.dispose]();
