// `weft voters`: who votes in the `peers` registry and how each does; `replace` puts another host in the place of one that is
// gone; `restore` makes a voter's disk out of copies, when a majority is lost or the number of voters changes.

import { join } from 'node:path';
import { keep, type Settings } from '#agent/cli/host-file.ts';
import { table } from '#agent/cli/text.ts';
import { UsageError, splitOptions } from '#agent/cli/usage-error.ts';
import { loadConfig, type Config } from '#agent/config.ts';
import { defaultConfigPath } from '#agent/config/sources.ts';
import { readIfThere } from '#agent/discovery/durable-file.ts';
import { remoteLink } from '#agent/registry/peers/link.ts';
import { restoreVoterDisk } from '#agent/registry/peers/restore.ts';
import { readTlsFiles } from '#agent/registry/peers/tls.ts';

export const votersUsage = `Usage: weft voters [--config FILE]                  each voter: does it answer, does it vote
       weft voters replace OLD NEW [--config FILE]  NEW takes the place of OLD; run it on every host
       weft voters restore FILE … [--config FILE]   this host's voter disk out of copies of voter.db files;
                                                    only while no agent runs (restore empty: without records)
`;

const answerWithinMs = 3000;

/** Resolves to what to tell the operator. Throws UsageError, WeftError. */
export async function voters(argv: readonly string[]): Promise<string> {
  const { options, rest } = splitOptions(argv, ['--config']);
  const path = options.get('--config') ?? defaultConfigPath;
  const { config } = loadConfig({ argv: ['--config', path], env: {} });
  if (config.registry !== 'peers') {
    throw new UsageError('there are no voters here: setting registry is "kubernetes", the API server decides');
  }
  const [action, ...names] = rest;
  if (action === undefined) return list(config);
  if (action === 'replace') return replace(config, path, names);
  if (action === 'restore') return restore(config, names);
  throw new UsageError(votersUsage.trimEnd());
}

async function list(config: Config): Promise<string> {
  const tls = await readTlsFiles({ ca: config.tlsCa, cert: config.tlsCert, key: config.tlsKey }, config.nodeName);
  const quiet = { info: () => undefined, warn: () => undefined };
  const rows = await Promise.all(
    config.voters.map(async (name) => {
      const [address = ''] = config.nodes.find((node) => node.name === name)?.addresses ?? [];
      const link = remoteLink({ name, address, port: config.peersPort }, tls, quiet as never);
      try {
        const call = { key: 'universe/default', request: { kind: 'read' } } as const;
        const { voterId } = await link.acceptor(call, AbortSignal.timeout(answerWithinMs));
        return [name, address, 'votes', `start ${voterId.split('.')[0]}`];
      } catch (error) {
        const reason = (error as Error).message.replace(/^voter \S+ at \S+: /, '');
        return [name, address, /does not vote yet/.test(reason) ? 'joining' : 'silent', plain(reason)];
      } finally {
        link.close();
      }
    }),
  );
  const voting = rows.filter(([, , state]) => state === 'votes').length;
  const needed = Math.floor(rows.length / 2) + 1;
  const verdict =
    voting >= needed
      ? `${voting} of ${rows.length} vote; ${voting - needed} more may fail.`
      : `${voting} of ${rows.length} vote, ${needed} are needed: pods start from owned space only, nothing is shared out anew.`;
  return `${table(['VOTER', 'ADDRESS', 'STATE', 'DETAIL'], rows)}\n${verdict}\n`;
}

/** `HTTP 503: {"error":"…"}` without what is around the words. */
function plain(reason: string): string {
  return /"error":"(.*)"}$/.exec(reason)?.[1] ?? reason;
}

async function replace(config: Config, path: string, names: readonly string[]): Promise<string> {
  const [old, fresh, extra] = names;
  if (old === undefined || fresh === undefined || extra !== undefined) throw new UsageError(votersUsage.trimEnd());
  if (config.voters.includes(fresh) && !config.voters.includes(old)) {
    return `${path}: ${fresh} votes, ${old} does not: nothing to change.\n`;
  }
  if (!config.voters.includes(old)) throw new UsageError(`${old} does not vote; voters: ${config.voters.join(', ')}`);
  if (config.voters.includes(fresh)) throw new UsageError(`${fresh} votes already`);
  if (!config.nodes.some(({ name }) => name === fresh)) {
    throw new UsageError(`${fresh} is not among the hosts; weft init adds it`);
  }
  const settings = JSON.parse((await readIfThere(path)) ?? '{}') as Settings;
  const list = config.voters.map((name) => (name === old ? fresh : name));
  await keep(path, `${JSON.stringify({ ...settings, voters: list }, null, 2)}\n`);
  return [
    `${path}: ${fresh} votes in the place of ${old} from the next start of the agent on.`,
    '',
    `1. Run the same command on every other host.`,
    `2. Restart the agent on every host, ${fresh} last. One after another is fine: pods are not touched.`,
    `3. \`weft voters\` shows when ${fresh} votes. Until then ${config.voters.length === 3 ? 'both others' : 'a majority of the others'} must be up.`,
    `4. Replace one voter at a time.`,
    '',
  ].join('\n');
}

async function restore(config: Config, files: readonly string[]): Promise<string> {
  if (files.length === 0) throw new UsageError(votersUsage.trimEnd());
  if (!config.voters.includes(config.nodeName)) throw new UsageError(`${config.nodeName} is no voter`);
  const path = join(config.stateDir, 'voter.db');
  const { records, before } = restoreVoterDisk(path, files.length === 1 && files[0] === 'empty' ? [] : files);
  const kept = before === undefined ? '' : ` What was there is ${before} now.`;
  return `${path} has ${records} records, the newest of each.${kept}\nDo the same on every other voter, with the same files, before the first agent starts.\n`;
}
