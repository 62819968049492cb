// etcd and the control plane as children of this process: in the network namespace that this process runs in, or in the first
// node's, as kubeadm has it. kube-apiserver can be stopped and started again by any process of the sandbox.
import type { ChildProcess } from 'node:child_process';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { attempt, killChild, run, startDaemon, until, type RunOptions, type RunResult } from './host.ts';
import { makeClusterKeys } from './pki.ts';
import { apiServerAddress, familiesOf, type ClusterPaths, type ClusterSettings } from './settings.ts';

export class ControlPlane {
  readonly pki: string;
  readonly kubeconfig: string;
  readonly #paths: ClusterPaths;
  readonly #daemons: ChildProcess[] = [];

  /** A control plane that another process of the same sandbox has started, or that `start` is about to. */
  constructor(paths: ClusterPaths) {
    this.#paths = paths;
    this.pki = join(paths.work, 'pki');
    this.kubeconfig = join(this.pki, 'admin.kubeconfig');
  }

  /** Everything; kube-apiserver answers when it resolves. */
  static async start(paths: ClusterPaths, settings: ClusterSettings): Promise<ControlPlane> {
    const plane = new ControlPlane(paths);
    await makeClusterKeys(plane.pki, settings);
    // The first node's namespace is there already; the node itself starts later.
    const where = settings.controlPlane === 'node' ? ['nsenter', '--net=/run/netns/n1'] : [];
    const start = async (program: string, flags: readonly string[], around: readonly string[] = []): Promise<void> => {
      const command = [...where, ...around, join(paths.bin, program), ...flags];
      plane.#daemons.push(await startDaemon(command, join(paths.logs, `${program}.log`)));
    };
    await start('etcd', etcdFlags(join(paths.work, 'etcd')));
    await start('kube-apiserver', apiServerFlags(plane.pki, settings), ['sh', '-c', keepScript, 'sh', plane.#held]);
    await plane.#answers();
    await start('kube-controller-manager', controllerManagerFlags(plane.pki));
    await start('kube-scheduler', schedulerFlags(plane.pki));
    return plane;
  }

  /** Ends kube-apiserver, and keeps it away until it is disposed of, which resolves when it answers again. */
  async stopApiServer(): Promise<AsyncDisposable> {
    await writeFile(this.#held, '');
    await run(['pkill', '-KILL', '-x', 'kube-apiserver']);
    return {
      [Symbol.asyncDispose]: async (): Promise<void> => {
        await rm(this.#held);
        await this.#answers();
      },
    };
  }

  /** kubectl as cluster admin; throws with its output when it fails. */
  async kubectl(args: readonly string[], options: RunOptions = {}): Promise<string> {
    return await run(this.#kubectl(args), { timeoutMs: 180_000, ...options });
  }

  async tryKubectl(args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    return await attempt(this.#kubectl(args), { timeoutMs: 180_000, ...options });
  }

  /** `kubectl ... -o json`, parsed; the caller names the shape that it expects. */
  async kubectlJson<T>(args: readonly string[]): Promise<T> {
    return JSON.parse(await this.kubectl([...args, '-o', 'json'])) as T;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#daemons.map((daemon) => killChild(daemon)));
  }

  #kubectl(args: readonly string[]): readonly string[] {
    return [join(this.#paths.bin, 'kubectl'), `--kubeconfig=${this.kubeconfig}`, ...args];
  }

  get #held(): string {
    return join(this.#paths.work, 'kube-apiserver-held');
  }

  async #answers(): Promise<void> {
    await until('kube-apiserver answers /readyz', 120_000, async () => {
      return (await this.tryKubectl(['get', '--raw', '/readyz'])).code === 0;
    });
  }
}

/** Starts a program again when it has ended, but not while the file $1 is there. */
const keepScript = `held=$1; shift
while :; do
  while [ -e "$held" ]; do sleep 0.1; done
  setpriv --pdeathsig KILL "$@" || true
  sleep 0.2
done`;

function etcdFlags(directory: string): readonly string[] {
  return [
    `--data-dir=${directory}`,
    '--listen-client-urls=http://127.0.0.1:2379',
    '--advertise-client-urls=http://127.0.0.1:2379',
    '--listen-peer-urls=http://127.0.0.1:2380',
    '--unsafe-no-fsync',
    '--log-level=warn',
  ];
}

function apiServerFlags(pki: string, settings: ClusterSettings): readonly string[] {
  const services = familiesOf(settings).map((family) => family.services);
  return [
    '--etcd-servers=http://127.0.0.1:2379',
    `--advertise-address=${apiServerAddress(settings)}`,
    ...(settings.families === 'ipv6' ? ['--bind-address=::'] : []),
    '--secure-port=6443',
    `--service-cluster-ip-range=${services.join()}`,
    '--allow-privileged=true',
    '--authorization-mode=Node,RBAC',
    '--enable-admission-plugins=NodeRestriction',
    `--client-ca-file=${pki}/ca.crt`,
    `--tls-cert-file=${pki}/apiserver.crt`,
    `--tls-private-key-file=${pki}/apiserver.key`,
    `--service-account-key-file=${pki}/sa.pub`,
    `--service-account-signing-key-file=${pki}/sa.key`,
    '--service-account-issuer=https://kubernetes.default.svc.cluster.local',
    `--kubelet-client-certificate=${pki}/apiserver-kubelet.crt`,
    `--kubelet-client-key=${pki}/apiserver-kubelet.key`,
    '--kubelet-preferred-address-types=InternalIP',
    // Where no kube-proxy runs beside it, a ClusterIP leads nowhere: webhooks are then called by their endpoints.
    ...(settings.controlPlane === 'outside' ? ['--enable-aggregator-routing=true'] : []),
    `--requestheader-client-ca-file=${pki}/front-proxy-ca.crt`,
    '--requestheader-allowed-names=front-proxy',
    '--requestheader-extra-headers-prefix=X-Remote-Extra-',
    '--requestheader-group-headers=X-Remote-Group',
    '--requestheader-username-headers=X-Remote-User',
    `--proxy-client-cert-file=${pki}/front-proxy.crt`,
    `--proxy-client-key-file=${pki}/front-proxy.key`,
  ];
}

/** No node CIDRs are allocated: Weft must not need them. */
function controllerManagerFlags(pki: string): readonly string[] {
  const kubeconfig = `${pki}/controller-manager.kubeconfig`;
  return [
    `--kubeconfig=${kubeconfig}`,
    `--authentication-kubeconfig=${kubeconfig}`,
    `--authorization-kubeconfig=${kubeconfig}`,
    '--leader-elect=false',
    '--use-service-account-credentials',
    `--service-account-private-key-file=${pki}/sa.key`,
    `--root-ca-file=${pki}/ca.crt`,
    '--allocate-node-cidrs=false',
    `--cluster-signing-cert-file=${pki}/ca.crt`,
    `--cluster-signing-key-file=${pki}/ca.key`,
  ];
}

function schedulerFlags(pki: string): readonly string[] {
  const kubeconfig = `${pki}/scheduler.kubeconfig`;
  return [
    `--kubeconfig=${kubeconfig}`,
    `--authentication-kubeconfig=${kubeconfig}`,
    `--authorization-kubeconfig=${kubeconfig}`,
    '--leader-elect=false',
  ];
}
