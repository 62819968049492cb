// etcd and the control plane as children of this process, in the network namespace that this process runs in.
import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';

import { attempt, killChild, run, startDaemon, until, type RunOptions, type RunResult } from './host.ts';
import { makeClusterKeys } from './pki.ts';
import { fabric, serviceRange, serviceRange6, type ClusterPaths, type ClusterSettings } from './settings.ts';

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
    await makeClusterKeys(plane.pki);
    await plane.#start('etcd', etcdFlags(join(paths.work, 'etcd')));
    await plane.#start('kube-apiserver', apiServerFlags(plane.pki, settings));
    await until('kube-apiserver answers /readyz', 120_000, async () => {
      return (await plane.tryKubectl(['get', '--raw', '/readyz'])).code === 0;
    });
    await plane.#start('kube-controller-manager', controllerManagerFlags(plane.pki));
    await plane.#start('kube-scheduler', schedulerFlags(plane.pki));
    return plane;
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

  async #start(program: string, flags: readonly string[]): Promise<void> {
    const log = join(this.#paths.logs, `${program}.log`);
    this.#daemons.push(await startDaemon([join(this.#paths.bin, program), ...flags], log));
  }
}

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

function apiServerFlags(pki: string, { families }: ClusterSettings): readonly string[] {
  const ranges = families === 'dual' ? `${serviceRange},${serviceRange6}` : serviceRange;
  return [
    '--etcd-servers=http://127.0.0.1:2379',
    `--advertise-address=${fabric.controlPlane}`,
    '--secure-port=6443',
    `--service-cluster-ip-range=${ranges}`,
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
    // No kube-proxy runs beside it, so that a ClusterIP leads nowhere from here: webhooks are called by their endpoints.
    '--enable-aggregator-routing=true',
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
