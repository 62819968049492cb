// Names of a node's records and sessions: `<node>.<first 8 digits of its uid>`, in a further pool with `.pool-<name>` behind it. No uid
// begins like that and no pool has a dot in its name, so the last part alone says whether there is a pool.
import type { NodeIdentity } from '#agent/discovery/discovery.ts';
import { WeftError } from '#agent/errors.ts';
import { defaultUniverse } from '#ipam-peer/records.ts';

const poolPattern = /\.pool-[a-z0-9-]+$/;

/** A DNS-1123 subdomain. Throws WeftError('invalidSetting'). */
export function peerName({ nodeName, nodeUid }: NodeIdentity, universe: string = defaultUniverse): string {
  const name = nameInPool(nodeRecordName(nodeName, nodeUid), universe).toLowerCase();
  if (name.length > 253 || !/^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/.test(name))
    throw new WeftError('invalidSetting', `node name "${nodeName}" with uid "${nodeUid}" makes no record name`);
  return name;
}

/** In the default pool, which stands for the node. */
export function nodeRecordName(nodeName: string, nodeUid: string): string {
  return `${nodeName}.${nodeUid.slice(0, 8)}`.toLowerCase();
}

/** Of the record in the default pool, that of the same node's in another. */
export function nameInPool(nodeRecord: string, universe: string): string {
  return universe === defaultUniverse ? nodeRecord : `${nodeRecord}.pool-${universe}`;
}

/** Of a record in any pool, that of the same node's in the default pool. */
export function nodeRecordOf(name: string): string {
  return name.replace(poolPattern, '');
}

/** Whether a node of that name can have such a record. */
export function isOfNode(node: string, name: string): boolean {
  return name.startsWith(`${node}.`) && /^[0-9a-f]{8}$/.test(nodeRecordOf(name.slice(node.length + 1)));
}

/** The digits of the uid; undefined where that is not clear to who reads the name alone, as the admission policies do. */
export function uidInName(name: string): string | undefined {
  const found = [...name.matchAll(/\.([0-9a-f]{8})(?=\.pool-|$)/g)];
  return found.length === 1 ? found[0]?.[1] : undefined;
}
