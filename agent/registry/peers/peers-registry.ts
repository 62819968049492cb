// The `peers` engine: CASPaxos among a fixed list of voters, one register a record (design/ipam "CASPaxos engine"). A node in
// the list votes with its own disk and serves the others; every other node only asks. A minority of voters may be down.

import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import { WeftError } from '#agent/errors.ts';
import { createChecks } from '#agent/registry/peers/checks.ts';
import {
  localLink,
  remoteLink,
  type FellowLink,
  type VoterAddress,
  type VoterLink,
} from '#agent/registry/peers/link.ts';
import { listKeys } from '#agent/registry/peers/list.ts';
import { createProposer, type Proposer } from '#agent/registry/peers/proposer.ts';
import { createSeat } from '#agent/registry/peers/seat.ts';
import { startVoterServer, type VoterServer } from '#agent/registry/peers/server.ts';
import { openVoterStore } from '#agent/registry/peers/store.ts';
import { readTlsFiles, type TlsFiles, type TlsPaths } from '#agent/registry/peers/tls.ts';
import { createVoter } from '#agent/registry/peers/voter.ts';
import { watchKeys } from '#agent/registry/peers/watch.ts';
import { recordKey } from '#agent/registry/peers/wire.ts';
import { isRecordName, refusalOf } from '#agent/registry/record-rules.ts';
import { mayWrite, type WriterRule } from '#agent/registry/peers/writers.ts';
import type {
  DeleteOutcome,
  RecordKind,
  Registry,
  RegistryRecord,
  RecordValue,
  WriteOutcome,
} from '#agent/registry/registry.ts';
import type { Cell, Change } from '#ipam-peer/caspaxos/change.ts';
import type { OperationResult } from '#ipam-peer/caspaxos/proposer.ts';

export interface PeersRegistryOptions {
  /** This node's name; votes when `voters` names it. */
  readonly self: string;
  /** False: only asks, beside the agent that may vote on this host. */
  readonly vote?: false;
  /** The same on every node; an odd number. */
  readonly voters: readonly VoterAddress[];
  /** Where a voter listens; its entry in `voters` when absent. */
  readonly listen?: { readonly address: string; readonly port: number };
  readonly tls: TlsPaths;
  /** The voter's database file; not touched on a node that does not vote. */
  readonly statePath: string;
  readonly log: Pick<Logger, 'info' | 'warn'>;
  /** How long a voter that starts waits for the others before it goes by its own disk; default 5 s. */
  readonly trustAfterMs?: number;
  /** Who may write what; replaced only by tests that let two nodes write one record. */
  readonly rule?: WriterRule;
}

const trustAfterMs = 5000;

/**
 * Starts voting and listening if this node is a voter; does not wait for the others.
 * Throws WeftError: 'invalidSetting' (voters, files, listen address), 'store' (the database).
 */
export async function openPeersRegistry(options: PeersRegistryOptions): Promise<Registry> {
  const { self, voters, log } = options;
  const names = new Set(voters.map((voter) => voter.name));
  if (names.size !== voters.length || voters.length % 2 === 0) {
    throw new WeftError('invalidSetting', `voters: an odd number of different nodes, not [${[...names].join(', ')}]`);
  }
  const tls = await readTlsFiles(options.tls);
  const me = options.vote === false ? undefined : voters.find((voter) => voter.name === self);
  const life = new AbortController();
  const remote = voters.filter((voter) => voter !== me).map((voter) => remoteLink(voter, tls, log));
  let voting: Voting | undefined;
  if (me !== undefined) {
    try {
      voting = await startVoting(options, me, tls, remote, life.signal);
    } catch (error) {
      for (const link of remote) link.close();
      throw error;
    }
  }
  const all = voting === undefined ? remote : [voting.link, ...remote];
  const links = voters.flatMap(({ name }) => all.filter((link) => link.name === name));
  const close = async (): Promise<void> => {
    life.abort();
    for (const link of links) link.close();
    await voting?.close();
  };
  return registryOver(self, links, createProposer(links, life.signal), life.signal, close);
}

interface Voting {
  readonly link: VoterLink;
  close(): Promise<void>;
}

/** Opens the disk, listens, begins to join. */
async function startVoting(
  { self, voters, listen: elsewhere, statePath, rule = mayWrite, ...options }: PeersRegistryOptions,
  me: VoterAddress,
  tls: TlsFiles,
  fellows: readonly FellowLink[],
  life: AbortSignal,
): Promise<Voting> {
  const { log } = options;
  const store = openVoterStore(statePath);
  let server: VoterServer;
  try {
    const names = voters.map(({ name }) => name);
    const seat = createSeat({ trustAfterMs, ...options, self, voters: names, fellows, store });
    const voter = createVoter(store, seat, createChecks({ store, fellows, rule }), life);
    const listen = elsewhere ?? me;
    try {
      server = await startVoterServer(voter, tls, listen);
    } catch (cause) {
      const where = `${listen.address}:${listen.port}`;
      throw new WeftError('invalidSetting', `cannot listen on ${where}: ${(cause as Error).message}`, { cause });
    }
    log.info({ address: listen.address, port: server.port, diskId: store.diskId }, 'this node is a voter');
    seat.start(life);
    const close = async (): Promise<void> => {
      await server[Symbol.asyncDispose]();
      // Requests that arrived just now still have their batch to run.
      await new Promise((resolve) => setImmediate(resolve));
      store[Symbol.dispose]();
    };
    return { link: localLink(self, voter), close };
  } catch (error) {
    store[Symbol.dispose]();
    throw error;
  }
}

function registryOver(
  self: string,
  links: readonly VoterLink[],
  proposer: Proposer,
  life: AbortSignal,
  close: () => Promise<void>,
): Registry {
  const run = (kind: RecordKind, name: string, change: Change, signal: AbortSignal): Promise<OperationResult> =>
    proposer.run(recordKey(kind, name), change, signal);

  const get = async (kind: RecordKind, name: string, signal: AbortSignal): Promise<RegistryRecord | undefined> => {
    if (!isRecordName(name)) return undefined;
    const result = await run(kind, name, { kind: 'read' }, signal);
    if (result.kind !== 'decided') {
      signal.throwIfAborted();
      throw new WeftError(
        'registry',
        `no majority of the voters answers (${links.map((link) => link.name).join(', ')})`,
      );
    }
    return recordOf(kind, name, result.cell);
  };

  const write = async (kind: RecordKind, name: string, change: Change, signal: AbortSignal): Promise<WriteOutcome> => {
    const result = await run(kind, name, change, signal);
    const failure = failureOf(result);
    if (failure !== undefined) return failure;
    const record = recordOf(kind, name, result.kind === 'decided' ? result.cell : null);
    return record === undefined ? { kind: 'notFound' } : { kind: 'ok', record };
  };

  return {
    get,
    list: (kind, signal) => {
      const ended = AbortSignal.any([signal, life]);
      return listKeys(links, kind, (name) => get(kind, name, signal), ended);
    },
    watch: (kind, signal) => {
      const ended = AbortSignal.any([signal, life]);
      return watchKeys(links, kind, (name) => get(kind, name, ended), ended);
    },
    create: async (kind, name, value, signal) => {
      const reason = refusalOf(name, value);
      if (reason !== undefined) return { kind: 'refused', reason };
      return write(kind, name, { kind: 'create', uid: randomUUID(), writer: self, value: asStored(value) }, signal);
    },
    update: async (record, value, signal) => {
      const { kind, name, uid, version } = record;
      const reason = refusalOf(name, value);
      if (reason !== undefined) return { kind: 'refused', reason };
      return write(kind, name, { kind: 'update', uid, version, writer: self, value: asStored(value) }, signal);
    },
    delete: async ({ kind, name, uid, version }, signal): Promise<DeleteOutcome> => {
      if (!isRecordName(name)) return { kind: 'notFound' };
      const result = await run(kind, name, { kind: 'delete', uid, version, writer: self }, signal);
      return failureOf(result) ?? { kind: 'ok' };
    },
    close,
  };
}

/** undefined: the operation took effect. */
function failureOf(result: OperationResult): Exclude<DeleteOutcome, { readonly kind: 'ok' }> | undefined {
  if (result.kind === 'unreachable') return { kind: 'unknown', reason: 'no majority of the voters answers' };
  if (result.kind === 'refused') return { kind: 'refused', reason: result.reason };
  if (result.kind === 'unknown') return { kind: 'unknown', reason: 'sent, not confirmed by a majority of the voters' };
  switch (result.decision) {
    case 'ok':
      return undefined;
    case 'conflict':
      return { kind: 'conflict' };
    case 'notFound':
      return { kind: 'notFound' };
    case 'unknown':
      return { kind: 'unknown', reason: 'another write came between the attempts of this one' };
  }
}

function recordOf(kind: RecordKind, name: string, cell: Cell | null): RegistryRecord | undefined {
  if (cell === null || cell.value === null) return undefined;
  return { kind, name, uid: cell.uid, version: cell.version, value: cell.value };
}

/** As every voter reads it back, so that equal contents compare equal. */
function asStored(value: RecordValue): RecordValue {
  return JSON.parse(JSON.stringify(value)) as RecordValue;
}
