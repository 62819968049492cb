// A `peers` registry on loopback with real TLS and real disks: voters and clients of one key set in one temporary folder.

import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createKeys, type NodeKeys } from '#agent/registry/peers/keys.ts';
import type { VoterAddress } from '#agent/registry/peers/link.ts';
import { openPeersRegistry } from '#agent/registry/peers/peers-registry.ts';
import { createVoterDisk } from '#agent/registry/peers/store.ts';
import type { WriterRule } from '#agent/registry/peers/writers.ts';
import type { Registry } from '#agent/registry/registry.ts';

export interface PeersCluster extends AsyncDisposable {
  readonly directory: string;
  readonly voters: readonly VoterAddress[];
  readonly keys: ReadonlyMap<string, NodeKeys>;
  /** What was logged as a warning, newest last. */
  readonly warnings: readonly string[];
  /** How often voters have joined with enough others, by name. */
  joins(name: string): number;
  statePath(name: string): string;
  /** Opens the registry of one node; `keysOf`: with another node's certificate. */
  open(name: string, keysOf?: NodeKeys): Promise<Registry>;
  /** The same list with one voter in place of another, for `open` from now on. */
  replaceVoter(name: string, by: string): void;
}

/**
 * Keys and disks for the voters host1… and two more nodes that do not vote. Nothing runs yet. `rule`: who may write what; everybody
 * everything where it is absent, so that tests of other things need no records of the right names. `trustAfterMs`: how long a voter
 * waits for the others.
 */
export async function createPeersCluster(
  voterCount: number,
  { rule = () => undefined, trustAfterMs = 300 }: { readonly rule?: WriterRule; readonly trustAfterMs?: number } = {},
): Promise<PeersCluster> {
  const directory = await mkdtemp(join(tmpdir(), 'weft-peers-'));
  const names = Array.from({ length: voterCount }, (_, at) => `host${at + 1}`);
  const ports = await freePorts(voterCount);
  let voters: readonly VoterAddress[] = names.map((name, at) => ({
    name,
    address: '127.0.0.1',
    port: ports[at] as number,
  }));
  const nodes = [...names, 'client1', 'client2'].map((name) => ({ name, addresses: ['127.0.0.1'] }));
  const keys = new Map((await createKeys(join(directory, 'keys'), nodes)).map((node) => [node.name, node]));
  const warnings: string[] = [];
  const infos: string[] = [];
  const log = {
    info: (...parts: readonly unknown[]) => void infos.push(JSON.stringify(parts)),
    warn: (...parts: readonly unknown[]) => void warnings.push(JSON.stringify(parts)),
  };
  const statePath = (name: string): string => join(directory, name, 'voter.db');
  for (const name of names) createVoterDisk(statePath(name));
  return {
    directory,
    get voters() {
      return voters;
    },
    replaceVoter: (name, by) => {
      voters = voters.map((voter) => (voter.name === name ? { ...voter, name: by } : voter));
    },
    keys,
    warnings,
    joins: (name) =>
      infos.filter((line) => line.includes(`"${name}"`) && line.includes('this voter has joined')).length,
    statePath,
    open: (name, keysOf) => {
      const tls = keysOf ?? keys.get(name);
      if (tls === undefined) throw new Error(`no keys for ${name}`);
      return openPeersRegistry({
        self: name,
        voters,
        tls,
        statePath: statePath(name),
        log: log as never,
        trustAfterMs,
        rule,
      });
    },
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }),
  };
}

export async function freePorts(count: number): Promise<readonly number[]> {
  const servers = Array.from({ length: count }, () => createServer());
  const ports = await Promise.all(
    servers.map(
      (server) =>
        new Promise<number>((resolve, reject) => {
          server.on('error', reject);
          server.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port));
        }),
    ),
  );
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}
