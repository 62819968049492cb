// `ipam` of the network configuration (CNI spec 1.1.0, "Section 4: Plugin Delegation"). Three cases: Weft's own range, another plugin
// that gives the addresses of Weft's links, and Weft as the plugin that gives the addresses of another's links.

import { isIP, isIPv4 } from 'node:net';

import { invalid, isObject, type JsonObject, quote, unsupported } from './json.ts';

/** What `type` says where Weft is meant, whatever name the plugin's file has. */
const ownType = 'weft';
/** A plugin's file name: no path. */
const pluginName = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;

export interface ConfRoute {
  /** CIDR. */
  readonly dst: string;
  /** Absent: the gateway of the address. */
  readonly gw?: string;
}

export interface IpamConf {
  /** The plugin whose links Weft gives addresses to; undefined: Weft makes the link. */
  readonly linkedBy: string | undefined;
  /** The bridge that the reference plugin `bridge` makes the link a port of. */
  readonly onBridge: string | undefined;
  /** The plugin that gives the addresses; undefined: Weft does. */
  readonly delegate: string | undefined;
  /** `ipam.routes`: put into the result as they are, when Weft only gives the address. */
  readonly routes: readonly ConfRoute[];
}

/**
 * Reads `type` and `ipam`. `strict` also refuses what Weft would have to ignore; without it anything unusable counts as absent.
 * Throws WeftError: `invalidConfig` (7), `unsupportedField` (2).
 */
export function parseIpamConf(json: JsonObject, strict: boolean): IpamConf {
  const given = json['ipam'] ?? {};
  if (!isObject(given)) return strict ? refuse('ipam', 'ipam is not an object') : own(undefined);
  const type = given['type'] ?? '';
  if (typeof type !== 'string' || (type !== '' && !pluginName.test(type)))
    return strict ? refuse('ipam.type', `ipam.type ${quote(type)} is not the name of a plugin`) : own(undefined);
  const plugin = json['type'];
  const linkedBy = type === ownType && typeof plugin === 'string' && plugin !== ownType ? plugin : undefined;
  if (type !== '' && type !== ownType) {
    return { ...own(undefined), delegate: type };
  }
  const known = linkedBy === undefined ? ['type'] : ['type', 'routes'];
  const unknown = Object.keys(given).find((key) => !known.includes(key));
  if (strict && unknown !== undefined) {
    throw unsupported(quote(`ipam.${unknown}`), `ipam.${unknown}`);
  }
  const onBridge = linkedBy === 'bridge' ? bridgeOf(json['bridge']) : undefined;
  return {
    ...own(linkedBy),
    onBridge,
    routes: strict && linkedBy !== undefined ? parseRoutes(given['routes'] ?? []) : [],
  };
}

function own(linkedBy: string | undefined): IpamConf {
  return { linkedBy, onBridge: undefined, delegate: undefined, routes: [] };
}

/** `bridge` as that plugin understands it. */
function bridgeOf(value: unknown): string {
  return typeof value === 'string' && /^[^\s/:]{1,15}$/.test(value) && !value.startsWith('.') ? value : 'cni0';
}

function parseRoutes(value: unknown): readonly ConfRoute[] {
  if (!Array.isArray(value)) refuse('ipam.routes', 'ipam.routes is not a list');
  return value.map((item: unknown) => {
    if (!isObject(item) || typeof item['dst'] !== 'string' || !isCidr(item['dst']))
      refuse('ipam.routes', `ipam.routes has ${quote(item)}, whose dst is no CIDR`);
    const { dst, gw } = item;
    if (gw === undefined || gw === null) return { dst };
    if (typeof gw !== 'string' || isIP(gw) === 0 || isIPv4(gw) !== isIPv4(addressOf(dst)))
      refuse('ipam.routes', `ipam.routes has ${quote(item)}, whose gw is no address of the family of dst`);
    return { dst, gw };
  });
}

/** An address with a prefix length that its family has. */
export function isCidr(text: string): boolean {
  const match = /^([0-9a-fA-F.:]+)\/(\d{1,3})$/.exec(text);
  const family = isIP(match?.[1] ?? '');
  return family !== 0 && Number(match?.[2]) <= (family === 4 ? 32 : 128);
}

function addressOf(cidr: string): string {
  return cidr.split('/')[0] ?? '';
}

function refuse(field: string, message: string): never {
  throw invalid(field, message);
}
