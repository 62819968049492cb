// Node objects as the API has them, and a watch over their readiness while a test disturbs something.
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

import type { Cluster } from '../cluster/cluster.ts';
import { killChild } from '../cluster/host.ts';

export interface NodeCondition {
  readonly type: string;
  readonly status: string;
  readonly reason: string;
  readonly message: string;
}

export interface NodeObject {
  readonly metadata: { readonly name: string; readonly uid: string };
  readonly spec: {
    readonly podCIDR?: string;
    readonly taints?: readonly { readonly key: string; readonly effect: string }[];
  };
  readonly status: { readonly conditions: readonly NodeCondition[] };
}

export async function nodeObjects(cluster: Cluster): Promise<readonly NodeObject[]> {
  const { items } = await cluster.plane.kubectlJson<{ readonly items: readonly NodeObject[] }>(['get', 'nodes']);
  return items;
}

export function readyCondition(node: NodeObject): NodeCondition {
  const condition = node.status.conditions.find((one) => one.type === 'Ready');
  if (condition === undefined) throw new Error(`node ${node.metadata.name} has no Ready condition yet`);
  return condition;
}

export interface ReadinessWatch extends AsyncDisposable {
  /** Every change that the API server told since the watch began, `n1 False KubeletNotReady`, also of short duration. */
  readonly notReady: readonly string[];
}

/** Watches every Node from now on; a node that is not Ready for however short is in `notReady`. */
export async function watchReadiness(cluster: Cluster): Promise<ReadinessWatch> {
  const ready = '.status.conditions[?(@.type=="Ready")]';
  const columns = `NAME:.metadata.name,READY:${ready}.status,REASON:${ready}.reason`;
  const child = spawn(
    join(cluster.paths.bin, 'kubectl'),
    [
      `--kubeconfig=${cluster.plane.kubeconfig}`,
      'get',
      'nodes',
      '-w',
      '--no-headers',
      '-o',
      `custom-columns=${columns}`,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const notReady: string[] = [];
  let seen = 0;
  const begun = Promise.withResolvers<void>();
  createInterface({ input: child.stdout }).on('line', (line) => {
    if (line.split(/\s+/)[1] !== 'True') notReady.push(line);
    if (++seen === cluster.nodes.length) begun.resolve();
  });
  child.once('exit', (code) => begun.reject(new Error(`kubectl get nodes --watch: exit ${String(code)}`)));
  await begun.promise;
  return {
    notReady,
    async [Symbol.asyncDispose](): Promise<void> {
      await killChild(child);
    },
  };
}
