// Discovery from Node objects. The own identity (uid, addresses) is also kept on disk, so that an agent starts while the API
// server is away; the others follow by watch. Of each Node only name, uid and InternalIPs are kept, and listeners hear of a
// change in those only: kubelets write their Node every few minutes.

import { join } from 'node:path';
import { isIP } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Discovery, NodeIdentity } from '#agent/discovery/discovery.ts';
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
  /** Ends the wait for a first identity. */
  readonly signal?: AbortSignal;
  readonly log: Pick<Logger, 'info' | 'warn' | 'error'>;
}

const nodesPath = '/api/v1/nodes';
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
    const directory = createDirectory(self, path, options.log);
    const listed = Promise.withResolvers<void>();
    let complete = false;
    const onListed = (): void => {
      complete = true;
      listed.resolve();
    };
    const following = follow(api, directory, onListed, options.log, life.signal);
    following.catch((error: unknown) => options.log.error({ err: error }, 'discovery ended'));
    if (answered) await Promise.race([listed.promise, sleep(firstListMs, undefined, { ref: false })]);
    return {
      get self() {
        return directory.self();
      },
      nodes: directory.nodes,
      nodeUids: () => (complete ? new Set(directory.nodes().map((node) => node.nodeUid)) : undefined),
      nodeExists: async (node, signal) => await nodeExists(api, node, signal),
      onChange: directory.onChange,
      close: async () => {
        await close();
        await following;
      },
    };
  } catch (error) {
    await close();
    throw error;
  }
}

async function nodeExists(
  api: KubeApi,
  { name, uid }: { readonly name: string; readonly uid: string },
  signal: AbortSignal,
): Promise<boolean> {
  // Without resourceVersion: a linearizable read.
  const answer = await api.call({ method: 'GET', path: `${nodesPath}/${name}` }, signal);
  if (answer.status === 404) return false;
  if (answer.status !== 200) throw failure(`reading Node ${name}`, answer);
  return (answer.body as KubeObject).metadata.uid === uid;
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
      if (!sameIdentity(kept, self)) await writeIdentity(path, self);
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

interface Directory {
  readonly self: () => NodeIdentity;
  readonly nodes: () => readonly NodeIdentity[];
  readonly onChange: (listener: () => void) => () => void;
  /** One Node as it is now; undefined: gone. */
  readonly put: (name: string, node: NodeIdentity | undefined) => void;
  readonly names: () => readonly string[];
  /** Tells listeners if something has changed since the last call. */
  readonly flush: () => void;
}

function createDirectory(initial: NodeIdentity, path: string, log: Pick<Logger, 'warn' | 'error'>): Directory {
  let self = initial;
  const nodes = new Map<string, NodeIdentity>([[initial.nodeName, initial]]);
  const listeners = new Set<() => void>();
  let changed = false;
  let snapshot: readonly NodeIdentity[] | undefined;

  const putSelf = (node: NodeIdentity | undefined): void => {
    if (node === undefined || node.nodeUid !== self.nodeUid) {
      // Who owns space goes by uid: this process keeps the identity that it started with, and is no known node any more.
      log.error({ uid: self.nodeUid, now: node?.nodeUid ?? 'none' }, 'the Node that this agent stands for is gone');
      return;
    }
    self = node;
    writeIdentity(path, node).catch((error: unknown) => log.warn({ err: error }, 'cannot keep this node’s identity'));
  };

  return {
    self: () => self,
    nodes: () => (snapshot ??= [...nodes.values()]),
    onChange: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    put: (name, node) => {
      if (sameIdentity(nodes.get(name), node)) return;
      changed = true;
      snapshot = undefined;
      if (node === undefined) nodes.delete(name);
      else nodes.set(name, node);
      if (name === self.nodeName) putSelf(node);
    },
    names: () => [...nodes.keys()],
    flush: () => {
      if (!changed) return;
      changed = false;
      for (const listener of listeners) listener();
    },
  };
}

async function follow(
  api: KubeApi,
  directory: Directory,
  onListed: () => void,
  log: Pick<Logger, 'info' | 'warn'>,
  signal: AbortSignal,
): Promise<void> {
  let trouble = false;
  const onTrouble = (error: Error): void => {
    if (!trouble) log.warn({ reason: error.message }, 'nodes are not followed: the API server does not answer');
    trouble = true;
  };
  for await (const event of followCollection(api, nodesPath, {}, onTrouble, signal)) {
    if (trouble) log.info({}, 'nodes are followed again');
    trouble = false;
    if (event.kind === 'listed') {
      const listed = event.objects.map((object) => identityOf(object));
      const existing = new Set(listed.map((node) => node.nodeName));
      for (const name of directory.names()) if (!existing.has(name)) directory.put(name, undefined);
      for (const node of listed) directory.put(node.nodeName, node);
      onListed();
    } else {
      const node = identityOf(event.object);
      directory.put(node.nodeName, event.kind === 'deleted' ? undefined : node);
    }
    directory.flush();
  }
}

function identityOf(object: KubeObject): NodeIdentity {
  const { status } = object as {
    readonly status?: {
      readonly addresses?: readonly { readonly type: string; readonly address: string }[];
      readonly nodeInfo?: { readonly machineID?: string };
    };
  };
  const internal = (status?.addresses ?? []).filter(
    ({ type, address }) => type === 'InternalIP' && isIP(address) !== 0,
  );
  const machineId = status?.nodeInfo?.machineID;
  return {
    nodeName: object.metadata.name,
    nodeUid: object.metadata.uid,
    underlayAddresses: internal.map(({ address }) => address),
    ...(machineId === undefined || machineId === '' ? {} : { machineId }),
  };
}

function sameIdentity(a: NodeIdentity | undefined, b: NodeIdentity | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return a.nodeUid === b.nodeUid && a.underlayAddresses.join() === b.underlayAddresses.join();
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
