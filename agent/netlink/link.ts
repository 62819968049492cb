// Links: rt-link of the kernel's YNL specs (linux/if_link.h, linux/rtnetlink.h). Kinds with own data: veth, vxlan, bridge;
// every other kind keeps its data as bytes.

import {
  AttributeSet,
  type AttributeTable,
  binary,
  lladdr,
  s32,
  string,
  u32,
  u8,
  type Codec,
  type WithUnknown,
} from './attributes.ts';
import {
  bridgeData,
  bridgePortData,
  vxlanData,
  type BridgeData,
  type BridgePortData,
  type VxlanData,
} from './link-kinds.ts';
import { ifaceSpec, type AddressFamilySpec } from './link-af-spec.ts';
import { addressFamily } from './ip-text.ts';
import {
  createFlags,
  messageFlag,
  MessageFormat,
  type AnyFormat,
  type CreateOptions,
  type HeaderTable,
  type NetlinkRequest,
} from './message.ts';
import { eachAttribute, type Writer } from './wire.ts';

export const linkMessage = { new: 16, delete: 17, get: 18, set: 19 } as const;

/** IFF_* (linux/if.h). */
export const linkFlag = {
  up: 0x1,
  broadcast: 0x2,
  loopback: 0x8,
  pointopoint: 0x10,
  running: 0x40,
  noarp: 0x80,
  promisc: 0x100,
  allmulti: 0x200,
  multicast: 0x1000,
  lowerUp: 0x10000,
} as const;

/** Ifindex of `lo` in every namespace (net/core/dev.c, LOOPBACK_IFINDEX). */
export const loopbackIfindex = 1;

/** Whether the link is switched on (IFF_UP). */
export function isUp({ ifiFlags }: { readonly ifiFlags: number }): boolean {
  return (ifiFlags & linkFlag.up) !== 0;
}

/** IFLA_EXT_MASK bits. */
export const linkExtMask = { vf: 1, brvlan: 2, skipStats: 8 } as const;

export interface LinkHeader {
  readonly ifiFamily: number;
  readonly ifiType: number;
  readonly ifiIndex: number;
  readonly ifiFlags: number;
  /** Which bits of ifiFlags a request changes. */
  readonly ifiChange: number;
}

/** The veth's other end: a whole link of its own. `ifiFlags` must stay 0 (IFF_UP here fails with ENOTCONN). */
export interface VethData {
  readonly peer?: Partial<LinkHeader> & LinkAttributes;
}

/** What the link is to its master. */
export interface PortInfo extends WithUnknown {
  /** `bridge`, `bond`, … */
  readonly slaveKind?: string;
  /** Of a bridge's port. In a request the link must be one already. */
  readonly slaveData?: BridgePortData;
}

export type LinkInfo =
  | ({ readonly kind: 'veth'; readonly data?: VethData } & PortInfo)
  | ({ readonly kind: 'vxlan'; readonly data?: VxlanData } & PortInfo)
  | ({ readonly kind: 'bridge'; readonly data?: BridgeData } & PortInfo)
  | ({ readonly kind: 'other'; readonly kindName: string; readonly data?: Uint8Array } & PortInfo);

export interface LinkAttributes extends WithUnknown {
  readonly address?: string;
  readonly broadcast?: string;
  readonly ifname?: string;
  /** Bytes. */
  readonly mtu?: number;
  /** Ifindex of the lower device, or of a veth's other end (in the namespace linkNetnsid, when given). */
  readonly link?: number;
  readonly qdisc?: string;
  /** Ifindex of the bridge or bond this link is a port of; 0 in a request takes it out. */
  readonly master?: number;
  readonly operstate?: number;
  readonly linkmode?: number;
  readonly linkinfo?: LinkInfo;
  readonly netNsPid?: number;
  /** For setLink only: newLink ignores it. */
  readonly ifalias?: string;
  /** For setLink only: newLink is refused with it. */
  readonly afSpec?: AddressFamilySpec;
  readonly group?: number;
  readonly netNsFd?: number;
  readonly extMask?: number;
  readonly promiscuity?: number;
  readonly numTxQueues?: number;
  readonly numRxQueues?: number;
  readonly txqlen?: number;
  readonly carrier?: number;
  readonly gsoMaxSegs?: number;
  readonly gsoMaxSize?: number;
  readonly linkNetnsid?: number;
  /** In a request: the link is one of that namespace, by the id that the socket's has for it. */
  readonly targetNetnsid?: number;
  readonly minMtu?: number;
  readonly maxMtu?: number;
  readonly altIfname?: string;
}

export type Link = LinkHeader & LinkAttributes;
/** A link as a request names it: by `ifiIndex` or `ifname`. */
export type LinkRequest = Partial<LinkHeader> & LinkAttributes;

const vethInfoPeer = 1;

const vethData: Codec<VethData> = {
  write(writer, value) {
    if (value.peer === undefined) return;
    const at = writer.open(vethInfoPeer);
    linkFormat.write(writer, value.peer);
    writer.close(at);
  },
  read(bytes, start, end) {
    let peer: Link | undefined;
    eachAttribute(bytes, start, end, (type, from, to) => {
      if (type === vethInfoPeer) peer = linkFormat.read(bytes, from, to);
    });
    return peer === undefined ? {} : { peer };
  },
};

interface RawInfo extends WithUnknown {
  readonly kind?: string;
  readonly data?: Uint8Array;
  readonly slaveKind?: string;
  readonly slaveData?: Uint8Array;
}

const rawInfo: AttributeSet<RawInfo> = new AttributeSet<RawInfo>({
  kind: [1, string],
  data: [2, binary],
  slaveKind: [4, string],
  slaveData: [5, binary],
});
const infoSlaveData = 5;

const infoKind = 1;
const infoData = 2;

function writeInfo(writer: Writer, value: LinkInfo): void {
  const kindName = value.kind === 'other' ? value.kindName : value.kind;
  const kindAt = writer.open(infoKind);
  writer.string(kindName);
  writer.close(kindAt);
  if (value.data !== undefined) {
    const dataAt = writer.open(infoData);
    if (value.kind === 'veth') vethData.write(writer, value.data);
    else if (value.kind === 'vxlan') vxlanData.write(writer, value.data);
    else if (value.kind === 'bridge') bridgeData.write(writer, value.data);
    else writer.raw(value.data);
    writer.close(dataAt);
  }
  rawInfo.write(writer, {
    ...(value.slaveKind === undefined ? {} : { slaveKind: value.slaveKind }),
    ...(value.unknown === undefined ? {} : { unknown: value.unknown }),
  });
  if (value.slaveData === undefined) return;
  const slaveAt = writer.open(infoSlaveData);
  bridgePortData.write(writer, value.slaveData);
  writer.close(slaveAt);
}

/** Only a bridge's port data is known here; of another master they are kept as they came. */
function portInfo({ slaveKind, slaveData, unknown = [] }: RawInfo): PortInfo {
  const bytes = slaveData === undefined ? undefined : Buffer.from(slaveData);
  const kept =
    bytes !== undefined && slaveKind !== 'bridge' ? [...unknown, { type: infoSlaveData, payload: bytes }] : unknown;
  return {
    ...(slaveKind === undefined ? {} : { slaveKind }),
    ...(bytes !== undefined && slaveKind === 'bridge'
      ? { slaveData: bridgePortData.read(bytes, 0, bytes.length) }
      : {}),
    ...(kept.length === 0 ? {} : { unknown: kept }),
  };
}

function readInfo(bytes: Buffer, start: number, end: number): LinkInfo {
  const raw = rawInfo.read(bytes, start, end);
  const rest = portInfo(raw);
  const kind = raw.kind ?? '';
  const data = raw.data === undefined ? undefined : Buffer.from(raw.data);
  if (kind === 'veth')
    return data === undefined ? { kind, ...rest } : { kind, data: vethData.read(data, 0, data.length), ...rest };
  if (kind === 'vxlan')
    return data === undefined ? { kind, ...rest } : { kind, data: vxlanData.read(data, 0, data.length), ...rest };
  if (kind === 'bridge')
    return data === undefined ? { kind, ...rest } : { kind, data: bridgeData.read(data, 0, data.length), ...rest };
  return { kind: 'other', kindName: kind, ...(raw.data === undefined ? {} : { data: raw.data }), ...rest };
}

const linkInfo: Codec<LinkInfo> = { write: writeInfo, read: readInfo };

const table: AttributeTable<LinkAttributes> = {
  address: [1, lladdr],
  broadcast: [2, lladdr],
  ifname: [3, string],
  mtu: [4, u32],
  link: [5, u32],
  qdisc: [6, string],
  master: [10, u32],
  txqlen: [13, u32],
  operstate: [16, u8],
  linkmode: [17, u8],
  linkinfo: [18, linkInfo],
  netNsPid: [19, u32],
  ifalias: [20, string],
  afSpec: [26, ifaceSpec],
  group: [27, u32],
  netNsFd: [28, u32],
  extMask: [29, u32],
  promiscuity: [30, u32],
  numTxQueues: [31, u32],
  numRxQueues: [32, u32],
  carrier: [33, u8],
  linkNetnsid: [37, s32],
  gsoMaxSegs: [40, u32],
  gsoMaxSize: [41, u32],
  targetNetnsid: [46, s32],
  minMtu: [50, u32],
  maxMtu: [51, u32],
  altIfname: [53, string],
};

const headerFields: HeaderTable<LinkHeader> = {
  ifiFamily: [0, 'u8'],
  ifiType: [2, 'u16'],
  ifiIndex: [4, 's32'],
  ifiFlags: [8, 'u32'],
  ifiChange: [12, 'u32'],
};

const { afSpec: _afSpec, ...bridgePortTable } = table;

/** A bridge port's notification (family AF_BRIDGE) has VLANs where other links have their address families: kept as unknown. */
const bridgePortFormat: MessageFormat<LinkHeader, Omit<LinkAttributes, 'afSpec'>> = new MessageFormat(
  'bridge port',
  16,
  headerFields,
  new AttributeSet<Omit<LinkAttributes, 'afSpec'>>(bridgePortTable),
);

class LinkFormat extends MessageFormat<LinkHeader, LinkAttributes> {
  override read(bytes: Buffer, start: number, end: number): Link {
    if (bytes[start] === addressFamily.bridge) return bridgePortFormat.read(bytes, start, end);
    return super.read(bytes, start, end);
  }
}

export const linkFormat: MessageFormat<LinkHeader, LinkAttributes> = new LinkFormat(
  'link',
  16,
  headerFields,
  new AttributeSet<LinkAttributes>(table),
);

/** What most readers of a link look at. The kernel tells five times as much, and reading all of it is a good part of an ADD. */
export type LinkSummary = LinkHeader &
  Pick<LinkAttributes, 'address' | 'group' | 'ifalias' | 'ifname' | 'link' | 'master' | 'mtu' | 'operstate'>;

const { address, group, ifalias, ifname, link, linkinfo, linkNetnsid, master, mtu, operstate } = table;

/** Reads no other attribute; for writing use `linkFormat`. */
export const linkSummaryFormat: MessageFormat<LinkHeader, Omit<LinkSummary, keyof LinkHeader>> = new MessageFormat(
  'link',
  16,
  headerFields,
  new AttributeSet<Omit<LinkSummary, keyof LinkHeader>>(
    { address, group, ifalias, ifname, link, master, mtu, operstate },
    { keepsUnknown: false },
  ),
);

/** The same request, of whose answers only the summary is read. */
export function summarized(request: NetlinkRequest<Link>): NetlinkRequest<LinkSummary> {
  return { ...request, format: summaryAnswer };
}

/** Writes as `linkFormat`, reads less. */
function answerFormat<Answer>(format: AnyFormat<Answer>): AnyFormat<Answer> {
  return {
    name: linkFormat.name,
    write: (writer, message) => linkFormat.write(writer, message),
    read: (bytes, start, end) => format.read(bytes, start, end),
  };
}

function only<Attributes extends object>(attributes: AttributeTable<Attributes>): AnyFormat<LinkHeader & Attributes> {
  const set = new AttributeSet<Attributes>(attributes, { keepsUnknown: false });
  return answerFormat(new MessageFormat('link', 16, headerFields, set));
}

const summaryAnswer = answerFormat<LinkSummary>(linkSummaryFormat);
/** Both ends of a veth: `ifiIndex`, and `link` in the namespace `linkNetnsid`. */
export type LinkEnds = LinkHeader & Pick<LinkAttributes, 'link' | 'linkNetnsid'>;
/** Reads no other attribute. */
export const linkEndsFormat: AnyFormat<LinkEnds> = only<Pick<LinkAttributes, 'link' | 'linkNetnsid'>>({
  link,
  linkNetnsid,
});

/** The same request, of whose answers only the two ends are read. */
export function withEnds(request: NetlinkRequest<Link>): NetlinkRequest<LinkEnds> {
  return { ...request, format: linkEndsFormat };
}

/** What tells whose a link is. */
export type LinkOwner = LinkHeader & Pick<LinkAttributes, 'group' | 'ifalias' | 'ifname' | 'linkinfo'>;
const linkOwnerFormat = only<Pick<LinkAttributes, 'group' | 'ifalias' | 'ifname' | 'linkinfo'>>({
  group,
  ifalias,
  ifname,
  linkinfo,
});

/** The same request, of whose answers only that is read. */
export function withOwner(request: NetlinkRequest<Link>): NetlinkRequest<LinkOwner> {
  return { ...request, format: linkOwnerFormat };
}

function request(name: string, type: number, flags: number, message: LinkRequest): NetlinkRequest<Link> {
  return { name, type, flags, format: linkFormat, message };
}

/** RTM_NEWLINK. With `echo` (kernel 6.2 and newer) the answer is the link as made: `ifiIndex`, and `link`, a veth's other end. */
export function newLink(link: LinkRequest, options: CreateOptions = {}): NetlinkRequest<Link> {
  return request('newLink', linkMessage.new, createFlags(options), link);
}

/** RTM_NEWLINK on a link that exists, by `ifiIndex` or `ifname`; `ifiFlags` needs its bits in `ifiChange`. */
export function setLink(link: LinkRequest, options: { readonly echo?: boolean } = {}): NetlinkRequest<Link> {
  return request('setLink', linkMessage.new, options.echo === true ? messageFlag.echo : 0, link);
}

/** RTM_DELLINK by `ifiIndex`, `ifname`, or every member of `group`. */
export function delLink(link: LinkRequest): NetlinkRequest<Link> {
  return request('delLink', linkMessage.delete, 0, link);
}

/** RTM_GETLINK of one link, by `ifiIndex` or `ifname`; ENODEV where there is none. */
export function getLink(link: LinkRequest): NetlinkRequest<Link> {
  return request('getLink', linkMessage.get, 0, { extMask: linkExtMask.skipStats, ...link });
}

/** All links; `linkinfo: { kind }` and `master` filter in the kernel. */
export function dumpLinks(filter: LinkRequest = {}): NetlinkRequest<Link> {
  return request('dumpLinks', linkMessage.get, messageFlag.dump, { extMask: linkExtMask.skipStats, ...filter });
}
