// A whole Kubernetes cluster inside the namespaces of this process (sandbox.ts made them): the fabric, the control plane, the
// nodes, and one host outside. Disposing of it kills every process by pid; its networks and mounts end with the sandbox.
import { readFile } from 'node:fs/promises';

import { ControlPlane } from './control-plane.ts';
import { attempt, run, type RunOptions, type RunResult } from './host.ts';
import { ClusterNode, joinFabric } from './node.ts';
import { installReferenceNetwork } from './reference-network.ts';
import {
  clusterDomain,
  dnsAddress,
  fabric,
  fabric6,
  images,
  type ClusterPaths,
  type ClusterSettings,
} from './settings.ts';

const outsideName = 'outside';

export class Cluster {
  readonly plane: ControlPlane;
  readonly paths: ClusterPaths;
  readonly settings: ClusterSettings;
  readonly #nodes = new Map<string, ClusterNode>();

  private constructor(plane: ControlPlane, paths: ClusterPaths, settings: ClusterSettings) {
    this.plane = plane;
    this.paths = paths;
    this.settings = settings;
  }

  /** Boots everything; the nodes are registered, and Ready only once a pod network is there. */
  static async up(paths: ClusterPaths, settings: ClusterSettings, say: (line: string) => void): Promise<Cluster> {
    await makeFabric(settings);
    const cluster = new Cluster(await ControlPlane.start(paths, settings), paths, settings);
    say('kube-apiserver answers');
    await Promise.all(Array.from({ length: settings.nodes }, (_, index) => cluster.addNode(index + 1)));
    say(`${settings.nodes} nodes registered`);
    if (settings.cni === 'bridge') await installReferenceNetwork(cluster.nodes);
    const manifest = await readFile(new URL('./coredns.yaml', import.meta.url), 'utf8');
    const input = manifest
      .replaceAll(/^#.*$/gm, '')
      .replaceAll('DNS_ADDRESS', dnsAddress)
      .replaceAll('CLUSTER_DOMAIN', clusterDomain)
      .replaceAll('IMAGE', images.coredns);
    await cluster.plane.kubectl(['apply', '-f', '-'], { input });
    return cluster;
  }

  /** The same cluster as seen by another process of the sandbox: everything but adding nodes. Do not dispose of it. */
  static attach(paths: ClusterPaths, settings: ClusterSettings): Cluster {
    const cluster = new Cluster(new ControlPlane(paths), paths, settings);
    for (let index = 1; index <= settings.nodes; index++) {
      const node = new ClusterNode(index, paths);
      cluster.#nodes.set(node.name, node);
    }
    return cluster;
  }

  get nodes(): readonly ClusterNode[] {
    return [...this.#nodes.values()].toSorted((a, b) => a.name.localeCompare(b.name));
  }

  node(name: string): ClusterNode {
    const node = this.#nodes.get(name);
    if (node === undefined) throw new Error(`no node ${name}; there are ${[...this.#nodes.keys()].join(', ')}`);
    return node;
  }

  async addNode(index: number): Promise<ClusterNode> {
    const node = new ClusterNode(index, this.paths);
    await node.boot(this.plane, this.settings);
    this.#nodes.set(node.name, node);
    return node;
  }

  async crashNode(name: string): Promise<void> {
    await this.node(name).crash();
    this.#nodes.delete(name);
  }

  /** Runs a command on the host that is no node. */
  async attemptOutside(command: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    return await attempt(['ip', 'netns', 'exec', outsideName, ...command], { timeoutMs: 60_000, ...options });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.nodes.map((node) => this.crashNode(node.name)));
    await this.plane[Symbol.asyncDispose]();
  }
}

/** The bridge that joins the machines, in this process's own network namespace, and the outside host. */
async function makeFabric({ families }: ClusterSettings): Promise<void> {
  await run(['ip', 'link', 'set', 'lo', 'up']);
  await run(['ip', 'link', 'add', 'fabric', 'type', 'bridge']);
  await run(['ip', 'addr', 'add', `${fabric.controlPlane}/${fabric.prefixLength}`, 'dev', 'fabric']);
  await run(['ip', 'link', 'set', 'fabric', 'up']);
  // Frames between machines must not meet this namespace's own netfilter.
  await attempt(['sysctl', '-qw', 'net.bridge.bridge-nf-call-iptables=0', 'net.bridge.bridge-nf-call-ip6tables=0']);
  const dual = families === 'dual';
  if (dual)
    await run(['ip', 'addr', 'add', `${fabric6.controlPlane}/${fabric6.prefixLength}`, 'dev', 'fabric', 'nodad']);
  await joinFabric(outsideName, fabric.outside, dual ? fabric6.outside : undefined);
}
