// Connection tracking entries over ctnetlink (linux/netfilter/nfnetlink_conntrack.h; CTA_* names camel-cased): list by a part of
// a tuple, delete one. A tuple is what one direction's packets look like.

import { AttributeSet, be16, be32, ip, nested, u32, u8, type WithUnknown } from './attributes.ts';
import { addressFamily } from './ip-text.ts';
import { messageFlag, MessageFormat, type NetlinkRequest } from './message.ts';
import { nfnetlinkSubsystem, type NfgenHeader } from './transaction.ts';

const getEntry = 1;
const deleteEntry = 2;

/** CTA_TUPLE_IP. */
interface TupleIp extends WithUnknown {
  readonly v4Src?: string;
  readonly v4Dst?: string;
  readonly v6Src?: string;
  readonly v6Dst?: string;
}

/** CTA_TUPLE_PROTO; ports in host byte order. */
interface TupleProto extends WithUnknown {
  readonly num?: number;
  readonly srcPort?: number;
  readonly dstPort?: number;
}

export interface ConntrackTuple extends WithUnknown {
  readonly ip?: TupleIp;
  readonly proto?: TupleProto;
  readonly zone?: number;
}

interface ConntrackFilter extends WithUnknown {
  readonly origFlags?: number;
  readonly replyFlags?: number;
}

export interface ConntrackAttributes extends WithUnknown {
  readonly tupleOrig?: ConntrackTuple;
  readonly tupleReply?: ConntrackTuple;
  /** IPS_* (linux/netfilter/nf_conntrack_common.h). */
  readonly status?: number;
  /** Tells an entry from a later one with the same tuple. */
  readonly id?: number;
  readonly zone?: number;
  readonly filter?: ConntrackFilter;
}

export type ConntrackEntry = NfgenHeader & ConntrackAttributes;

const flagged = { flagged: true } as const;

const tuple = nested(
  new AttributeSet<ConntrackTuple>({
    ip: [
      1,
      nested(new AttributeSet<TupleIp>({ v4Src: [1, ip], v4Dst: [2, ip], v6Src: [3, ip], v6Dst: [4, ip] }), flagged),
    ],
    proto: [2, nested(new AttributeSet<TupleProto>({ num: [1, u8], srcPort: [2, be16], dstPort: [3, be16] }), flagged)],
    zone: [3, be16],
  }),
  flagged,
);

const conntrackFormat: MessageFormat<NfgenHeader, ConntrackAttributes> = new MessageFormat<
  NfgenHeader,
  ConntrackAttributes
>(
  'conntrack entry',
  4,
  { nfgenFamily: [0, 'u8'], version: [1, 'u8'], resId: [2, 'u16'] },
  new AttributeSet<ConntrackAttributes>({
    tupleOrig: [1, tuple],
    tupleReply: [2, tuple],
    status: [3, be32],
    id: [12, be32],
    zone: [18, be16],
    filter: [25, nested(new AttributeSet<ConntrackFilter>({ origFlags: [1, u32], replyFlags: [2, u32] }), flagged)],
  }),
);

/** CTA_FILTER_F_*: which fields of the tuple the kernel compares. */
const filterFlag = { ipSrc: 1, ipDst: 2, zone: 4, protoNum: 8, protoSrcPort: 16, protoDstPort: 32 } as const;

/** Part of a tuple: what is left out is not compared. */
export interface TuplePattern {
  readonly src?: string;
  readonly dst?: string;
  readonly protocol?: number;
  readonly srcPort?: number;
  readonly dstPort?: number;
}

function tupleOf(pattern: TuplePattern, family: number): ConntrackTuple {
  const [src, dst] = family === addressFamily.inet ? (['v4Src', 'v4Dst'] as const) : (['v6Src', 'v6Dst'] as const);
  return {
    ip: {
      ...(pattern.src === undefined ? {} : { [src]: pattern.src }),
      ...(pattern.dst === undefined ? {} : { [dst]: pattern.dst }),
    },
    proto: {
      ...(pattern.protocol === undefined ? {} : { num: pattern.protocol }),
      ...(pattern.srcPort === undefined ? {} : { srcPort: pattern.srcPort }),
      ...(pattern.dstPort === undefined ? {} : { dstPort: pattern.dstPort }),
    },
  };
}

function flagsOf(pattern: TuplePattern): number {
  return (
    (pattern.src === undefined ? 0 : filterFlag.ipSrc) |
    (pattern.dst === undefined ? 0 : filterFlag.ipDst) |
    (pattern.protocol === undefined ? 0 : filterFlag.protoNum) |
    (pattern.srcPort === undefined ? 0 : filterFlag.protoSrcPort) |
    (pattern.dstPort === undefined ? 0 : filterFlag.protoDstPort)
  );
}

/**
 * Entries whose original (or reply) direction looks like `pattern`, for `dump`. Kernels before 5.8 do not know the filter and list
 * every entry of the family: look at each answer.
 */
export function dumpConntrack(
  family: number,
  direction: 'orig' | 'reply',
  pattern: TuplePattern,
): NetlinkRequest<ConntrackEntry> {
  const ofTuple = tupleOf(pattern, family);
  const message =
    direction === 'orig'
      ? { tupleOrig: ofTuple, filter: { origFlags: flagsOf(pattern), replyFlags: 0 } }
      : { tupleReply: ofTuple, filter: { origFlags: 0, replyFlags: flagsOf(pattern) } };
  return request('dumpConntrack', getEntry, messageFlag.dump, { nfgenFamily: family, ...message });
}

/** Deletes the entry that a dump showed; ENOENT where it is gone. */
export function delConntrack(entry: ConntrackEntry): NetlinkRequest<ConntrackEntry> {
  const { nfgenFamily, tupleOrig, id, zone } = entry;
  return request('delConntrack', deleteEntry, 0, {
    nfgenFamily,
    ...(tupleOrig === undefined ? {} : { tupleOrig }),
    ...(zone === undefined ? {} : { zone }),
    ...(id === undefined ? {} : { id }),
  });
}

function request(
  name: string,
  type: number,
  flags: number,
  message: Partial<NfgenHeader> & ConntrackAttributes,
): NetlinkRequest<ConntrackEntry> {
  return { name, type: (nfnetlinkSubsystem.conntrack << 8) | type, flags, format: conntrackFormat, message };
}
