// One machine of the test cluster: its own network, mount, UTS, IPC, pid and cgroup namespaces, an overlay root, containerd,
// kubelet and kube-proxy under a small pid 1. Killing that pid is a crash of the machine.
import { existsSync } from 'node:fs';
import { access, cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { joinCgroups, makeCgroups, removeCgroups } from './cgroups.ts';
import type { ControlPlane } from './control-plane.ts';
import { giveAddress, joinFabric, leaveFabric } from './fabric.ts';
import { attempt, run, startDaemon, until, type RunOptions, type RunResult } from './host.ts';
import { makeKubeletKeys } from './pki.ts';
import {
  clusterDomain,
  controlPlaneTaint,
  familiesOf,
  images,
  pathInNodes,
  type ClusterPaths,
  type ClusterSettings,
} from './settings.ts';

export class ClusterNode {
  /** Of the Node object, and the machine's hostname. */
  readonly name: string;
  /** The machine: its namespace, its directory, its logs. Stays when the node is renamed. */
  readonly machine: string;
  readonly #paths: ClusterPaths;
  readonly #settings: ClusterSettings;
  readonly #files: string;
  #addresses: readonly string[];

  /** A node that boots, or has been booted by another process of the same sandbox. Another `name` than the usual: it was renamed. */
  constructor(index: number, paths: ClusterPaths, settings: ClusterSettings, name = `n${index}`) {
    this.name = name;
    this.machine = `n${index}`;
    this.#paths = paths;
    this.#settings = settings;
    this.#files = join(paths.work, this.machine);
    this.#addresses = familiesOf(settings).map((family) => family.node(index));
  }

  /** Of the cluster's first family. */
  get address(): string {
    return this.#addresses[0] ?? '';
  }

  /** IPv6 address, where the cluster has the family. */
  get address6(): string {
    return this.#addresses.find((address) => address.includes(':')) ?? '';
  }

  /** Boots a machine with an empty disk and waits until its kubelet has registered it. */
  async boot(plane: ControlPlane): Promise<void> {
    await mkdir(join(this.#files, 'root'), { recursive: true });
    await run(['mount', '-t', 'tmpfs', '-o', 'size=2g', 'tmpfs', join(this.#files, 'root')]);
    await this.powerOn(plane);
    for (const tarball of this.#paths.images) {
      await this.run(['ctr', '-n', 'k8s.io', 'images', 'import', '-'], { stdinFile: tarball, timeoutMs: 180_000 });
    }
    await this.run(['touch', '/node/images-there']);
    await until(`${this.name} registers`, 120_000, async () => {
      return (await plane.tryKubectl(['get', 'node', this.name])).code === 0;
    });
  }

  /** Starts the machine with the disk that it has. */
  async powerOn(plane: ControlPlane): Promise<void> {
    await makeCgroups(this.machine);
    await this.#writeFiles(plane);
    await this.connect();
    await this.#startInit();
  }

  /** Puts the machine's network namespace on the fabric, if it is not there yet. */
  async connect(): Promise<void> {
    if (existsSync(`/run/netns/${this.machine}`)) return;
    const families = familiesOf(this.#settings);
    await joinFabric(this.machine, families, (family) => this.#addresses[families.indexOf(family)] ?? '');
  }

  /** Another address of the first family, given to the running machine as a DHCP server might; its kubelet tells the cluster. */
  async changeAddress(index: number): Promise<void> {
    const [family] = familiesOf(this.#settings);
    const was = this.address;
    this.#addresses = [family.node(index), ...this.#addresses.slice(1)];
    await this.run(['ip', 'addr', 'del', `${was}/${family.prefixLength}`, 'dev', 'eth0']);
    await giveAddress(this.machine, family, this.address);
    await this.run(['tee', '/node/node-ips'], { input: this.#addresses.join() });
    await this.run(['pkill', '-x', 'kubelet']);
  }

  /** Runs a command inside every namespace of the node. */
  async attempt(command: readonly string[], options: NodeRunOptions = {}): Promise<RunResult> {
    return await attempt(await this.#inside(command, options.stdinFile), { timeoutMs: 60_000, ...options });
  }

  async run(command: readonly string[], options: NodeRunOptions = {}): Promise<string> {
    return await run(await this.#inside(command, options.stdinFile), { timeoutMs: 60_000, ...options });
  }

  /** Ends the machine between two instructions; its disk stays. Succeeds when it is not up. */
  async halt(): Promise<void> {
    const init = Number(await readFile(join(this.#files, 'init.pid'), 'utf8').catch(() => '0'));
    if (init > 0 && existsSync(`/proc/${init}`)) {
      process.kill(init, 'SIGKILL');
      await until(`${this.name} is gone`, 20_000, async () => !existsSync(`/proc/${init}`));
    }
    await rm(join(this.#files, 'init.pid'), { force: true });
    await leaveFabric(this.machine);
    await removeCgroups(this.machine);
  }

  /** Ends the machine, and its disk is lost; its API objects stay. */
  async crash(): Promise<void> {
    await this.halt();
    await attempt(['umount', '-l', join(this.#files, 'root')]);
    await rm(this.#files, { recursive: true, force: true });
  }

  async #inside(command: readonly string[], stdinFile: string | undefined): Promise<readonly string[]> {
    const init = (await readFile(join(this.#files, 'init.pid'), 'utf8')).trim();
    const enter = ['nsenter', '-t', init, '-m', '-u', '-i', '-n', '-p', '-C', '-r', '-w', 'env'];
    const full = [...enter, pathInNodes, ...command];
    return stdinFile === undefined
      ? full
      : ['sh', '-c', 'file=$1; shift; exec "$@" <"$file"', 'sh', stdinFile, ...full];
  }

  async #startInit(): Promise<void> {
    const script = new URL('./node-init.sh', import.meta.url).pathname;
    const moveShell = joinCgroups(this.machine);
    const unshare = ['unshare', '--mount', '--uts', '--ipc', '--pid', '--cgroup', '--fork', '--kill-child'];
    const init = [script, this.name, this.machine, this.#files, this.#paths.bin, this.#paths.logs];
    const outer = await startDaemon(
      ['nsenter', `--net=/run/netns/${this.machine}`, 'sh', '-c', `${moveShell}; exec "$@"`, 'sh', ...unshare, ...init],
      join(this.#paths.logs, `${this.machine}-init.log`),
    );
    const pid = outer.pid ?? 0;
    const initPid = await until(`${this.name}: pid 1 runs`, 10_000, async () => {
      const children = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8');
      return Number(children.trim().split(' ')[0]) || undefined;
    });
    await writeFile(join(this.#files, 'init.pid'), String(initPid));
    await until(`${this.name}: containerd answers`, 60_000, async () => {
      return (await this.attempt(['test', '-e', '/run/containerd-up'])).code === 0;
    });
  }

  async #writeFiles(plane: ControlPlane): Promise<void> {
    const settings = this.#settings;
    for (const directory of ['containerd', 'kubelet']) await mkdir(join(this.#files, directory), { recursive: true });
    await makeKubeletKeys(plane.pki, this.name, settings);
    const copies = {
      'ca.crt': 'ca.crt',
      'kube-proxy.kubeconfig': 'kube-proxy.kubeconfig',
      [`kubelet-${this.name}.kubeconfig`]: 'kubelet.kubeconfig',
    };
    for (const [from, to] of Object.entries(copies)) await cp(join(plane.pki, from), join(this.#files, to));
    await writeFile(join(this.#files, 'kubelet.yaml'), JSON.stringify(kubeletConfiguration(this.machine, settings)));
    await writeFile(join(this.#files, 'node-ips'), this.#addresses.join());
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

function kubeletConfiguration(machine: string, settings: ClusterSettings): unknown {
  const isControlPlane = settings.controlPlane === 'node' && machine === 'n1';
  return {
    apiVersion: 'kubelet.config.k8s.io/v1beta1',
    kind: 'KubeletConfiguration',
    authentication: {
      anonymous: { enabled: false },
      webhook: { enabled: true },
      x509: { clientCAFile: '/node/ca.crt' },
    },
    authorization: { mode: 'Webhook' },
    registerWithTaints: isControlPlane ? [{ key: controlPlaneTaint, effect: 'NoSchedule' }] : [],
    staticPodPath: '/etc/kubernetes/manifests',
    failSwapOn: false,
    failCgroupV1: false,
    cgroupDriver: 'cgroupfs',
    containerRuntimeEndpoint: 'unix:///run/containerd/containerd.sock',
    clusterDNS: [familiesOf(settings)[0].dns],
    clusterDomain,
    resolvConf: '/etc/resolv.conf',
    evictionHard: {
      'memory.available': '100Mi',
      'nodefs.available': '1%',
      'nodefs.inodesFree': '1%',
      'imagefs.available': '1%',
    },
    // Specs kill agents over and over; the kubelet would wait up to five minutes for the next restart.
    crashLoopBackOff: { maxContainerRestartPeriod: '2s' },
    imageGCHighThresholdPercent: 100,
    imageGCLowThresholdPercent: 99,
  };
}

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
