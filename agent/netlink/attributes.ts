// Table-driven attribute codecs: a family's table says for each key its number and codec; this file turns a table into a
// reader and a writer. Unknown attributes are kept unless a table says otherwise, a wrong length throws, keys are written in the order in which the object holds them.

import { readIp, readLladdr } from './ip-text.ts';
import {
  eachAttribute,
  malformed,
  nestedBit,
  readS32,
  readU16,
  readU32,
  readU64,
  type UnknownAttribute,
  type Writer,
} from './wire.ts';

/** Writes and reads one attribute's payload. `typeBits` is added to the attribute's number, for nested ones that need the flag. */
export interface Codec<Value> {
  readonly typeBits?: number;
  write(writer: Writer, value: Value): void;
  read(bytes: Buffer, start: number, end: number): Value;
}

/** What every decoded set of attributes may hold besides its own keys. */
export interface WithUnknown {
  readonly unknown?: readonly UnknownAttribute[];
}

export type AttributeTable<Attributes> = {
  readonly [Key in Exclude<keyof Attributes, 'unknown'>]-?: readonly [
    type: number,
    codec: Codec<NonNullable<Attributes[Key]>>,
  ];
};

interface Entry {
  readonly key: string;
  readonly type: number;
  readonly codec: Codec<unknown>;
}

/** A table made ready. `write` ignores keys that are not the table's: a message object holds its header's fields too. */
export class AttributeSet<Attributes extends object> {
  readonly #byKey: Record<string, Entry | undefined> = Object.create(null) as Record<string, Entry>;
  readonly #byType: (Entry | undefined)[] = [];
  readonly #keepsUnknown: boolean;
  readonly #count: number;

  /** `keepsUnknown`: attributes that the table does not know are read too, as bytes. Else reading ends with the last that it knows. */
  constructor(table: AttributeTable<Attributes>, { keepsUnknown = true }: { readonly keepsUnknown?: boolean } = {}) {
    this.#keepsUnknown = keepsUnknown;
    const entries = Object.entries(table);
    this.#count = keepsUnknown ? Infinity : entries.length;
    for (const [key, value] of entries) {
      const [type, codec] = value as readonly [number, Codec<unknown>];
      const entry: Entry = { key, type: type | (codec.typeBits ?? 0), codec };
      this.#byKey[key] = entry;
      this.#byType[type] = entry;
    }
  }

  write(writer: Writer, attributes: Attributes): void {
    const values = attributes as Readonly<Record<string, unknown>>;
    // for-in over a plain object allocates nothing, unlike Object.entries: this runs for every message of a full reconciliation.
    for (const key in values) {
      const entry = this.#byKey[key];
      const value = values[key];
      if (entry === undefined || value === undefined) continue;
      const at = writer.open(entry.type);
      entry.codec.write(writer, value);
      writer.close(at);
    }
    const { unknown } = attributes as WithUnknown;
    if (unknown === undefined) return;
    for (const attribute of unknown) {
      const at = writer.open(attribute.type);
      writer.raw(attribute.payload);
      writer.close(at);
    }
  }

  /** Reads into `target`, or a new object. Throws WeftError `kernel` when malformed. */
  read(bytes: Buffer, start: number, end: number, target: Record<string, unknown> = {}): Attributes {
    let unknown: UnknownAttribute[] | undefined;
    let missing = this.#count;
    eachAttribute(bytes, start, end, (type, from, to, rawType) => {
      const entry = this.#byType[type];
      if (entry !== undefined) {
        target[entry.key] = entry.codec.read(bytes, from, to);
        return --missing === 0 ? 'enough' : undefined;
      }
      if (!this.#keepsUnknown) return undefined;
      unknown ??= [];
      unknown.push({ type: rawType, payload: new Uint8Array(bytes.subarray(from, to)) });
      return undefined;
    });
    if (unknown !== undefined) target['unknown'] = unknown;
    return target as Attributes;
  }
}

function expectLength(start: number, end: number, length: number): void {
  if (end - start !== length) throw malformed(`payload of ${end - start} bytes where ${length} are needed`);
}

function fixed<Value>(
  length: number,
  write: (writer: Writer, value: Value) => void,
  read: (bytes: Buffer, at: number) => Value,
): Codec<Value> {
  return {
    write,
    read(bytes, start, end) {
      expectLength(start, end, length);
      return read(bytes, start);
    },
  };
}

export const u8: Codec<number> = fixed(
  1,
  (writer, value) => writer.u8(value),
  (bytes, at) => bytes.readUInt8(at),
);
export const u16: Codec<number> = fixed(2, (writer, value) => writer.u16(value), readU16);
export const u32: Codec<number> = fixed(4, (writer, value) => writer.u32(value), readU32);
export const s32: Codec<number> = fixed(4, (writer, value) => writer.u32(value), readS32);
export const u64: Codec<bigint> = fixed(8, (writer, value) => writer.u64(value), readU64);
export const be16: Codec<number> = fixed(
  2,
  (writer, value) => writer.be16(value),
  (bytes, at) => bytes.readUInt16BE(at),
);
export const be32: Codec<number> = fixed(
  4,
  (writer, value) => writer.be32(value),
  (bytes, at) => bytes.readUInt32BE(at),
);
/** Network byte order, signed: nftables verdict codes. */
export const beS32: Codec<number> = fixed(
  4,
  (writer, value) => writer.be32(value),
  (bytes, at) => bytes.readInt32BE(at),
);
export const be64: Codec<bigint> = fixed(
  8,
  (writer, value) => writer.be64(value),
  (bytes, at) => bytes.readBigUInt64BE(at),
);
/** A u8 that is a truth value. */
export const bool8: Codec<boolean> = fixed(
  1,
  (writer, value) => writer.u8(value ? 1 : 0),
  (bytes, at) => bytes.readUInt8(at) !== 0,
);

/** There or not, without payload. `false` cannot be written: leave the key out. */
export const flag: Codec<true> = {
  write: () => undefined,
  read: () => true,
};

/** NUL-terminated UTF-8; read up to the first NUL or the end. */
export const string: Codec<string> = {
  write: (writer, value) => writer.string(value),
  read(bytes, start, end) {
    const nul = bytes.indexOf(0, start);
    return bytes.toString('utf8', start, nul === -1 || nul > end ? end : nul);
  },
};

export const binary: Codec<Uint8Array> = {
  write: (writer, value) => writer.raw(value),
  read: (bytes, start, end) => new Uint8Array(bytes.subarray(start, end)),
};

/** An IPv4 or IPv6 address as text, told apart by length. */
export const ip: Codec<string> = {
  write: (writer, value) => writer.ip(value),
  read(bytes, start, end) {
    const text = readIp(bytes, start, end);
    if (text === undefined) throw malformed(`IP address of ${end - start} bytes`);
    return text;
  },
};

/** A hardware address of any length as lower-case, colon-separated text. */
export const lladdr: Codec<string> = {
  write: (writer, value) => writer.lladdr(value),
  read: readLladdr,
};

/** Attributes inside an attribute. */
export function nested<Attributes extends object>(
  set: AttributeSet<Attributes>,
  options: { readonly flagged?: boolean } = {},
): Codec<Attributes> {
  return {
    typeBits: options.flagged === true ? nestedBit : 0,
    write: (writer, value) => set.write(writer, value),
    read: (bytes, start, end) => set.read(bytes, start, end),
  };
}

/** A list whose every item is an attribute of number `type` (NFTA_LIST_ELEM). */
export function listOf<Value>(type: number, codec: Codec<Value>): Codec<readonly Value[]> {
  return {
    typeBits: nestedBit,
    write(writer, values) {
      for (const value of values) {
        const at = writer.open(type | (codec.typeBits ?? 0));
        codec.write(writer, value);
        writer.close(at);
      }
    },
    read(bytes, start, end) {
      const values: Value[] = [];
      eachAttribute(bytes, start, end, (_type, from, to) => void values.push(codec.read(bytes, from, to)));
      return values;
    },
  };
}
