// Events of findings against a real API server with RBAC and the admission policies of deploy/base: an agent tells once what is
// found on its own node, and its token can write no other event.
import { afterAll, beforeAll, expect, it } from 'vitest';
import { tellFindings } from '#agent/discovery/node-events.ts';
import type { KubeRequest } from '#agent/kubernetes/api.ts';
import { findingOf, type Finding } from '#agent/observe/findings.ts';
import type { ApiServer } from '#test/support/api-server.ts';
import { until } from './cluster/host.ts';
import { addNodeAgent, addStranger, done, type NodeAgent } from './support/node-agents.ts';
import { startGuardedServer } from './support/privilege-world.ts';
import { creation, eventOf, events, owner } from './support/weft-objects.ts';

let server: ApiServer;
let a: NodeAgent, b: NodeAgent, stranger: NodeAgent;

beforeAll(async () => {
  server = await startGuardedServer();
  a = await addNodeAgent(server, 'a');
  b = await addNodeAgent(server, 'b');
  stranger = await addStranger(server);
  // A policy acts a moment after it was made.
  await until('the policy on events acts', 60_000, async () => {
    const answer = await a.call({ ...creation(eventOf(b), events), query: { dryRun: 'All' } });
    return answer.status === 422;
  });
}, 120_000);

afterAll(async () => {
  for (const agent of [a, b, stranger]) agent?.[Symbol.dispose]();
  await server?.[Symbol.asyncDispose]();
});

const written = async (): Promise<readonly unknown[]> => {
  const { body } = await done(server.admin, { method: 'GET', path: events });
  return (body as { readonly items: readonly unknown[] }).items;
};

it.each<readonly [what: string, by: string, request: () => KubeRequest]>([
  ['about another node', 'weft-events', () => creation(eventOf(a, { regarding: owner(b) }), events)],
  ['about a pod', 'weft-events', () => creation(eventOf(a, { regarding: { ...owner(a), kind: 'Pod' } }), events)],
  ['in the kubelet’s name', 'weft-events', () => creation(eventOf(a, { reportingController: 'kubelet' }), events)],
  [
    'in another namespace',
    'cannot create',
    () => creation(eventOf(a), '/apis/events.k8s.io/v1/namespaces/kube-system/events'),
  ],
])('an agent’s token writes no event %s (%s)', async (_what, by, request) => {
  const before = await written();
  const answer = await a.call(request());
  expect([403, 422]).toContain(answer.status);
  expect(answer.body).toMatchObject({ status: 'Failure', message: expect.stringContaining(by) });
  expect(await written()).toEqual(before);
});

it('it reads, changes and deletes none; a token that names no node writes none', async () => {
  const one = `${events}/weft.a`;
  const attempts: readonly KubeRequest[] = [
    { method: 'GET', path: events },
    { method: 'PUT', path: one, body: eventOf(a) },
    { method: 'PATCH', path: one, body: {}, contentType: 'application/merge-patch+json' },
    { method: 'DELETE', path: one },
  ];
  for (const attempt of attempts) expect(await a.call(attempt), attempt.method).toMatchObject({ status: 403 });
  expect(await stranger.call(creation(eventOf(stranger), events))).toMatchObject({ status: 422 });
});

it('a finding is told once, although the agent starts anew', async () => {
  const finding = findingOf({ name: 'leftoverNetwork', subject: 'flannel.1', message: 'a link of flannel' });
  // The second agent knows nothing of the first one's event; the API server does.
  for (let start = 1; start <= 2; start += 1) {
    const stop = new AbortController();
    let looks = 0;
    const findings = (): readonly Finding[] => {
      looks += 1;
      if (looks > 4) stop.abort();
      return [finding];
    };
    const node = { nodeName: a.node, nodeUid: a.nodeUid };
    await tellFindings({ api: a.api, node, findings, log: { debug: () => undefined }, everyMs: 50 }, stop.signal);
  }
  const regarding = { kind: 'Node', name: 'a', uid: a.nodeUid };
  expect(await written()).toMatchObject([{ reason: 'LeftoverNetwork', type: 'Warning', regarding }]);
});
