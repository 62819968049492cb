// Routes: rt-route of the kernel's YNL specs (linux/rtnetlink.h).

import { WeftError } from '#agent/errors.ts';

import { AttributeSet, binary, ip, nested, u16, u32, u8, type Codec, type WithUnknown } from './attributes.ts';
import { addressFamily, familyOf, readIp } from './ip-text.ts';
import { createFlags, messageFlag, MessageFormat, type CreateOptions, type NetlinkRequest } from './message.ts';
import { malformed, readU16 } from './wire.ts';

export const routeMessage = { new: 24, delete: 25, get: 26 } as const;

/** RTN_*. */
export const routeType = {
  unspec: 0,
  unicast: 1,
  local: 2,
  broadcast: 3,
  anycast: 4,
  multicast: 5,
  blackhole: 6,
  unreachable: 7,
  prohibit: 8,
  throw: 9,
} as const;
/** RTPROT_*. */
export const routeProtocol = { unspec: 0, redirect: 1, kernel: 2, boot: 3, static: 4 } as const;
/** RT_TABLE_*. */
export const routeTable = { unspec: 0, default: 253, main: 254, local: 255 } as const;
/** RTNH_F_* and RTM_F_* in rtmFlags. */
export const routeFlag = { dead: 0x1, onlink: 0x4, linkdown: 0x10, cloned: 0x200, fibMatch: 0x2000 } as const;

export interface RouteHeader {
  readonly rtmFamily: number;
  readonly rtmDstLen: number;
  readonly rtmSrcLen: number;
  readonly rtmTos: number;
  readonly rtmTable: number;
  readonly rtmProtocol: number;
  readonly rtmScope: number;
  readonly rtmType: number;
  readonly rtmFlags: number;
}

export interface RouteMetrics extends WithUnknown {
  /** Bit mask of metrics that may not change (1 << number). */
  readonly lock?: number;
  /** Bytes. */
  readonly mtu?: number;
  readonly window?: number;
  readonly advmss?: number;
  readonly hoplimit?: number;
  readonly initcwnd?: number;
  readonly features?: number;
}

/** A gateway of another family than the route's. */
export interface Via {
  readonly family: number;
  readonly addr: string;
}

export interface RouteAttributes extends WithUnknown {
  readonly dst?: string;
  readonly src?: string;
  readonly iif?: number;
  readonly oif?: number;
  readonly gateway?: string;
  readonly priority?: number;
  readonly prefsrc?: string;
  readonly metrics?: RouteMetrics;
  readonly multipath?: Uint8Array;
  readonly cacheinfo?: Uint8Array;
  readonly table?: number;
  readonly mark?: number;
  readonly via?: Via;
  readonly pref?: number;
  readonly encapType?: number;
  readonly encap?: Uint8Array;
  readonly uid?: number;
  readonly nhId?: number;
}

export type Route = RouteHeader & RouteAttributes;
export type RouteRequest = Partial<RouteHeader> & RouteAttributes;

const via: Codec<Via> = {
  write(writer, value) {
    writer.u16(value.family);
    writer.ip(value.addr);
  },
  read(bytes, start, end) {
    const addr = end - start < 2 ? undefined : readIp(bytes, start + 2, end);
    if (addr === undefined) throw malformed(`via of ${end - start} bytes`);
    return { family: readU16(bytes, start), addr };
  },
};

const metrics: Codec<RouteMetrics> = nested(
  new AttributeSet<RouteMetrics>({
    lock: [1, u32],
    mtu: [2, u32],
    window: [3, u32],
    advmss: [8, u32],
    hoplimit: [10, u32],
    initcwnd: [11, u32],
    features: [12, u32],
  }),
);

export const routeFormat: MessageFormat<RouteHeader, RouteAttributes> = new MessageFormat<RouteHeader, RouteAttributes>(
  'route',
  12,
  {
    rtmFamily: [0, 'u8'],
    rtmDstLen: [1, 'u8'],
    rtmSrcLen: [2, 'u8'],
    rtmTos: [3, 'u8'],
    rtmTable: [4, 'u8'],
    rtmProtocol: [5, 'u8'],
    rtmScope: [6, 'u8'],
    rtmType: [7, 'u8'],
    rtmFlags: [8, 'u32'],
  },
  new AttributeSet<RouteAttributes>({
    dst: [1, ip],
    src: [2, ip],
    iif: [3, u32],
    oif: [4, u32],
    gateway: [5, ip],
    priority: [6, u32],
    prefsrc: [7, ip],
    metrics: [8, metrics],
    multipath: [9, binary],
    cacheinfo: [12, binary],
    table: [15, u32],
    mark: [16, u32],
    via: [18, via],
    pref: [20, u8],
    encapType: [21, u16],
    encap: [22, binary],
    uid: [25, u32],
    nhId: [30, u32],
  }),
);

/** The destination part of a route from `address/length`; `0.0.0.0/0` and `::/0` are the default routes. Throws WeftError. */
export function routeTo(prefix: string): Pick<RouteRequest, 'rtmFamily' | 'rtmDstLen' | 'dst'> {
  const slash = prefix.lastIndexOf('/');
  const dst = slash === -1 ? prefix : prefix.slice(0, slash);
  const rtmFamily = familyOf(dst);
  const bits = rtmFamily === addressFamily.inet ? 32 : 128;
  const rtmDstLen = slash === -1 ? bits : Number(prefix.slice(slash + 1));
  if (!Number.isInteger(rtmDstLen) || rtmDstLen < 0 || rtmDstLen > bits) {
    throw new WeftError('internal', `not a route's prefix: "${prefix}"`);
  }
  return rtmDstLen === 0 ? { rtmFamily, rtmDstLen } : { rtmFamily, rtmDstLen, dst };
}

/** A decoded route's destination as `address/length`. */
export function prefixOf(route: Route): string {
  return `${route.dst ?? (route.rtmFamily === addressFamily.inet ? '0.0.0.0' : '::')}/${route.rtmDstLen}`;
}

/**
 * Defaults as `ip route` has them: unicast, main table; scope link where there is no gateway (IPv4). A `table` above 255 goes
 * into the attribute.
 */
function complete(request: RouteRequest): RouteRequest {
  const rtmType = request.rtmType ?? routeType.unicast;
  const table = request.table ?? request.rtmTable ?? routeTable.main;
  const direct =
    rtmType === routeType.unicast &&
    request.rtmFamily === addressFamily.inet &&
    request.gateway === undefined &&
    request.via === undefined &&
    request.nhId === undefined &&
    request.multipath === undefined;
  const rtmScope = direct ? 253 : 0;
  return {
    rtmScope,
    ...request,
    rtmType,
    rtmTable: table > 255 ? routeTable.unspec : table,
    ...(table > 255 ? { table } : {}),
  };
}

/** RTM_NEWROUTE. `replace` compares family, destination, TOS and priority. */
export function newRoute(route: RouteRequest, options: CreateOptions = {}): NetlinkRequest<Route> {
  return {
    name: 'newRoute',
    type: routeMessage.new,
    flags: createFlags(options),
    format: routeFormat,
    message: complete(route),
  };
}

/** RTM_DELROUTE; ESRCH where no route matches. A type left out matches any; a scope left out matches any. */
export function delRoute(route: RouteRequest): NetlinkRequest<Route> {
  const message = { ...complete(route), rtmScope: route.rtmScope ?? 255, rtmType: route.rtmType ?? routeType.unspec };
  return { name: 'delRoute', type: routeMessage.delete, flags: 0, format: routeFormat, message };
}

/** RTM_GETROUTE: the route that a packet to `dst` takes; its own prefix with rtmFlags `fibMatch`. */
export function getRoute(route: RouteRequest): NetlinkRequest<Route> {
  return { name: 'getRoute', type: routeMessage.get, flags: 0, format: routeFormat, message: route };
}

/** Routes of one family (both when left out); `rtmProtocol`, `rtmType`, `table` and `oif` filter in the kernel. */
export function dumpRoutes(
  filter: Partial<Pick<RouteHeader, 'rtmFamily' | 'rtmProtocol' | 'rtmType'>> &
    Pick<RouteAttributes, 'table' | 'oif'> = {},
): NetlinkRequest<Route> {
  return { name: 'dumpRoutes', type: routeMessage.get, flags: messageFlag.dump, format: routeFormat, message: filter };
}
