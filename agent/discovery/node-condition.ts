// The condition NetworkUnavailable=False (reason WeftIsUp) on the own Node: cloud providers hold pods off a node until its
// network says so. Written once this node can serve pods; never set to True, also not at shutdown: pods keep talking. With it goes the
// label by which the API server finds the Nodes that a takeover is compared with (node-part.ts).
// Needs the verb `patch` on `nodes/status`, by which a Node's labels can be written too.

import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { WeftError } from '#agent/errors.ts';
import { openKubeApi, type KubeApi } from '#agent/kubernetes/api.ts';
import { failure, type KubeObject } from '#agent/kubernetes/list-watch.ts';
import { nodePart, partLabel } from '#agent/kubernetes/node-part.ts';

export interface NodeConditionOptions {
  readonly nodeName: string;
  /** Path of a kubeconfig; absent or '': the pod's service account. */
  readonly kubeConfig?: string;
  readonly apiServer?: string;
  /** A client to share; closed by who made it. */
  readonly api?: KubeApi;
  readonly log: Pick<Logger, 'info' | 'warn'>;
}

interface Condition {
  readonly type: string;
  readonly status: string;
  readonly reason?: string;
}

const retryStartMs = 500;
const retryLimitMs = 60_000;

/** Tries until it is written or the signal aborts; resolves in both cases. A Node that says so already is left alone. */
export async function reportNetworkAvailable(options: NodeConditionOptions, signal: AbortSignal): Promise<void> {
  const { nodeName, log } = options;
  const api = options.api ?? openKubeApi(options);
  try {
    for (let attempt = 0; !signal.aborted; attempt += 1) {
      try {
        if (await writeCondition(api, nodeName, signal)) log.info({ nodeName }, 'NetworkUnavailable=False (WeftIsUp)');
        return;
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof WeftError)) throw error;
        if (attempt === 0) log.warn({ reason: error.message }, 'cannot set NetworkUnavailable=False yet');
        const waitMs = Math.min(retryLimitMs, retryStartMs * 2 ** Math.min(attempt, 10));
        await sleep(waitMs * (0.5 + Math.random()), undefined, { signal }).catch(() => undefined);
      }
    }
  } finally {
    if (options.api === undefined) api.close();
  }
}

/** False: it was there. Throws WeftError('registry'). */
async function writeCondition(api: KubeApi, nodeName: string, signal: AbortSignal): Promise<boolean> {
  const path = `/api/v1/nodes/${nodeName}`;
  const answer = await api.call({ method: 'GET', path }, signal);
  if (answer.status !== 200) throw failure(`reading Node ${nodeName}`, answer);
  const { metadata, status } = answer.body as KubeObject & {
    readonly status?: { readonly conditions?: readonly Condition[] };
  };
  const part = nodePart(metadata.uid);
  const current = status?.conditions?.find(({ type }) => type === 'NetworkUnavailable');
  const isUp = current?.status === 'False' && current.reason === 'WeftIsUp';
  if (isUp && metadata.labels?.[partLabel] === part) return false;
  const now = new Date().toISOString().replace(/\.\d+Z$/, 'Z');
  const condition = {
    type: 'NetworkUnavailable',
    status: 'False',
    reason: 'WeftIsUp',
    message: 'Weft serves pods on this node',
    lastHeartbeatTime: now,
    lastTransitionTime: now,
  };
  // Strategic merge: conditions are merged by type, so that nobody else's is touched.
  const written = await api.call(
    {
      method: 'PATCH',
      path: `${path}/status`,
      contentType: 'application/strategic-merge-patch+json',
      body: {
        ...(part !== undefined && { metadata: { labels: { [partLabel]: part } } }),
        status: { conditions: [condition] },
      },
    },
    signal,
  );
  if (written.status !== 200) throw failure(`writing the condition of Node ${nodeName}`, written);
  return true;
}
