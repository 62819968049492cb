// Agents as the API server sees them: a Node, the DaemonSet's pod on it, and the token that the kubelet would ask for that pod.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { openKubeApi, type KubeAnswer, type KubeApi, type KubeRequest } from '#agent/kubernetes/api.ts';
import type { ApiServer } from '#test/support/api-server.ts';

const signal = new AbortController().signal;

export interface NodeAgent extends Disposable {
  readonly node: string;
  readonly nodeUid: string;
  /** Name of the node's Peer and of its session. */
  readonly record: string;
  /** Holds the pod's token. */
  readonly kubeConfig: string;
  readonly api: KubeApi;
  /** The administrator's client: what a test looks at, and does behind everybody's back. */
  readonly admin: KubeApi;
  call(request: KubeRequest): Promise<KubeAnswer>;
}

/** Registers the node and its agent's pod. The manifests must have been applied. */
export async function addNodeAgent(server: ApiServer, node: string): Promise<NodeAgent> {
  const nodeUid = await addNode(server, node);
  const pod = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: `agent-${node}`, namespace: 'weft' },
    spec: { serviceAccountName: 'weft', nodeName: node, containers: [{ name: 'agent', image: 'weft' }] },
  };
  await done(server.admin, { method: 'POST', path: '/api/v1/namespaces/weft/pods', body: pod });
  return await agentWith(server, node, nodeUid, {
    boundObjectRef: { apiVersion: 'v1', kind: 'Pod', name: pod.metadata.name },
  });
}

/** The service account's token without any pod: `kubectl create token`. */
export async function addStranger(server: ApiServer): Promise<NodeAgent> {
  return await agentWith(server, 'nowhere', '00000000-0000-4000-8000-000000000000', {});
}

/** A Node object as a kubelet registers it, with so many images; returns its uid. */
export async function addNode(server: ApiServer, name: string, images = 0): Promise<string> {
  const status = {
    addresses: [{ type: 'InternalIP', address: '192.0.2.1' }],
    conditions: [{ type: 'Ready', status: 'True', reason: 'KubeletReady' }],
    capacity: { cpu: '2' },
    images: Array.from({ length: images }, (_, index) => ({
      names: [
        `registry.example/team/image-${index}@sha256:${'0'.repeat(64)}`,
        `registry.example/team/image-${index}:1.0`,
      ],
      sizeBytes: 50_000_000,
    })),
  };
  const node = { apiVersion: 'v1', kind: 'Node', metadata: { name }, status };
  const made = (await done(server.admin, { method: 'POST', path: '/api/v1/nodes', body: node })).body as {
    readonly metadata: { readonly uid: string };
  };
  return made.metadata.uid;
}

async function agentWith(server: ApiServer, node: string, nodeUid: string, spec: object): Promise<NodeAgent> {
  const request = { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec };
  const path = '/api/v1/namespaces/weft/serviceaccounts/weft/token';
  const { body } = await done(server.admin, { method: 'POST', path, body: request });
  const { status } = body as { readonly status: { readonly token: string } };
  const kubeConfig = join(server.directory, `agent-${node}.kubeconfig`);
  const text = {
    apiVersion: 'v1',
    kind: 'Config',
    'current-context': 'test',
    contexts: [{ name: 'test', context: { cluster: 'test', user: 'agent' } }],
    clusters: [{ name: 'test', cluster: { server: server.url, 'insecure-skip-tls-verify': true } }],
    users: [{ name: 'agent', user: { token: status.token } }],
  };
  await writeFile(kubeConfig, JSON.stringify(text), { mode: 0o600 });
  const api = openKubeApi({ kubeConfig });
  return {
    node,
    nodeUid,
    record: `${node}.${nodeUid.slice(0, 8)}`,
    kubeConfig,
    api,
    admin: server.admin,
    call: async (one) => await api.call(one, signal),
    [Symbol.dispose]: () => api.close(),
  };
}

/** The answer to a request that must succeed. */
export async function done(api: KubeApi, request: KubeRequest): Promise<KubeAnswer> {
  const answer = await api.call(request, signal);
  if (answer.status >= 300) throw new Error(`${request.method} ${request.path}: ${JSON.stringify(answer.body)}`);
  return answer;
}
