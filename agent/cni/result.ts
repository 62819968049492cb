// What goes back to the runtime: results in the shape of each CNI version, and errors. Built once in the newest shape (1.1.0),
// then reduced.

import { isIPv4 } from 'node:net';

import type { PodLink } from '#agent/datapath/datapath.ts';
import type { WeftError } from '#agent/errors.ts';
import type { IpamView, Lease } from '#agent/runtime/ipam.ts';
import { containsAddress, parseCidr } from '#ipam-peer/cidr.ts';
import { parseAddress } from '#ipam-peer/address.ts';
import type { ConfRoute } from './ipam-conf.ts';
import { type Dns, isObject, type JsonObject } from './json.ts';
import { atLeast, type CniVersion } from './versions.ts';

export interface ResultRoute {
  readonly dst: string;
  /** Absent: the gateway of the address. */
  readonly gw?: string;
  /** Absent: the main table. */
  readonly table?: number;
}

/** Result of CNI 1.1.0, the parts that Weft fills. */
export interface AddResult {
  readonly interfaces: readonly {
    readonly name: string;
    readonly mac: string;
    readonly mtu: number;
    readonly sandbox?: string;
  }[];
  /** `interface` is an index into `interfaces`. */
  readonly ips: readonly { readonly address: string; readonly gateway?: string; readonly interface?: number }[];
  readonly routes: readonly ResultRoute[];
  readonly dns: Dns | undefined;
}

/** Host end first, pod end second; every address is the pod's, with full prefix length where the pod link is routed. */
export function buildResult(lease: Lease, link: PodLink, netnsPath: string, dns: Dns | undefined): AddResult {
  const gatewayFor = (address: string): string => {
    const gateway = link.gateways.find((candidate) => isIPv4(candidate) === isIPv4(address));
    if (gateway === undefined) throw new Error(`the pod link has no gateway for ${address}`);
    return gateway;
  };
  return {
    interfaces: [
      { name: link.hostIfname, mac: link.hostMac, mtu: link.mtuBytes },
      { name: lease.ifname, mac: link.podMac, mtu: link.mtuBytes, sandbox: netnsPath },
    ],
    ips: lease.addresses.map((address, index) => ({
      address: link.addresses?.[index] ?? `${address}/${isIPv4(address) ? 32 : 128}`,
      gateway: gatewayFor(address),
      interface: 1,
    })),
    routes: link.routes.map(({ dst, gateway, table }) => ({
      dst,
      gw: gateway,
      ...(table === undefined ? {} : { table }),
    })),
    dns,
  };
}

/**
 * The address alone, for a plugin that makes the link itself: with the prefix length of its range, so that the link's pods on all nodes
 * are one subnet, and the node's own overlay address as gateway, which no pod ever has.
 */
export function buildAddressResult(
  lease: Lease,
  view: IpamView,
  routes: readonly ConfRoute[],
  dns: Dns | undefined,
): AddResult {
  return {
    interfaces: [],
    ips: lease.addresses.map((address) => {
      const gateway = view.overlayAddresses.find((own) => isIPv4(own) === isIPv4(address));
      return { address: `${address}/${prefixIn(view.ranges, address)}`, ...(gateway === undefined ? {} : { gateway }) };
    }),
    routes,
    dns,
  };
}

function prefixIn(ranges: readonly string[], address: string): string {
  const parsed = parseAddress(address);
  const range = ranges.find((text) => {
    const cidr = parseCidr(text);
    return cidr !== undefined && parsed !== undefined && containsAddress(cidr, parsed);
  });
  return range?.split('/')[1] ?? (isIPv4(address) ? '32' : '128');
}

/** The result as a configuration of that version expects it. */
export function resultJson(result: AddResult, cniVersion: CniVersion): Readonly<Record<string, unknown>> {
  const dns = result.dns === undefined ? {} : { dns: result.dns };
  if (!atLeast(cniVersion, '0.3.0')) return { cniVersion, ...byFamily(result), ...dns };
  const interfaces = atLeast(cniVersion, '1.1.0')
    ? result.interfaces
    : result.interfaces.map((item) => ({ ...item, mtu: undefined }));
  // Before 1.1.0 a route has no table: one of another table would be taken for the main table's.
  const routes = atLeast(cniVersion, '1.1.0') ? result.routes : mainRoutes(result);
  const ips = atLeast(cniVersion, '1.0.0')
    ? result.ips
    : result.ips.map((ip) => ({ version: isIPv4(bare(ip.address)) ? '4' : '6', ...ip }));
  // As IPAM plugin there are none (CNI spec 1.1.0, "Section 4").
  return { cniVersion, ...(interfaces.length === 0 ? {} : { interfaces }), ips, routes, ...dns };
}

function mainRoutes(result: AddResult): readonly ResultRoute[] {
  return result.routes.filter((route) => route.table === undefined);
}

/**
 * The result as the next plugin of a list, or the runtime, must get it: what came before, then Weft's own (CNI spec 1.1.0, "ADD").
 * Both are of the same version, 0.3.0 or newer.
 */
export function afterPrevious(previous: JsonObject | undefined, own: JsonObject): JsonObject {
  if (previous === undefined) return own;
  const interfaces = listIn(previous, 'interfaces');
  const shifted = listIn(own, 'ips').map((ip) =>
    typeof ip['interface'] === 'number' ? { ...ip, interface: ip['interface'] + interfaces.length } : ip,
  );
  return {
    ...previous,
    ...own,
    interfaces: [...interfaces, ...listIn(own, 'interfaces')],
    ips: [...listIn(previous, 'ips'), ...shifted],
    routes: [...listIn(previous, 'routes'), ...listIn(own, 'routes')],
  };
}

function listIn(json: JsonObject, key: string): readonly JsonObject[] {
  const value = json[key];
  return Array.isArray(value) ? value.filter(isObject) : [];
}

/** `ip4` and `ip6` of 0.1.0 and 0.2.0: one address a family. */
function byFamily(result: AddResult): Readonly<Record<string, unknown>> {
  const families: Record<string, unknown> = {};
  for (const ip of result.ips) {
    const is4 = isIPv4(bare(ip.address));
    const routes = mainRoutes(result).filter((route) => isIPv4(bare(route.dst)) === is4);
    families[is4 ? 'ip4' : 'ip6'] = { ip: ip.address, gateway: ip.gateway, routes };
  }
  return families;
}

/** CNI's error (spec 1.1.0, "Error"). `msg` says cause and next step, since `kubectl describe pod` shows nothing else. */
export function errorJson(error: WeftError, cniVersion: CniVersion): Readonly<Record<string, unknown>> {
  const cause = error.message.replace(/[.\s]+$/, '');
  return {
    cniVersion,
    code: error.cniCode,
    msg: `${cause}. ${error.nextStep}`,
    ...(error.details === '' ? {} : { details: error.details }),
  };
}

/** An address without its prefix length. */
export function bare(address: string): string {
  return address.split('/')[0] ?? '';
}
