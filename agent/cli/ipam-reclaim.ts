// `weft ipam reclaim`: after a restore of the registry a person says which side to trust. The record of a node that is gone has blocks that
// this node's disk knows as its own, because the backup is older than the takeover; nobody else can make that record smaller. Asks this
// node's agent for what it knows, and the registry itself.
//
// With voters the command writes. In Kubernetes no agent may write into another's record but as its heir, and a person with rights of
// their own may: there it prints the kubectl command, which changes nothing if the record has changed meanwhile.
import { askStatus } from '#agent/cli/client.ts';
import { openAsClient } from '#agent/cli/peers-remove.ts';
import { reclaimUnowned } from '#agent/cli/ipam-unowned.ts';
import { UsageError, splitOptions } from '#agent/cli/usage-error.ts';
import { patchCommand, writeRecord } from '#agent/cli/write-record.ts';
import { type Config, loadConfig } from '#agent/config.ts';
import { hostPort } from '#agent/config/formats.ts';
import { WeftError } from '#agent/errors.ts';
import type { Registry, RegistryRecord, RecordValue } from '#agent/registry/registry.ts';
import type { PoolStatus } from '#agent/observe/pools.ts';
import type { Conflict } from '#agent/runtime/ipam.ts';
import { type Cidr, overlaps, parseCidr, subtract } from '#ipam-peer/cidr.ts';
import { defaultUniverse, formatPeer, parsePeer } from '#ipam-peer/records.ts';

export const ipamReclaimUsage = `Usage: weft ipam reclaim NODE [--config FILE]
       weft ipam reclaim [--pool NAME] [--config FILE]

After a restore of the registry (finding blocksInTwoRecords): NODE, a node's name or the name of its record, is gone, and
this node's disk knows better who owns what: what both have leaves NODE's record. Run it on the node that has the finding.
Without NODE: space that is in no node's record (finding spaceWithoutOwner) goes to this node, once every node has a record.
`;

const withinMs = 20_000;

/** Resolves to what to tell the operator. Throws UsageError, WeftError('agentAway', 'registry'). */
export async function ipamReclaim(
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): Promise<string> {
  const { options, rest } = splitOptions(argv, ['--config', '--pool']);
  const [name, extra] = rest;
  const pool = options.get('--pool');
  if (extra !== undefined || (name !== undefined && pool !== undefined))
    throw new UsageError(ipamReclaimUsage.trimEnd());
  const file = options.get('--config');
  const { config } = loadConfig({ argv: file === undefined ? [] : ['--config', file], env });
  const target = hostPort(config.statusListen);
  if (target === undefined) throw new UsageError('the status API is switched off (setting statusListen)');
  const { pools } = await askStatus(target, AbortSignal.timeout(withinMs));
  const conflicts = pools.flatMap((one) => one.conflicts ?? []);
  const work =
    name === undefined
      ? takeUnowned(pools, pool ?? defaultUniverse, config)
      : takeOut(chosen(conflicts, name, config), config);
  const registry = await open(config);
  try {
    return await work(registry);
  } finally {
    await registry.close();
  }
}

type Work = (registry: Registry) => Promise<string>;

function takeUnowned(pools: readonly PoolStatus[], pool: string, config: Config): Work {
  const self = pools.find(({ name }) => name === pool)?.peers.find((peer) => peer.self)?.name;
  if (self === undefined) throw new UsageError(`this node has no record in the pool ${pool}: run it on one that has`);
  return async (registry) => await reclaimUnowned(registry, { pool, self, config }, AbortSignal.timeout(withinMs));
}

function chosen(conflicts: readonly Conflict[], name: string, { registry }: Config): Conflict {
  const [only, second] = conflicts.filter((one) => one.name === name || one.nodeName === name);
  if (only === undefined) {
    const known = conflicts.map((one) => one.name).join(', ') || 'none';
    throw new UsageError(`no block of this node is in a record of ${name}; records that have one: ${known}`);
  }
  if (second !== undefined) {
    throw new UsageError(`${name} has several records, say which: ${only.name}, ${second.name}`);
  }
  if (only.gone) return only;
  const say = registry === 'kubernetes' ? `kubectl delete node ${only.nodeName}` : `weft peers remove ${only.nodeName}`;
  throw new UsageError(
    `${only.nodeName} is not gone: its agent makes its record smaller itself once it runs. If it will not come back, say so first: ${say}`,
  );
}

async function open(config: Config): Promise<Registry> {
  if (config.registry !== 'kubernetes') return await openAsClient(config);
  const { openKubernetesRegistry } = await import('#agent/registry/kubernetes/kubernetes-registry.ts');
  const { namespace, kubeconfig, apiServer } = config;
  const quiet = { info: () => undefined, warn: () => undefined };
  return await openKubernetesRegistry({
    namespace,
    kubeConfig: kubeconfig,
    ...(apiServer !== '' && { apiServer }),
    log: quiet,
  });
}

function takeOut({ name, blocks }: Conflict, config: Config): Work {
  return async (registry) => {
    const signal = AbortSignal.timeout(withinMs);
    const record = await registry.get('peer', name, signal);
    if (record === undefined) return `The record ${name} is gone already.\n`;
    const next = without(
      record,
      blocks.flatMap((text) => parseCidr(text) ?? []),
    );
    if (config.registry === 'kubernetes') return commandFor(record, next, blocks);
    await writeRecord(registry, record, next, signal);
    return `${blocks.join(', ')} left the record ${name}; this node writes its own record back within seconds.\n`;
  };
}

/** The record's value less the space. Throws WeftError('registry') for one that an heir is at work with, or that cannot be read. */
export function without({ name, value }: RegistryRecord, space: readonly Cidr[]): RecordValue {
  const parsed = parsePeer(value);
  if (!parsed.ok) throw new WeftError('registry', `the record ${name} cannot be understood: ${parsed.reason}`);
  const { record } = parsed;
  if (record.heir !== undefined) {
    throw new WeftError('registry', `${record.heir.name} takes over from ${name} already; nothing was written`);
  }
  return formatPeer({
    ...record,
    seq: record.seq + 1,
    blocks: record.blocks.flatMap((block) => subtract([block.cidr], space).map((cidr) => ({ ...block, cidr }))),
    granting: record.granting.filter((grant) => !space.some((cidr) => overlaps(cidr, grant.cidr))),
  });
}

function commandFor(record: RegistryRecord, next: RecordValue, blocks: readonly string[]): string {
  const { seq, blocks: left, granting } = next;
  const told = [
    `No agent may write into another node's record. With rights of your own, run this; it takes ${blocks.join(', ')} out of ${record.name}`,
    'and does nothing if the record has changed meanwhile:',
  ];
  return patchCommand(told, record, { spec: { seq, blocks: left, granting } });
}
