// Neighbours and FDB entries: rt-neigh of the kernel's YNL specs (linux/neighbour.h). An FDB entry is the same message
// with family AF_BRIDGE; on a VXLAN device `dst` is the remote VTEP.

import { AttributeSet, be16, binary, ip, lladdr, s32, u16, u32, u8, type WithUnknown } from './attributes.ts';
import { addressFamily, familyOf } from './ip-text.ts';
import { createFlags, messageFlag, MessageFormat, type CreateOptions, type NetlinkRequest } from './message.ts';

export const neighbourMessage = { new: 28, delete: 29, get: 30 } as const;

/** NUD_*. */
export const neighbourState = {
  none: 0,
  incomplete: 1,
  reachable: 2,
  stale: 4,
  delay: 8,
  probe: 16,
  failed: 32,
  noarp: 64,
  permanent: 128,
} as const;

/** NTF_*. */
export const neighbourFlag = {
  use: 1,
  self: 2,
  master: 4,
  proxy: 8,
  extLearned: 16,
  offloaded: 32,
  sticky: 64,
  router: 128,
} as const;

export interface NeighbourHeader {
  readonly ndmFamily: number;
  readonly ndmIfindex: number;
  readonly ndmState: number;
  readonly ndmFlags: number;
  readonly ndmType: number;
}

export interface NeighbourAttributes extends WithUnknown {
  readonly dst?: string;
  readonly lladdr?: string;
  readonly cacheinfo?: Uint8Array;
  readonly probes?: number;
  readonly vlan?: number;
  /** UDP port of a remote VTEP, when not the device's. */
  readonly port?: number;
  readonly vni?: number;
  readonly ifindex?: number;
  readonly master?: number;
  readonly linkNetnsid?: number;
  readonly srcVni?: number;
  /** RTPROT_*: who made it. FDB entries of a VXLAN device do not keep it. */
  readonly protocol?: number;
  readonly nhId?: number;
  readonly flagsExt?: number;
}

export type Neighbour = NeighbourHeader & NeighbourAttributes;
export type NeighbourRequest = Partial<NeighbourHeader> & NeighbourAttributes;

export const neighbourFormat: MessageFormat<NeighbourHeader, NeighbourAttributes> = new MessageFormat<
  NeighbourHeader,
  NeighbourAttributes
>(
  'neighbour',
  12,
  { ndmFamily: [0, 'u8'], ndmIfindex: [4, 's32'], ndmState: [8, 'u16'], ndmFlags: [10, 'u8'], ndmType: [11, 'u8'] },
  new AttributeSet<NeighbourAttributes>({
    dst: [1, ip],
    lladdr: [2, lladdr],
    cacheinfo: [3, binary],
    probes: [4, u32],
    vlan: [5, u16],
    port: [6, be16],
    vni: [7, u32],
    ifindex: [8, u32],
    master: [9, u32],
    linkNetnsid: [10, s32],
    srcVni: [11, u32],
    protocol: [12, u8],
    nhId: [13, u32],
    flagsExt: [15, u32],
  }),
);

function request(name: string, type: number, flags: number, message: NeighbourRequest): NetlinkRequest<Neighbour> {
  return { name, type, flags, format: neighbourFormat, message };
}

function complete(neighbour: NeighbourRequest): NeighbourRequest {
  if (neighbour.ndmFamily !== undefined || neighbour.dst === undefined) return neighbour;
  return { ndmFamily: familyOf(neighbour.dst), ...neighbour };
}

const orReplace: CreateOptions = { replace: true };

/** RTM_NEWNEIGH of `dst` on `ndmIfindex`; creates or replaces, permanent unless `ndmState` says otherwise. */
export function newNeighbour(
  neighbour: NeighbourRequest,
  options: CreateOptions = orReplace,
): NetlinkRequest<Neighbour> {
  const message = complete({ ndmState: neighbourState.permanent, ...neighbour });
  return request('newNeighbour', neighbourMessage.new, createFlags(options), message);
}

/** The neighbour `dst` on `ndmIfindex`; ENOENT where there is none. */
export function getNeighbour(neighbour: NeighbourRequest): NetlinkRequest<Neighbour> {
  return request('getNeighbour', neighbourMessage.get, 0, complete(neighbour));
}

/** RTM_DELNEIGH; ENOENT where there is none. */
export function delNeighbour(neighbour: NeighbourRequest): NetlinkRequest<Neighbour> {
  return request('delNeighbour', neighbourMessage.delete, 0, complete(neighbour));
}

/** All neighbours; `ndmFamily`, `ifindex` and `master` filter in the kernel. */
export function dumpNeighbours(
  filter: Partial<Pick<NeighbourHeader, 'ndmFamily'>> & Pick<NeighbourAttributes, 'ifindex' | 'master'> = {},
): NetlinkRequest<Neighbour> {
  return request('dumpNeighbours', neighbourMessage.get, messageFlag.dump, filter);
}

function completeFdb(entry: NeighbourRequest): NeighbourRequest {
  return { ndmFamily: addressFamily.bridge, ndmFlags: neighbourFlag.self, ...entry };
}

/** An FDB entry: `lladdr` on the device `ndmIfindex` itself (NTF_SELF), permanent; on a VXLAN device behind the VTEP `dst`. */
export function newFdb(entry: NeighbourRequest, options: CreateOptions = orReplace): NetlinkRequest<Neighbour> {
  const message = completeFdb({ ndmState: neighbourState.permanent, ...entry });
  return request('newFdb', neighbourMessage.new, createFlags(options), message);
}

export function delFdb(entry: NeighbourRequest): NetlinkRequest<Neighbour> {
  return request('delFdb', neighbourMessage.delete, 0, completeFdb(entry));
}

/** FDB entries of one device (`ndmIfindex`), or of a bridge's ports (`master`), or all. */
export function dumpFdb(
  filter: Partial<Pick<NeighbourHeader, 'ndmIfindex'>> & Pick<NeighbourAttributes, 'master'> = {},
): NetlinkRequest<Neighbour> {
  return request('dumpFdb', neighbourMessage.get, messageFlag.dump, { ndmFamily: addressFamily.bridge, ...filter });
}
