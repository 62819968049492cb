// What the codec tests share: formats by name, recorded fixtures, one-message encoding.
import { readFileSync } from 'node:fs';

import { addressFormat } from '#agent/netlink/addr.ts';
import { linkFormat } from '#agent/netlink/link.ts';
import { type AnyFormat } from '#agent/netlink/message.ts';
import { neighbourFormat } from '#agent/netlink/neighbour.ts';
import { nexthopFormat } from '#agent/netlink/nexthop.ts';
import { routeFormat } from '#agent/netlink/route.ts';
import { elementListFormat } from '#agent/netlink/set-element.ts';
import { Writer } from '#agent/netlink/wire.ts';

export const formats: Readonly<Record<string, AnyFormat<object>>> = {
  link: linkFormat,
  address: addressFormat,
  route: routeFormat,
  nexthop: nexthopFormat,
  neighbour: neighbourFormat,
  elements: elementListFormat,
};

export interface Fixture {
  readonly name: string;
  readonly made: readonly string[];
  readonly format: string;
  readonly hex: string;
}

const recorded = JSON.parse(readFileSync(new URL('fixtures.json', import.meta.url), 'utf8')) as {
  readonly kernel: string;
  readonly fixtures: readonly Fixture[];
};

export const fixtures: readonly Fixture[] = recorded.fixtures;

export function fixture(name: string): { readonly bytes: Buffer; readonly format: AnyFormat<object> } {
  const found = fixtures.find((candidate) => candidate.name === name);
  if (found === undefined) throw new Error(`no fixture "${name}"`);
  return { bytes: Buffer.from(found.hex, 'hex'), format: formatOf(found.format) };
}

export function formatOf(name: string): AnyFormat<object> {
  const format = formats[name];
  if (format === undefined) throw new Error(`no format "${name}"`);
  return format;
}

export function decode<Message = Readonly<Record<string, unknown>>>(name: string): Message {
  const { bytes, format } = fixture(name);
  return format.read(bytes, 0, bytes.length) as Message;
}

export function encode(format: AnyFormat<object>, message: object): Buffer {
  const writer = new Writer(16);
  format.write(writer, message);
  return Buffer.from(writer.bytes.subarray(0, writer.length));
}

/** The top level's attributes as hexadecimal, sorted: equal for two messages that differ in order only. */
export function sortedAttributes(bytes: Buffer, from: number): readonly string[] {
  const list: string[] = [];
  for (let at = from; at < bytes.length;) {
    const length = bytes.readUInt16LE(at);
    list.push(bytes.toString('hex', at, at + length));
    at += (length + 3) & ~3;
  }
  return list.toSorted();
}
