// What requests that go straight into the buffer are made of, without the tables of attributes.ts: for what a node has thousands of
// (peer-writes.ts), and for what every start of a pod waits for (pod-writes.ts). Tests hold each against its table.
import { addressFamily, writeIp, writeLladdr } from './ip-text.ts';
import { createFlags, type AnyFormat } from './message.ts';
import { malformed, type Writer } from './wire.ts';

export const orReplace: number = createFlags({ replace: true });
export const orFail: number = createFlags({});

/** A format whose requests the kernel answers with an acknowledgement alone, unless there is a `read`. */
export function formatOf<Message extends object, Answer = never>(
  name: string,
  write: (writer: Writer, message: Message) => void,
  read?: (bytes: Buffer, start: number, end: number) => Answer,
): AnyFormat<Answer> {
  return {
    name,
    write: (writer, message) => write(writer, message as Message),
    read:
      read ??
      (() => {
        throw malformed(`an answer to ${name}`);
      }),
  };
}

/** `count` bytes of zero, a multiple of 4, which the caller fills; returns where they begin. */
export function writeHeader(writer: Writer, count: number): number {
  const at = writer.reserve(count);
  for (let i = at; i < at + count; i += 4) writer.setU32(i, 0);
  return at;
}

export function writeAddress(writer: Writer, type: number, address: string, family: number): void {
  const length = family === addressFamily.inet ? 4 : 16;
  const at = writer.attribute(type, length);
  writeIp(writer.bytes, at, address);
}

export function writeMac(writer: Writer, type: number, mac: string): void {
  const at = writer.attribute(type, (mac.length + 1) / 3);
  writeLladdr(writer.bytes, at, mac);
}

export function writeNumber(writer: Writer, type: number, value: number): void {
  writer.setU32(writer.attribute(type, 4), value);
}

export function writeText(writer: Writer, type: number, text: string): void {
  const at = writer.open(type);
  writer.string(text);
  writer.close(at);
}

export function writeBytes(writer: Writer, type: number, bytes: Uint8Array): void {
  const at = writer.attribute(type, bytes.length);
  for (let i = 0; i < bytes.length; i += 1) writer.bytes[at + i] = bytes[i] ?? 0;
}
