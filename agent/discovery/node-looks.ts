// Which Nodes are read, and when. One whose peer is new here, or names an address that its Node did not have when it was last
// read: its record is a hint, the Node decides. And those whose space this node would be among the first to take over: somebody
// has to notice that a Node was deleted. What that one does then, everybody hears through the record.

import { setTimeout as sleep } from 'node:timers/promises';
import type { PeerNode, PeerNodes } from '#agent/discovery/discovery.ts';
import { type Directory, identityOf } from '#agent/discovery/node-directory.ts';
import { WeftError } from '#agent/errors.ts';
import type { KubeAnswer, KubeApi } from '#agent/kubernetes/api.ts';
import { failure, listAll, type KubeObject } from '#agent/kubernetes/list-watch.ts';

export const nodesPath: string = '/api/v1/nodes';
const metadataOnly = 'application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1';

/** After a change in the peers; what changes meanwhile is looked at together. */
const gatherMs = 1000;
/** More nodes than these are listed instead. */
const fewNodes = 30;
/** Between two lists, for each node that the answer holds: many join at once, and every agent lists them. */
const listPauseMsPerNode = 20;
/** Between two looks at one node. */
const againMs = 30_000;
const retryMs = 10_000;
/** How often the look goes further than to the first three heirs, who may all be dead: every twentieth time, to the first thirty. */
const [wideEvery, wideTurns] = [20, 10];

interface Looks {
  readonly api: KubeApi;
  readonly directory: Directory;
  readonly lookEveryMs: number;
}

/** Reads all Nodes. Throws WeftError('registry'). */
export async function listNodes(api: KubeApi, directory: Directory, signal: AbortSignal): Promise<void> {
  const { objects } = await listAll(api, nodesPath, {}, signal);
  for (const object of objects) directory.put(identityOf(object));
  directory.flush();
}

/** Linearizable. Throws WeftError('registry') when nobody answers. */
export async function nodeExists(
  api: KubeApi,
  { name, uid }: { readonly name: string; readonly uid: string },
  signal: AbortSignal,
): Promise<boolean> {
  const answer = await api.call({ method: 'GET', path: `${nodesPath}/${name}`, accept: metadataOnly }, signal);
  if (isMissing(answer, name)) return false;
  if (answer.status !== 200) throw failure(`reading Node ${name}`, answer);
  return (answer.body as KubeObject).metadata.uid === uid;
}

/** The API server says so of this very Node: a proxy before it, or one that is only starting, says 404 to every path. */
function isMissing({ status, body }: KubeAnswer, name: string): boolean {
  const { reason, details } = (body ?? {}) as {
    readonly reason?: string;
    readonly details?: { readonly name?: string };
  };
  return status === 404 && reason === 'NotFound' && details?.name === name;
}

/** Looks as the peers ask for it until it is stopped. */
export function attendPeers(peers: PeerNodes, looks: Looks): () => void {
  const ending = new AbortController();
  const newcomers = new Newcomers(peers, looks, ending.signal);
  const stop = peers.onChange(() => newcomers.soon(gatherMs));
  newcomers.soon(gatherMs);
  void watchOver(peers, looks, ending.signal);
  return () => {
    stop();
    ending.abort();
    newcomers.stop();
  };
}

class Newcomers {
  readonly #peers: PeerNodes;
  readonly #looks: Looks;
  readonly #signal: AbortSignal;
  /** By uid: when a node was last read, and which addresses its record named then. */
  readonly #read = new Map<string, { readonly atMs: number; readonly named: string }>();
  /** Those that have a peer. */
  #attended: ReadonlyMap<string, PeerNode> = new Map();
  #timer: NodeJS.Timeout | undefined;
  #working = false;
  #again = false;
  #nextListMs = 0;

  constructor(peers: PeerNodes, looks: Looks, signal: AbortSignal) {
    this.#peers = peers;
    this.#looks = looks;
    this.#signal = signal;
  }

  soon(ms: number): void {
    if (this.#working) this.#again = true;
    else this.#timer ??= setTimeout(() => void this.#work(), ms * (0.5 + Math.random())).unref();
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  async #work(): Promise<void> {
    this.#timer = undefined;
    this.#working = true;
    this.#again = false;
    this.#attend();
    const waitMs = await this.#look().catch((error: unknown) => {
      if (!(error instanceof WeftError) && !this.#signal.aborted) throw error;
      return retryMs;
    });
    this.#looks.directory.flush();
    this.#working = false;
    if (this.#signal.aborted) return;
    if (this.#again) this.soon(gatherMs);
    else if (waitMs !== undefined) this.soon(waitMs);
  }

  /** Reads those that are to be read now; the pause until the next look, if one is needed. */
  async #look(): Promise<number | undefined> {
    const { api, directory } = this.#looks;
    const wanted = [...this.#attended.values()].filter((node) => this.#isWanted(node));
    const nowMs = performance.now();
    const ripe = wanted.filter(({ uid }) => nowMs >= (this.#read.get(uid)?.atMs ?? -Infinity) + againMs);
    if (ripe.length > fewNodes) {
      if (nowMs < this.#nextListMs) return this.#nextListMs - nowMs;
      await listNodes(api, directory, this.#signal);
      this.#nextListMs = performance.now() + directory.nodes().length * listPauseMsPerNode;
      for (const node of ripe) if (directory.find(node.name)?.nodeUid === node.uid) this.#note(node);
    }
    for (const node of ripe) {
      if (!this.#isWanted(node)) continue;
      const answer = await api.call({ method: 'GET', path: `${nodesPath}/${node.name}` }, this.#signal);
      const missing = isMissing(answer, node.name);
      if (answer.status !== 200 && !missing) throw failure(`reading Node ${node.name}`, answer);
      const found = missing ? undefined : identityOf(answer.body as KubeObject);
      if (found !== undefined) directory.put(found);
      if (found?.nodeUid !== node.uid) directory.lose(node);
      this.#note(node);
    }
    return ripe.length < wanted.length ? againMs : undefined;
  }

  #note({ uid, underlay }: PeerNode): void {
    this.#read.set(uid, { atMs: performance.now(), named: underlay.join() });
  }

  #isWanted({ name, uid, underlay }: PeerNode): boolean {
    const { directory } = this.#looks;
    if (directory.gone().has(uid)) return false;
    const known = directory.find(name);
    if (known?.nodeUid !== uid) return true;
    if (underlay.length === 0 || underlay.some((address) => known.underlayAddresses.includes(address))) return false;
    return this.#read.get(uid)?.named !== underlay.join();
  }

  #attend(): void {
    const now = new Map(this.#peers.peerNodes().map((node) => [node.uid, node]));
    for (const node of now.values()) if (node.takenOver) this.#looks.directory.lose(node);
    for (const [uid, node] of this.#attended) {
      if (now.has(uid)) continue;
      this.#read.delete(uid);
      this.#looks.directory.forget(node);
    }
    this.#attended = now;
  }
}

async function watchOver(peers: PeerNodes, { api, directory, lookEveryMs }: Looks, signal: AbortSignal): Promise<void> {
  for (let look = 1; ; look += 1) {
    await sleep(lookEveryMs * (0.75 + Math.random() / 2), undefined, { signal, ref: false }).catch(() => undefined);
    if (signal.aborted) return;
    try {
      for (const ward of peers.wards(look % wideEvery === 0 ? wideTurns : 1)) {
        if (!directory.gone().has(ward.uid) && !(await nodeExists(api, ward, signal))) directory.lose(ward);
      }
    } catch (error) {
      // The API server is away, which the watch on the own Node says: next time.
      if (!(error instanceof WeftError) && !signal.aborted) throw error;
    }
    directory.flush();
  }
}
