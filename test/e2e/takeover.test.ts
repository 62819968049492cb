// The real core of three agents, each with the token of its own node, against a real API server with RBAC and the admission
// policies: they found, join, lease, and take over from a node that is gone. What the policies forbid, nobody needs.
import { afterAll, beforeAll, expect, it } from 'vitest';

import type { ApiServer } from '#test/support/api-server.ts';
import { until } from './cluster/host.ts';
import { type AgentCore, startCore } from './support/agent-core.ts';
import { addNodeAgent, done, type NodeAgent } from './support/node-agents.ts';
import { policiesAct, startGuardedServer } from './support/privilege-world.ts';
import { leases, peers } from './support/weft-objects.ts';

const signal = new AbortController().signal;
const warnings: string[] = [];
const names = ['one', 'two', 'three'] as const;

let server: ApiServer;
const running = new Map<string, AgentCore>();

beforeAll(async () => {
  server = await startGuardedServer();
  const agents: NodeAgent[] = [];
  for (const name of names) agents.push(await addNodeAgent(server, name));
  const [first, second] = agents;
  if (first === undefined || second === undefined) throw new Error('no agents');
  await policiesAct(server, first, second);
  for (const agent of agents) await start(agent);
}, 120_000);

afterAll(async () => {
  for (const one of running.values()) await one.stop();
  await server?.[Symbol.asyncDispose]();
});

async function start(agent: NodeAgent): Promise<void> {
  const core = await startCore(server, agent, (line) => void warnings.push(line));
  running.set(agent.node, {
    ...core,
    stop: async () => {
      running.delete(agent.node);
      await core.stop();
    },
  });
}

const part = (name: string): AgentCore => {
  const found = running.get(name);
  if (found === undefined) throw new Error(`${name} does not run`);
  return found;
};

async function records(): Promise<readonly string[]> {
  const { body } = await done(server.admin, { method: 'GET', path: peers });
  return (body as { readonly items: readonly { readonly metadata: { readonly name: string } }[] }).items.map(
    ({ metadata }) => metadata.name,
  );
}

const owned = (name: string): number =>
  part(name)
    .ipam.view()
    .peers.flatMap((peer) => peer.blocks)
    .reduce((sum, block) => sum + 2 ** (32 - Number(block.split('/')[1])), 0);

it('the first founds, the others join, each leases from blocks of its own', async () => {
  await until('all see the whole range owned', 30_000, async () => names.every((name) => owned(name) === 2 ** 20));
  for (const name of names) {
    const attachment = { containerId: `c-${name}`, ifname: 'eth0', owner: `ns/${name}`, addresses: [] };
    const lease = await part(name).ipam.lease(attachment as never, signal);
    expect(lease.addresses).toHaveLength(1);
  }
  expect((await records()).toSorted()).toEqual(names.map((name) => part(name).agent.record).toSorted());
});

it('a node that is gone leaves its space to the others, and its record', async () => {
  const { agent } = part('three');
  await part('three').stop();
  await done(server.admin, { method: 'DELETE', path: '/api/v1/nodes/three' });
  await until('its record is gone', 90_000, async () => !(await records()).includes(agent.record));
  await until('its session is gone', 30_000, async () => {
    const path = `${leases}/${agent.record}`;
    return (await server.admin.call({ method: 'GET', path }, signal)).status === 404;
  });
  await until('the whole range is owned', 30_000, async () => owned('one') === 2 ** 20 && owned('two') === 2 ** 20);
}, 150_000);

it('no write of any of them was refused by a policy of its own node', () => {
  const refused = warnings.filter((line) => /weft-(?:peers|sessions|universes|takeover|node-status)/.test(line));
  expect(refused).toEqual([]);
});
