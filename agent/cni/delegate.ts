// Another plugin gives the addresses (`ipam.type`): it is executed as the runtime would (CNI spec 1.1.0, "Section 4"), found in CNI_PATH,
// with the same CNI_* variables and the whole configuration on stdin. Its addresses are known to this node alone.
//
// A plugin older than the configuration's version is spoken to in the newest version that it has; a verb that it does not have in
// that version (STATUS, GC, CHECK) is not forwarded.

import { spawn } from 'node:child_process';
import { access, constants, stat } from 'node:fs/promises';
import { isIP, isIPv4 } from 'node:net';
import { join } from 'node:path';

import { toWeftError, WeftError } from '#agent/errors.ts';
import type { Delegate } from '#agent/runtime/ipam.ts';
import { formatAddress, parseAddress } from '#ipam-peer/address.ts';
import { type Dns, isObject, type JsonObject } from './json.ts';
import { isCidr } from './ipam-conf.ts';
import { bare } from './result.ts';
import { atLeast, type CniVersion, cniVersions, isCniVersion } from './versions.ts';

export type DelegateVerb = 'ADD' | 'DEL' | 'CHECK' | 'STATUS' | 'GC';

/** What the plugin's ADD gave. */
export interface Delegated {
  /** Plain addresses, at most one per family, IPv4 first. */
  readonly addresses: readonly string[];
  /** The same with their prefix lengths. */
  readonly cidrs: readonly string[];
  /** Of IPv4. */
  readonly gateway: string | undefined;
  /** Those whose `dst` is a CIDR; `gw` absent: the gateway of the address. */
  readonly routes: readonly { readonly dst: string; readonly gw?: string }[];
  readonly dns: Dns | undefined;
}

/** Below the shim's own limits (cni-shim/shim.h), so that what a hung plugin holds up is told by the agent. */
const limitsMs: Readonly<Record<DelegateVerb, number>> = {
  ADD: 45_000,
  DEL: 20_000,
  CHECK: 8000,
  STATUS: 1500,
  GC: 20_000,
};
const versionLimitMs = 5000;
const afterExitMs = 500;
const outputLimitBytes = 1 << 20;
const sinceVersion: Readonly<Partial<Record<DelegateVerb, CniVersion>>> = {
  CHECK: '0.4.0',
  STATUS: '1.1.0',
  GC: '1.1.0',
};

/** Versions by path and time of change of the file: a plugin is asked once. */
const versionsOf = new Map<string, readonly CniVersion[]>();

/** Executes the plugin's ADD. Throws WeftError: `delegateFailed`, and `invalidConfig` for addresses that a pod link cannot have. */
export async function delegateAdd(delegate: Delegate, signal: AbortSignal): Promise<Delegated> {
  const output = await callDelegate(delegate, 'ADD', signal);
  if (output === undefined) throw failed(delegate, 'has no ADD');
  let json: unknown;
  try {
    json = JSON.parse(output);
  } catch (error) {
    throw failed(delegate, `answered ADD with what is no JSON: ${output.slice(0, 80)}`, error);
  }
  return delegatedOf(delegate, json);
}

/**
 * Executes one verb; the plugin's standard output, or undefined when it does not have the verb. Throws WeftError('delegateFailed')
 * with the plugin's own words.
 */
export async function callDelegate(
  delegate: Delegate,
  verb: DelegateVerb,
  signal: AbortSignal,
): Promise<string | undefined> {
  const path = await findPlugin(delegate);
  if (path === undefined) {
    throw failed(delegate, `is in no directory of CNI_PATH (${directoriesOf(delegate).join(':') || 'empty'})`);
  }
  const conf = parseObject(delegate);
  const version = await versionFor(delegate, path, conf['cniVersion'], signal);
  const since = sinceVersion[verb];
  if (since !== undefined && !atLeast(version, since)) return undefined;
  const stdin = conf['cniVersion'] === version ? delegate.stdin : JSON.stringify(inVersion(conf, version));
  const run = await execute(path, { ...delegate.env, CNI_COMMAND: verb }, stdin, limitsMs[verb], signal);
  if (run.code === 0) return run.stdout;
  throw failed(delegate, `failed (${verb}): ${reasonOf(run)}`);
}

/** The plugin's path in CNI_PATH, or undefined where it is in none of its directories. */
export async function findPlugin(delegate: Delegate): Promise<string | undefined> {
  for (const directory of directoriesOf(delegate)) {
    const path = join(directory, delegate.type);
    const runs = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (runs) return path;
  }
  return undefined;
}

function directoriesOf({ env }: Delegate): readonly string[] {
  return (env['CNI_PATH'] ?? '').split(':').filter((directory) => directory.startsWith('/'));
}

/** The configuration's version where the plugin has it, else its newest below. */
async function versionFor(delegate: Delegate, path: string, wanted: unknown, signal: AbortSignal): Promise<CniVersion> {
  const version = isCniVersion(wanted) ? wanted : '0.1.0';
  const known = `${path} ${(await stat(path, { bigint: true })).mtimeNs}`;
  let versions = versionsOf.get(known);
  if (versions === undefined) {
    const env = { ...delegate.env, CNI_COMMAND: 'VERSION' };
    const run = await execute(path, env, JSON.stringify({ cniVersion: version }), versionLimitMs, signal);
    versions = supportedVersions(run.stdout);
    if (versions.length === 0) throw failed(delegate, `does not say which CNI versions it has: ${reasonOf(run)}`);
    versionsOf.set(known, versions);
  }
  const usable = cniVersions.findLast((one) => atLeast(version, one) && versions.includes(one));
  if (usable !== undefined) return usable;
  throw failed(delegate, `has CNI ${versions.join(', ')}, but not ${version} or older`);
}

function supportedVersions(text: string): readonly CniVersion[] {
  try {
    const json: unknown = JSON.parse(text);
    if (isObject(json) && Array.isArray(json['supportedVersions']))
      return json['supportedVersions'].filter(isCniVersion);
  } catch {
    // What is no JSON names no version.
  }
  return [];
}

function inVersion(conf: JsonObject, cniVersion: CniVersion): JsonObject {
  const { prevResult } = conf;
  return { ...conf, cniVersion, ...(isObject(prevResult) ? { prevResult: { ...prevResult, cniVersion } } : {}) };
}

interface Run {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function execute(
  path: string,
  cniEnv: Readonly<Record<string, string>>,
  stdin: string,
  limitMs: number,
  signal: AbortSignal,
): Promise<Run> {
  const bounded = AbortSignal.any([signal, AbortSignal.timeout(limitMs)]);
  bounded.throwIfAborted();
  const env = { PATH: process.env['PATH'], ...cniEnv };
  const child = spawn(path, [], { env, stdio: ['pipe', 'pipe', 'pipe'], signal: bounded, killSignal: 'SIGKILL' });
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (chunk: string) => {
      if (output[name].length < outputLimitBytes) output[name] += chunk;
    });
  }
  // A plugin that ends without reading is judged by its exit code.
  child.stdin.on('error', () => undefined).end(stdin);
  try {
    const code = await new Promise<number>((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (status) => resolve(status ?? 1));
      // What it leaves running may keep its output open; all that it said itself has been written by then.
      child.on('exit', () =>
        setTimeout(() => [child.stdout, child.stderr].map((stream) => stream.destroy()), afterExitMs).unref(),
      );
    });
    return { code, ...output };
  } catch (error) {
    const why = bounded.aborted
      ? `did not end within ${limitMs} ms`
      : `cannot be executed: ${toWeftError(error).message}`;
    throw new WeftError('delegateFailed', `the plugin ${path} ${why}`, { details: path, cause: error });
  }
}

function reasonOf({ code, stdout, stderr }: Run): string {
  try {
    const json: unknown = JSON.parse(stdout);
    if (isObject(json) && typeof json['msg'] === 'string') {
      const details = typeof json['details'] === 'string' && json['details'] !== '' ? `; ${json['details']}` : '';
      return `${json['msg']}${details} (code ${String(json['code'])})`;
    }
  } catch {
    // A plugin that dies has no JSON to say so.
  }
  return `exit ${code}: ${(stderr.trim() || stdout.trim()).slice(0, 300) || 'it said nothing'}`;
}

function delegatedOf(delegate: Delegate, json: unknown): Delegated {
  if (!isObject(json)) throw failed(delegate, 'answered ADD with what is no object');
  // `ip4` and `ip6` are what 0.1.0 and 0.2.0 have.
  const byFamily = [json['ip4'], json['ip6']].filter(isObject);
  const ips = [...list(json['ips']), ...byFamily.map(({ ip, gateway }) => ({ address: ip, gateway }))];
  const given = ips.map(({ address }) => address);
  const addresses = given.map(plainOf);
  if (addresses.length === 0) throw failed(delegate, 'gave no address');
  const wrong = addresses.find((address) => isIP(address) === 0);
  if (wrong !== undefined) throw failed(delegate, `gave ${JSON.stringify(given)}, where not all are addresses`);
  const [v4, v6] = [addresses.filter((address) => isIPv4(address)), addresses.filter((address) => !isIPv4(address))];
  if (v4.length > 1 || v6.length > 1) {
    throw new WeftError(
      'invalidConfig',
      `${delegate.type} gave ${addresses.join(', ')}; a pod has at most one address per family`,
      { details: 'ipam' },
    );
  }
  const dns = json['dns'];
  const sorted = [...v4, ...v6];
  const gateway = ips.map((ip) => ip['gateway']).find((text) => typeof text === 'string' && isIPv4(text));
  return {
    addresses: sorted,
    cidrs: sorted.map((address) => cidrOf(address, given)),
    gateway: typeof gateway === 'string' ? gateway : undefined,
    routes: [...list(json['routes']), ...byFamily.flatMap((one) => list(one['routes']))].flatMap(routeOf),
    dns: isObject(dns) && Object.keys(dns).length > 0 ? dns : undefined,
  };
}

/** Without prefix length, as the kernel writes it; '' for what is no address. */
function plainOf(text: unknown): string {
  const address = typeof text === 'string' ? parseAddress(bare(text)) : undefined;
  return address === undefined ? '' : formatAddress(address.family, address.value);
}

/** As it was given; a host route's where no prefix length was. */
function cidrOf(address: string, given: readonly unknown[]): string {
  const cidr = given.find((text) => typeof text === 'string' && isCidr(text) && plainOf(text) === address);
  return typeof cidr === 'string' ? cidr : `${address}/${isIPv4(address) ? 32 : 128}`;
}

function routeOf({ dst, gw }: JsonObject): readonly { readonly dst: string; readonly gw?: string }[] {
  if (typeof dst !== 'string' || !isCidr(dst)) return [];
  return [typeof gw === 'string' && isIP(gw) !== 0 ? { dst, gw } : { dst }];
}

/** Whether both give the addresses of one network. */
export function isSamePlugin(one: Delegate, other: Delegate): boolean {
  return one.type === other.type && parseObject(one)['name'] === parseObject(other)['name'];
}

function parseObject(delegate: Delegate): JsonObject {
  const json: unknown = JSON.parse(delegate.stdin);
  if (!isObject(json)) throw failed(delegate, 'has no configuration');
  return json;
}

function list(value: unknown): readonly JsonObject[] {
  return Array.isArray(value) ? value.filter(isObject) : [];
}

function failed(delegate: Delegate, what: string, cause?: unknown): WeftError {
  return new WeftError('delegateFailed', `the IPAM plugin ${delegate.type} ${what}`, { details: delegate.type, cause });
}
