// Collects raw values from the configuration file, the environment and the command line; later sources win. Text is split
// here as far as the schema's type says; whether a value is allowed is the schema's business.

import { readFileSync } from 'node:fs';
import type { Config } from '#agent/config.ts';
import { settings } from '#agent/config/settings.ts';
import type { SettingSchema } from '#agent/config/settings.ts';

export interface RawInputs {
  /** Arguments after the command, e.g. `['--config', '/etc/weft/config.json']`. */
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  /** For tests; reads a file as UTF-8. */
  readonly readFile?: (path: string) => string;
}

export interface RawValue {
  readonly value: unknown;
  readonly source: string;
}

export interface Gathered {
  readonly values: ReadonlyMap<string, RawValue>;
  readonly problems: readonly string[];
  readonly notes: readonly string[];
}

/** Read when it exists and no other file is named. */
export const defaultConfigPath = '/etc/weft/config.json';
const maxFileBytes = 4 << 20;

/** Weave Net's variables that mean nothing here; a note tells the operator. */
const weaveOnly: readonly string[] = (
  'IPALLOC_INIT KUBE_PEERS CONN_LIMIT EXPECT_NPC NO_MASQ_LOCAL WEAVE_NO_FASTDP HAIRPIN_MODE WEAVE_EXPOSE_IP ' +
  'IPTABLES_BACKEND CHECKPOINT_DISABLE'
).split(' ');

/** `vxlanPort` as a flag (`--vxlan-port`) and as a variable (`WEFT_VXLAN_PORT`). */
export function flagName(key: string): string {
  return `--${key.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}
export function environmentName(key: string): string {
  return `WEFT_${key.replaceAll(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`;
}

/** All raw values with the name of their source. Throws nothing: what is wrong is in `problems`. */
export function gather(inputs: RawInputs): Gathered {
  const problems: string[] = [];
  const notes: string[] = [];
  const flags = parseFlags(inputs.argv, problems);
  const flagged = flags.get('config')?.value;
  const named = typeof flagged === 'string' ? flagged : inputs.env['WEFT_CONFIG'] || undefined;
  const values = new Map<string, RawValue>([
    ...fileValues(named, inputs.readFile, problems),
    ...environmentValues(inputs.env, problems, notes),
    ...flags,
  ]);
  values.delete('config');
  return { values, problems, notes };
}

function parseFlags(argv: readonly string[], problems: string[]): Map<string, RawValue> {
  const byFlag = new Map<string, string>([
    ...Object.keys(settings).map((key) => [flagName(key), key] as const),
    ['--config', 'config'],
  ]);
  const found = new Map<string, RawValue>();
  for (let at = 0; at < argv.length; at++) {
    const argument = argv[at] ?? '';
    const [flag = '', ...inline] = argument.split('=');
    const key = byFlag.get(flag);
    if (key === undefined) {
      const what = flag.startsWith('--') ? 'flag' : 'argument';
      problems.push(`unknown ${what} ${JSON.stringify(flag)}${hint(flag, [...byFlag.keys()])}`);
      // Its value, if it has one, is not a second mistake.
      if (inline.length === 0 && flag.startsWith('--') && argv[at + 1]?.startsWith('--') === false) at += 1;
      continue;
    }
    const text = inline.length > 0 ? inline.join('=') : argv[++at];
    if (text === undefined) problems.push(`flag ${flag} needs a value`);
    else if (found.has(key)) problems.push(`flag ${flag} is given twice`);
    else found.set(key, { value: fromText(key, text), source: `flag ${flag}` });
  }
  return found;
}

function environmentValues(
  env: RawInputs['env'],
  problems: string[],
  notes: string[],
): readonly (readonly [string, RawValue])[] {
  const byName = new Map(Object.keys(settings).map((key) => [environmentName(key), key] as const));
  const values: (readonly [string, RawValue])[] = [];
  const present = (name: string): string | undefined => env[name] || undefined;
  for (const [key, schema] of Object.entries(settings)) {
    for (const alias of schema.aliases ?? []) {
      const text = present(alias);
      if (text !== undefined) values.push([key, { value: fromText(key, text), source: `environment ${alias}` }]);
    }
  }
  for (const name of Object.keys(env)) {
    const text = present(name);
    if (!name.startsWith('WEFT_') || text === undefined || name === 'WEFT_CONFIG' || isServiceLink(name, text))
      continue;
    const key = byName.get(name);
    if (key === undefined) problems.push(`unknown environment variable ${name}${hint(name, [...byName.keys()])}`);
    else values.push([key, { value: fromText(key, text), source: `environment ${name}` }]);
  }
  // Going on without a word would mean plain text where somebody relies on encryption.
  if (present('WEAVE_PASSWORD') !== undefined) {
    problems.push(
      'WEAVE_PASSWORD (environment) asks for encryption, which this release does not have: unset it to run without',
    );
  }
  for (const name of weaveOnly) {
    if (present(name) !== undefined) notes.push(`${name} is Weave Net's and has no meaning here; it can be removed`);
  }
  return values;
}

/** Kubernetes sets `WEFT_SERVICE_HOST`, `WEFT_X_PORT=tcp://…` in pods for each Service whose name begins with "weft". */
function isServiceLink(name: string, text: string): boolean {
  return (
    /_SERVICE_(HOST|PORT(_.*)?)$/.test(name) ||
    /_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$/.test(name) ||
    (name.endsWith('_PORT') && /^(tcp|udp|sctp):\/\//.test(text))
  );
}

function fileValues(
  named: string | undefined,
  readFile: RawInputs['readFile'],
  problems: string[],
): readonly (readonly [string, RawValue])[] {
  const path = named ?? defaultConfigPath;
  let text: string;
  try {
    text = readFile === undefined ? readFileSync(path, 'utf8') : readFile(path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    if (named === undefined && code === 'ENOENT') return [];
    problems.push(`configuration file ${path} cannot be read: ${code}`);
    return [];
  }
  let json: unknown;
  try {
    if (text.length > maxFileBytes) throw new Error(`it is longer than ${maxFileBytes} bytes`);
    json = JSON.parse(text);
    if (typeof json !== 'object' || json === null || Array.isArray(json)) throw new Error('it must be a JSON object');
  } catch (error) {
    problems.push(`configuration file ${path} is not usable: ${(error as Error).message}`);
    return [];
  }
  const known = Object.keys(settings);
  return Object.entries(json).flatMap(([key, value]) => {
    if (known.includes(key)) return [[key, { value, source: `file ${path}` }] as const];
    problems.push(`unknown setting ${JSON.stringify(key)} in ${path}${hint(key, known)}`);
    return [];
  });
}

/** Text to the schema's type. What does not fit stays text, for the schema to refuse with the value as it was written. */
function fromText(key: string, text: string): unknown {
  const schema: SettingSchema | undefined = settings[key as keyof Config];
  if (schema?.type === 'integer') return /^-?\d{1,15}$/.test(text.trim()) ? Number(text) : text;
  if (schema?.type !== 'array') return text;
  const items = text.split(',').flatMap((item) => (item.trim() === '' ? [] : [item.trim()]));
  return schema.items?.type === 'object' ? items.map((item) => nodeFromText(item)) : items;
}

function nodeFromText(item: string): unknown {
  const at = item.indexOf('=');
  if (at === -1) return item;
  return { name: item.slice(0, at).trim(), addresses: item.slice(at + 1).split('+') };
}

/** `; did you mean X?` for the nearest known name, empty when none is near. */
export function hint(unknown: string, known: readonly string[]): string {
  const lower = unknown.toLowerCase();
  const ranked = known
    .map((name) => ({ name, distance: editDistance(lower, name.toLowerCase()) }))
    .toSorted((a, b) => a.distance - b.distance);
  const best = ranked[0];
  return best !== undefined && best.distance <= Math.max(2, best.name.length / 3) ? `; did you mean ${best.name}?` : '';
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
