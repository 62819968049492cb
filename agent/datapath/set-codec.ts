// Elements of the sets of set-shapes.ts as nfnetlink has them: keys and data are registers, each field padded to 4 bytes.
import { readIp } from '#agent/netlink/ip-text.ts';
import { keyOf, keyWriter, writeIfname } from '#agent/netlink/set-element.ts';
import type { ElementSpec, SetElement } from '#agent/netlink/set-element.ts';

import { cidrBounds, cidrOfBounds } from './cidr.ts';
import { shapeOf } from './set-shapes.ts';
import type { Field, NameOf, SetName } from './set-shapes.ts';

/** IPPROTO_*: the protocols that port mappings know. */
const protocolNumber = { tcp: 6, udp: 17, sctp: 132 } as const;

const fieldBytes: Readonly<Record<Field, number>> = {
  ifname: 16,
  iface_index: 4,
  ether_addr: 6,
  ipv4_addr: 4,
  ipv6_addr: 16,
  inet_proto: 1,
  inet_service: 2,
};

/** A resolved element for newSetElement and delSetElement. */
export function elementSpec(set: SetName, element: string): ElementSpec {
  const { key, data, interval } = shapeOf(set);
  const [keyText = '', dataText = ''] = element.split(' : ');
  if (interval) return intervalSpec(key, keyText);
  const spec: ElementSpec = { key: keyFrom(key, keyText) };
  if (data === undefined) return spec;
  return { ...spec, value: keyFrom(data, dataText) };
}

/** A block is the range from its first to its last address. */
function intervalSpec(key: readonly Field[], text: string): ElementSpec {
  const texts = text.split(' . ');
  const { low, high } = cidrBounds(texts.at(-1) ?? '');
  const bound = (last: string): Uint8Array => keyFrom(key, [...texts.slice(0, -1), last].join(' . '));
  return { key: bound(low), keyEnd: bound(high) };
}

/** As setKey: each field of a concatenation padded to 4 bytes. */
function keyFrom(fields: readonly Field[], text: string): Uint8Array {
  const writer = keyWriter;
  writer.length = 0;
  let from = 0;
  for (const field of fields) {
    const end = text.indexOf(' . ', from);
    writeField(field, end === -1 ? text.slice(from) : text.slice(from, end));
    if (fields.length > 1) writer.pad();
    from = end === -1 ? text.length : end + 3;
  }
  return keyOf(writer);
}

function writeField(field: Field, text: string): void {
  const writer = keyWriter;
  if (field === 'ifname') writeIfname(writer, text);
  else if (field === 'iface_index') writer.u32(Number(text));
  else if (field === 'inet_service') writer.be16(Number(text));
  else if (field === 'inet_proto') writer.u8(isProtocol(text) ? protocolNumber[text] : Number(text));
  else if (field === 'ether_addr') writer.lladdr(text);
  else writer.ip(text);
}

function isProtocol(text: string): text is keyof typeof protocolNumber {
  return Object.hasOwn(protocolNumber, text);
}

/** The kernel's element as a string; one that does what none of ours does has a string that none of ours has. */
export function elementFrom(set: SetName, element: SetElement, nameOf: NameOf): string {
  const { key, data, interval } = shapeOf(set);
  const text = textFrom(key, element.key?.value, nameOf);
  if (interval) {
    const last =
      textFrom(key, element.keyEnd?.value ?? element.key?.value, nameOf)
        .split(' . ')
        .at(-1) ?? '';
    const [low = '', ...rest] = text.split(' . ').toReversed();
    return [...rest.toReversed(), cidrOfBounds(low, last)].join(' . ');
  }
  return data === undefined ? text : `${text} : ${textFrom(data, element.data?.value, nameOf)}`;
}

function textFrom(fields: readonly Field[], value: Uint8Array | undefined, nameOf: NameOf): string {
  const bytes = Buffer.from(value ?? new Uint8Array());
  let at = 0;
  return fields
    .map((field) => {
      const length = fieldBytes[field];
      const text = fieldFrom(field, bytes.subarray(at, at + length), nameOf);
      at += Math.ceil(length / 4) * 4;
      return text;
    })
    .join(' . ');
}

function fieldFrom(field: Field, bytes: Buffer, nameOf: NameOf): string {
  if (bytes.length < fieldBytes[field]) return `?${bytes.toString('hex')}`;
  if (field === 'ifname') return bytes.toString('utf8').replace(/\0+$/, '');
  if (field === 'iface_index') return nameOf(bytes.readUInt32LE(0));
  if (field === 'inet_service') return String(bytes.readUInt16BE(0));
  if (field === 'inet_proto') {
    const number = bytes.readUInt8(0);
    return Object.entries(protocolNumber).find(([, known]) => known === number)?.[0] ?? String(number);
  }
  if (field === 'ether_addr') return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
  return readIp(bytes, 0, bytes.length) ?? bytes.toString('hex');
}
