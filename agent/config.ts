// Every setting of the agent ends up in one frozen `Config`: defaults, then the JSON file, then the environment (Weave Net's
// names first, Weft's own over them), then flags. agent/config/settings.ts has the one schema behind it.

import { hostname } from 'node:os';
import { WeftError } from '#agent/errors.ts';
import { gather } from '#agent/config/sources.ts';
import type { RawInputs } from '#agent/config/sources.ts';
import { crossProblems } from '#agent/config/cross-problems.ts';
import { schemaProblems, settings } from '#agent/config/settings.ts';

/** One node of a static list, for hosts without Kubernetes. */
export interface NodeSetting {
  readonly name: string;
  /** Underlay addresses, preferred first. */
  readonly addresses: readonly string[];
}

/** Units are in the names. Each setting is described in docs/settings.md, which comes from the same schema. */
export interface Config {
  readonly nodeName: string;
  readonly registry: 'kubernetes' | 'peers';
  readonly discovery: 'kubernetes' | 'static';
  readonly kubeconfig: string;
  readonly apiServer: string;
  readonly namespace: string;
  readonly nodes: readonly NodeSetting[];
  readonly voters: readonly string[];
  readonly tlsCa: string;
  readonly tlsCert: string;
  readonly tlsKey: string;
  readonly peersPort: number;
  readonly ranges: readonly string[];
  readonly reserved: readonly string[];
  readonly pools: readonly string[];
  readonly restTimeMs: number;
  readonly takeOverAfterMs: number;
  readonly sessionTermMs: number;
  readonly allocateWaitMs: number;
  readonly collectMs: number;
  readonly stateDir: string;
  readonly runDir: string;
  readonly socket: string;
  readonly spoolDir: string;
  readonly conflistPath: string;
  readonly cniBinDir: string;
  readonly podLink: 'routed' | 'bridge';
  readonly dhcpUplink: string;
  readonly overlayMode: 'vxlan' | 'direct' | 'auto';
  readonly probeIntervalMs: number;
  readonly vxlanPort: number;
  readonly vxlanVni: number;
  readonly mtuBytes: number;
  readonly underlayAddress: string;
  readonly underlayInterface: string;
  readonly nonMasqueradeRanges: readonly string[];
  readonly resyncMs: number;
  readonly metricsListen: string;
  readonly statusListen: string;
  readonly logLevel: 'fatal' | 'error' | 'warn' | 'info' | 'debug' | 'trace';
  readonly logFormat: 'auto' | 'text' | 'json';
}

export interface LoadedConfig {
  readonly config: Config;
  /** Where each setting that is not a default came from, for the log's first lines. */
  readonly sources: ReadonlyMap<keyof Config, string>;
  /** Things an operator should know that are no errors, such as variables of Weave Net without a meaning here. */
  readonly notes: readonly string[];
}

/**
 * Reads and validates all sources. Throws WeftError('invalidSetting') whose message has one line for each bad value: setting,
 * value, source, what is allowed.
 */
export function loadConfig(inputs: RawInputs): LoadedConfig {
  const gathered = gather(inputs);
  const problems: string[] = [...gathered.problems];
  const values: Record<string, unknown> = {};
  for (const [key, schema] of Object.entries(settings)) values[key] = structuredClone(schema.default);
  for (const [key, { value }] of gathered.values) values[key] = value;
  if (!gathered.values.has('nodeName')) values['nodeName'] = hostname().toLowerCase();
  if (!gathered.values.has('discovery')) values['discovery'] = values['registry'] === 'peers' ? 'static' : 'kubernetes';
  if (!gathered.values.has('socket')) values['socket'] = `${String(values['runDir'])}/cni.sock`;
  if (!gathered.values.has('spoolDir')) values['spoolDir'] = `${String(values['stateDir'])}/spool`;
  const sourceOf = (key: string): string => gathered.values.get(key)?.source ?? 'default';
  problems.push(...schemaProblems(values, sourceOf));
  // Cross checks read values by their types, so they run only on what the schema has accepted.
  if (problems.length === 0) problems.push(...crossProblems(values as unknown as Config, sourceOf));
  if (problems.length > 0) throw new WeftError('invalidSetting', problems.join('\n'));
  const sources = new Map([...gathered.values].map(([key, { source }]) => [key as keyof Config, source]));
  return { config: deepFreeze(values as unknown as Config), sources, notes: gathered.notes };
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) {
    for (const inner of Object.values(value)) deepFreeze(inner);
    Object.freeze(value);
  }
  return value;
}
