// What a stolen token of one node can do, tried against a real API server with RBAC and the admission policies of deploy/base:
// it loses that node's own space and takes over what belonged to nodes that are really gone. Nothing else.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { reportNetworkAvailable } from '#agent/discovery/node-condition.ts';
import type { KubeAnswer, KubeRequest } from '#agent/kubernetes/api.ts';
import { openKubernetesRegistry } from '#agent/registry/kubernetes/kubernetes-registry.ts';
import type { RegistryRecord } from '#agent/registry/registry.ts';
import type { ApiServer } from '#test/support/api-server.ts';
import { until } from './cluster/host.ts';
import { type Attempt, blockAttempts, blocksOfEverySize } from './support/block-attempts.ts';
import { foreignAttempts } from './support/foreign-attempts.ts';
import { done, type NodeAgent } from './support/node-agents.ts';
import { snapshot, startPrivilegeWorld, type PrivilegeWorld } from './support/privilege-world.ts';
import {
  blocks,
  change,
  creation,
  grant,
  leases,
  networkUp,
  nodeStatus,
  owner,
  patch,
  peerOf,
  poolPeerOf,
  peers,
  refTo,
  removal,
  replacement,
  session,
  stored,
  universeOf,
  universes,
  update,
  withMetadata,
  withSpec,
  type Stored,
} from './support/weft-objects.ts';

const signal = new AbortController().signal;
const log = { info: () => undefined, warn: () => undefined } as never;

let world: PrivilegeWorld;
let server: ApiServer;
let a: NodeAgent, b: NodeAgent, gone: NodeAgent, inherited: NodeAgent, stranger: NodeAgent;

beforeAll(async () => {
  world = await startPrivilegeWorld();
  ({ server, a, b, gone, inherited, stranger } = world);
}, 120_000);

afterAll(async () => {
  await world?.[Symbol.asyncDispose]();
});

describe('with the token of node a, the API server refuses', () => {
  it.each<Attempt>([
    ['to become the heir of a living node', 'weft-takeover', async () => withSpec(b, { heir: refTo(await stored(a)) })],
    ['to name an heir for itself', 'heir', async () => withSpec(a, { heir: refTo(await stored(b)) })],
    [
      'to make another the heir of a node that is gone',
      'weft-peers',
      async () => withSpec(gone, { heir: refTo(await stored(b)) }),
    ],
    ['to replace an heir that lives', 'weft-heirs', async () => withSpec(inherited, { heir: refTo(await stored(a)) })],
    [
      'to change more than the heir',
      'weft-peers',
      async () => withSpec(gone, { heir: refTo(await stored(a)), blocks: [] }),
    ],
    ['to empty the blocks of another', 'weft-peers', async () => withSpec(b, { blocks: [] })],
    ['to shrink the blocks of another', 'weft-peers', async () => withSpec(b, { blocks: [{ cidr: '10.33.0.0/17' }] })],
    ['to send another node’s packets to itself', 'weft-peers', async () => withSpec(b, { underlay: ['192.0.2.66'] })],
    ['to change the overlay addresses of another', 'weft-peers', async () => withSpec(b, { overlay: ['10.32.0.1'] })],
    [
      'to make another ask for space',
      'weft-peers',
      async () => withSpec(b, { wants: { from: refTo(await stored(a)) } }),
    ],
    [
      'to make another grant space',
      'weft-peers',
      async () => withSpec(b, { granting: [grant(2, '10.33.0.0/24', await stored(a))] }),
    ],
    ['to drop the grants of another', 'weft-peers', async () => withSpec(b, { granting: [] })],
    ['to touch a record whose heir is another', 'weft-peers', async () => withSpec(inherited, { granting: [] })],
    ['to empty a record whose heir is another', 'weft-peers', async () => withSpec(inherited, { blocks: [] })],
    ['to age another’s record', 'weft-peers', async () => withSpec(b, { seq: 0 })],
    [
      'to hand another’s record to itself',
      'a record belongs to one node',
      async () => withSpec(b, { node: { name: 'a', uid: a.nodeUid } }),
    ],
    ['to label another’s record', 'weft-peers', async () => withMetadata(b, { labels: { stolen: 'yes' } })],
    ['to annotate another’s record', 'weft-peers', async () => withMetadata(b, { annotations: { stolen: 'yes' } })],
    [
      'to hang a finalizer on another’s record',
      'weft-peers',
      async () => withMetadata(b, { finalizers: ['weft.network/stuck'] }),
    ],
    [
      'to hang a finalizer on its own record',
      'weft-peers',
      async () => withMetadata(a, { finalizers: ['weft.network/stuck'] }),
    ],
    [
      'to make another’s record die with a Node',
      'weft-peers',
      async () => withMetadata(b, { ownerReferences: [owner(b)] }),
    ],
    [
      'to make its own record die with a Node',
      'weft-peers',
      async () => withMetadata(a, { ownerReferences: [owner(b)] }),
    ],
    ...blockAttempts(() => world),
    ...foreignAttempts(() => world),
    ['to delete another’s record', 'weft-peers', async () => removal(await stored(b))],
    ['to delete its own record', 'weft-peers', async () => removal(await stored(a))],
    ['to delete a gone node’s record without being its heir', 'weft-peers', async () => removal(await stored(gone))],
    ['to delete a record whose heir is another', 'weft-peers', async () => removal(await stored(inherited))],
    ['to delete all records', 'cannot deletecollection', async () => ({ method: 'DELETE', path: peers })],
    [
      'to create a record for another node',
      'weft-peers',
      async () => creation({ ...peerOf(b), metadata: { name: `b.${'0'.repeat(8)}` } }),
    ],
    [
      'to create a record for no node',
      'weft-peers',
      async () => creation({ ...peerOf(a), metadata: { name: 'new.00000000' } }),
    ],
    ['to patch its own record', 'cannot patch', async () => patch(`${peers}/${a.record}`, { spec: { seq: 9 } })],
    ['to patch another’s record', 'cannot patch', async () => patch(`${peers}/${b.record}`, { spec: { blocks: [] } })],
    ['to make another’s record in a pool', 'weft-peers', async () => creation(poolPeerOf(b, 'blue'))],
    [
      'to name its record after another pool',
      'weft-peers',
      async () => creation(poolPeerOf(a, 'red', `${a.record}.pool-blue`)),
    ],
    ['to hide in its pool record that it is one', 'weft-peers', async () => creation(poolPeerOf(a, 'blue', a.record))],
    [
      'to make another’s session in a pool',
      'weft-sessions',
      async () => creation(session(b, `${b.record}.pool-blue`), leases),
    ],
    ['to make a session for another', 'weft-sessions', async () => creation(session(b, 'b'), leases)],
    [
      'to take another’s session',
      'weft-sessions',
      async () => replacement(b, `${leases}/${b.record}`, { holderIdentity: 'a' }),
    ],
    [
      'to delete a living node’s session',
      'weft-takeover',
      async () => ({ method: 'DELETE', path: `${leases}/${b.record}` }),
    ],
    [
      'to write leases elsewhere',
      'cannot create',
      async () => creation(session(a), leases.replace('/weft/', '/kube-node-lease/')),
    ],
    ['to delete the universe', 'cannot delete', async () => ({ method: 'DELETE', path: `${universes}/default` })],
    [
      'to move another node’s addresses',
      'weft-node-status',
      async () => nodeStatus('b', { addresses: [{ type: 'InternalIP', address: '192.0.2.66' }] }),
    ],
    [
      'to move its own node’s addresses',
      'weft-node-status',
      async () => nodeStatus('a', { addresses: [{ type: 'InternalIP', address: '192.0.2.66' }] }),
    ],
    [
      'to say that another node has a network',
      'weft-node-status',
      async () => nodeStatus('b', { conditions: [networkUp] }),
    ],
    [
      'to make its own node Ready',
      'weft-node-status',
      async () => nodeStatus('a', { conditions: [{ type: 'Ready', status: 'False' }] }),
    ],
    [
      'to change its Node',
      'cannot patch',
      async () => patch('/api/v1/nodes/a', { metadata: { labels: { stolen: 'yes' } } }),
    ],
    [
      'to label its Node through the status',
      'weft-node-status',
      async () => patch('/api/v1/nodes/a/status', { metadata: { labels: { stolen: 'yes' } } }),
    ],
    ['to delete a Node', 'cannot delete', async () => ({ method: 'DELETE', path: '/api/v1/nodes/b' })],
    ['to read secrets', 'cannot list', async () => ({ method: 'GET', path: '/api/v1/secrets' })],
    ['to read pods', 'cannot list', async () => ({ method: 'GET', path: '/api/v1/pods' })],
    [
      'to read its namespace’s configuration',
      'cannot list',
      async () => ({ method: 'GET', path: '/api/v1/namespaces/weft/configmaps' }),
    ],
    [
      'to change its DaemonSet',
      'cannot patch',
      async () => patch('/apis/apps/v1/namespaces/weft/daemonsets/weft', { spec: {} }),
    ],
    [
      'to loosen the policies',
      'cannot delete',
      async () => ({
        method: 'DELETE',
        path: '/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/weft-peers',
      }),
    ],
    [
      'to get another token',
      'cannot create',
      async () => creation({ spec: {} }, '/api/v1/namespaces/weft/serviceaccounts/weft/token'),
    ],
    [
      'to act as somebody else',
      'cannot create',
      async () =>
        creation(
          {
            apiVersion: 'rbac.authorization.k8s.io/v1',
            kind: 'ClusterRoleBinding',
            metadata: { name: 'x' },
            roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'cluster-admin' },
          },
          '/apis/rbac.authorization.k8s.io/v1/clusterrolebindings',
        ),
    ],
  ])('%s (%s)', async (_what, by, request) => {
    const before = await snapshot(server);
    const answer = await a.call(await request());
    expect(answer.body).toMatchObject({ status: 'Failure', message: expect.stringContaining(by) });
    expect([403, 422]).toContain(answer.status);
    expect(await snapshot(server), 'every record as it was').toEqual(before);
  });

  it('to found a network that is founded, or in another’s name', async () => {
    await done(server.admin, creation(universeOf('default', '10.32.0.0/12'), universes));
    const universe = async (): Promise<Stored> =>
      (await done(server.admin, { method: 'GET', path: `${universes}/default` })).body as Stored;
    const found = async (agent: NodeAgent, spec: object): Promise<KubeAnswer> => {
      const now = await universe();
      return await agent.call({
        method: 'PUT',
        path: `${universes}/default`,
        body: { ...now, spec: { ...now.spec, ...spec } },
      });
    };
    expect(await found(a, { founder: refTo(await stored(b)) })).toMatchObject({
      status: 422,
      body: { message: expect.stringContaining('a founder names itself') },
    });
    expect(await found(a, { ranges: ['10.0.0.0/8'] })).toMatchObject({ status: 422 });
    expect(await found(a, { founder: refTo(await stored(a)), namespaces: ['kube-system'] })).toMatchObject({
      status: 422,
      body: { message: expect.stringContaining('chooses no namespaces') },
    });
    expect(await found(b, { founder: refTo(await stored(b)), reserved: ['10.43.0.0/16'] })).toMatchObject({
      status: 200,
    });
    expect(await found(a, { founder: refTo(await stored(a)) })).toMatchObject({ status: 422 });
    expect(await found(b, { founder: refTo(await stored(b)) }), 'a write that changes nothing').toMatchObject({
      status: 422,
      body: { message: expect.stringContaining('this network is founded') },
    });
  });
});

describe('a token that names no node', () => {
  it('writes nothing', async () => {
    const attempts = [
      creation({ ...peerOf(a), metadata: { name: 'nowhere.00000000' } }),
      withSpec(a, { free: 1 }),
      withSpec(gone, { heir: refTo(await stored(a)) }),
      creation(session(a, 'nowhere'), leases),
      nodeStatus('a', { conditions: [networkUp] }),
      creation(universeOf('other', '10.0.0.0/8'), universes),
    ];
    for (const attempt of attempts) expect(await stranger.call(await attempt)).toMatchObject({ status: 422 });
  });
});

describe('what an agent needs is allowed', () => {
  it('blocks of every size, with the labels that the agent gives them', async () => {
    for (const list of [blocksOfEverySize(4), blocksOfEverySize(6)]) {
      const own = (await stored(a)).spec['blocks'] as readonly object[];
      await done(a.api, await withSpec(a, { blocks: [...own, ...blocks(...list)] }));
      await done(a.api, await withSpec(a, { blocks: own }));
    }
  });

  it('a record and a session in each pool, and to found one', async () => {
    const blue = `${b.record}.pool-blue`;
    const made = (await done(b.api, creation(poolPeerOf(b, 'blue')))).body as Stored;
    await done(b.api, creation(session(b, blue), leases));
    await done(server.admin, creation(universeOf('blue', '10.64.0.0/16'), universes));
    const foundedBy = async (founder: object): Promise<KubeAnswer> =>
      await b.call(await replacement(b, `${universes}/blue`, { founder }));
    expect(await foundedBy(refTo(await stored(b)))).toMatchObject({ status: 422 });
    expect(await foundedBy(refTo(made))).toMatchObject({ status: 200 });
    const path = `${peers}/${blue}`;
    await done(b.api, await replacement(b, path, { blocks: blocks('10.64.0.0/16'), seeded: true, seq: 2 }));
    const moved = await server.admin.call(await replacement(b, path, { universe: 'red' }), signal);
    expect(moved).toMatchObject({
      status: 422,
      body: { message: expect.stringContaining('a record belongs to one universe') },
    });
    expect(await a.call(await replacement(a, path, { blocks: [] }))).toMatchObject({ status: 422 });
  });

  it('its session, its own record, its own condition', async () => {
    const registry = await openKubernetesRegistry({ namespace: 'weft', kubeConfig: a.kubeConfig, log });
    const made = await registry.create('session', a.record, { sessionId: 's1', termSeconds: 240 }, signal);
    if (made.kind !== 'ok') throw new Error(JSON.stringify(made));
    const renewed = await registry.update(made.record, { sessionId: 's1', termSeconds: 240 }, signal);
    if (renewed.kind !== 'ok') throw new Error(JSON.stringify(renewed));
    expect(await registry.delete(renewed.record, signal)).toEqual({ kind: 'ok' });
    const own = (await registry.get('peer', a.record, signal)) as RegistryRecord;
    const value = { ...own.value, wants: { from: refTo(await stored(b)) }, underlay: ['192.0.2.9'] };
    expect(await registry.update(own, value, signal)).toMatchObject({ kind: 'ok' });
    await reportNetworkAvailable({ nodeName: 'a', kubeConfig: a.kubeConfig, log }, signal);
    const node = (await done(server.admin, { method: 'GET', path: '/api/v1/nodes/a' })).body as Stored;
    expect(node.status?.['conditions']).toContainEqual(expect.objectContaining({ reason: 'WeftIsUp' }));
    await registry.close();
  });

  it('taking what was granted to it, and taking over from a node that is gone, to the end', async () => {
    const given = grant(7, '10.33.64.0/18', await stored(a));
    const granting = [...((await stored(b)).spec['granting'] as readonly object[]), given];
    await change(b, { blocks: blocks('10.33.0.0/18'), granting });
    const via = { ...refTo(await stored(b)), id: 7 };
    await allowed(a, () => withSpec(a, { blocks: [{ cidr: '10.32.0.0/18' }, { cidr: '10.33.64.0/18', via }] }));

    await allowed(a, async () =>
      withSpec(gone, { heir: refTo(await stored(a)), seq: Number((await stored(gone)).spec['seq']) + 1 }),
    );
    await allowed(a, async () => {
      const own = await stored(a);
      const dead = refTo(await stored(gone));
      return update(
        a,
        { ...own.spec, blocks: [...(own.spec['blocks'] as readonly object[]), { cidr: '10.34.0.0/18', via: dead }] },
        own,
      );
    });
    expect(await gone.call(await withSpec(gone, { free: 5 })), 'the token of the dead').toMatchObject({ status: 422 });
    const unconditional = { method: 'DELETE', path: `${peers}/${gone.record}` } as const;
    expect(await a.call(unconditional)).toMatchObject({
      body: { message: expect.stringContaining('by uid and resourceVersion') },
    });
    await allowed(a, async () => removal(await stored(gone)));
    await allowed(a, async () => ({ method: 'DELETE', path: `${leases}/${gone.record}` }));
  });

  it('settling as the heir, and replacing an heir whose record is gone', async () => {
    await done(server.admin, { method: 'DELETE', path: `${peers}/${b.record}` });
    await allowed(a, async () => withSpec(inherited, { heir: refTo(await stored(a)) }));
    const raised = withSpec(inherited, { granting: [grant(1, '10.35.0.0/24', await stored(a))] });
    expect(await a.call(await raised), 'an heir grants nothing').toMatchObject({ status: 422 });
    const now = await stored(inherited);
    const granting = [grant(1, '10.35.0.0/24', now), grant(2, '10.35.1.0/24', now)];
    await done(server.admin, update(inherited, { ...now.spec, granting }, now));
    await allowed(a, async () => withSpec(inherited, { granting: granting.slice(1) }));
    const more = withSpec(inherited, { blocks: blocks('10.35.0.0/16', '10.36.0.0/16') });
    expect(await a.call(await more), 'an heir adds no block').toMatchObject({ status: 422 });
    await allowed(a, async () => withSpec(inherited, { blocks: [] }));
    await allowed(a, async () => removal(await stored(inherited)));
  });
});

/** Policies and their parameters act a moment after they, or what they look at, have changed. */
async function allowed(agent: NodeAgent, request: () => Promise<KubeRequest> | KubeRequest): Promise<void> {
  await until('the API server allows it', 20_000, async () => {
    const answer = await agent.call(await request());
    if (answer.status === 200) return true;
    throw new Error(JSON.stringify(answer.body));
  });
}
