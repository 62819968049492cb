// Temporary.
import { randomUUID } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Discovery, NodeIdentity } from '#agent/discovery/discovery.ts';
export async function startStaticDiscovery(o: {
  nodeName: string;
  nodes: readonly { name: string; addresses: readonly string[] }[];
  stateDir: string;
  log: unknown;
}): Promise<Discovery> {
  mkdirSync(o.stateDir, { recursive: true, mode: 0o700 });
  const p = join(o.stateDir, 'node-uid');
  let uid: string;
  try {
    uid = readFileSync(p, 'utf8').trim();
  } catch {
    uid = randomUUID();
    writeFileSync(p, uid);
  }
  const nodes: NodeIdentity[] = o.nodes.map((n) => ({
    nodeName: n.name,
    nodeUid: n.name === o.nodeName ? uid : '',
    underlayAddresses: n.addresses,
  }));
  return {
    self: nodes.find((n) => n.nodeName === o.nodeName) as NodeIdentity,
    nodes: () => nodes,
    onChange: () => () => undefined,
    close: async () => undefined,
  };
}
