// An administrator deletes the Universe, and puts another one in its place, while two agents run: over a real API server with RBAC and
// the admission policies, so that what the agents write then is also what they may write.
import { afterAll, beforeAll, expect, it } from 'vitest';

import type { Lease } from '#agent/runtime/ipam.ts';
import type { ApiServer } from '#test/support/api-server.ts';
import { until } from './cluster/host.ts';
import { type AgentCore, startCore } from './support/agent-core.ts';
import { addNodeAgent, done } from './support/node-agents.ts';
import { policiesAct, startGuardedServer } from './support/privilege-world.ts';
import { peers } from './support/weft-objects.ts';

const universe = '/apis/weft.network/v1alpha1/universes/default';
const warnings: string[] = [];
let server: ApiServer;
let one: AgentCore;
let two: AgentCore;

beforeAll(async () => {
  server = await startGuardedServer();
  const agents = [await addNodeAgent(server, 'one'), await addNodeAgent(server, 'two')] as const;
  await policiesAct(server, ...agents);
  const start = async (agent: (typeof agents)[number]): Promise<AgentCore> =>
    await startCore(server, agent, (line) => void warnings.push(line), { pollMs: 500 });
  one = await start(agents[0]);
  two = await start(agents[1]);
}, 120_000);

afterAll(async () => {
  await one?.stop();
  await two?.stop();
  await server?.[Symbol.asyncDispose]();
});

const blocks = ({ ipam }: AgentCore): string =>
  ipam
    .view()
    .peers.filter(({ self }) => self)
    .flatMap((peer) => peer.blocks)
    .join(' ');
const ended = ({ ipam }: AgentCore): string | undefined => ipam.view().ended?.name;

async function lease({ ipam, agent }: AgentCore, containerId: string): Promise<Lease> {
  const owner = { network: 'weft', netnsPath: '', netnsInode: 0n, podName: agent.node, podNamespace: 'default' };
  return await ipam.lease({ containerId, ifname: 'eth0', owner, addresses: [] }, AbortSignal.timeout(20_000));
}

async function spec(): Promise<{ readonly ranges?: readonly string[]; readonly founder?: unknown }> {
  const { status, body } = await server.admin.call({ method: 'GET', path: universe }, AbortSignal.timeout(5000));
  return status === 200 ? (body as { readonly spec: object }).spec : {};
}

let held: Lease;

it('the default one is made again and founded anew; nobody’s space changes and new pods start meanwhile', async () => {
  await until('both halves', 30_000, async () => `${blocks(one)} ${blocks(two)}` === '10.32.0.0/13 10.40.0.0/13');
  await done(server.admin, { method: 'DELETE', path: universe });
  await until('both heard', 20_000, async () => ended(one) === 'universeDeleted' && ended(two) === 'universeDeleted');
  held = await lease(one, 'during');
  await until('it is founded', 30_000, async () => (await spec()).founder !== undefined);
  expect((await spec()).ranges).toEqual(['10.32.0.0/12']);
  await until('nothing is left to tell', 20_000, async () => ended(one) === undefined && ended(two) === undefined);
  expect([blocks(one), blocks(two)]).toEqual(['10.32.0.0/13', '10.40.0.0/13']);
}, 120_000);

it('another one is taken by nobody who holds space; with records and pods gone the range has changed', async () => {
  const body = {
    apiVersion: 'weft.network/v1alpha1',
    kind: 'Universe',
    metadata: { name: 'default' },
    spec: { ranges: ['10.96.0.0/12'] },
  };
  await done(server.admin, { method: 'DELETE', path: universe });
  await done(server.admin, { method: 'POST', path: '/apis/weft.network/v1alpha1/universes', body });
  await until(
    'both say so',
    20_000,
    async () => ended(one) === 'universeReplaced' && ended(two) === 'universeReplaced',
  );
  expect((await lease(two, 'old')).addresses[0]).toMatch(/^10\.4/);
  two.ipam.release({ containerId: 'old', ifname: 'eth0' });
  for (const { agent } of [one, two]) {
    await done(server.admin, { method: 'DELETE', path: `${peers}/${agent.record}` });
  }
  await until('two has begun anew', 60_000, async () => blocks(two) === '10.96.0.0/12');
  await expect(lease(one, 'late')).rejects.toThrow(/1 pods here still have addresses of it/);
  one.ipam.release(held);
  await until('one follows', 60_000, async () => blocks(one) === '10.104.0.0/13');
  expect((await lease(one, 'new')).addresses[0]).toMatch(/^10\.1(0[4-9]|1[01])\./);
}, 180_000);

it('no write of any of them was refused by a policy', () => {
  expect(warnings.filter((line) => /weft-(?:peers|sessions|universes|takeover|node-status|blocks)/.test(line))).toEqual(
    [],
  );
});
