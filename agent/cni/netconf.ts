// The network configuration as one plugin receives it on stdin (CNI spec 1.1.0, "Section 1" and "Section 3"). Keys of the
// specification that mean nothing here are passed over; any other key can only be meant for Weft, so one that Weft does not
// know is refused by name. DEL, GC and STATUS are lenient there: a pod must be deletable whatever became of the configuration.

import { WeftError } from '#agent/errors.ts';
import type { AttachmentKey } from '#agent/runtime/ipam.ts';
import { type IpamConf, parseIpamConf } from './ipam-conf.ts';
import {
  type Dns,
  invalid,
  isObject,
  isStringList,
  type JsonObject,
  objects,
  quote,
  string,
  unsupported,
} from './json.ts';
import { type CniVersion, impliedVersion, isCniVersion, cniVersions, newestVersion } from './versions.ts';
import { isKnownCapability, noWish, parseWish, type Wish } from './wish.ts';

export type { Dns } from './json.ts';

/** What CHECK needs of the previous result, whatever its version. */
export interface PrevResult {
  /** As given, for the result of a plugin that is not the first of its list. */
  readonly json: JsonObject;
  readonly interfaces: readonly { readonly name: string; readonly sandbox: string }[];
  /** Addresses with prefix length as given; `interface` is an index into `interfaces`. */
  readonly ips: readonly { readonly address: string; readonly interface: number | undefined }[];
}

export interface NetConf {
  readonly cniVersion: CniVersion;
  /** The network's name: `^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`. */
  readonly name: string;
  readonly ipam: IpamConf;
  readonly dns: Dns | undefined;
  /** What `runtimeConfig` and `args` ask for; nothing where they do not matter. */
  readonly wish: Wish;
  readonly prevResult: PrevResult | undefined;
  /** GC's list under either key; undefined when neither is there. */
  readonly validAttachments: readonly AttachmentKey[] | undefined;
}

const keysOfTheSpec = new Set(
  (
    'cniVersion cniVersions name type disableCheck disableGC loadOnlyInlinedPlugins ' +
    'capabilities runtimeConfig args prevResult ipMasq ipam dns'
  ).split(' '),
);
const namePattern = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;
const attachmentKeys = ['cni.dev/valid-attachments', 'cni.dev/attachments'] as const;

/**
 * The configuration on stdin. `strict` also refuses what Weft would have to ignore.
 * Throws WeftError: `undecodable` (6), `incompatibleVersion` (1), `invalidConfig` (7), `unsupportedField` (2).
 */
export function parseNetConf(stdin: string, strict: boolean): NetConf {
  const json = parseObject(stdin);
  const cniVersion = parseVersion(json['cniVersion']);
  const name = json['name'];
  if (typeof name !== 'string' || name === '') throw invalid('name', 'the network has no name');
  if (!namePattern.test(name) || name.length > 253) throw invalid('name', `${quote(name)} is not a network name`);
  const ipam = parseIpamConf(json, strict);
  // Another plugin's configuration is that plugin's to judge; of what the runtime offers it, only addresses are Weft's.
  if (strict && ipam.linkedBy === undefined) refuseUnknown(json);
  const offered = ipam.linkedBy === undefined ? json['runtimeConfig'] : addressesOf(json['runtimeConfig']);
  const wish = strict ? parseWish(offered, json['args']) : noWish;
  const dns = json['dns'] === undefined || json['dns'] === null ? undefined : parseDns(json['dns'], strict);
  return {
    cniVersion,
    name,
    ipam,
    dns: wish.dns === undefined ? dns : { ...dns, ...wish.dns },
    wish,
    prevResult: parsePrevResult(json['prevResult'], cniVersion, strict),
    validAttachments: parseAttachments(json),
  };
}

function addressesOf(runtimeConfig: unknown): JsonObject {
  if (!isObject(runtimeConfig)) return {};
  const { ips, ipRanges } = runtimeConfig;
  return { ...(ips !== undefined && { ips }), ...(ipRanges !== undefined && { ipRanges }) };
}

/** The version to answer in when the configuration as a whole may be unusable: its own when that is known, else the newest. */
export function answerVersion(stdin: string): CniVersion {
  try {
    return parseVersion(parseObject(stdin)['cniVersion']);
  } catch {
    return newestVersion;
  }
}

function parseObject(stdin: string): JsonObject {
  if (stdin.trim() === '') throw new WeftError('undecodable', 'the network configuration on stdin is empty');
  let json: unknown;
  try {
    json = JSON.parse(stdin);
  } catch (error) {
    throw new WeftError('undecodable', 'the network configuration on stdin is not JSON', {
      details: error instanceof Error ? error.message : '',
      cause: error,
    });
  }
  if (!isObject(json)) throw new WeftError('undecodable', 'the network configuration on stdin is not a JSON object');
  return json;
}

function parseVersion(value: unknown): CniVersion {
  if (value === undefined || value === '') return impliedVersion;
  if (isCniVersion(value)) return value;
  throw new WeftError(
    'incompatibleVersion',
    `cniVersion ${quote(value)} is not supported; weft speaks ${cniVersions.join(', ')}`,
    { details: 'cniVersion' },
  );
}

function refuseUnknown(json: JsonObject): void {
  const unknown = Object.keys(json).filter((key) => !keysOfTheSpec.has(key) && !key.startsWith('cni.dev/'));
  if (unknown.length > 0) throw unsupported(unknown.map((key) => quote(key)).join(', '), unknown.join(','));
  const capabilities = json['capabilities'] ?? {};
  if (!isObject(capabilities)) throw invalid('capabilities', 'capabilities is not an object');
  const declared = Object.keys(capabilities).find((key) => capabilities[key] === true && !isKnownCapability(key));
  if (declared !== undefined) throw unsupported(quote(`capabilities.${declared}`), `capabilities.${declared}`);
}

function parseDns(value: unknown, strict: boolean): Dns | undefined {
  if (!isObject(value)) return strict ? refuse('dns', 'dns is not an object') : undefined;
  for (const key of ['nameservers', 'search', 'options']) {
    if (value[key] !== undefined && !isStringList(value[key])) {
      return strict ? refuse(`dns.${key}`, `dns.${key} is not a list of strings`) : undefined;
    }
  }
  const domain = value['domain'];
  if (domain !== undefined && typeof domain !== 'string') {
    return strict ? refuse('dns.domain', 'dns.domain is not a string') : undefined;
  }
  return value;
}

function parsePrevResult(value: unknown, version: CniVersion, strict: boolean): PrevResult | undefined {
  if (value === undefined || value === null || !strict) return undefined;
  if (!isObject(value)) throw invalid('prevResult', 'prevResult is not an object');
  const own = value['cniVersion'] ?? version;
  if (!isCniVersion(own)) {
    throw new WeftError('incompatibleVersion', `prevResult has the unknown cniVersion ${quote(own)}`, {
      details: 'prevResult.cniVersion',
    });
  }
  const interfaces = objects(value['interfaces'] ?? [], 'prevResult.interfaces').map((item) => ({
    name: string(item['name'], 'prevResult.interfaces.name'),
    sandbox: string(item['sandbox'] ?? '', 'prevResult.interfaces.sandbox'),
  }));
  const ips = objects(value['ips'] ?? [], 'prevResult.ips').map((item) => ({
    address: string(item['address'], 'prevResult.ips.address'),
    interface: typeof item['interface'] === 'number' ? item['interface'] : undefined,
  }));
  return { json: value, interfaces, ips };
}

/** The union of both keys: what either calls valid must live. `null` is how libcni writes an empty list. */
function parseAttachments(json: JsonObject): readonly AttachmentKey[] | undefined {
  const lists = attachmentKeys.filter((key) => json[key] !== undefined);
  if (lists.length === 0) return undefined;
  return lists.flatMap((key) =>
    objects(json[key] ?? [], key).map((item) => ({
      containerId: string(item['containerID'], `${key}.containerID`),
      ifname: string(item['ifname'], `${key}.ifname`),
    })),
  );
}

function refuse(field: string, message: string): never {
  throw invalid(field, message);
}
