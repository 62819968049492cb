// One machine of the test cluster: its own network, mount, UTS, IPC, pid and cgroup namespaces, an overlay root, containerd,
// kubelet and kube-proxy under a small pid 1. Killing that pid is a crash of the machine.
import { existsSync } from 'node:fs';
import { access, cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { joinCgroups, makeCgroups, removeCgroups } from './cgroups.ts';
import type { ControlPlane } from './control-plane.ts';
import { attempt, run, startDaemon, until, type RunOptions, type RunResult } from './host.ts';
import { makeKubeletKeys } from './pki.ts';
import {
  clusterDomain,
  dnsAddress,
  fabric,
  fabric6,
  images,
  type ClusterPaths,
  type ClusterSettings,
} from './settings.ts';

export class ClusterNode {
  readonly name: string;
  readonly address: string;
  /** IPv6 address, in a dual-stack cluster. */
  readonly address6: string;
  readonly #paths: ClusterPaths;
  readonly #files: string;

  /** A node that boots, or has been booted by another process of the same sandbox. */
  constructor(index: number, paths: ClusterPaths) {
    this.name = `n${index}`;
    this.address = fabric.node(index);
    this.address6 = fabric6.node(index);
    this.#paths = paths;
    this.#files = join(paths.work, this.name);
  }

  /** Boots the machine and waits until its kubelet has registered it. */
  async boot(plane: ControlPlane, settings: ClusterSettings): Promise<void> {
    await makeCgroups(this.name);
    await this.#writeFiles(plane, settings);
    const dual = settings.families === 'dual';
    await joinFabric(this.name, this.address, dual ? this.address6 : undefined);
    await this.#startInit(dual ? `${this.address},${this.address6}` : this.address);
    for (const tarball of this.#paths.images) {
      await this.run(['ctr', '-n', 'k8s.io', 'images', 'import', '-'], { stdinFile: tarball, timeoutMs: 180_000 });
    }
    await this.run(['touch', '/node/images-there']);
    await until(`${this.name} registers`, 120_000, async () => {
      return (await plane.tryKubectl(['get', 'node', this.name])).code === 0;
    });
  }

  /** Runs a command inside every namespace of the node. */
  async attempt(command: readonly string[], options: NodeRunOptions = {}): Promise<RunResult> {
    return await attempt(await this.#inside(command, options.stdinFile), { timeoutMs: 60_000, ...options });
  }

  async run(command: readonly string[], options: NodeRunOptions = {}): Promise<string> {
    return await run(await this.#inside(command, options.stdinFile), { timeoutMs: 60_000, ...options });
  }

  /** Ends the machine between two instructions; its API objects stay. Succeeds when it is not up. */
  async crash(): Promise<void> {
    const init = Number(await readFile(join(this.#files, 'init.pid'), 'utf8').catch(() => '0'));
    if (init > 0) {
      process.kill(init, 'SIGKILL');
      await until(`${this.name} is gone`, 20_000, async () => !existsSync(`/proc/${init}`));
    }
    await attempt(['ip', 'link', 'del', this.name]);
    await attempt(['ip', 'netns', 'del', this.name]);
    await removeCgroups(this.name);
    await rm(this.#files, { recursive: true, force: true });
  }

  async #inside(command: readonly string[], stdinFile: string | undefined): Promise<readonly string[]> {
    const init = (await readFile(join(this.#files, 'init.pid'), 'utf8')).trim();
    const enter = ['nsenter', '-t', init, '-m', '-u', '-i', '-n', '-p', '-C', '-r', '-w', 'env'];
    const path = 'PATH=/node/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
    const full = [...enter, path, ...command];
    return stdinFile === undefined
      ? full
      : ['sh', '-c', 'file=$1; shift; exec "$@" <"$file"', 'sh', stdinFile, ...full];
  }

  async #startInit(nodeIps: string): Promise<void> {
    const script = new URL('./node-init.sh', import.meta.url).pathname;
    const moveShell = joinCgroups(this.name);
    const unshare = ['unshare', '--mount', '--uts', '--ipc', '--pid', '--cgroup', '--fork', '--kill-child'];
    const init = [script, this.name, this.address, this.#files, this.#paths.bin, this.#paths.logs, nodeIps];
    const outer = await startDaemon(
      ['nsenter', `--net=/run/netns/${this.name}`, 'sh', '-c', `${moveShell}; exec "$@"`, 'sh', ...unshare, ...init],
      join(this.#paths.logs, `${this.name}-init.log`),
    );
    const pid = outer.pid ?? 0;
    const initPid = await until(`${this.name}: pid 1 runs`, 10_000, async () => {
      const children = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8');
      return Number(children.trim().split(' ')[0]) || undefined;
    });
    await writeFile(join(this.#files, 'init.pid'), String(initPid));
    await until(`${this.name}: containerd answers`, 60_000, async () => {
      return (await this.attempt(['test', '-e', '/node/containerd-up'])).code === 0;
    });
  }

  async #writeFiles(plane: ControlPlane, settings: ClusterSettings): Promise<void> {
    for (const directory of ['root', 'containerd', 'kubelet'])
      await mkdir(join(this.#files, directory), { recursive: true });
    await makeKubeletKeys(plane.pki, this.name);
    const copies = {
      'ca.crt': 'ca.crt',
      'kube-proxy.kubeconfig': 'kube-proxy.kubeconfig',
      [`kubelet-${this.name}.kubeconfig`]: 'kubelet.kubeconfig',
    };
    for (const [from, to] of Object.entries(copies)) await cp(join(plane.pki, from), join(this.#files, to));
    await writeFile(join(this.#files, 'kubelet.yaml'), JSON.stringify(kubeletConfiguration));
    await writeFile(join(this.#files, 'kube-proxy.yaml'), JSON.stringify(kubeProxyConfiguration(this.name, settings)));
    await writeFile(join(this.#files, 'containerd.toml'), containerdConfiguration);
    if (settings.cni === 'none') return;
    const plugins = join(this.#paths.bin, 'cni');
    await access(plugins);
    for (const plugin of await readdir(plugins)) {
      await cp(join(plugins, plugin), join(this.#files, 'opt-cni-bin', plugin));
    }
  }
}

export interface NodeRunOptions extends RunOptions {
  /** A file of this machine that becomes the command's stdin. */
  readonly stdinFile?: string;
}

/** A network namespace with `eth0` on the fabric's bridge and rp_filter as distributions set it. */
export async function joinFabric(name: string, address: string, address6?: string): Promise<void> {
  const inside = (...command: readonly string[]): Promise<string> => run(['ip', 'netns', 'exec', name, ...command]);
  await run(['ip', 'netns', 'add', name]);
  await inside('sysctl', '-qw', 'net.ipv4.conf.all.rp_filter=1', 'net.ipv4.conf.default.rp_filter=1');
  await run(['ip', 'link', 'add', name, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', name]);
  await run(['ip', 'link', 'set', name, 'master', 'fabric', 'up']);
  await run(['ip', '-n', name, 'link', 'set', 'lo', 'up']);
  await run(['ip', '-n', name, 'addr', 'add', `${address}/${fabric.prefixLength}`, 'dev', 'eth0']);
  await run(['ip', '-n', name, 'link', 'set', 'eth0', 'up']);
  await run(['ip', '-n', name, 'route', 'add', 'default', 'via', fabric.controlPlane]);
  if (address6 === undefined) return;
  await run(['ip', '-n', name, 'addr', 'add', `${address6}/${fabric6.prefixLength}`, 'dev', 'eth0', 'nodad']);
  await run(['ip', '-n', name, '-6', 'route', 'add', 'default', 'via', fabric6.controlPlane]);
}

const kubeletConfiguration = {
  apiVersion: 'kubelet.config.k8s.io/v1beta1',
  kind: 'KubeletConfiguration',
  authentication: {
    anonymous: { enabled: false },
    webhook: { enabled: true },
    x509: { clientCAFile: '/node/ca.crt' },
  },
  authorization: { mode: 'Webhook' },
  staticPodPath: '/etc/kubernetes/manifests',
  failSwapOn: false,
  failCgroupV1: false,
  cgroupDriver: 'cgroupfs',
  containerRuntimeEndpoint: 'unix:///run/containerd/containerd.sock',
  clusterDNS: [dnsAddress],
  clusterDomain,
  resolvConf: '/etc/resolv.conf',
  evictionHard: {
    'memory.available': '100Mi',
    'nodefs.available': '1%',
    'nodefs.inodesFree': '1%',
    'imagefs.available': '1%',
  },
  imageGCHighThresholdPercent: 100,
  imageGCLowThresholdPercent: 99,
} as const;

/** No clusterCIDR: Weft must work without kube-proxy telling pods from others. */
function kubeProxyConfiguration(node: string, settings: ClusterSettings): unknown {
  return {
    apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
    kind: 'KubeProxyConfiguration',
    mode: settings.proxyMode,
    clientConnection: { kubeconfig: '/node/kube-proxy.kubeconfig' },
    hostnameOverride: node,
    // nf_conntrack_max belongs to the machine's first network namespace.
    conntrack: { maxPerCore: 0, min: 0 },
  };
}

// restrict_oom_score_adj: where CAP_SYS_RESOURCE is missing, runc cannot lower oom_score_adj.
const containerdConfiguration: string = `version = 3
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '${images.pause}'
[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  tolerate_missing_hugetlb_controller = true
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = false
`;
