// `weft peers remove`: a person says that a node without Kubernetes will not come back. That is written into the node's session
// and records, whereupon the others take its space over (docs/ipam.md). Asks the voters itself, with this host's certificate, so it works
// beside the agent and without it.

import { UsageError, splitOptions } from '#agent/cli/usage-error.ts';
import { loadConfig, type Config } from '#agent/config.ts';
import { defaultConfigPath } from '#agent/config/sources.ts';
import { WeftError } from '#agent/errors.ts';
import { openPeersRegistry } from '#agent/registry/peers/peers-registry.ts';
import { readTlsFiles } from '#agent/registry/peers/tls.ts';
import { nodeRecordOf } from '#agent/registry/record-name.ts';
import type { Registry, RegistryRecord } from '#agent/registry/registry.ts';
import { formatSession } from '#ipam-peer/session-record.ts';

export const peersRemoveUsage = `Usage: weft peers remove NODE [--config FILE]

Says that NODE, a node's name or the name of its record (weft peers lists them), will not come back: another
node takes its space over. If it still runs, it gives no pod an address any more.
`;

const withinMs = 20_000;
const tries = 5;

/** Resolves to what to tell the operator. Throws UsageError, WeftError('registry'). */
export async function peersRemove(argv: readonly string[]): Promise<string> {
  const { options, rest } = splitOptions(argv, ['--config']);
  const [name, extra] = rest;
  if (name === undefined || name === '' || extra !== undefined) throw new UsageError(peersRemoveUsage.trimEnd());
  const { config } = loadConfig({ argv: ['--config', options.get('--config') ?? defaultConfigPath], env: {} });
  if (config.registry === 'kubernetes') {
    throw new UsageError(`in Kubernetes a node is removed with its Node object: kubectl delete node ${name}`);
  }
  const registry = await openAsClient(config);
  try {
    const signal = AbortSignal.timeout(withinMs);
    const record = await findRecord(registry, name, config.nodeName, signal);
    const already = await markSession(registry, record, signal);
    await markRecords(registry, record, signal);
    return already ? `${record} was removed before.\n` : toldOf(record, config);
  } finally {
    await registry.close();
  }
}

/** A registry over the voters that does not vote. */
export async function openAsClient(config: Config): Promise<Registry> {
  const voters = config.voters.map((voter) => ({
    name: voter,
    address: config.nodes.find((node) => node.name === voter)?.addresses[0] ?? '',
    port: config.peersPort,
  }));
  const tls = { ca: config.tlsCa, cert: config.tlsCert, key: config.tlsKey };
  await readTlsFiles(tls, config.nodeName);
  return openPeersRegistry({
    self: config.nodeName,
    vote: false,
    voters,
    tls,
    statePath: '',
    log: { info: () => undefined, warn: () => undefined },
  });
}

/** Name of the node's record in the default pool, which stands for the node. */
async function findRecord(registry: Registry, name: string, own: string, signal: AbortSignal): Promise<string> {
  const peers = (await registry.list('peer', signal)).filter((peer) => nodeRecordOf(peer.name) === peer.name);
  const named = peers.filter((peer) => peer.name === name || nodeOf(peer) === name);
  const [only, second] = named;
  if (only === undefined) {
    const known = peers.map((peer) => peer.name).join(', ') || 'none';
    throw new UsageError(`no node has the name or record ${name}; records: ${known}`);
  }
  if (second !== undefined) {
    throw new UsageError(`${name} has several records, say which: ${named.map((peer) => peer.name).join(', ')}`);
  }
  if (nodeOf(only) === own) throw new UsageError(`${own} is this host: remove it from another one`);
  return only.name;
}

function nodeOf({ value }: RegistryRecord): string {
  const node = value['node'] as { readonly name?: unknown } | undefined;
  return typeof node?.name === 'string' ? node.name : '';
}

/** In the place of a session that is missing: the agent has never served, or the session was lost in a restore of the voters. */
const lostSession = formatSession({ sessionId: 'lost', renewals: 0, termMs: 0, removed: true, extra: {} });

/** True: it was so before. The session moves while its holder lives, so a conflict is tried again. */
async function markSession(registry: Registry, name: string, signal: AbortSignal): Promise<boolean> {
  for (let turn = 0; turn < tries; turn += 1) {
    const session = await registry.get('session', name, signal);
    if (session?.value['removed'] === true) return true;
    const outcome = await (session === undefined
      ? registry.create('session', name, lostSession, signal)
      : registry.update(session, { ...session.value, removed: true }, signal));
    if (outcome.kind === 'ok') return false;
    if (outcome.kind === 'refused') throw new WeftError('registry', `the voters refuse: ${outcome.reason}`);
  }
  throw new WeftError('registry', `the session of ${name} could not be written; try again`);
}

/** In the node's records, of every pool, so that the others hear of it; the session is what they go by. */
async function markRecords(registry: Registry, name: string, signal: AbortSignal): Promise<void> {
  const names = (await registry.list('peer', signal)).map((peer) => peer.name);
  for (const record of names.filter((each) => nodeRecordOf(each) === name)) {
    for (let turn = 0; turn < tries; turn += 1) {
      const peer = await registry.get('peer', record, signal);
      if (peer === undefined || peer.value['removed'] === true) break;
      const value = { ...peer.value, removed: true, seq: Number(peer.value['seq']) + 1 };
      const outcome = await registry.update(peer, value, signal);
      if (outcome.kind === 'ok') break;
      if (outcome.kind === 'refused') throw new WeftError('registry', `the voters refuse: ${outcome.reason}`);
      if (turn === tries - 1) throw new WeftError('registry', `the record ${record} could not be written; try again`);
    }
  }
}

function toldOf(record: string, { voters, nodes }: Config): string {
  const voter = voters.find((name) => record.startsWith(`${name}.`) && nodes.some((node) => node.name === name));
  const vote = voter === undefined ? '' : `${voter} is a voter: put another in its place with weft voters replace.\n`;
  return `${record} is removed: another node takes its space over in a few minutes (weft ipam shows it).\n${vote}`;
}
