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
import { formatOf, writeBytes, writeHeader, writeText } from './direct-writes.ts';
import { createFlags, messageFlag, MessageFormat, type NetlinkRequest } from './message.ts';
import { nfnetlinkSubsystem, type NfgenHeader } from './transaction.ts';
import { nestedBit, Writer } from './wire.ts';

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

export interface SetElement extends WithUnknown {
  readonly key?: ElementData;
  /** A map's data. */
  readonly data?: ElementData;
  /** NFT_SET_ELEM_*. */
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

/** Where keys are put together. */
export const keyWriter: Writer = new Writer(64);

/** A key's bytes, each field padded to 4 bytes as in a concatenation; a lone field is not padded. Throws WeftError. */
export function setKey(...fields: readonly KeyField[]): Uint8Array {
  const writer = keyWriter;
  writer.length = 0;
  for (const field of fields) {
    if ('ip' in field) writer.ip(field.ip);
    else if ('port' in field) writer.be16(field.port);
    else if ('protocol' in field) writer.u8(field.protocol);
    else if ('mark' in field) writer.u32(field.mark);
    else if ('ether' in field) writer.lladdr(field.ether);
    else writeIfname(writer, field.ifname);
    if (fields.length > 1) writer.pad();
  }
  return keyOf(writer);
}

/** What has been written, as a key of its own. */
export function keyOf({ bytes, length }: Writer): Uint8Array {
  const key = new Uint8Array(length);
  for (let i = 0; i < length; i += 1) key[i] = bytes[i] ?? 0;
  return key;
}

export function writeIfname(writer: Writer, ifname: string): void {
  const at = writer.length;
  writer.string(ifname);
  const rest = at + ifnameBytes - writer.length;
  if (rest < 0) throw new WeftError('internal', `interface name "${ifname}" is longer than 15 bytes`);
  writer.zeros(rest);
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

function writeElement(writer: Writer, spec: ElementSpec): void {
  const element = writer.open(1 | nestedBit);
  writeKey(writer, 1, spec.key);
  if (spec.keyEnd !== undefined) writeKey(writer, 10, spec.keyEnd);
  if (spec.value !== undefined) writeKey(writer, 2, spec.value);
  if (spec.verdict !== undefined) {
    const data = writer.open(2 | nestedBit);
    const verdict = writer.open(2 | nestedBit);
    const code = writer.open(1);
    writer.be32(verdictCode[spec.verdict]);
    writer.close(code);
    if (spec.chain !== undefined) writeText(writer, 2, spec.chain);
    writer.close(verdict);
    writer.close(data);
  }
  if (spec.flags !== undefined) {
    const flags = writer.open(3);
    writer.be32(spec.flags);
    writer.close(flags);
  }
  if (spec.timeoutMs !== undefined) {
    const timeout = writer.open(4);
    writer.be64(BigInt(spec.timeoutMs));
    writer.close(timeout);
  }
  writer.close(element);
}

/** A key, or a map's value: NFTA_DATA_VALUE inside. */
function writeKey(writer: Writer, type: number, bytes: Uint8Array): void {
  const at = writer.open(type | nestedBit);
  writeBytes(writer, 1, bytes);
  writer.close(at);
}

interface ElementSpecs extends SetAddress {
  readonly elements: readonly ElementSpec[];
}

/** Says what `elementListFormat` would; straight into the buffer, because each start of a pod waits for it. */
const elementSpecsFormat = formatOf<ElementSpecs, ElementList>(
  elementListFormat.name,
  (writer, { family, table, set, elements }) => {
    writer.bytes[writeHeader(writer, 4)] = family ?? tableFamily.inet; // struct nfgenmsg
    writeText(writer, 1, table);
    writeText(writer, 2, set);
    const list = writer.open(3 | nestedBit);
    for (const element of elements) writeElement(writer, element);
    writer.close(list);
  },
  (bytes, start, end) => elementListFormat.read(bytes, start, end),
);

/** NFTA_SET_ELEM_LIST_ELEMENTS is one attribute, 65,535 bytes at most: about this many elements fit, whatever their keys. */
export const maxElementsPerRequest = 300;

function request(
  name: string,
  type: number,
  flags: number,
  where: SetAddress,
  elements: readonly ElementSpec[],
): NetlinkRequest<ElementList> {
  const message = { ...where, elements };
  return { name, type: (nfnetlinkSubsystem.nftables << 8) | type, flags, format: elementSpecsFormat, message };
}

/** Adds elements; one that is there already is no error unless `exclusive`, or unless a map would give it other data. For `transaction`. */
export function newSetElement(
  where: SetAddress,
  elements: readonly ElementSpec[],
  options: { readonly exclusive?: boolean } = {},
): NetlinkRequest<ElementList> {
  const flags = createFlags({ exclusive: options.exclusive ?? false });
  return request('newSetElement', newSetElem, flags, where, elements);
}

/** Removes elements; ENOENT, and the whole transaction fails, where one is not there. For `transaction`. */
export function delSetElement(where: SetAddress, elements: readonly ElementSpec[]): NetlinkRequest<ElementList> {
  return request('delSetElement', delSetElem, 0, where, elements);
}

/** All elements of a set, for `dump`: each answer is a list. ENOENT where there is no such table or set. */
export function dumpSetElements(where: SetAddress): NetlinkRequest<ElementList> {
  const message = { nfgenFamily: where.family ?? tableFamily.inet, table: where.table, set: where.set };
  const type = (nfnetlinkSubsystem.nftables << 8) | getSetElem;
  return { name: 'dumpSetElements', type, flags: messageFlag.dump, format: elementListFormat, message };
}
