// What a call asks for beyond a plain link: `runtimeConfig` (CNI CONVENTIONS.md, "Dynamic Plugin specific fields"), `args.cni`,
// CNI_ARGS and the pod's annotations. Everything is checked here, once; a bad value is refused by the name of its key.

import type { BandwidthLimit, LinkOptions } from '#agent/runtime/ipam.ts';
import { type Family, formatAddress, parseAddress } from '#ipam-peer/address.ts';
import { containsAddress, parseCidr } from '#ipam-peer/cidr.ts';
import {
  type Dns,
  invalid,
  isObject,
  type JsonObject,
  objects,
  quote,
  stringList,
  unsupported,
  withGoNames,
} from './json.ts';
import { parsePortMappings } from './port-mappings.ts';

/** One range of the `ipRanges` capability, canonical. */
export interface IpRange {
  /** CIDR block. */
  readonly subnet: string;
  readonly rangeStart?: string;
  readonly rangeEnd?: string;
}

export interface Wish {
  readonly link: LinkOptions;
  /** Plain addresses asked for by name, at most one per family, IPv4 first. */
  readonly addresses: readonly string[];
  /** An address is wanted out of each set. */
  readonly ipRanges: readonly (readonly IpRange[])[];
  /** Replaces the configuration's own. */
  readonly dns: Dns | undefined;
  /** The pod's annotations whose names are Weft's, without the prefix: `pool`, `ips`, `mac`. */
  readonly annotations: ReadonlyMap<string, string>;
}

export const noWish: Wish = { link: {}, addresses: [], ipRanges: [], dns: undefined, annotations: new Map() };

/** Capabilities that Weft fulfils by itself: what the conflist declares. */
export const ownCapabilities = [
  'portMappings',
  'bandwidth',
  'mac',
  'ips',
  'ipRanges',
  'dns',
  'io.kubernetes.cri.pod-annotations',
] as const;

/** Capabilities that mean nothing to a pod link and may be declared and supplied. */
const harmless: ReadonlySet<string> = new Set(['aliases', 'cgroupPath']);

const annotationPrefix = 'weft.network/';
const ownAnnotations: ReadonlySet<string> = new Set(['pool', 'ips', 'mac']);

/** True when declaring the capability promises nothing that Weft does not keep. */
export function isKnownCapability(name: string): boolean {
  return harmless.has(name) || ownCapabilities.some((own) => own === name);
}

/** Out of the configuration's `runtimeConfig` and `args`. Throws WeftError: `invalidConfig` (7), `unsupportedField` (2). */
export function parseWish(runtimeConfig: unknown, args: unknown): Wish {
  const given = runtimeConfig ?? {};
  if (!isObject(given)) throw invalid('runtimeConfig', 'runtimeConfig is not an object');
  for (const key of Object.keys(given)) {
    if (!isKnownCapability(key)) throw unsupported(quote(`runtimeConfig.${key}`), `runtimeConfig.${key}`);
  }
  const annotations = parseAnnotations(given['io.kubernetes.cri.pod-annotations']);
  const mac = parseMac(given['mac'], 'runtimeConfig.mac') ?? parseMac(annotations.get('mac'), `${annotationPrefix}mac`);
  const portMappings = parsePortMappings(withGoNames(given['portMappings']));
  const bandwidth = parseBandwidth(withGoNames(given['bandwidth']));
  return {
    link: {
      ...(mac === undefined ? {} : { mac }),
      ...(portMappings.length === 0 ? {} : { portMappings }),
      ...(bandwidth === undefined ? {} : { bandwidth }),
    },
    addresses: firstOf(
      parseIps(given['ips'], 'runtimeConfig.ips'),
      parseIps(argsIps(args), 'args.cni.ips'),
      parseIps(splitList(annotations.get('ips')), `${annotationPrefix}ips`),
    ),
    ipRanges: parseIpRanges(withGoNames(given['ipRanges'])),
    dns: parseRuntimeDns(withGoNames(given['dns'])),
    annotations,
  };
}

/** CNI_ARGS `IP=` and `MAC=`, which podman 4 uses for `--ip` and `--mac-address`; what `runtimeConfig` says goes first. */
export function withCniArgs(wish: Wish, ip: string | undefined, mac: string | undefined): Wish {
  const addresses = wish.addresses.length > 0 ? wish.addresses : parseIps(splitList(ip), 'CNI_ARGS IP');
  const given = wish.link.mac ?? parseMac(mac, 'CNI_ARGS MAC');
  return { ...wish, addresses, link: { ...wish.link, ...(given === undefined ? {} : { mac: given }) } };
}

function firstOf(...lists: readonly (readonly string[])[]): readonly string[] {
  return lists.find((list) => list.length > 0) ?? [];
}

function splitList(text: string | undefined): readonly string[] | undefined {
  return text === undefined || text.trim() === '' ? undefined : text.split(',').map((item) => item.trim());
}

function argsIps(args: unknown): unknown {
  const cni = isObject(args) ? args['cni'] : undefined;
  return isObject(cni) ? cni['ips'] : undefined;
}

function parseAnnotations(value: unknown): ReadonlyMap<string, string> {
  const where = 'runtimeConfig.io.kubernetes.cri.pod-annotations';
  const given = value ?? {};
  if (!isObject(given)) throw invalid(where, `${where} is not an object`);
  const own = new Map<string, string>();
  for (const [key, text] of Object.entries(given)) {
    if (!key.startsWith(annotationPrefix)) continue;
    const name = key.slice(annotationPrefix.length);
    if (typeof text !== 'string') throw invalid(key, `the annotation ${quote(key)} is not a string`);
    if (!ownAnnotations.has(name)) {
      const known = [...ownAnnotations].map((one) => annotationPrefix + one).join(', ');
      throw invalid(key, `the pod has the annotation ${quote(key)}; weft knows ${known}`);
    }
    own.set(name, text.trim());
  }
  return own;
}

/** A unicast MAC of 48 bits, lower case with colons. */
function parseMac(value: unknown, where: string): string | undefined {
  if (value === undefined || value === null || value === '') return undefined;
  const text = typeof value === 'string' ? value.toLowerCase().replaceAll('-', ':') : '';
  if (!/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/.test(text))
    throw invalid(where, `${where} ${quote(value)} is not a MAC address`);
  const first = Number.parseInt(text.slice(0, 2), 16);
  if ((first & 1) !== 0 || text === '00:00:00:00:00:00') {
    throw invalid(where, `${where} ${text} is not the address of one interface (multicast or zero)`);
  }
  return text;
}

function parseIps(value: unknown, where: string): readonly string[] {
  const texts = stringList(value ?? [], where);
  const byFamily = new Map<Family, string>();
  for (const text of texts) {
    const [plain = '', length, ...more] = text.split('/');
    const address = parseAddress(plain);
    const bits = address?.family === 4 ? 32 : 128;
    const badLength = length !== undefined && !(/^\d{1,3}$/.test(length) && Number(length) <= bits);
    if (address === undefined || badLength || more.length > 0) {
      throw invalid(where, `${where} has ${quote(text)}, which is no address`);
    }
    if (byFamily.has(address.family)) {
      throw invalid(
        where,
        `${where} names two IPv${address.family} addresses; a pod link has at most one of each family`,
      );
    }
    byFamily.set(address.family, formatAddress(address.family, address.value));
  }
  return ([4, 6] as const).flatMap((family) => byFamily.get(family) ?? []);
}

function parseIpRanges(value: unknown): readonly (readonly IpRange[])[] {
  const where = 'runtimeConfig.ipRanges';
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw invalid(where, `${where} is not a list of lists of ranges`);
  return value
    .map((set: unknown) => objects(set ?? [], where).map((range) => parseIpRange(range, where)))
    .filter((set) => set.length > 0);
}

function parseIpRange(range: JsonObject, where: string): IpRange {
  const subnet = range['subnet'];
  const block = typeof subnet === 'string' ? parseCidr(subnet) : undefined;
  if (block === undefined)
    throw invalid(`${where}.subnet`, `${where} has the subnet ${quote(subnet)}, which is no CIDR`);
  const end = (key: 'rangeStart' | 'rangeEnd'): string | undefined => {
    const text = range[key];
    if (text === undefined || text === null || text === '') return undefined;
    const address = typeof text === 'string' ? parseAddress(text) : undefined;
    if (address === undefined || !containsAddress(block, address)) {
      throw invalid(
        `${where}.${key}`,
        `${where} has the ${key} ${quote(text)}, which is no address of ${String(subnet)}`,
      );
    }
    return formatAddress(address.family, address.value);
  };
  const [rangeStart, rangeEnd] = [end('rangeStart'), end('rangeEnd')];
  const [first, last] = [parseAddress(rangeStart ?? ''), parseAddress(rangeEnd ?? '')];
  if (first !== undefined && last !== undefined && first.value > last.value) {
    throw invalid(`${where}.rangeEnd`, `${where} has the rangeEnd ${rangeEnd}, which comes before ${rangeStart}`);
  }
  return {
    subnet: String(subnet),
    ...(rangeStart === undefined ? {} : { rangeStart }),
    ...(rangeEnd === undefined ? {} : { rangeEnd }),
  };
}

/** The capability's `servers` and `searches` are the result's `nameservers` and `search`. */
function parseRuntimeDns(value: unknown): Dns | undefined {
  const where = 'runtimeConfig.dns';
  if (value === undefined || value === null) return undefined;
  if (!isObject(value)) throw invalid(where, `${where} is not an object`);
  const list = (key: string): readonly string[] => stringList(value[key] ?? [], `${where}.${key}`);
  const [nameservers, search, options] = [list('servers'), list('searches'), list('options')];
  if (nameservers.length + search.length + options.length === 0) return undefined;
  return {
    ...(nameservers.length === 0 ? {} : { nameservers }),
    ...(search.length === 0 ? {} : { search }),
    ...(options.length === 0 ? {} : { options }),
  };
}

/** Smallest burst: what a sender's largest packet (64 KiB before segmentation) needs to pass as one. */
const leastBurstBits = 64 * 1024 * 8;
/** containerd and CRI-O write it for pods with a bandwidth annotation: no burst was chosen. Taken at its word it would let half a gigabyte pass. */
const noBurst = 0xffff_ffff;
const most = Number.MAX_SAFE_INTEGER;

function parseBandwidth(value: unknown): LinkOptions['bandwidth'] {
  const where = 'runtimeConfig.bandwidth';
  if (value === undefined || value === null) return undefined;
  if (!isObject(value)) throw invalid(where, `${where} is not an object`);
  const ingress = parseLimit(value, where, 'ingress');
  const egress = parseLimit(value, where, 'egress');
  if (ingress === undefined && egress === undefined) return undefined;
  return { ...(ingress === undefined ? {} : { ingress }), ...(egress === undefined ? {} : { egress }) };
}

function parseLimit(value: JsonObject, where: string, direction: 'ingress' | 'egress'): BandwidthLimit | undefined {
  const number = (key: string): number => {
    const given = value[key] ?? 0;
    if (typeof given === 'number' && Number.isSafeInteger(given) && given >= 0 && given <= most) return given;
    throw invalid(`${where}.${key}`, `${where}.${key} ${quote(given)} is not a number of bits`);
  };
  const [rate, burst] = [number(`${direction}Rate`), number(`${direction}Burst`)];
  if (rate === 0) {
    if (burst === 0) return undefined;
    throw invalid(`${where}.${direction}Rate`, `${where} has ${direction}Burst without ${direction}Rate`);
  }
  if (rate < 8) throw invalid(`${where}.${direction}Rate`, `${where}.${direction}Rate is less than one byte a second`);
  // What passes in 50 ms, where none was chosen.
  const burstBits = burst === 0 || burst >= noBurst ? Math.ceil(rate / 20) : burst;
  return { bitsPerSecond: rate, burstBits: Math.max(burstBits, leastBurstBits) };
}
