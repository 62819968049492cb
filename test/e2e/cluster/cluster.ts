// A whole Kubernetes cluster inside the namespaces of this process (sandbox.ts made them): the fabric, the control plane, the
// nodes, and one host outside. Disposing of it kills every process by pid; its networks and mounts end with the sandbox.
import { readFile } from 'node:fs/promises';

import { ControlPlane } from './control-plane.ts';
import { attempt, type RunOptions, type RunResult } from './host.ts';
import { ClusterNode } from './node.ts';
import { joinFabric, makeFabric } from './fabric.ts';
import { installReferenceNetwork } from './reference-network.ts';
import {
  clusterDomain,
  controlPlaneTaint,
  familiesOf,
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
    await joinFabric(outsideName, familiesOf(settings), ({ outside }) => outside);
    // Before the control plane, which may live in one of them.
    const machines = Array.from({ length: settings.nodes }, (_, index) => new ClusterNode(index + 1, paths, settings));
    for (const machine of machines) await machine.connect();
    const cluster = new Cluster(await ControlPlane.start(paths, settings), paths, settings);
    say('kube-apiserver answers');
    await Promise.all(
      machines.map(async (machine) => {
        await machine.boot(cluster.plane);
        cluster.#nodes.set(machine.name, machine);
      }),
    );
    say(`${settings.nodes} nodes registered`);
    if (settings.cni === 'bridge') await installReferenceNetwork(cluster.nodes);
    await cluster.#markControlPlane();
    const manifest = await readFile(new URL('./coredns.yaml', import.meta.url), 'utf8');
    const input = manifest
      .replaceAll(/^#.*$/gm, '')
      .replaceAll('DNS_ADDRESS', familiesOf(settings)[0].dns)
      .replaceAll('CLUSTER_DOMAIN', clusterDomain)
      .replaceAll('IMAGE', images.coredns);
    await cluster.plane.kubectl(['apply', '-f', '-'], { input });
    return cluster;
  }

  /** The same cluster as seen by another process of the sandbox: everything but adding nodes. Do not dispose of it. */
  static attach(paths: ClusterPaths, settings: ClusterSettings): Cluster {
    const cluster = new Cluster(new ControlPlane(paths), paths, settings);
    for (let index = 1; index <= settings.nodes; index++) {
      const node = new ClusterNode(index, paths, settings);
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

  async crashNode(name: string): Promise<void> {
    await this.node(name).crash();
    this.#nodes.delete(name);
  }

  /** Runs a command on the host that is no node. */
  async attemptOutside(command: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    return await attempt(['ip', 'netns', 'exec', outsideName, ...command], { timeoutMs: 60_000, ...options });
  }

  /** The role that `kubectl get nodes` shows; kubelets may not give it to themselves. */
  async #markControlPlane(): Promise<void> {
    if (this.settings.controlPlane === 'outside') return;
    await this.plane.kubectl(['label', 'node', 'n1', `${controlPlaneTaint}=`]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.nodes.map((node) => this.crashNode(node.name)));
    await this.plane[Symbol.asyncDispose]();
  }
}
