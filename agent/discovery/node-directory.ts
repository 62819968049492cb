// The nodes as last read. Of each Node only name, uid, InternalIPs and the machine's id are kept, and listeners hear of a change in
// uid or addresses only: kubelets write their Node every few minutes.

import { isIP } from 'node:net';
import type { Logger } from 'pino';
import type { NodeIdentity } from '#agent/discovery/discovery.ts';
import type { KubeObject } from '#agent/kubernetes/list-watch.ts';

export interface Directory {
  readonly self: () => NodeIdentity;
  readonly nodes: () => readonly NodeIdentity[];
  readonly find: (name: string) => NodeIdentity | undefined;
  /** Uids of nodes that do not exist any more. */
  readonly gone: () => ReadonlySet<string>;
  readonly onChange: (listener: () => void) => () => void;
  /** A Node as it is now. Another of its name is gone. */
  readonly put: (node: NodeIdentity) => void;
  /** This one was looked for and is gone. */
  readonly lose: (node: { readonly name: string; readonly uid: string }) => void;
  /** Nobody asks for this node any more. */
  readonly forget: (node: { readonly name: string; readonly uid: string }) => void;
  /** Tells listeners if something has changed since the last call. */
  readonly flush: () => void;
}

/** `keep` writes the own identity where the next start finds it. */
export function createDirectory(
  initial: NodeIdentity,
  keep: (identity: NodeIdentity) => Promise<void>,
  log: Pick<Logger, 'warn' | 'error'>,
): Directory {
  let self = initial;
  const nodes = new Map<string, NodeIdentity>([[initial.nodeName, initial]]);
  const gone = new Set<string>();
  const listeners = new Set<() => void>();
  let changed = false;
  let snapshot: readonly NodeIdentity[] | undefined;

  const remove = ({ name, uid }: { readonly name: string; readonly uid: string }): void => {
    if (nodes.get(name)?.nodeUid !== uid) return;
    nodes.delete(name);
    changed = true;
    snapshot = undefined;
  };
  const lose = (node: { readonly name: string; readonly uid: string }): void => {
    remove(node);
    if (gone.has(node.uid)) return;
    gone.add(node.uid);
    changed = true;
    // Who owns space goes by uid: this process keeps the identity that it started with, and is no known node any more.
    if (node.uid === self.nodeUid) log.error({ uid: node.uid }, 'the Node that this agent stands for is gone');
  };

  return {
    self: () => self,
    nodes: () => (snapshot ??= [...nodes.values()]),
    find: (name) => nodes.get(name),
    gone: () => gone,
    onChange: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    put: (node) => {
      const { nodeName: name, nodeUid: uid } = node;
      const before = nodes.get(name);
      if (before !== undefined && sameIdentity(before, node)) return;
      if (before !== undefined && before.nodeUid !== uid) lose({ name, uid: before.nodeUid });
      if (name === self.nodeName && uid !== self.nodeUid) lose({ name, uid: self.nodeUid });
      nodes.set(name, node);
      changed = true;
      snapshot = undefined;
      if (uid !== self.nodeUid) return;
      self = node;
      keep(node).catch((error: unknown) => log.warn({ err: error }, 'cannot keep this node’s identity'));
    },
    lose,
    forget: (node) => {
      gone.delete(node.uid);
      remove(node);
    },
    flush: () => {
      if (!changed) return;
      changed = false;
      for (const listener of listeners) listener();
    },
  };
}

export function identityOf(object: KubeObject): NodeIdentity {
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

export function sameIdentity(a: NodeIdentity, b: NodeIdentity): boolean {
  return a.nodeUid === b.nodeUid && a.underlayAddresses.join() === b.underlayAddresses.join();
}
