// Messages: the nlmsghdr, a family's fixed header as a table of fields, its attributes, and the request that a socket sends.
// A request is a plain value: type, flags, format and the message itself; nothing is encoded before a socket takes it.

import { type AttributeSet } from './attributes.ts';
import { align, malformed, readS32, readU16, readU32, type Writer } from './wire.ts';

export const messageFlag = {
  request: 0x1,
  multi: 0x2,
  ack: 0x4,
  echo: 0x8,
  dumpInterrupted: 0x10,
  dump: 0x300,
  replace: 0x100,
  exclusive: 0x200,
  create: 0x400,
  append: 0x800,
  capped: 0x100,
  ackTlvs: 0x200,
} as const;

export const controlType = { noop: 1, error: 2, done: 3, overrun: 4 } as const;

export const messageHeaderBytes = 16;
/** Offset of nlmsg_pid in the header. */
export const portAt = 12;

export interface MessageHeader {
  readonly length: number;
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  /** Port of the socket that is answered, or whose request a notification tells of; 0: the kernel by itself. */
  readonly port: number;
  /** Where the payload begins and ends in the buffer. */
  readonly start: number;
  readonly end: number;
}

type FieldKind = 'u8' | 'u16' | 'u32' | 's32';

/** Byte offset and kind of each field of a family's fixed header. */
export type HeaderTable<Header> = { readonly [Key in keyof Header]-?: readonly [offset: number, kind: FieldKind] };

/** How a family's messages look: what is read has every header field, what is written may leave fields out (0). */
export class MessageFormat<Header extends object, Attributes extends object> {
  readonly name: string;
  readonly #headerBytes: number;
  readonly #fields: readonly (readonly [key: string, offset: number, kind: FieldKind])[];
  readonly #attributes: AttributeSet<Attributes>;

  constructor(name: string, headerBytes: number, header: HeaderTable<Header>, attributes: AttributeSet<Attributes>) {
    this.name = name;
    this.#headerBytes = headerBytes;
    this.#fields = Object.entries(header as Record<string, readonly [number, FieldKind]>).map(
      ([key, [offset, kind]]) => [key, offset, kind] as const,
    );
    this.#attributes = attributes;
  }

  write(writer: Writer, message: Partial<Header> & Attributes): void {
    const at = writer.length;
    writer.zeros(align(this.#headerBytes));
    const values = message as Record<string, unknown>;
    for (const [key, offset, kind] of this.#fields) {
      const value = values[key];
      if (typeof value !== 'number') continue;
      if (kind === 'u8') writer.bytes[at + offset] = value;
      else if (kind === 'u16') writer.setU16(at + offset, value);
      else writer.setU32(at + offset, value);
    }
    this.#attributes.write(writer, message);
  }

  /** Throws WeftError `kernel` when the payload is shorter than the header or an attribute is malformed. */
  read(bytes: Buffer, start: number, end: number): Header & Attributes {
    if (end - start < this.#headerBytes) throw malformed(`${this.name} header of ${end - start} bytes`);
    const target: Record<string, unknown> = {};
    for (const [key, offset, kind] of this.#fields) {
      const at = start + offset;
      if (kind === 'u8') target[key] = bytes[at];
      else if (kind === 'u16') target[key] = readU16(bytes, at);
      else target[key] = kind === 's32' ? readS32(bytes, at) : readU32(bytes, at);
    }
    return this.#attributes.read(bytes, start + align(this.#headerBytes), end, target) as Header & Attributes;
  }
}

/** What a format offers a socket, whatever its family. Methods, so that requests of all families fit one array. */
export interface AnyFormat<Answer> {
  readonly name: string;
  write(writer: Writer, message: object): void;
  read(bytes: Buffer, start: number, end: number): Answer;
}

/** One message to send. `Answer` is what the kernel's answers (get, dump, echo) decode to. */
export interface NetlinkRequest<Answer> {
  /** For errors and logs: `newLink`. */
  readonly name: string;
  readonly type: number;
  /** Without NLM_F_REQUEST and NLM_F_ACK: the socket adds them. */
  readonly flags: number;
  readonly format: AnyFormat<Answer>;
  readonly message: object;
}

/** How a `new…` request treats what is there already, and whether the kernel tells what it made. */
export interface CreateOptions {
  readonly create?: boolean;
  readonly exclusive?: boolean;
  readonly replace?: boolean;
  readonly append?: boolean;
  readonly echo?: boolean;
}

/** Flags for a `new…` request; `replace` or `append` switch the default `exclusive` off. */
export function createFlags(options: CreateOptions): number {
  const {
    create = true,
    replace = false,
    append = false,
    exclusive = create && !replace && !append,
    echo = false,
  } = options;
  return (
    (create ? messageFlag.create : 0) |
    (exclusive ? messageFlag.exclusive : 0) |
    (replace ? messageFlag.replace : 0) |
    (append ? messageFlag.append : 0) |
    (echo ? messageFlag.echo : 0)
  );
}

/** Writes header and message; `flags` are the final ones. */
export function writeMessage(writer: Writer, request: NetlinkRequest<unknown>, flags: number, sequence: number): void {
  const at = writer.length;
  writer.u32(0);
  writer.u16(request.type);
  writer.u16(flags);
  writer.u32(sequence);
  writer.u32(0);
  request.format.write(writer, request.message);
  writer.setU32(at, writer.length - at);
  writer.pad();
}

/** The header of the message that begins there. Throws WeftError `kernel` where its length leads beyond `limit`. */
export function readHeader(bytes: Buffer, at: number, limit: number): MessageHeader {
  const rest = limit - at;
  if (rest < messageHeaderBytes) throw malformed(`${rest} bytes where a message should begin`);
  const length = readU32(bytes, at);
  if (length < messageHeaderBytes || length > rest) throw malformed(`message of length ${length} in ${rest} bytes`);
  return {
    length,
    type: readU16(bytes, at + 4),
    flags: readU16(bytes, at + 6),
    sequence: readU32(bytes, at + 8),
    port: readU32(bytes, at + portAt),
    start: at + messageHeaderBytes,
    end: at + length,
  };
}

/** Each message of a buffer of whole datagrams. Throws WeftError `kernel` where a length leaves its enclosure. */
export function* readMessages(bytes: Buffer): Generator<MessageHeader, void, void> {
  for (let at = 0; at < bytes.length;) {
    const header = readHeader(bytes, at, bytes.length);
    yield header;
    at += align(header.length);
  }
}
