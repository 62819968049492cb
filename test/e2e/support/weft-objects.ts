// Requests about Weft's objects as a test sends them: what a Peer looks like, and a whole object put back with one thing changed.
import type { KubeRequest } from '#agent/kubernetes/api.ts';
import { peerLabels } from '#agent/registry/kubernetes/peer-labels.ts';
import { done, type NodeAgent } from './node-agents.ts';

export const peers: string = '/apis/weft.network/v1alpha1/peers';
export const universes: string = '/apis/weft.network/v1alpha1/universes';
export const leases: string = '/apis/coordination.k8s.io/v1/namespaces/weft/leases';

export interface Stored {
  readonly metadata: {
    readonly name: string;
    readonly uid: string;
    readonly resourceVersion: string;
    readonly [key: string]: unknown;
  };
  readonly spec: { readonly [key: string]: unknown };
  readonly status?: { readonly [key: string]: unknown };
}

export async function stored(agent: NodeAgent): Promise<Stored> {
  return (await done(agent.admin, { method: 'GET', path: `${peers}/${agent.record}` })).body as Stored;
}

export async function give(agent: NodeAgent, cidr: string): Promise<void> {
  await change(agent, { blocks: blocks(cidr) });
}

export async function change(agent: NodeAgent, spec: object): Promise<void> {
  await done(agent.api, await withSpec(agent, spec));
}

export async function withSpec(agent: NodeAgent, spec: object): Promise<KubeRequest> {
  const now = await stored(agent);
  return update(agent, { ...now.spec, ...spec }, now);
}

export async function withMetadata(agent: NodeAgent, metadata: object): Promise<KubeRequest> {
  const now = await stored(agent);
  return {
    method: 'PUT',
    path: `${peers}/${agent.record}`,
    body: { ...now, metadata: { ...now.metadata, ...metadata } },
  };
}

/** With the labels that belong to such a record, as an agent writes it. */
export function update(agent: NodeAgent, spec: object, now: Stored): KubeRequest {
  return { method: 'PUT', path: `${peers}/${agent.record}`, body: labelled({ ...now, spec: { ...spec } }, now) };
}

function labelled(peer: Stored, now: Stored): Stored {
  const { labels: before, ...rest } = peer.metadata;
  const labels = peerLabels(before as Readonly<Record<string, string>> | undefined, peer.spec, now.spec);
  return { ...peer, metadata: { ...rest, ...(labels !== undefined && { labels }) } };
}

export function removal({ metadata: { name, uid, resourceVersion } }: Stored): KubeRequest {
  const body = { apiVersion: 'v1', kind: 'DeleteOptions', preconditions: { uid, resourceVersion } };
  return { method: 'DELETE', path: `${peers}/${name}`, body };
}

export function creation(body: object, path: string = peers): KubeRequest {
  return { method: 'POST', path, body };
}

export function patch(path: string, body: object): KubeRequest {
  return { method: 'PATCH', path, body, contentType: 'application/merge-patch+json' };
}

export async function replacement(agent: NodeAgent, path: string, spec: object): Promise<KubeRequest> {
  const now = (await done(agent.admin, { method: 'GET', path })).body as Stored;
  const body = { ...now, spec: { ...now.spec, ...spec } };
  return { method: 'PUT', path, body: path.startsWith(peers) ? labelled(body, now) : body };
}

export function nodeStatus(name: string, status: object): KubeRequest {
  const path = `/api/v1/nodes/${name}/status`;
  return { method: 'PATCH', path, body: { status }, contentType: 'application/strategic-merge-patch+json' };
}

export const networkUp = { type: 'NetworkUnavailable', status: 'False', reason: 'WeftIsUp' } as const;

export function peerOf(agent: NodeAgent): object {
  const spec = {
    schema: 1,
    node: { name: agent.node, uid: agent.nodeUid },
    seq: 1,
    seeded: false,
    blocks: [],
    granting: [],
    underlay: ['192.0.2.1'],
    overlay: [],
    free: 0,
  };
  return { apiVersion: 'weft.network/v1alpha1', kind: 'Peer', metadata: { name: agent.record }, spec };
}

/** The agent's record in a further pool; `name` is what it should be unless said. */
export function poolPeerOf(agent: NodeAgent, universe: string, name = `${agent.record}.pool-${universe}`): object {
  const peer = peerOf(agent) as { readonly spec: object };
  return { ...peer, metadata: { name }, spec: { ...peer.spec, universe } };
}

export function universeOf(name: string, ...ranges: readonly string[]): object {
  return { apiVersion: 'weft.network/v1alpha1', kind: 'Universe', metadata: { name }, spec: { ranges } };
}

export function session(agent: NodeAgent, name: string = agent.record): object {
  return {
    apiVersion: 'coordination.k8s.io/v1',
    kind: 'Lease',
    metadata: { name, namespace: 'weft' },
    spec: { holderIdentity: agent.node },
  };
}

export function owner({ node: name, nodeUid: uid }: NodeAgent): object {
  return { apiVersion: 'v1', kind: 'Node', name, uid };
}

export function blocks(...cidrs: readonly string[]): readonly object[] {
  return cidrs.map((cidr) => ({ cidr }));
}

export function grant(id: number, cidr: string, to: Stored): object {
  return { id, cidr, to: refTo(to) };
}

export function refTo({ metadata: { name, uid } }: Stored): { readonly name: string; readonly uid: string } {
  return { name, uid };
}

export const events = '/apis/events.k8s.io/v1/namespaces/default/events';

/** An Event about the agent's own Node, as the agent writes it. */
export function eventOf(agent: NodeAgent, changes: object = {}): object {
  return {
    apiVersion: 'events.k8s.io/v1',
    kind: 'Event',
    metadata: { name: `weft.${agent.node}`, namespace: 'default' },
    eventTime: '2026-01-01T00:00:00.000000Z',
    type: 'Warning',
    reason: 'LeftoverNetwork',
    action: 'Checked',
    note: 'flannel.1: a link of flannel',
    reportingController: 'weft.network/agent',
    reportingInstance: agent.node,
    regarding: owner(agent),
    ...changes,
  };
}
