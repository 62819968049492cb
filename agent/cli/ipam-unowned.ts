// `weft ipam reclaim` without a node's name: space that is in no record (finding spaceWithoutOwner) goes to this node. No agent may decide that,
// for a disk that believes in it may be switched off; so a person says it, and every node that had a session must have a record by then.
//
// With voters the command writes this node's record; in Kubernetes it prints the kubectl command for who may, as for a node's name.
import { WeftError } from '#agent/errors.ts';
import { writeRecord, patchCommand } from '#agent/cli/write-record.ts';
import type { Config } from '#agent/config.ts';
import { nodesPath } from '#agent/discovery/node-looks.ts';
import { openKubeApi } from '#agent/kubernetes/api.ts';
import { listAll } from '#agent/kubernetes/list-watch.ts';
import { peerLabels } from '#agent/registry/kubernetes/peer-labels.ts';
import { nameInPool, nodeRecordName, nodeRecordOf } from '#agent/registry/record-name.ts';
import type { RecordValue, Registry, RegistryRecord } from '#agent/registry/registry.ts';
import { formatCidrs } from '#ipam-peer/cidr.ts';
import { formatPeer, parsePeer, type PeerRecord, parseUniverse, universeOf } from '#ipam-peer/records.ts';
import type { Known } from '#ipam-peer/state.ts';
import { planReclaim } from '#ipam-peer/unowned.ts';

/** Lists until two in a row are the same: then all records stood so at one time. */
const tries = 10;

/** Resolves to what to tell the operator. Throws WeftError('registry'). `self`: name of this node's record in the pool. */
export async function reclaimUnowned(
  registry: Registry,
  { pool, self, config }: { readonly pool: string; readonly self: string; readonly config: Config },
  signal: AbortSignal,
): Promise<string> {
  const universe = await registry.get('universe', pool, signal);
  const parsed = parseUniverse(universe?.value);
  if (!parsed.ok) throw new WeftError('registry', `the Universe ${pool} cannot be understood: ${parsed.reason}`);
  const records = await atOneTime(registry, signal);
  const missing = await withoutRecord(registry, records, { pool, config, signal });
  if (missing.length > 0) {
    const told = `${missing.join(', ')} had a session and has no record: what its disk knows may be just that space`;
    const gone = config.registry === 'kubernetes' ? 'kubectl delete node NODE' : 'weft peers remove NODE';
    throw new WeftError('registry', `${told}. Start its agent and try again; if it will not come back: ${gone}`);
  }
  const plan = planReclaim(parsed.record, records.filter(isOf(pool)).map(known), self);
  switch (plan.kind) {
    case 'none':
      return `Every address of the pool ${pool} is in some node's record.\n`;
    case 'wait':
      throw new WeftError('registry', `nothing was written: ${plan.why}`);
    case 'take':
      return await take(registry, ownOf(records, self), plan.record, formatCidrs(plan.space), { config, signal });
  }
}

async function atOneTime(registry: Registry, signal: AbortSignal): Promise<readonly RegistryRecord[]> {
  const text = (records: readonly RegistryRecord[]): string =>
    records
      .map(({ name, uid, version }) => `${name} ${uid} ${version}`)
      .toSorted()
      .join();
  let before = await registry.list('peer', signal);
  for (let turn = 0; turn < tries; turn += 1) {
    const now = await registry.list('peer', signal);
    if (text(now) === text(before)) return now;
    before = now;
  }
  throw new WeftError('registry', 'the records change all the time; nothing was written, try again');
}

const isOf =
  (pool: string) =>
  ({ value }: RegistryRecord): boolean =>
    universeOf(value) === pool;

function known(stored: RegistryRecord): Known<PeerRecord> {
  const parsed = parsePeer(stored.value);
  if (!parsed.ok) throw new WeftError('registry', `the record ${stored.name} cannot be understood: ${parsed.reason}`);
  return { stored, record: parsed.record };
}

function ownOf(records: readonly RegistryRecord[], self: string): RegistryRecord {
  const own = records.find(({ name }) => name === self);
  if (own === undefined) throw new WeftError('registry', `${self} has no record`);
  return own;
}

/** Names of sessions in the pool whose node has not gone and whose record is not there. */
async function withoutRecord(
  registry: Registry,
  records: readonly RegistryRecord[],
  { pool, config, signal }: { readonly pool: string; readonly config: Config; readonly signal: AbortSignal },
): Promise<readonly string[]> {
  const names = new Set(records.map(({ name }) => name));
  const sessions = await registry.list('session', signal);
  const isInPool = (name: string): boolean => name === nameInPool(nodeRecordOf(name), pool);
  const removed = new Set(sessions.filter(({ value }) => value['removed'] === true).map(({ name }) => name));
  const lost = sessions
    .map(({ name }) => name)
    .filter((name) => isInPool(name) && !names.has(name) && !removed.has(nodeRecordOf(name)));
  if (lost.length === 0 || config.registry !== 'kubernetes') return lost;
  const nodes = await nodesThere(config, signal);
  return lost.filter((name) => nodes.has(nodeRecordOf(name)));
}

async function nodesThere({ kubeconfig, apiServer }: Config, signal: AbortSignal): Promise<ReadonlySet<string>> {
  const api = openKubeApi({ kubeConfig: kubeconfig, ...(apiServer !== '' && { apiServer }) });
  try {
    const { objects } = await listAll(api, nodesPath, {}, signal);
    return new Set(objects.map(({ metadata }) => nodeRecordName(metadata.name, metadata.uid)));
  } finally {
    api.close();
  }
}

async function take(
  registry: Registry,
  own: RegistryRecord,
  record: PeerRecord,
  space: string,
  { config, signal }: { readonly config: Config; readonly signal: AbortSignal },
): Promise<string> {
  const value = formatPeer(record);
  if (config.registry === 'kubernetes') return commandFor(own, value, space);
  await writeRecord(registry, own, value, signal);
  return `${space} is this node's now; it is given out once it has rested.\n`;
}

function commandFor(own: RegistryRecord, value: RecordValue, space: string): string {
  const { seq, blocks } = value;
  const told = `With rights of your own, run this; it gives ${space} to ${own.name} and does nothing if that record has changed meanwhile:`;
  return patchCommand([told], own, { metadata: { labels: peerLabels({}, value) }, spec: { seq, blocks } });
}
