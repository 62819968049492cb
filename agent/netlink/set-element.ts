// nftables set and map elements straight over nfnetlink (linux/netfilter/nf_tables.h; NFTA_* names camel-cased): 0.2 ms for one
// element where libnftables takes 3.5. Keys and data are the kernel's registers: a concatenation pads every field to 4 bytes.

import { WeftError } from '#agent/errors.ts';

import {
  AttributeSet,
  be32,
  be64,
  beS32,
  binary,
  listOf,
  nested,
  string,
  type Codec,
  type WithUnknown,
} from './attributes.ts';
import { createFlags, messageFlag, MessageFormat, type NetlinkRequest } from './message.ts';
import { nfnetlinkSubsystem, type NfgenHeader } from './transaction.ts';
import { Writer } from './wire.ts';

/** NFPROTO_*: the table's family. */
export const tableFamily = { inet: 1, ipv4: 2, arp: 3, netdev: 5, bridge: 7, ipv6: 10 } as const;

/** Verdict codes (linux/netfilter.h, nf_tables.h). */
export const verdictCode = { drop: 0, accept: 1, continue: -1, break: -2, jump: -3, goto: -4, return: -5 } as const;

const newSetElem = 12;
const getSetElem = 13;
const delSetElem = 14;

export interface Verdict extends WithUnknown {
  readonly code?: number;
  readonly chain?: string;
}

export interface ElementData extends WithUnknown {
  readonly value?: Uint8Array;
  readonly verdict?: Verdict;
}

/** NFT_SET_ELEM_*. */
export const elementFlag = { intervalEnd: 1, catchall: 2 } as const;

export interface SetElement extends WithUnknown {
  readonly key?: ElementData;
  /** A map's data. */
  readonly data?: ElementData;
  readonly flags?: number;
  /** Milliseconds. */
  readonly timeout?: bigint;
  readonly expiration?: bigint;
  readonly userdata?: Uint8Array;
  /** The last key of the range that begins at `key`, in sets with `flags interval` and a concatenated key. */
  readonly keyEnd?: ElementData;
}

export interface ElementListAttributes extends WithUnknown {
  readonly table?: string;
  readonly set?: string;
  readonly elements?: readonly SetElement[];
  readonly setId?: number;
}

export type ElementList = NfgenHeader & ElementListAttributes;

const flagged = { flagged: true } as const;

const elementData: Codec<ElementData> = nested(
  new AttributeSet<ElementData>({
    value: [1, binary],
    verdict: [2, nested(new AttributeSet<Verdict>({ code: [1, beS32], chain: [2, string] }), flagged)],
  }),
  flagged,
);

const setElement: Codec<SetElement> = nested(
  new AttributeSet<SetElement>({
    key: [1, elementData],
    data: [2, elementData],
    flags: [3, be32],
    timeout: [4, be64],
    expiration: [5, be64],
    userdata: [6, binary],
    keyEnd: [10, elementData],
  }),
  flagged,
);

export const elementListFormat: MessageFormat<NfgenHeader, ElementListAttributes> = new MessageFormat<
  NfgenHeader,
  ElementListAttributes
>(
  'set elements',
  4,
  { nfgenFamily: [0, 'u8'], version: [1, 'u8'], resId: [2, 'u16'] },
  new AttributeSet<ElementListAttributes>({
    table: [1, string],
    set: [2, string],
    elements: [3, listOf(1, setElement)],
    setId: [4, be32],
  }),
);

/** One field of a key: what nft calls the set's type. */
export type KeyField =
  | { readonly ip: string } // ipv4_addr, ipv6_addr
  | { readonly ifname: string }
  | { readonly port: number } // inet_service
  | { readonly protocol: number } // inet_proto
  | { readonly mark: number } // host byte order
  | { readonly ether: string };

const ifnameBytes = 16;

/** A key's bytes, each field padded to 4 bytes as in a concatenation; a lone field is not padded. Throws WeftError. */
export function setKey(...fields: readonly KeyField[]): Uint8Array {
  const writer = new Writer(64);
  for (const field of fields) {
    if ('ip' in field) writer.ip(field.ip);
    else if ('port' in field) writer.be16(field.port);
    else if ('protocol' in field) writer.u8(field.protocol);
    else if ('mark' in field) writer.u32(field.mark);
    else if ('ether' in field) writer.lladdr(field.ether);
    else writeIfname(writer, field.ifname);
    if (fields.length > 1) writer.pad();
  }
  return new Uint8Array(writer.bytes.subarray(0, writer.length));
}

function writeIfname(writer: Writer, ifname: string): void {
  const bytes = Buffer.from(ifname);
  if (bytes.length >= ifnameBytes)
    throw new WeftError('internal', `interface name "${ifname}" is longer than 15 bytes`);
  writer.raw(bytes);
  writer.zeros(ifnameBytes - bytes.length);
}

export interface SetAddress {
  /** Default inet. */
  readonly family?: number;
  readonly table: string;
  readonly set: string;
}

export interface ElementSpec {
  readonly key: Uint8Array;
  readonly keyEnd?: Uint8Array;
  readonly verdict?: keyof typeof verdictCode;
  /** Target of jump and goto. */
  readonly chain?: string;
  /** A map's value. */
  readonly value?: Uint8Array;
  readonly flags?: number;
  readonly timeoutMs?: number;
}

function toElement(spec: ElementSpec): SetElement {
  const verdict =
    spec.verdict === undefined
      ? undefined
      : { code: verdictCode[spec.verdict], ...(spec.chain === undefined ? {} : { chain: spec.chain }) };
  return {
    key: { value: spec.key },
    ...(spec.keyEnd === undefined ? {} : { keyEnd: { value: spec.keyEnd } }),
    ...(verdict === undefined ? {} : { data: { verdict } }),
    ...(spec.value === undefined ? {} : { data: { value: spec.value } }),
    ...(spec.flags === undefined ? {} : { flags: spec.flags }),
    ...(spec.timeoutMs === undefined ? {} : { timeout: BigInt(spec.timeoutMs) }),
  };
}

/** NFTA_SET_ELEM_LIST_ELEMENTS is one attribute, 65,535 bytes at most: about this many elements fit, whatever their keys. */
export const maxElementsPerRequest = 300;

function request(
  name: string,
  type: number,
  flags: number,
  message: Partial<NfgenHeader> & ElementListAttributes,
): NetlinkRequest<ElementList> {
  return { name, type: (nfnetlinkSubsystem.nftables << 8) | type, flags, format: elementListFormat, message };
}

function listMessage(
  where: SetAddress,
  elements: readonly ElementSpec[],
): Partial<NfgenHeader> & ElementListAttributes {
  return {
    nfgenFamily: where.family ?? tableFamily.inet,
    table: where.table,
    set: where.set,
    elements: elements.map(toElement),
  };
}

/** Adds elements; one that is there already is no error unless `exclusive`, or unless a map would give it other data. For `transaction`. */
export function newSetElement(
  where: SetAddress,
  elements: readonly ElementSpec[],
  options: { readonly exclusive?: boolean } = {},
): NetlinkRequest<ElementList> {
  const flags = createFlags({ exclusive: options.exclusive ?? false });
  return request('newSetElement', newSetElem, flags, listMessage(where, elements));
}

/** Removes elements; ENOENT, and the whole transaction fails, where one is not there. For `transaction`. */
export function delSetElement(where: SetAddress, elements: readonly ElementSpec[]): NetlinkRequest<ElementList> {
  return request('delSetElement', delSetElem, 0, listMessage(where, elements));
}

/** All elements of a set, for `dump`: each answer is a list. ENOENT where there is no such table or set. */
export function dumpSetElements(where: SetAddress): NetlinkRequest<ElementList> {
  const message = { nfgenFamily: where.family ?? tableFamily.inet, table: where.table, set: where.set };
  return request('dumpSetElements', getSetElem, messageFlag.dump, message);
}
