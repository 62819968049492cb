// One namespace of the cluster per spec file, with pods that serve pages and Services over them; removed with all in it.
import type { Cluster } from '../cluster/cluster.ts';
import { until } from '../cluster/host.ts';
import { controlPlaneTaint, images } from '../cluster/settings.ts';

/** Port of netexec's pages (/hostname, /clientip) in each pod. */
export const podPort = 8080;

export interface TestPod {
  readonly name: string;
  readonly namespace: string;
  readonly node: string;
  readonly address: string;
}

export interface TestService {
  readonly name: string;
  readonly namespace: string;
  readonly address: string;
  readonly port: number;
  readonly nodePort: number;
}

export interface PodWish {
  readonly name: string;
  readonly node: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  /** Fields of the pod's spec that differ from the usual ones. */
  readonly spec?: object;
  /** Fields of its one container that differ from the usual ones. */
  readonly container?: object;
}

interface PodObject {
  readonly metadata: { readonly name: string };
  readonly spec: { readonly nodeName: string };
  readonly status: { readonly podIP?: string };
}

export class Workspace {
  readonly namespace: string;
  readonly #cluster: Cluster;

  private constructor(cluster: Cluster, namespace: string) {
    this.#cluster = cluster;
    this.namespace = namespace;
  }

  static async create(cluster: Cluster, namespace: string): Promise<Workspace> {
    await cluster.plane.kubectl(['create', 'namespace', namespace]);
    await until(`service account of namespace ${namespace}`, 20_000, async () => {
      return (await cluster.plane.tryKubectl(['-n', namespace, 'get', 'serviceaccount', 'default'])).code === 0;
    });
    return new Workspace(cluster, namespace);
  }

  /** Creates the pods and waits until all are Ready; they come back in the order of the wishes. */
  async addPods(wishes: readonly PodWish[], withinMs = 120_000): Promise<readonly TestPod[]> {
    await this.createPods(wishes);
    return await this.awaitPods(wishes, withinMs);
  }

  async createPods(wishes: readonly PodWish[]): Promise<void> {
    const items = wishes.map((wish) => podManifest(this.namespace, wish));
    await this.#kubectl(['create', '-f', '-'], JSON.stringify({ apiVersion: 'v1', kind: 'List', items }));
  }

  /** Waits until pods that were created are Ready; they come back in the order of the wishes. */
  async awaitPods(wishes: readonly Pick<PodWish, 'name'>[], withinMs = 120_000): Promise<readonly TestPod[]> {
    const names = wishes.map((wish) => `pod/${wish.name}`);
    await this.#kubectl(['wait', '--for=condition=Ready', `--timeout=${withinMs / 1000}s`, ...names]);
    const pods = await this.pods();
    return wishes.map((wish) => {
      const pod = pods.find((one) => one.name === wish.name);
      if (pod === undefined) throw new Error(`pod ${wish.name} is gone`);
      return pod;
    });
  }

  /** Every pod of the namespace that has an address. */
  async pods(): Promise<readonly TestPod[]> {
    const { items } = await this.#cluster.plane.kubectlJson<{ readonly items: readonly PodObject[] }>([
      '-n',
      this.namespace,
      'get',
      'pods',
    ]);
    return items.map((item) => ({
      name: item.metadata.name,
      namespace: this.namespace,
      node: item.spec.nodeName,
      address: item.status.podIP ?? '',
    }));
  }

  /** Deletes pods and waits until the API has them no more, which is after the runtime's DEL. */
  async deletePods(names: readonly string[]): Promise<void> {
    await this.#kubectl(['delete', '--wait=true', '--timeout=60s', ...names.map((name) => `pod/${name}`)]);
  }

  /** A NodePort Service (so it has a ClusterIP too) on port 80, and its endpoints on every node's kube-proxy soon after. */
  async addService(name: string, selector: Readonly<Record<string, string>>, spec: object = {}): Promise<TestService> {
    const manifest = {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name, namespace: this.namespace },
      spec: { type: 'NodePort', selector, ports: [{ port: 80, targetPort: podPort }], ...spec },
    };
    await this.#kubectl(['create', '-f', '-'], JSON.stringify(manifest));
    const made = await this.#cluster.plane.kubectlJson<{
      readonly spec: { readonly clusterIP: string; readonly ports: readonly { readonly nodePort?: number }[] };
    }>(['-n', this.namespace, 'get', 'service', name]);
    const nodePort = made.spec.ports[0]?.nodePort ?? 0;
    return { name, namespace: this.namespace, address: made.spec.clusterIP, port: 80, nodePort };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cluster.plane.kubectl(['delete', 'namespace', this.namespace, '--wait=true', '--timeout=90s']);
  }

  async #kubectl(args: readonly string[], input?: string): Promise<void> {
    await this.#cluster.plane.kubectl(['-n', this.namespace, ...args], input === undefined ? {} : { input });
  }
}

function podManifest(namespace: string, wish: PodWish): unknown {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: wish.name,
      namespace,
      labels: { ...wish.labels, node: wish.node },
      ...(wish.annotations && { annotations: wish.annotations }),
    },
    spec: {
      nodeSelector: { 'kubernetes.io/hostname': wish.node },
      terminationGracePeriodSeconds: 0,
      automountServiceAccountToken: false,
      tolerations: [{ key: controlPlaneTaint, operator: 'Exists' }],
      ...wish.spec,
      containers: [
        {
          name: 'web',
          image: images.tools,
          imagePullPolicy: 'Never',
          args: ['netexec', `--http-port=${podPort}`, '--udp-port=8081'],
          readinessProbe: { httpGet: { path: '/hostname', port: podPort }, periodSeconds: 1 },
          ...wish.container,
        },
      ],
    },
  };
}
