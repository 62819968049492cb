// What one host without Kubernetes needs, in one file: its settings, its certificate and key, and that of the authority. Putting
// it in place also makes the disk of a voter, once: a mark beside the keys says so, and a disk that is missing later is a lost one,
// which the agent rebuilds from the other voters.

import { X509Certificate } from 'node:crypto';
import { join } from 'node:path';
import { Type } from 'typebox';
import { Compile } from 'typebox/compile';
import { loadConfig } from '#agent/config.ts';
import { readIfThere, writeDurably } from '#agent/discovery/durable-file.ts';
import { WeftError } from '#agent/errors.ts';
import { certificateProblem } from '#agent/registry/peers/keys.ts';
import { createVoterDisk } from '#agent/registry/peers/store.ts';

export type Settings = Readonly<Record<string, unknown>>;

export interface HostFile {
  readonly format: 1;
  readonly name: string;
  readonly settings: Settings;
  /** PEM. */
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

const pem = Type.String({ minLength: 1, maxLength: 65_536 });
const hostFile = Compile(
  Type.Object({
    format: Type.Literal(1),
    name: Type.String({ minLength: 1, maxLength: 253 }),
    settings: Type.Record(Type.String(), Type.Unknown()),
    ca: pem,
    cert: pem,
    key: pem,
  }),
);

/** Throws WeftError('invalidSetting') that names the file. */
export function parseHostFile(content: string, where: string): HostFile {
  let value: unknown;
  try {
    value = JSON.parse(content);
  } catch (cause) {
    throw new WeftError('invalidSetting', `${where} is no JSON: ${(cause as Error).message}`, { cause });
  }
  if (!hostFile.Check(value)) {
    throw new WeftError(
      'invalidSetting',
      `${where} is not a file that weft init has made for a host, or was made by a later version`,
    );
  }
  return value;
}

export interface Places {
  readonly configDir: string;
  /** undefined: as the settings say. */
  readonly stateDir: string | undefined;
}

/** Puts a host's file in place; answers the paths that changed. Throws WeftError('invalidSetting'), WeftError('store'). */
export async function installHost(file: HostFile, { configDir, stateDir }: Places): Promise<readonly string[]> {
  const tls = join(configDir, 'tls');
  const paths = { ca: join(tls, 'ca.pem'), cert: join(tls, 'node.pem'), key: join(tls, 'node-key.pem') };
  const configPath = join(configDir, 'config.json');
  await refuseOtherHost(file, paths);
  refuseUseless(file);
  const before = await readSettings(configPath);
  refuseOtherVoters(file, before, configPath);
  const settings: Settings = {
    ...before,
    ...file.settings,
    ...(configDir === '/etc/weft' ? {} : { tlsCa: paths.ca, tlsCert: paths.cert, tlsKey: paths.key }),
    ...(stateDir === undefined ? {} : { stateDir }),
  };
  const text = `${JSON.stringify(settings, null, 2)}\n`;
  const { config } = loadConfig({ argv: ['--config', configPath], env: {}, readFile: () => text });
  const changed: string[] = [];
  for (const [path, content] of [
    [paths.ca, file.ca],
    [paths.cert, file.cert],
    [paths.key, file.key],
  ] as const) {
    if (await keep(path, content)) changed.push(path);
  }
  if (config.voters.includes(file.name) && (await makeDiskOnce(config.stateDir, join(tls, 'voter-disk')))) {
    changed.push(join(config.stateDir, 'voter.db'));
  }
  // Last: with the settings there, an agent can start.
  if (await keep(configPath, text)) changed.push(configPath);
  return changed;
}

/** The disk before the mark: after a crash in between, the next run finds the disk and keeps it. */
async function makeDiskOnce(stateDir: string, mark: string): Promise<boolean> {
  if ((await readIfThere(mark)) !== undefined) return false;
  const path = join(stateDir, 'voter.db');
  createVoterDisk(path);
  await writeDurably(mark, `${path} was made here; if it is gone, the agent rebuilds it from the other voters\n`);
  return true;
}

async function refuseOtherHost(file: HostFile, paths: { readonly ca: string; readonly cert: string }): Promise<void> {
  const [ca, cert] = await Promise.all([readIfThere(paths.ca), readIfThere(paths.cert)]);
  if (ca !== undefined && !isSameAuthority(ca, file.ca)) {
    throw new WeftError(
      'invalidSetting',
      `${paths.ca} is of other hosts' authority: this host belongs to other hosts; move its configuration and state away to change that`,
    );
  }
  const name = cert === undefined ? undefined : nameIn(cert);
  if (name !== undefined && name !== file.name) {
    throw new WeftError('invalidSetting', `this host is ${name} (${paths.cert}), the file is for ${file.name}`);
  }
}

/** One whose certificate was made anew has the same key. */
function isSameAuthority(left: string, right: string): boolean {
  if (left === right) return true;
  try {
    const [one, other] = [new X509Certificate(left), new X509Certificate(right)];
    return one.subject === other.subject && one.publicKey.equals(other.publicKey);
  } catch {
    return false;
  }
}

/** undefined: it is damaged, and may be replaced. */
function nameIn(cert: string): string | undefined {
  try {
    return new X509Certificate(cert).subject.replace(/^CN=/, '');
  } catch {
    return undefined;
  }
}

/** What no voter would accept, or this host of no voter. */
function refuseUseless({ name, settings, ca, cert, key }: HostFile): void {
  const problem = certificateProblem({ name, ca, cert, key });
  if (problem !== '') throw new WeftError('invalidSetting', `the file for ${name}: ${problem}`);
  if (settings['nodeName'] !== name) {
    throw new WeftError('invalidSetting', `the file for ${name} has the settings of ${String(settings['nodeName'])}`);
  }
  const now = new Date();
  for (const { validFromDate, validToDate } of [ca, cert].map((pem) => new X509Certificate(pem))) {
    if (now >= validFromDate && now <= validToDate) continue;
    const [from, to, here] = [validFromDate, validToDate, now].map((date) => date.toISOString());
    const text = `a certificate of the file for ${name} is valid from ${from} to ${to}; the clock of this host says ${here}`;
    throw new WeftError('invalidSetting', text);
  }
}

/** An older file would have a host ask voters that were replaced. */
function refuseOtherVoters({ settings }: HostFile, before: Settings | undefined, path: string): void {
  const [there, asked] = [before?.['voters'], settings['voters']];
  if (!Array.isArray(there) || !Array.isArray(asked) || there.join() === asked.join()) return;
  throw new WeftError(
    'invalidSetting',
    `${path} has the voters ${there.join(', ')}, the file has ${asked.join(', ')}: make the lists the same (weft voters replace), and a new file by weft init where the file is the older one`,
  );
}

/** undefined: there are none. Throws WeftError('invalidSetting') for what is not these hosts'. */
export async function readSettings(path: string): Promise<Settings | undefined> {
  const content = await readIfThere(path);
  if (content === undefined) return undefined;
  let settings: unknown;
  try {
    settings = JSON.parse(content);
  } catch (cause) {
    throw new WeftError('invalidSetting', `${path} is no JSON: ${(cause as Error).message}`, { cause });
  }
  if (typeof settings !== 'object' || settings === null || (settings as Settings)['registry'] !== 'peers') {
    throw new WeftError(
      'invalidSetting',
      `${path} is there already and does not say registry "peers": move it away first`,
    );
  }
  return settings as Settings;
}

/** Writes what is not there yet as it should be (0600, durable); false: it was. */
export async function keep(path: string, content: string): Promise<boolean> {
  if ((await readIfThere(path)) === content) return false;
  await writeDurably(path, content);
  return true;
}
