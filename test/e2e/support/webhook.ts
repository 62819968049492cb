// An admission webhook in a pod that refuses every ConfigMap of the workspace: proof that the API server reaches pods by a Service.
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import type { Cluster } from '../cluster/cluster.ts';
import { run } from '../cluster/host.ts';
import type { Workspace } from './workspace.ts';

const port = 8443;
const configuration = 'weft-e2e';

export interface Webhook extends AsyncDisposable {
  /** What a refused request says. */
  readonly answer: string;
}

export async function webhook(cluster: Cluster, workspace: Workspace, node: string): Promise<Webhook> {
  const { namespace } = workspace;
  const { key, certificate } = await makeCertificate(`hook.${namespace}.svc`);
  const secret = {
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: { name: 'hook', namespace },
    stringData: { 'tls.key': key, 'tls.crt': certificate },
  };
  await cluster.plane.kubectl(['create', '-f', '-'], { input: JSON.stringify(secret) });
  await workspace.addPods([
    {
      name: 'hook',
      node,
      labels: { app: 'hook' },
      spec: { volumes: [{ name: 'tls', secret: { secretName: 'hook' } }] },
      container: {
        args: ['webhook', '--tls-cert-file=/tls/tls.crt', '--tls-private-key-file=/tls/tls.key', `--port=${port}`],
        readinessProbe: { tcpSocket: { port }, periodSeconds: 1 },
        volumeMounts: [{ name: 'tls', mountPath: '/tls' }],
      },
    },
  ]);
  await workspace.addService('hook', { app: 'hook' }, { type: 'ClusterIP', ports: [{ port: 443, targetPort: port }] });
  await cluster.plane.kubectl(['create', '-f', '-'], { input: JSON.stringify(hookOf(namespace, certificate)) });
  return {
    answer: 'this webhook denies all requests',
    async [Symbol.asyncDispose](): Promise<void> {
      await cluster.plane.kubectl(['delete', 'validatingwebhookconfiguration', configuration]);
    },
  };
}

function hookOf(namespace: string, certificate: string): unknown {
  return {
    apiVersion: 'admissionregistration.k8s.io/v1',
    kind: 'ValidatingWebhookConfiguration',
    metadata: { name: configuration },
    webhooks: [
      {
        name: 'refuses.weft.test',
        rules: [{ apiGroups: [''], apiVersions: ['v1'], operations: ['CREATE'], resources: ['configmaps'] }],
        namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': namespace } },
        clientConfig: {
          service: { namespace, name: 'hook', path: '/always-deny' },
          caBundle: Buffer.from(certificate).toString('base64'),
        },
        admissionReviewVersions: ['v1'],
        sideEffects: 'None',
        failurePolicy: 'Ignore',
        timeoutSeconds: 5,
      },
    ],
  };
}

async function makeCertificate(name: string): Promise<{ readonly key: string; readonly certificate: string }> {
  const directory = await mkdtemp(join(tmpdir(), 'weft-hook-'));
  try {
    const [key, certificate] = [join(directory, 'key'), join(directory, 'crt')];
    await run(
      'openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2'
        .split(' ')
        .concat('-subj', `/CN=${name}`, '-addext', `subjectAltName=DNS:${name}`, '-keyout', key, '-out', certificate),
    );
    return { key: await readFile(key, 'utf8'), certificate: await readFile(certificate, 'utf8') };
  } finally {
    await rm(directory, { recursive: true });
  }
}
