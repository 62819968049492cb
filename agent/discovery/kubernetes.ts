// Discovery from Node objects. The own Node is watched, and its identity (uid, addresses) also kept on disk, so that an agent starts
// while the API server is away. The others are listed once; afterwards one is read when a peer's record asks for it (node-looks.ts),
// because a watch on all of them would tell every agent of every kubelet's heartbeat.

import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Discovery, NodeIdentity } from '#agent/discovery/discovery.ts';
import { createDirectory, type Directory, identityOf, sameIdentity } from '#agent/discovery/node-directory.ts';
import { attendPeers, listNodes, nodeExists, nodesPath } from '#agent/discovery/node-looks.ts';
import { readIfThere, writeDurably } from '#agent/discovery/durable-file.ts';
import { WeftError } from '#agent/errors.ts';
import { openKubeApi, type KubeApi } from '#agent/kubernetes/api.ts';
import { failure, followCollection, type KubeObject } from '#agent/kubernetes/list-watch.ts';

export interface KubernetesDiscoveryOptions {
  /** metadata.name of this machine's Node. */
  readonly nodeName: string;
  readonly stateDir: string;
  /** Path of a kubeconfig; absent or '': the pod's service account. */
  readonly kubeConfig?: string;
  /** Overrides the API server's address. */
  readonly apiServer?: string;
  /** A client to share; closed by who made it. */
  readonly api?: KubeApi;
  /** Pause between two looks whether the nodes whose space this one would take over are still there. */
  readonly lookEveryMs?: number;
  /** Ends the wait for a first identity. */
  readonly signal?: AbortSignal;
  readonly log: Pick<Logger, 'info' | 'warn' | 'error'>;
}

const lookEveryMs = 150_000;
const retryStartMs = 500;
const retryLimitMs = 15_000;
/** How long a start waits for the first list of nodes, when the API server answers at all. */
const firstListMs = 3000;

/**
 * Resolves with the Node's identity from the API server, or, while that does not answer, from the disk. With neither it waits.
 * A Node that was registered anew (another uid) is a new identity. Throws WeftError: 'store', 'invalidSetting' (credentials).
 */
export async function startKubernetesDiscovery(options: KubernetesDiscoveryOptions): Promise<Discovery> {
  const api = options.api ?? openKubeApi(options);
  const life = new AbortController();
  const close = async (): Promise<void> => {
    life.abort();
    if (options.api === undefined) api.close();
  };
  try {
    const path = join(options.stateDir, 'node-identity.json');
    const { self, answered } = await findSelf(api, path, options);
    const keep = async (identity: NodeIdentity): Promise<void> => await writeIdentity(path, identity);
    const directory = createDirectory(self, keep, options.log);
    const listing = listOnce(api, directory, life.signal);
    const working = Promise.all([followSelf(api, directory, options.log, life.signal), listing]);
    working.catch((error: unknown) => options.log.error({ err: error }, 'discovery ended'));
    if (answered) await Promise.race([listing, sleep(firstListMs, undefined, { ref: false })]);
    return {
      get self() {
        return directory.self();
      },
      nodes: directory.nodes,
      goneUids: directory.gone,
      attend: (peers) => attendPeers(peers, { api, directory, lookEveryMs: options.lookEveryMs ?? lookEveryMs }),
      nodeExists: async (node, signal) => await nodeExists(api, node, signal),
      onChange: directory.onChange,
      close: async () => {
        await close();
        await working;
      },
    };
  } catch (error) {
    await close();
    throw error;
  }
}

async function findSelf(
  api: KubeApi,
  path: string,
  { nodeName, log, signal = new AbortController().signal }: KubernetesDiscoveryOptions,
): Promise<{ readonly self: NodeIdentity; readonly answered: boolean }> {
  const kept = await readIdentity(path, nodeName, log);
  for (let attempt = 0; ; attempt += 1) {
    let reason: string;
    try {
      const answer = await api.call({ method: 'GET', path: `${nodesPath}/${nodeName}` }, signal);
      if (answer.status !== 200) throw failure(`reading Node ${nodeName}`, answer);
      const self = identityOf(answer.body as KubeObject);
      if (kept !== undefined && kept.nodeUid !== self.nodeUid) {
        log.warn({ was: kept.nodeUid, is: self.nodeUid }, 'this node was registered anew: it has a new identity');
      }
      if (kept === undefined || !sameIdentity(kept, self)) await writeIdentity(path, self);
      return { self, answered: true };
    } catch (error) {
      if (signal.aborted || !(error instanceof WeftError) || error.kind !== 'registry') throw error;
      reason = error.message;
    }
    if (kept !== undefined) {
      log.warn(
        { reason, uid: kept.nodeUid },
        'the API server gives no Node of this name; going on with the identity on disk',
      );
      return { self: kept, answered: false };
    }
    if (attempt === 0) log.warn({ reason }, 'waiting for the API server: this node has no identity on disk yet');
    const waitMs = Math.min(retryLimitMs, retryStartMs * 2 ** Math.min(attempt, 10));
    await sleep(waitMs * (0.5 + Math.random()), undefined, { signal });
  }
}

async function followSelf(
  api: KubeApi,
  directory: Directory,
  log: Pick<Logger, 'info' | 'warn'>,
  signal: AbortSignal,
): Promise<void> {
  const { nodeName, nodeUid } = directory.self();
  let trouble = false;
  const onTrouble = (error: Error): void => {
    if (!trouble) log.warn({ reason: error.message }, 'nodes are not followed: the API server does not answer');
    trouble = true;
  };
  const only = { fieldSelector: `metadata.name=${nodeName}` };
  for await (const event of followCollection(api, nodesPath, only, onTrouble, signal)) {
    if (trouble) log.info({}, 'nodes are followed again');
    trouble = false;
    const [object] = event.kind === 'listed' ? event.objects : event.kind === 'changed' ? [event.object] : [];
    if (object === undefined) directory.lose({ name: nodeName, uid: nodeUid });
    else directory.put(identityOf(object));
    directory.flush();
  }
}

/** Resolves when every node was listed once, or when the signal aborts. */
async function listOnce(api: KubeApi, directory: Directory, signal: AbortSignal): Promise<void> {
  for (let attempt = 0; !signal.aborted; attempt += 1) {
    try {
      return await listNodes(api, directory, signal);
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof WeftError)) throw error;
    }
    const waitMs = Math.min(retryLimitMs, retryStartMs * 2 ** Math.min(attempt, 10));
    await sleep(waitMs * (0.5 + Math.random()), undefined, { signal, ref: false }).catch(() => undefined);
  }
}

async function writeIdentity(path: string, identity: NodeIdentity): Promise<void> {
  await writeDurably(path, `${JSON.stringify(identity)}\n`);
}

/** A copy that cannot be read or is another node's (a cloned disk) is none. */
async function readIdentity(
  path: string,
  nodeName: string,
  log: Pick<Logger, 'warn'>,
): Promise<NodeIdentity | undefined> {
  const text = await readIfThere(path);
  if (text === undefined) return undefined;
  try {
    const kept = JSON.parse(text) as NodeIdentity;
    const whole = typeof kept.nodeUid === 'string' && kept.nodeUid !== '' && Array.isArray(kept.underlayAddresses);
    if (whole && kept.nodeName === nodeName) return kept;
    log.warn({ path, nodeName: kept.nodeName }, 'the identity on disk is not of this node; it is not used');
  } catch (error) {
    log.warn({ path, reason: (error as Error).message }, 'the identity on disk is damaged; it is not used');
  }
  return undefined;
}
