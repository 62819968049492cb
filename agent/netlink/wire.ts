// Bytes: a growing writer and bounds-checked readers in host byte order, and the walk over attributes. Every length that
// comes from outside is checked against its enclosure before it is used.
//
//   nlmsghdr(16) | family header | nlattr{len,type} payload pad | nlattr …        all aligned to 4

import { endianness } from 'node:os';

import { WeftError } from '#agent/errors.ts';

import { writeIp, writeLladdr } from './ip-text.ts';

const little = endianness() === 'LE';

export const nestedBit = 0x8000;
const typeMask = 0x3fff;

export function align(length: number): number {
  return (length + 3) & ~3;
}

export function malformed(what: string): WeftError {
  return new WeftError('kernel', `malformed netlink message: ${what}`);
}

export const readU16: (bytes: Buffer, at: number) => number = little
  ? (bytes, at) => bytes.readUInt16LE(at)
  : (bytes, at) => bytes.readUInt16BE(at);
export const readU32: (bytes: Buffer, at: number) => number = little
  ? (bytes, at) => bytes.readUInt32LE(at)
  : (bytes, at) => bytes.readUInt32BE(at);
export const readS32: (bytes: Buffer, at: number) => number = little
  ? (bytes, at) => bytes.readInt32LE(at)
  : (bytes, at) => bytes.readInt32BE(at);
export const readU64: (bytes: Buffer, at: number) => bigint = little
  ? (bytes, at) => bytes.readBigUInt64LE(at)
  : (bytes, at) => bytes.readBigUInt64BE(at);

/** An attribute that its table does not know: kept on decode, written back on encode. `type` includes the flag bits. */
export interface UnknownAttribute {
  readonly type: number;
  readonly payload: Uint8Array;
}

/** Appends values to one buffer that grows and is used again. */
export class Writer {
  bytes: Buffer;
  length = 0;

  constructor(capacityBytes = 4096) {
    this.bytes = Buffer.alloc(capacityBytes);
  }

  /** Room for `count` more bytes; returns where they go. */
  #take(count: number): number {
    const at = this.length;
    if (at + count > this.bytes.length) {
      const grown = Buffer.alloc(Math.max(this.bytes.length * 2, at + count));
      this.bytes.copy(grown, 0, 0, at);
      this.bytes = grown;
    }
    this.length = at + count;
    return at;
  }

  /** Room for `count` bytes that the caller fills; returns where they begin. */
  reserve(count: number): number {
    return this.#take(count);
  }

  /** The header and the padding of an attribute of `count` bytes, which the caller fills; returns where they begin. */
  attribute(type: number, count: number): number {
    const length = count + 4;
    const at = this.#take(align(length));
    if (length !== align(length)) this.setU32(at + (length & ~3), 0);
    this.setU16(at, length);
    this.setU16(at + 2, type);
    return at + 4;
  }

  u8(value: number): void {
    const at = this.#take(1);
    this.bytes[at] = value;
  }

  u16(value: number): void {
    const at = this.#take(2);
    this.setU16(at, value);
  }

  u32(value: number): void {
    const at = this.#take(4);
    this.setU32(at, value);
  }

  u64(value: bigint): void {
    const at = this.#take(8);
    if (little) this.bytes.writeBigUInt64LE(value, at);
    else this.bytes.writeBigUInt64BE(value, at);
  }

  be16(value: number): void {
    const at = this.#take(2);
    this.bytes.writeUInt16BE(value, at);
  }

  be32(value: number): void {
    const at = this.#take(4);
    this.bytes.writeUInt32BE(value >>> 0, at);
  }

  be64(value: bigint): void {
    const at = this.#take(8);
    this.bytes.writeBigUInt64BE(value, at);
  }

  setU16(at: number, value: number): void {
    this.bytes[little ? at : at + 1] = value;
    this.bytes[little ? at + 1 : at] = value >> 8;
  }

  /** Takes negative numbers as their two's complement. */
  setU32(at: number, value: number): void {
    const { bytes } = this;
    bytes[little ? at : at + 3] = value;
    bytes[little ? at + 1 : at + 2] = value >> 8;
    bytes[little ? at + 2 : at + 1] = value >> 16;
    bytes[little ? at + 3 : at] = value >> 24;
  }

  raw(value: Uint8Array): void {
    const at = this.#take(value.length);
    this.bytes.set(value, at);
  }

  /** UTF-8 with a closing NUL. */
  string(value: string): void {
    const at = this.#take(value.length + 1);
    const { bytes } = this;
    for (let i = 0; i < value.length; i += 1) {
      const code = value.charCodeAt(i);
      if (code > 127) {
        this.length = at;
        this.raw(Buffer.from(`${value}\0`));
        return;
      }
      bytes[at + i] = code;
    }
    bytes[at + value.length] = 0;
  }

  zeros(count: number): void {
    const at = this.#take(count);
    for (let i = at; i < at + count; i += 1) this.bytes[i] = 0;
  }

  ip(value: string): void {
    const count = value.includes(':') ? 16 : 4;
    const at = this.#take(count);
    writeIp(this.bytes, at, value);
  }

  lladdr(value: string): void {
    const at = this.#take(Math.floor((value.length + 1) / 3));
    writeLladdr(this.bytes, at, value);
  }

  /** Starts an attribute (or, with its own header, a message); give the result to `close`. */
  open(type: number): number {
    const at = this.#take(4);
    this.setU16(at + 2, type);
    return at;
  }

  /** Fills in the length of the attribute that began at `at` and pads. Throws when it is beyond 65,535 bytes. */
  close(at: number): void {
    const length = this.length - at;
    if (length > 0xffff) throw new WeftError('internal', `netlink attribute of ${length} bytes: at most 65535 fit`);
    this.setU16(at, length);
    if ((length & 3) !== 0) this.pad();
  }

  pad(): void {
    const rest = align(this.length) - this.length;
    if (rest > 0) this.zeros(rest);
  }
}

/**
 * Calls `visit` with each attribute's type (flag bits removed), payload bounds and type as sent, until it says `enough`. Throws on bad
 * lengths.
 */
export function eachAttribute(
  bytes: Buffer,
  start: number,
  end: number,
  visit: (type: number, start: number, end: number, rawType: number) => 'enough' | undefined | void,
): void {
  let at = start;
  while (at < end) {
    if (end - at < 4) throw malformed(`${end - at} bytes where an attribute should begin`);
    const length = readU16(bytes, at);
    if (length < 4 || length > end - at) throw malformed(`attribute of length ${length} in ${end - at} bytes`);
    const rawType = readU16(bytes, at + 2);
    if (visit(rawType & typeMask, at + 4, at + length, rawType) === 'enough') return;
    at += align(length);
  }
}
