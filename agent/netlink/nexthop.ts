// Nexthop objects (linux/nexthop.h). They have no YNL spec: header fields are the struct's, attributes NHA_* camel-cased.

import { AttributeSet, binary, flag, ip, u16, u32, type Codec, type WithUnknown } from './attributes.ts';
import { addressFamily, familyOf } from './ip-text.ts';
import { createFlags, messageFlag, MessageFormat, type CreateOptions, type NetlinkRequest } from './message.ts';
import { malformed, nestedBit, readU32 } from './wire.ts';

export const nexthopMessage = { new: 104, delete: 105, get: 106 } as const;

export interface NexthopHeader {
  readonly nhFamily: number;
  readonly nhScope: number;
  readonly nhProtocol: number;
  readonly nhFlags: number;
}

/** One member of a group; `weight` counts from 1. */
export interface NexthopGroupEntry {
  readonly id: number;
  readonly weight: number;
}

export interface NexthopAttributes extends WithUnknown {
  readonly id?: number;
  readonly group?: readonly NexthopGroupEntry[];
  readonly groupType?: number;
  readonly blackhole?: true;
  readonly oif?: number;
  readonly gateway?: string;
  readonly encapType?: number;
  readonly encap?: Uint8Array;
  readonly groups?: true;
  readonly master?: number;
  readonly fdb?: true;
}

export type Nexthop = NexthopHeader & NexthopAttributes;
export type NexthopRequest = Partial<NexthopHeader> & NexthopAttributes;

const groupEntryBytes = 8;

const group: Codec<readonly NexthopGroupEntry[]> = {
  write(writer, entries) {
    for (const entry of entries) {
      writer.u32(entry.id);
      writer.u8(entry.weight - 1);
      writer.zeros(3);
    }
  },
  read(bytes, start, end) {
    if ((end - start) % groupEntryBytes !== 0) throw malformed(`nexthop group of ${end - start} bytes`);
    const entries: NexthopGroupEntry[] = [];
    for (let at = start; at < end; at += groupEntryBytes) {
      entries.push({ id: readU32(bytes, at), weight: bytes.readUInt8(at + 4) + 1 });
    }
    return entries;
  },
};

/** The kernel refuses NHA_ENCAP without the nested bit. */
const encap: Codec<Uint8Array> = { ...binary, typeBits: nestedBit };

export const nexthopFormat: MessageFormat<NexthopHeader, NexthopAttributes> = new MessageFormat<
  NexthopHeader,
  NexthopAttributes
>(
  'nexthop',
  8,
  { nhFamily: [0, 'u8'], nhScope: [1, 'u8'], nhProtocol: [2, 'u8'], nhFlags: [4, 'u32'] },
  new AttributeSet<NexthopAttributes>({
    id: [1, u32],
    group: [2, group],
    groupType: [3, u16],
    blackhole: [4, flag],
    oif: [5, u32],
    gateway: [6, ip],
    encapType: [7, u16],
    encap: [8, encap],
    groups: [9, flag],
    master: [10, u32],
    fdb: [11, flag],
  }),
);

function complete(request: NexthopRequest): NexthopRequest {
  if (request.nhFamily !== undefined || request.group !== undefined) return request;
  return { nhFamily: request.gateway === undefined ? addressFamily.inet : familyOf(request.gateway), ...request };
}

/** RTM_NEWNEXTHOP. The family is the gateway's, IPv4 without one. `replace` changes it under the routes that use it. */
export function newNexthop(nexthop: NexthopRequest, options: CreateOptions = {}): NetlinkRequest<Nexthop> {
  const flags = createFlags(options);
  return { name: 'newNexthop', type: nexthopMessage.new, flags, format: nexthopFormat, message: complete(nexthop) };
}

/** RTM_DELNEXTHOP; routes that use it go with it. ENOENT where there is none. */
export function delNexthop(id: number): NetlinkRequest<Nexthop> {
  return { name: 'delNexthop', type: nexthopMessage.delete, flags: 0, format: nexthopFormat, message: { id } };
}

export function getNexthop(id: number): NetlinkRequest<Nexthop> {
  return { name: 'getNexthop', type: nexthopMessage.get, flags: 0, format: nexthopFormat, message: { id } };
}

/** All nexthops; `oif`, `master`, `groups` and `fdb` filter in the kernel, protocols do not. */
export function dumpNexthops(
  filter: Pick<NexthopAttributes, 'oif' | 'master' | 'groups' | 'fdb'> = {},
): NetlinkRequest<Nexthop> {
  return {
    name: 'dumpNexthops',
    type: nexthopMessage.get,
    flags: messageFlag.dump,
    format: nexthopFormat,
    message: filter,
  };
}
