// What the tests of direct writes share: values of every kind, and two requests compared by what a family's table reads of them.
import fc from 'fast-check';
import { expect } from 'vitest';

import { readIp, readLladdr } from '#agent/netlink/ip-text.ts';
import { writeMessage, type NetlinkRequest } from '#agent/netlink/message.ts';
import { Writer } from '#agent/netlink/wire.ts';

import { seed } from './seed.ts';

export const u8: fc.Arbitrary<number> = fc.integer({ min: 1, max: 0xff });
export const u32: fc.Arbitrary<number> = fc.integer({ min: 1, max: 0xffff_ffff });
export const ifindex: fc.Arbitrary<number> = fc.integer({ min: 1, max: 2 ** 31 - 1 });
const bytes = (length: number): fc.Arbitrary<Uint8Array> => fc.uint8Array({ minLength: length, maxLength: length });
export const ip4: fc.Arbitrary<string> = bytes(4).map((raw) => readIp(raw, 0, 4) ?? '');
export const ip6: fc.Arbitrary<string> = bytes(16).map((raw) => readIp(raw, 0, 16) ?? '');
export const ip: fc.Arbitrary<string> = fc.oneof(ip4, ip6);
export const mac: fc.Arbitrary<string> = bytes(6).map((raw) => readLladdr(raw, 0, 6));
interface Reader {
  read(bytes: Buffer, start: number, end: number): object;
}

/** As decoded by the family's table; the buffer holds rubbish before, as a writer that is used again does. */
export function read(format: Reader, request: NetlinkRequest<unknown>): object {
  const writer = new Writer(8);
  writer.raw(new Uint8Array(500).fill(0xee));
  writer.length = 0;
  writeMessage(writer, request, request.flags, 7);
  expect(writer.length % 4).toBe(0);
  return {
    name: request.name,
    type: request.type,
    flags: request.flags,
    ...format.read(writer.bytes, 16, writer.length),
  };
}

export function same(format: Reader, one: NetlinkRequest<unknown>, other: NetlinkRequest<unknown>): void {
  expect(read(format, one)).toEqual(read(format, other));
}

export const check = <Values extends [unknown, ...unknown[]]>(
  arbitraries: { [Key in keyof Values]: fc.Arbitrary<Values[Key]> },
  predicate: (...values: Values) => void,
): void => fc.assert(fc.property(...arbitraries, predicate), { seed, numRuns: 300 });
