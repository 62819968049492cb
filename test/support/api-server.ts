// A real etcd and kube-apiserver on loopback, for tests of what Weft says to the API server: no nodes, no controllers, tokens
// instead of service accounts. `restart` stops and starts kube-apiserver over the same etcd.

import { spawn, type ChildProcess } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { once } from 'node:events';
import { access, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { openKubeApi, type KubeApi } from '#agent/kubernetes/api.ts';

export interface ApiServer extends AsyncDisposable {
  readonly url: string;
  readonly directory: string;
  /** A kubeconfig of the cluster's admin, or of the service account weft in namespace weft. */
  kubeConfig(who: 'admin' | 'weft'): string;
  kubectl(args: readonly string[], input?: string): Promise<{ readonly code: number; readonly output: string }>;
  /** A client as admin, for what a test does behind Weft's back. */
  readonly admin: KubeApi;
  stop(): Promise<void>;
  start(): Promise<void>;
}

const tokens = [
  'admin-token,admin,1,"system:masters"',
  'weft-token,system:serviceaccount:weft:weft,2,"system:serviceaccounts,system:serviceaccounts:weft"',
];

/** `bin` holds etcd, kube-apiserver and kubectl; throws naming what is missing. Ready when /readyz answers. */
export async function startApiServer(bin: string): Promise<ApiServer> {
  for (const program of ['etcd', 'kube-apiserver', 'kubectl']) {
    await access(join(bin, program)).catch(() => {
      throw new Error(`${join(bin, program)} is missing: \`npm run test:e2e\` builds it`);
    });
  }
  const directory = await mkdtemp(join(tmpdir(), 'weft-api-'));
  const [etcdPort, etcdPeerPort, port] = await freePorts(3);
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  await writeFile(join(directory, 'tokens'), `${tokens.join('\n')}\n`, { mode: 0o600 });
  await writeFile(join(directory, 'sa.key'), privateKey.export({ type: 'sec1', format: 'pem' }), { mode: 0o600 });
  await writeFile(join(directory, 'sa.pub'), publicKey.export({ type: 'spki', format: 'pem' }));
  const url = `https://127.0.0.1:${port}`;
  for (const who of ['admin', 'weft']) await writeFile(join(directory, `${who}.kubeconfig`), kubeConfigText(url, who));

  const etcd = await daemon(
    join(bin, 'etcd'),
    etcdFlags(directory, etcdPort, etcdPeerPort),
    join(directory, 'etcd.log'),
  );
  let server: ChildProcess | undefined;
  const admin = openKubeApi({ kubeConfig: join(directory, 'admin.kubeconfig') });
  const start = async (): Promise<void> => {
    const flags = apiServerFlags(directory, etcdPort, port);
    server = await daemon(join(bin, 'kube-apiserver'), flags, join(directory, 'apiserver.log'));
    await whenReady(admin, server, join(directory, 'apiserver.log'));
  };
  const stop = async (): Promise<void> => {
    if (server !== undefined) await end(server);
    server = undefined;
  };
  await start();
  return {
    url,
    directory,
    admin,
    start,
    stop,
    kubeConfig: (who) => join(directory, `${who}.kubeconfig`),
    kubectl: (args, input) =>
      runKubectl(join(bin, 'kubectl'), [`--kubeconfig=${directory}/admin.kubeconfig`, ...args], input),
    [Symbol.asyncDispose]: async () => {
      admin.close();
      await stop();
      await end(etcd);
      await rm(directory, { recursive: true, force: true });
    },
  };
}

function etcdFlags(directory: string, port: number, peerPort: number): readonly string[] {
  const [client, peer] = [`http://127.0.0.1:${port}`, `http://127.0.0.1:${peerPort}`];
  return [
    `--data-dir=${directory}/etcd`,
    `--listen-client-urls=${client}`,
    `--advertise-client-urls=${client}`,
    `--listen-peer-urls=${peer}`,
    `--initial-advertise-peer-urls=${peer}`,
    `--initial-cluster=default=${peer}`,
    '--unsafe-no-fsync',
    '--log-level=warn',
  ];
}

function apiServerFlags(directory: string, etcdPort: number, port: number): readonly string[] {
  return [
    `--etcd-servers=http://127.0.0.1:${etcdPort}`,
    '--bind-address=127.0.0.1',
    `--secure-port=${port}`,
    '--advertise-address=192.0.2.1',
    `--cert-dir=${directory}/certs`,
    '--service-cluster-ip-range=10.96.0.0/16',
    '--authorization-mode=Node,RBAC',
    `--token-auth-file=${directory}/tokens`,
    '--allow-privileged=true',
    `--service-account-key-file=${directory}/sa.pub`,
    `--service-account-signing-key-file=${directory}/sa.key`,
    '--service-account-issuer=https://kubernetes.default.svc.cluster.local',
  ];
}

function kubeConfigText(server: string, who: string): string {
  return JSON.stringify({
    apiVersion: 'v1',
    kind: 'Config',
    'current-context': 'test',
    contexts: [{ name: 'test', context: { cluster: 'test', user: who } }],
    // The server signs for itself: who it is, is not what these tests are about.
    clusters: [{ name: 'test', cluster: { server, 'insecure-skip-tls-verify': true } }],
    users: [{ name: who, user: { token: `${who}-token` } }],
  });
}

async function daemon(program: string, flags: readonly string[], log: string): Promise<ChildProcess> {
  const file = await open(log, 'a');
  const child = spawn(program, flags, { stdio: ['ignore', file.fd, file.fd] });
  await once(child, 'spawn');
  await file.close();
  return child;
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill('SIGKILL');
  await exited;
}

async function whenReady(api: KubeApi, server: ChildProcess, log: string): Promise<void> {
  const deadline = performance.now() + 60_000;
  const signal = new AbortController().signal;
  for (;;) {
    const answer = await api.call({ method: 'GET', path: '/readyz' }, signal).catch(() => undefined);
    if (answer?.status === 200) return;
    if (server.exitCode !== null || performance.now() > deadline) {
      const tail = (await readFile(log, 'utf8')).split('\n').slice(-15).join('\n');
      throw new Error(`kube-apiserver is not ready:\n${tail}`);
    }
    await sleep(100);
  }
}

async function runKubectl(
  program: string,
  args: readonly string[],
  input = '',
): Promise<{ readonly code: number; readonly output: string }> {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  const chunks: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => chunks.push(chunk));
  child.stdin.end(input);
  const [code] = (await once(child, 'close')) as [number | null];
  return { code: code ?? 1, output: Buffer.concat(chunks).toString() };
}

async function freePorts(count: 3): Promise<readonly [number, number, number]>;
async function freePorts(count: number): Promise<readonly number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  const ports = await Promise.all(
    servers.map(async (server) => {
      await once(server, 'listening');
      return (server.address() as AddressInfo).port;
    }),
  );
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}
