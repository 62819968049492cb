// A cluster's objects in the middle of things, for trying what the tokens of agents may do: two living nodes, two that are gone,
// a grant under way, sessions; on a real API server with RBAC and the admission policies of deploy/base, which act already.
import { join } from 'node:path';
import { reportNetworkAvailable } from '#agent/discovery/node-condition.ts';
import type { KubeRequest } from '#agent/kubernetes/api.ts';
import { startApiServer, type ApiServer } from '#test/support/api-server.ts';
import { until } from '../cluster/host.ts';
import { clusterPrograms } from '../registry-programs.ts';
import { addNodeAgent, addStranger, done, type NodeAgent } from './node-agents.ts';
import {
  blocks,
  change,
  creation,
  give,
  leases,
  networkUp,
  nodeStatus,
  peerOf,
  peers,
  refTo,
  session,
  stored,
  universes,
  update,
  withSpec,
} from './weft-objects.ts';

const silent = { info: () => undefined, warn: () => undefined } as never;
const deploy = new URL('../../../deploy/base/', import.meta.url).pathname;

export interface PrivilegeWorld extends AsyncDisposable {
  readonly server: ApiServer;
  /** The attacker. */
  readonly a: NodeAgent;
  /** Lives, and has granted something to `gone`. */
  readonly b: NodeAgent;
  /** Its Node does not exist any more; nobody is its heir yet. */
  readonly gone: NodeAgent;
  /** Its Node does not exist any more; `b` is its heir. */
  readonly inherited: NodeAgent;
  /** Lives; its Node has no label of Weft, as before its agent has served anybody. */
  readonly plain: NodeAgent;
  /** Lives; its node's name looks like a pool's record. It has a session here and one in a pool. */
  readonly dotted: NodeAgent;
  /** A token that names no node. */
  readonly stranger: NodeAgent;
}

/** An API server with everything of deploy/base that an agent's requests meet. */
export async function startGuardedServer(): Promise<ApiServer> {
  const server = await startApiServer(await clusterPrograms());
  const admission = ['admission.yaml', 'admission-blocks.yaml', 'admission-takeover.yaml'];
  const files = ['namespace.yaml', 'crd.yaml', 'rbac.yaml', ...admission].flatMap((name) => ['-f', join(deploy, name)]);
  const applied = await server.kubectl(['apply', ...files]);
  if (applied.code !== 0) {
    await server[Symbol.asyncDispose]();
    throw new Error(applied.output.replaceAll(/^.* (?:created|unchanged)\n/gm, ''));
  }
  const crds = ['crd/peers.weft.network', 'crd/universes.weft.network'];
  await server.kubectl(['wait', '--for=condition=Established', '--timeout=30s', ...crds]);
  return server;
}

export async function startPrivilegeWorld(): Promise<PrivilegeWorld> {
  const server = await startGuardedServer();
  const a = await addNodeAgent(server, 'a');
  const b = await addNodeAgent(server, 'b');
  const gone = await addNodeAgent(server, 'gone');
  const inherited = await addNodeAgent(server, 'inherited');
  const plain = await addNodeAgent(server, 'plain');
  const dotted = await addNodeAgent(server, 'host.pool-1');
  const stranger = await addStranger(server);
  await policiesAct(server, a, b);
  for (const agent of [a, b, gone, inherited, plain]) await done(agent.api, creation(peerOf(agent)));
  for (const { node: nodeName, api } of [a, b, dotted]) {
    await reportNetworkAvailable({ nodeName, api, log: silent }, AbortSignal.timeout(10_000));
  }
  for (const name of [dotted.record, `${dotted.record}.pool-blue`]) {
    await done(dotted.api, creation(session(dotted, name), leases));
  }
  await give(a, '10.32.0.0/18');
  await change(b, { blocks: blocks('10.33.0.0/16', '10.36.4.0/24', 'fd00:32:0:1234::/64') });
  await change(b, { granting: [{ id: 1, cidr: '10.33.128.0/17', to: refTo(await stored(gone)) }] });
  await give(gone, '10.34.0.0/18');
  await give(inherited, '10.35.0.0/16');
  await done(b.api, creation(session(b), leases));
  await done(gone.api, creation(session(gone), leases));
  for (const node of ['gone', 'inherited']) {
    await done(server.admin, { method: 'DELETE', path: `/api/v1/nodes/${node}` });
  }
  const heir = refTo(await stored(b));
  await until('b may become the heir of the node that is gone', 20_000, async () => {
    return (
      (await b.call(update(inherited, { ...(await stored(inherited)).spec, heir }, await stored(inherited)))).status ===
      200
    );
  });
  return {
    server,
    a,
    b,
    gone,
    inherited,
    plain,
    dotted,
    stranger,
    [Symbol.asyncDispose]: async () => {
      for (const agent of [a, b, gone, inherited, plain, dotted, stranger]) agent[Symbol.dispose]();
      await server[Symbol.asyncDispose]();
    },
  };
}

/** Policies act a moment after they were made: waits until each refuses something. */
export async function policiesAct(server: ApiServer, a: NodeAgent, b: NodeAgent): Promise<void> {
  const probe: Readonly<Record<string, () => Promise<KubeRequest>>> = {
    peers: async () => creation({ ...peerOf(b), metadata: { name: 'probe.00000000' } }),
    universes: async () =>
      creation(
        {
          apiVersion: 'weft.network/v1alpha1',
          kind: 'Universe',
          metadata: { name: 'probe' },
          spec: { ranges: ['10.0.0.0/8'], founder: { name: 'x', uid: 'x' } },
        },
        universes,
      ),
    leases: async () => creation(session(b, 'probe'), leases),
    status: async () => nodeStatus(b.node, { conditions: [networkUp] }),
  };
  for (const [name, request] of Object.entries(probe)) {
    await until(`the policy on ${name} acts`, 60_000, async () => {
      const answer = await a.call({ ...(await request()), query: { dryRun: 'All' } });
      return answer.status === 422;
    });
  }
  // Those with parameters show that they act only where there is something to compare with.
  await done(b.api, creation(peerOf(b)));
  await until('the policy on heirs acts', 60_000, async () => {
    const heir = { name: a.record, uid: 'x' };
    const answer = await a.call({ ...(await withSpec(b, { heir })), query: { dryRun: 'All' } });
    return JSON.stringify(answer.body).includes('needs no heir');
  });
  await done(a.api, creation(peerOf(a)));
  await until('the policy on blocks acts', 60_000, async () => {
    await done(server.admin, update(b, { ...(await stored(b)).spec, blocks: blocks('10.33.0.0/16') }, await stored(b)));
    const answer = await a.call({
      ...(await withSpec(a, { blocks: blocks('10.33.0.0/16') })),
      query: { dryRun: 'All' },
    });
    return JSON.stringify(answer.body).includes('overlap');
  });
  for (const agent of [a, b]) await done(server.admin, { method: 'DELETE', path: `${peers}/${agent.record}` });
}

/** Everything that an agent might change. */
export async function snapshot(server: ApiServer): Promise<unknown> {
  const paths = [peers, leases, universes, '/api/v1/nodes'];
  const lists = await Promise.all(paths.map(async (path) => (await done(server.admin, { method: 'GET', path })).body));
  return lists.map((list) => (list as { readonly items: readonly unknown[] }).items);
}
