// The real kube-proxy on a host that is a network namespace, for a few Services, without an API server (services.ts).
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import type { TestNetns } from '#test/support/netns.ts';

export interface ServedService {
  readonly name: string;
  readonly clusterIp: string;
  readonly nodePort?: number;
  /** Its only endpoint, and the node that this is on. */
  readonly backend: string;
  readonly backendNode: string;
  readonly port: number;
}

export interface KubeProxyOptions {
  /** Path of the program. */
  readonly program: string;
  readonly mode: 'ipvs' | 'iptables' | 'nftables';
  readonly netns: TestNetns;
  /** The node's own, in the Node object. */
  readonly nodeName: string;
  readonly nodeAddress: string;
  readonly services: readonly ServedService[];
}

const server = fileURLToPath(new URL('services.ts', import.meta.url));

function collections({ nodeName, nodeAddress, services }: KubeProxyOptions): object {
  const meta = (name: string, more: object = {}): object => ({
    name,
    uid: `00000000-0000-4000-8000-${Buffer.from(name).toString('hex').padStart(12, '0').slice(0, 12)}`,
    resourceVersion: '1',
    ...more,
  });
  const status = { addresses: [{ type: 'InternalIP', address: nodeAddress }] };
  const ofService = ({ name, clusterIp, nodePort, port }: ServedService): object => ({
    metadata: meta(name, { namespace: 'default' }),
    spec: {
      type: nodePort === undefined ? 'ClusterIP' : 'NodePort',
      clusterIP: clusterIp,
      clusterIPs: [clusterIp],
      ipFamilies: ['IPv4'],
      ports: [
        { name: 'web', protocol: 'TCP', port, targetPort: port, ...(nodePort === undefined ? {} : { nodePort }) },
      ],
    },
  });
  const sliceOf = ({ name, backend, backendNode, port }: ServedService): object => ({
    metadata: meta(`${name}-1`, { namespace: 'default', labels: { 'kubernetes.io/service-name': name } }),
    addressType: 'IPv4',
    endpoints: [
      {
        addresses: [backend],
        // Only what is on its own node does kube-proxy masquerade on its way to itself.
        nodeName: backendNode,
        conditions: { ready: true, serving: true, terminating: false },
      },
    ],
    ports: [{ name: 'web', protocol: 'TCP', port }],
  });
  return {
    '/api/v1/nodes': { kind: 'Node', apiVersion: 'v1', items: [{ metadata: meta(nodeName), spec: {}, status }] },
    '/api/v1/services': { kind: 'Service', apiVersion: 'v1', items: services.map(ofService) },
    '/apis/discovery.k8s.io/v1/endpointslices': {
      kind: 'EndpointSlice',
      apiVersion: 'discovery.k8s.io/v1',
      items: services.map(sliceOf),
    },
    '/apis/networking.k8s.io/v1/servicecidrs': {
      kind: 'ServiceCIDR',
      apiVersion: 'networking.k8s.io/v1',
      items: [{ metadata: meta('kubernetes'), spec: { cidrs: ['10.96.0.0/16'] } }],
    },
  };
}

/** Starts it; its rules come some seconds later. Disposing ends it, the rules stay. `log` reads what it has said. */
export async function startKubeProxy(options: KubeProxyOptions): Promise<AsyncDisposable & { log(): Promise<string> }> {
  const { program, mode, netns, nodeName, nodeAddress } = options;
  const directory = await mkdtemp(join(tmpdir(), 'weft-kube-proxy-'));
  const [objects, log] = [join(directory, 'objects.json'), join(directory, 'log')];
  await writeFile(objects, JSON.stringify(collections(options)));
  const start = (script: string): ChildProcess =>
    spawn('nsenter', [`--net=${netns.path}`, '--', 'sh', '-c', `exec ${script}`], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
  const api = start(`${process.execPath} --disable-warning=ExperimentalWarning ${server} ${objects}`);
  await new Promise((resolve, reject) => {
    api.stdout?.once('data', resolve);
    api.once('close', () => reject(new Error('the server for kube-proxy has ended')));
  });
  const flags = [
    `--proxy-mode=${mode} --master=http://127.0.0.1:8080 --kube-api-content-type=application/json`,
    // Without a cluster CIDR, as Weft's clusters have it; no limit of the machine's conntrack is touched.
    `--hostname-override=${nodeName} --bind-address=${nodeAddress} --conntrack-max-per-core=0`,
  ];
  const proxy = start(`${program} ${flags.join(' ')} >${log} 2>&1`);
  return {
    log: () => readFile(log, 'utf8').catch(() => ''),
    async [Symbol.asyncDispose]() {
      for (const child of [proxy, api]) {
        const gone = new Promise((resolve) => child.once('close', resolve));
        if (child.exitCode === null && child.kill('SIGKILL')) await gone;
      }
      await rm(directory, { recursive: true, force: true });
    },
  };
}
