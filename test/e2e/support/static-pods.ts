// Pods that a kubelet runs from files of its node, without the API server: how they are put there, found, and made to crash.
import { until } from '../cluster/host.ts';
import type { ClusterNode } from '../cluster/node.ts';
import { images } from '../cluster/settings.ts';
import { agentStatus, type AgentStatus } from './ring.ts';

export interface StaticPod {
  readonly annotations?: Readonly<Record<string, string>>;
  /** Arguments of its one container, a busybox shell's when it begins with `sh`; by default it waits for ever. */
  readonly command?: readonly string[];
}

const fileOf = (name: string): string => `/etc/kubernetes/manifests/${name}.json`;

export async function putStaticPod(node: ClusterNode, name: string, pod: StaticPod = {}): Promise<void> {
  const text = JSON.stringify(manifestOf(name, pod));
  // Made elsewhere: the kubelet takes every file of that directory for a pod, half written ones too.
  const script = 'cat >/etc/kubernetes/new && mv /etc/kubernetes/new "$1"';
  await node.run(['sh', '-c', script, 'sh', fileOf(name)], { input: text });
}

export async function removeStaticPod(node: ClusterNode, name: string): Promise<void> {
  await node.run(['rm', '-f', fileOf(name)]);
}

type Lease = AgentStatus['leases'][number];

/** What the node's agent leases to a static pod; undefined: nothing. */
export async function leaseOf(node: ClusterNode, name: string): Promise<Lease | undefined> {
  return (await agentStatus(node)).leases.find(({ pod }) => pod === `default/${name}-${node.name}`);
}

/** Waits until the pod has a link other than `not`, and answers its node; returns the lease. */
export async function answeringLease(node: ClusterNode, name: string, not?: Lease): Promise<Lease> {
  const lease = await until(`${name} on ${node.name} has an address`, 90_000, async () => {
    const found = await leaseOf(node, name);
    return found?.hostIfname === not?.hostIfname ? undefined : found;
  });
  await until(`${name} on ${node.name} answers`, 60_000, async () => {
    return (await node.attempt(['ping', '-c', '1', '-W', '1', lease.addresses[0] ?? ''])).code === 0;
  });
  return lease;
}

/** Kills what holds the pod's namespaces: the kubelet makes a new sandbox. */
export async function crashSandbox(node: ClusterNode, name: string): Promise<void> {
  const filters = `labels."io.kubernetes.pod.name"==${name}-${node.name},labels."io.cri-containerd.kind"==sandbox`;
  // A sandbox answers pings before its process runs: killed while that is only created, making the sandbox would fail.
  await until(`the sandbox of ${name} on ${node.name} is killed`, 60_000, async () => {
    const ids = (await node.run(['ctr', '-n', 'k8s.io', 'containers', 'ls', '-q', filters])).trim().split('\n');
    const tasks = (await node.run(['ctr', '-n', 'k8s.io', 'tasks', 'ls'])).split('\n').map((row) => row.split(/\s+/));
    const running = tasks.find(([id = '', , status]) => status === 'RUNNING' && ids.includes(id))?.[0];
    if (running === undefined) return false;
    return (await node.attempt(['ctr', '-n', 'k8s.io', 'tasks', 'kill', '-s', 'KILL', running])).code === 0;
  });
}

/** What the node's runtime said of each sandbox that it failed to make since the machine was booted; it names the pod. */
export async function failedSandboxes(node: ClusterNode): Promise<readonly string[]> {
  const log = `/node/logs/${node.machine}-containerd.log`;
  const { stdout } = await node.attempt(['grep', 'RunPodSandbox for .* failed, error', log]);
  return stdout.split('\n').filter((line) => line !== '');
}

function manifestOf(name: string, { annotations, command }: StaticPod): unknown {
  const [program] = command ?? [];
  const run = program === undefined ? { args: ['pause'] } : { command };
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace: 'default', ...(annotations && { annotations }) },
    spec: {
      terminationGracePeriodSeconds: 0,
      enableServiceLinks: false,
      containers: [{ name: 'main', image: images.tools, imagePullPolicy: 'Never', ...run }],
    },
  };
}
