// `weft init`: what hosts without Kubernetes need before their first agent starts. On the first host, with all hosts named: an
// authority, each host's certificate and settings, this host's own in place, and one file for each other host. On another host:
// that file, put in place by `--from`. What is there stays, so a second run changes nothing, and one with more hosts adds them.

import { hostname, networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { text as readAll } from 'node:stream/consumers';
import { UsageError, splitOptions } from '#agent/cli/usage-error.ts';
import { loadConfig, type NodeSetting } from '#agent/config.ts';
import { readIfThere } from '#agent/discovery/durable-file.ts';
import { createKeys } from '#agent/registry/peers/keys.ts';
import { installHost, keep, parseHostFile, readSettings, type HostFile } from '#agent/cli/host-file.ts';

export const initUsage = `Usage: weft init NAME=ADDRESS[+ADDRESS …] … [OPTION …]     on the first host, naming every host
       weft init --from FILE [OPTION …]                    on every other host (FILE - is standard input)

Makes keys, certificates and settings for hosts without Kubernetes. A second run changes nothing; one that
names more hosts adds them.

  --this NAME        which of the hosts this one is (default: by host name or address)
  --voters A,B,C     the hosts that vote, 1, 3, 5 or 7 (default: the first three, or the first one of fewer)
  --ranges CIDR,…    ranges that the hosts share (default: setting ranges)
  --config-dir DIR   default /etc/weft
  --state-dir DIR    default: setting stateDir
`;

const known = ['--this', '--voters', '--ranges', '--config-dir', '--state-dir', '--from'];
const defaultConfigDir = '/etc/weft';

/** Resolves to what to tell the operator. Throws UsageError, WeftError('invalidSetting'), WeftError('store'). */
export async function init(argv: readonly string[], stdin: NodeJS.ReadableStream): Promise<string> {
  const { options, rest } = splitOptions(argv, known);
  const configDir = options.get('--config-dir') ?? defaultConfigDir;
  const stateDir = options.get('--state-dir');
  const from = options.get('--from');
  if (from !== undefined) {
    const others = [...options.keys()].filter((name) => ['--this', '--voters', '--ranges'].includes(name));
    if (rest.length + others.length > 0) throw new UsageError('weft init --from takes no hosts: the file has them');
    const content = from === '-' ? await readAll(stdin) : await readIfThere(from);
    if (content === undefined) throw new UsageError(`there is no file ${from}`);
    const file = parseHostFile(content, from);
    return installed(file.name, await installHost(file, { configDir, stateDir }));
  }
  const given = rest.map((argument) => parseHost(argument));
  if (given.length === 0) throw new UsageError(initUsage.trimEnd());
  const self = options.get('--this') ?? findSelf(given);
  if (!given.some(({ name }) => name === self)) throw new UsageError(`--this ${self} is not among the hosts`);
  const settings = await settingsFor(given, options, configDir);
  const files = await makeFiles(settings, configDir);
  const own = files.find(({ name }) => name === self);
  if (own === undefined) throw new Error('the own host was checked before');
  for (const file of files) checkSettings(file);
  const changed = [...(await installHost(own, { configDir, stateDir }))];
  const steps: string[] = [];
  for (const file of files) {
    if (file === own) continue;
    const path = join(configDir, 'cluster', `${file.name}.json`);
    if (await keep(path, `${JSON.stringify(file, null, 2)}\n`)) changed.push(path);
    const [address = file.name] = settings.nodes.find(({ name }) => name === file.name)?.addresses ?? [];
    steps.push(`  ssh root@${address} weft init --from - < ${path}`);
  }
  return `${installed(self, changed)}${handOut(steps, configDir)}`;
}

function installed(name: string, changed: readonly string[]): string {
  const what = changed.length === 0 ? 'nothing to change' : `wrote ${changed.join(', ')}`;
  return `${name}: ${what}.\nStart the agent here with: weft agent\n`;
}

function handOut(steps: readonly string[], configDir: string): string {
  if (steps.length === 0) return '';
  return `\nOn each other host, from here:\n\n${steps.join('\n')}\n\nEach file holds the key of its host: remove it once the host has it. ${configDir}/cluster/ca-key.pem signs new hosts: keep a copy of it in a safe place.\n`;
}

function parseHost(argument: string): NodeSetting {
  const at = argument.indexOf('=');
  const [name, list] = [argument.slice(0, at), argument.slice(at + 1)];
  if (at < 1 || list === '') {
    throw new UsageError(`${JSON.stringify(argument)} is no NAME=ADDRESS, such as host1=192.0.2.1`);
  }
  return { name: name.toLowerCase(), addresses: list.split('+') };
}

/** By name, then by address. */
function findSelf(hosts: readonly NodeSetting[]): string {
  const byName = hosts.find(({ name }) => name === hostname().toLowerCase());
  if (byName !== undefined) return byName.name;
  const own = new Set(Object.values(networkInterfaces()).flatMap((all) => (all ?? []).map(({ address }) => address)));
  const byAddress = hosts.filter(({ addresses }) => addresses.some((address) => own.has(address)));
  const [only, second] = byAddress;
  if (only !== undefined && second === undefined) return only.name;
  throw new UsageError(`which of the hosts is this one? Its name is ${hostname()}; say it with --this NAME`);
}

interface ClusterSettings {
  readonly nodes: readonly NodeSetting[];
  readonly voters: readonly string[];
  readonly ranges: readonly string[] | undefined;
}

/** What was there before, and the hosts that are new. */
async function settingsFor(
  given: readonly NodeSetting[],
  options: ReadonlyMap<string, string>,
  configDir: string,
): Promise<ClusterSettings> {
  const before = await readSettings(join(configDir, 'config.json'));
  const names = given.map(({ name }) => name);
  const repeated = names.find((name, at) => names.indexOf(name) !== at);
  if (repeated !== undefined) throw new UsageError(`${repeated} is named twice`);
  refuseSharedAddress(given);
  const kept = ((before?.['nodes'] ?? []) as readonly NodeSetting[]).filter(({ name }) => !names.includes(name));
  const order = ((before?.['nodes'] ?? []) as readonly NodeSetting[]).map(({ name }) => name);
  const nodes = [...kept, ...given].toSorted((a, b) => rank(order, a.name) - rank(order, b.name));
  const list = (name: string): readonly string[] | undefined =>
    options
      .get(name)
      ?.split(',')
      .map((item) => item.trim().toLowerCase());
  return {
    nodes,
    voters:
      agreed('--voters', list('--voters'), before?.['voters'], 'weft voters replace changes them') ??
      names.slice(0, names.length < 3 ? 1 : 3),
    ranges: agreed('--ranges', list('--ranges'), before?.['ranges'], 'they are read once, when the first host starts'),
  };
}

function refuseSharedAddress(hosts: readonly NodeSetting[]): void {
  const taken = new Map<string, string>();
  for (const { name, addresses } of hosts) {
    for (const address of addresses) {
      const other = taken.get(address);
      if (other !== undefined) throw new UsageError(`${address} is named twice, for ${other} and ${name}`);
      taken.set(address, name);
    }
  }
}

const rank = (order: readonly string[], name: string): number =>
  order.includes(name) ? order.indexOf(name) : order.length;

function agreed(
  option: string,
  asked: readonly string[] | undefined,
  there: unknown,
  why: string,
): readonly string[] | undefined {
  if (!Array.isArray(there)) return asked;
  const before = there as readonly string[];
  if (asked === undefined || asked.join(',') === before.join(',')) return before;
  throw new UsageError(`${option}: these hosts have ${before.join(',')}; ${why}`);
}

async function makeFiles({ nodes, voters, ranges }: ClusterSettings, configDir: string): Promise<readonly HostFile[]> {
  const keys = await createKeys(join(configDir, 'cluster'), nodes);
  const files: HostFile[] = [];
  for (const { name, ca, cert, key } of keys) {
    const [caPem = '', certPem = '', keyPem = ''] = await Promise.all([ca, cert, key].map((path) => readIfThere(path)));
    const settings = { nodeName: name, registry: 'peers', nodes, voters, ...(ranges === undefined ? {} : { ranges }) };
    files.push({ format: 1, name, settings, ca: caPem, cert: certPem, key: keyPem });
  }
  return files;
}

/** The settings as the agent will read them. Throws WeftError('invalidSetting'). */
function checkSettings({ settings }: HostFile): void {
  loadConfig({ argv: ['--config', 'settings'], env: {}, readFile: () => JSON.stringify(settings) });
}
