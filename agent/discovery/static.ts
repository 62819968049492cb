// Discovery from the configuration: the nodes and their addresses are listed there. This node's uid is made once and kept in
// the state directory: it is the identity that owns address space, so a damaged file stops the start instead of making a new one.

import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import type { Logger } from 'pino';
import type { Discovery, NodeIdentity } from '#agent/discovery/discovery.ts';
import { readIfThere, writeDurably } from '#agent/discovery/durable-file.ts';
import { WeftError } from '#agent/errors.ts';

export interface StaticDiscoveryOptions {
  readonly nodeName: string;
  /** Every node, this one included; addresses preferred first. */
  readonly nodes: readonly { readonly name: string; readonly addresses: readonly string[] }[];
  readonly stateDir: string;
  /** Told when a new identity is made. */
  readonly log?: Pick<Logger, 'info'>;
}

const uidPattern = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** Throws WeftError: 'invalidSetting' (this node is not listed), 'store' (the uid cannot be read or kept). */
export async function startStaticDiscovery(options: StaticDiscoveryOptions): Promise<Discovery> {
  const { nodeName } = options;
  const own = options.nodes.find((node) => node.name === nodeName);
  if (own === undefined) {
    throw new WeftError('invalidSetting', `nodes: this node, ${nodeName}, is not in the list`, { details: 'nodes' });
  }
  const nodeUid = await readOrMakeUid(join(options.stateDir, 'node-uid'), options.log);
  const nodes: readonly NodeIdentity[] = options.nodes.map(({ name, addresses }) => ({
    nodeName: name,
    nodeUid: name === nodeName ? nodeUid : '',
    underlayAddresses: addresses,
  }));
  return {
    self: { nodeName, nodeUid, underlayAddresses: own.addresses },
    nodes: () => nodes,
    // The list changes with a restart only.
    onChange: () => () => undefined,
    close: async () => undefined,
  };
}

async function readOrMakeUid(path: string, log: Pick<Logger, 'info'> | undefined): Promise<string> {
  const kept = (await readIfThere(path))?.trim();
  if (kept === undefined) {
    const made = randomUUID();
    await writeDurably(path, `${made}\n`);
    log?.info({ uid: made, path }, 'this is a new node: it has an identity now');
    return made;
  }
  if (uidPattern.test(kept)) return kept;
  throw new WeftError(
    'store',
    `${path} holds no uid: restore it, or remove it to make this a new node (its address space stays with the old one)`,
    { details: path },
  );
}
