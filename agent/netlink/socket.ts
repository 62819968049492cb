// Request sockets. A batch is encoded into one buffer, sent in chunks that the receive buffer can answer, and only the last message
// of a chunk asks for an acknowledgement: the kernel works in order, and errors come unasked. Synchronous by default, because a
// round trip costs less than a promise; slow requests go to a pool thread on a second socket of the same namespace.

import { abortable } from '#agent/abortable.ts';
import { nativeAddon, type NativeAddon } from '#agent/native/addon.ts';

import { messageFlag, messageHeaderBytes, portAt, writeMessage, type NetlinkRequest } from './message.ts';
import { errno, fromNative, NetlinkError } from './netlink-error.ts';
import { OwnPorts } from './own-ports.ts';
import { acceptedReplies, brokenReplies, ReplyCollector, type NetlinkReply } from './reply.ts';
import { openTransaction } from './transaction.ts';
import { readU32, Writer } from './wire.ts';

export { type NetlinkReply } from './reply.ts';

const protocols = { route: 0, netfilter: 12 } as const;
export type NetlinkProtocol = keyof typeof protocols;

/** Replies to `requests`, one each, typed by what each request's answers are. */
export type RepliesOf<Requests extends readonly NetlinkRequest<unknown>[]> = {
  -readonly [Index in keyof Requests]: Requests[Index] extends NetlinkRequest<infer Answer>
    ? NetlinkReply<Answer>
    : never;
};
export type AnswersOf<Requests extends readonly NetlinkRequest<unknown>[]> = {
  -readonly [Index in keyof Requests]: Requests[Index] extends NetlinkRequest<infer Answer> ? readonly Answer[] : never;
};

export interface NetlinkSocketOptions {
  readonly protocol: NetlinkProtocol;
  /** Absolute path of a network namespace; the process' own when left out. */
  readonly netnsPath?: string;
  /** An open namespace (`openNetns`), instead of its path. Not kept. */
  readonly netnsFd?: number;
  /** Default 1 MiB, of sockets that work on pool threads 4 MiB; the kernel doubles it. */
  readonly receiveBufferBytes?: number;
  /** How long one exchange may go without an answer; default 10,000. */
  readonly timeoutMs?: number;
}

/** Bounds of one chunk: bytes sent, and bytes of kernel memory that its replies may take (at most the receive buffer's half). */
interface ChunkBounds {
  readonly bytes: number;
  readonly replyBytes: number;
}
const chunkBounds: ChunkBounds = { bytes: 128 << 10, replyBytes: 512 << 10 };
/** On a pool thread the main thread is not held up: fewer and larger ones, for which those sockets have the room. */
const poolChunk: ChunkBounds = { bytes: 512 << 10, replyBytes: 2 << 20 };
const errorReplyBytes = 768;
const answerReplyBytes = 8192;
const dumpAttempts = 10;

interface Chunk {
  readonly requests: readonly NetlinkRequest<unknown>[];
  readonly firstSequence: number;
  readonly lastSequence: number;
  readonly terminalSequence: number;
  readonly writer: Writer;
}

/** Of every synchronous exchange, which is over before the next is encoded: an ADD opens a socket for a few messages. */
const sharedWriter = new Writer(16 << 10);
/** The same for what the kernel says. Nothing that is read out of it refers to it. */
const sharedReply = Buffer.allocUnsafeSlow(256 << 10);

export class NetlinkSocket implements Disposable {
  readonly #addon: NativeAddon;
  readonly #options: NetlinkSocketOptions;
  readonly #timeoutMs: number;
  readonly #idle: number[] = [];
  /** Ports of the sockets behind this one that have had an answer: notifications of their requests carry them. */
  readonly ports: OwnPorts = new OwnPorts();
  /** Transactions of nftables that the kernel accepted. */
  transactions = 0;
  #fd: number;
  #sequence = 1;

  private constructor(addon: NativeAddon, options: NetlinkSocketOptions, fd: number) {
    this.#addon = addon;
    this.#options = options;
    this.#timeoutMs = options.timeoutMs ?? 10_000;
    this.#fd = fd;
  }

  /** Throws NetlinkError: ENOENT where `netnsPath` is nothing, EINVAL where it is no network namespace. */
  static open(options: NetlinkSocketOptions): NetlinkSocket {
    const addon = nativeAddon();
    return new NetlinkSocket(addon, options, openFd(addon, options, chunkBounds));
  }

  /** Sends all and returns one reply each, in order; a refused request does not stop those behind it. */
  batch<const Requests extends readonly NetlinkRequest<unknown>[]>(requests: Requests): RepliesOf<Requests> {
    let replies: readonly NetlinkReply<unknown>[] = [];
    for (let from = 0; from < requests.length;) {
      const chunk = this.#encode(requests, from, sharedWriter);
      const some = this.#exchange(chunk);
      replies = from === 0 ? some : [...replies, ...some];
      from += chunk.requests.length;
    }
    return replies as RepliesOf<Requests>;
  }

  /** The same on a pool thread; the promise rejects with the signal's reason, but what was sent takes its course. */
  async batchAsync<const Requests extends readonly NetlinkRequest<unknown>[]>(
    requests: Requests,
    signal?: AbortSignal,
  ): Promise<RepliesOf<Requests>> {
    signal?.throwIfAborted();
    return await this.prepare(requests)(signal);
  }

  /** Writes requests down, to be sent later, once: as `batchAsync`. */
  prepare<const Requests extends readonly NetlinkRequest<unknown>[]>(
    requests: Requests,
  ): (signal?: AbortSignal) => Promise<RepliesOf<Requests>> {
    if (requests.length === 0) return () => Promise.resolve([] as unknown as RepliesOf<Requests>);
    const writer = new Writer(Math.min(poolChunk.bytes, requests.length * 64) + 1024);
    let chunk = this.#encode(requests, 0, writer, poolChunk);
    return async (signal) => {
      const replies: NetlinkReply<unknown>[] = [];
      for (let from = chunk.requests.length; ; from += chunk.requests.length) {
        // The addon has a copy of the bytes: the next chunk is written while the kernel is at work on this one.
        const exchange = this.#exchangeAsync(chunk);
        const next = from < requests.length ? this.#encode(requests, from, writer, poolChunk) : undefined;
        for (const reply of await abortable(exchange, signal)) replies.push(reply);
        if (next === undefined) return replies as RepliesOf<Requests>;
        chunk = next;
      }
    };
  }

  /** Like `batch`, but throws the first NetlinkError; the other requests were tried all the same. */
  batchOrThrow<const Requests extends readonly NetlinkRequest<unknown>[]>(requests: Requests): AnswersOf<Requests> {
    return answersOrThrow(this.batch(requests)) as AnswersOf<Requests>;
  }

  async batchAsyncOrThrow<const Requests extends readonly NetlinkRequest<unknown>[]>(
    requests: Requests,
    signal?: AbortSignal,
  ): Promise<AnswersOf<Requests>> {
    return answersOrThrow(await this.batchAsync(requests, signal)) as AnswersOf<Requests>;
  }

  /** A batch, and what a dump behind it lists; one exchange, unless a change cuts the dump. */
  batchThenDump<Answer>(
    requests: readonly NetlinkRequest<unknown>[],
    dump: NetlinkRequest<Answer>,
  ): { readonly replies: readonly NetlinkReply<unknown>[]; readonly dumped: readonly Answer[] } {
    const chunk = this.#encode([...requests, dump], 0, sharedWriter);
    if (chunk.requests.length <= requests.length) return { replies: this.batch(requests), dumped: this.dump(dump) };
    const collector = this.#send(chunk);
    const replies = collector?.replies() ?? acceptedReplies(chunk.requests.length);
    const last = replies.at(-1);
    const whole = last?.ok === true && collector?.interrupted !== true;
    return { replies: replies.slice(0, -1), dumped: whole ? (last.answers as readonly Answer[]) : this.dump(dump) };
  }

  /** Every object the dump lists. Tried anew when a change cut it; NetlinkError EINTR after ten times. */
  dump<Answer>(request: NetlinkRequest<Answer>): readonly Answer[] {
    for (let attempt = 1; ; attempt += 1) {
      const chunk = this.#encode([request], 0, sharedWriter);
      const collector = this.#send(chunk) ?? new ReplyCollector(chunk.requests, chunk.firstSequence);
      const answers = dumpResult<Answer>(request, collector, attempt);
      if (answers !== undefined) return answers;
    }
  }

  async dumpAsync<Answer>(request: NetlinkRequest<Answer>, signal?: AbortSignal): Promise<readonly Answer[]> {
    for (let attempt = 1; ; attempt += 1) {
      signal?.throwIfAborted();
      const chunk = this.#encode([request], 0, new Writer(1024));
      const reply = await abortable(this.#sendAsync(chunk), signal);
      const collector = collected(chunk, reply, reply.length);
      const answers = dumpResult<Answer>(request, collector, attempt);
      if (answers !== undefined) return answers;
    }
  }

  /** One number for all that these dumps list, on a pool thread. See `netlinkDigest` in the addon. Throws NetlinkError. */
  async digest(dumps: readonly NetlinkRequest<unknown>[]): Promise<bigint> {
    const writer = new Writer(1024);
    const firstSequence = this.#reserve(dumps.length);
    dumps.forEach((request, index) =>
      writeMessage(writer, request, request.flags | messageFlag.request, firstSequence + index),
    );
    return await this.#onPoolSocket('digest', (fd) =>
      this.#addon.netlinkDigest(fd, writer.bytes, writer.length, this.#timeoutMs),
    );
  }

  /** One atomic nfnetlink batch for nftables: all requests or none. Throws the first NetlinkError. */
  transaction(requests: readonly NetlinkRequest<unknown>[]): void {
    if (requests.length === 0) return;
    const collector = this.#send(this.#encodeTransaction(requests, sharedWriter));
    if (collector !== undefined) answersOrThrow(collector.replies());
    this.transactions += 1;
  }

  /** The same on a pool thread. */
  async transactionAsync(requests: readonly NetlinkRequest<unknown>[], signal?: AbortSignal): Promise<void> {
    if (requests.length === 0) return;
    signal?.throwIfAborted();
    const chunk = this.#encodeTransaction(requests, new Writer());
    const reply = await abortable(this.#sendAsync(chunk), signal);
    answersOrThrow(collected(chunk, reply, reply.length).replies());
    this.transactions += 1;
  }

  #encodeTransaction(requests: readonly NetlinkRequest<unknown>[], writer: Writer): Chunk {
    const framed = openTransaction(requests);
    const firstSequence = this.#reserve(framed.length);
    writer.length = 0;
    framed.forEach((request, index) => {
      const flags = index === framed.length - 2 ? request.flags | messageFlag.ack : request.flags;
      writeMessage(writer, request, flags | messageFlag.request, firstSequence + index);
    });
    const lastSequence = firstSequence + framed.length - 2;
    return { requests: framed, firstSequence, lastSequence, terminalSequence: firstSequence, writer };
  }

  [Symbol.dispose](): void {
    if (this.#fd === -1) return;
    this.#addon.netlinkClose(this.#fd);
    this.#fd = -1;
    for (const fd of this.#idle.splice(0)) this.#addon.netlinkClose(fd);
  }

  /** Sequence numbers for `count` messages: never 0, never across the 32-bit border within one exchange. */
  #reserve(count: number): number {
    if (this.#sequence + count > 0xffff_ffff) this.#sequence = 1;
    const first = this.#sequence;
    this.#sequence += count;
    return first;
  }

  /** Encodes requests from `from` on until the chunk is full; the last one asks for the acknowledgement. */
  #encode(
    requests: readonly NetlinkRequest<unknown>[],
    from: number,
    writer: Writer,
    bounds: ChunkBounds = chunkBounds,
  ): Chunk {
    writer.length = 0;
    const firstSequence = this.#reserve(requests.length - from);
    let lastAt = 0;
    let budget = Math.min(bounds.replyBytes, (this.#options.receiveBufferBytes ?? 2 * bounds.replyBytes) / 2);
    let index = from;
    for (; index < requests.length; index += 1) {
      const request = requests[index] as NetlinkRequest<unknown>;
      budget -= isAnswered(request) ? answerReplyBytes : errorReplyBytes;
      if (index > from && (budget < 0 || writer.length > bounds.bytes)) break;
      lastAt = writer.length;
      writeMessage(writer, request, request.flags | messageFlag.request, firstSequence + index - from);
    }
    const count = index - from;
    const last = requests[index - 1] as NetlinkRequest<unknown>;
    writer.setU16(lastAt + 6, last.flags | messageFlag.request | messageFlag.ack);
    return {
      requests: count === requests.length ? requests : requests.slice(from, index),
      firstSequence,
      lastSequence: firstSequence + count - 1,
      terminalSequence: 0,
      writer,
    };
  }

  /** What the kernel said; undefined: it accepted all, and nothing was asked for. */
  #send(chunk: Chunk): ReplyCollector | undefined {
    if (this.#fd === -1) throw closed();
    const { writer, lastSequence, terminalSequence } = chunk;
    try {
      const reply = this.#addon.netlinkRequest(
        this.#fd,
        writer.bytes,
        writer.length,
        lastSequence,
        terminalSequence,
        this.#timeoutMs,
        sharedReply,
      );
      if (typeof reply === 'number' && reply < 0) {
        this.ports.add(-reply);
        return undefined;
      }
      const bytes = typeof reply === 'number' ? sharedReply : reply;
      const length = typeof reply === 'number' ? reply : reply.length;
      if (length >= messageHeaderBytes) this.ports.add(readU32(bytes, portAt));
      return collected(chunk, bytes, length);
    } catch (error) {
      throw fromNative(error, chunk.requests[0]?.name ?? 'netlink');
    }
  }

  async #sendAsync(chunk: Chunk): Promise<Buffer> {
    const { writer, lastSequence, terminalSequence } = chunk;
    const reply = await this.#onPoolSocket(chunk.requests[0]?.name ?? 'netlink', (fd) =>
      this.#addon.netlinkRequestAsync(fd, writer.bytes, writer.length, lastSequence, terminalSequence, this.#timeoutMs),
    );
    return this.#noted(reply);
  }

  /** Runs `work`, called `name` in errors, on a socket that nothing else uses meanwhile. */
  async #onPoolSocket<Result>(name: string, work: (fd: number) => Promise<Result>): Promise<Result> {
    if (this.#fd === -1) throw closed();
    const fd = this.#idle.pop() ?? openFd(this.#addon, this.#options, poolChunk);
    try {
      return await work(fd);
    } catch (error) {
      throw fromNative(error, name);
    } finally {
      if (this.#fd === -1) this.#addon.netlinkClose(fd);
      else this.#idle.push(fd);
    }
  }

  #noted(reply: Buffer): Buffer {
    if (reply.length >= messageHeaderBytes) this.ports.add(readU32(reply, portAt));
    return reply;
  }

  #exchange(chunk: Chunk): readonly NetlinkReply<unknown>[] {
    try {
      return this.#send(chunk)?.replies() ?? acceptedReplies(chunk.requests.length);
    } catch (error) {
      return brokenReplies(chunk.requests, error);
    }
  }

  async #exchangeAsync(chunk: Chunk): Promise<readonly NetlinkReply<unknown>[]> {
    try {
      const reply = await this.#sendAsync(chunk);
      return collected(chunk, reply, reply.length).replies();
    } catch (error) {
      return brokenReplies(chunk.requests, error);
    }
  }
}

function collected({ requests, firstSequence }: Chunk, bytes: Buffer, length: number): ReplyCollector {
  const collector = new ReplyCollector(requests, firstSequence);
  collector.take(bytes, length);
  return collector;
}

/** Whether the kernel sends more than an acknowledgement: rtnetlink numbers come in fours of new, del, get, set. */
function isAnswered(request: NetlinkRequest<unknown>): boolean {
  return (request.type & 3) === 2 || (request.flags & messageFlag.echo) !== 0;
}

function closed(): NetlinkError {
  return new NetlinkError({ request: 'netlink socket is closed', errno: errno.EBADF });
}

function openFd(addon: NativeAddon, options: NetlinkSocketOptions, { replyBytes }: ChunkBounds): number {
  try {
    return addon.netlinkOpen(
      protocols[options.protocol],
      options.netnsFd ?? options.netnsPath ?? null,
      options.receiveBufferBytes ?? 2 * replyBytes,
    );
  } catch (error) {
    throw fromNative(error, `netlink socket${options.netnsPath === undefined ? '' : ` in ${options.netnsPath}`}`);
  }
}

function answersOrThrow(replies: readonly NetlinkReply<unknown>[]): readonly (readonly unknown[])[] {
  return replies.map((reply) => {
    if (!reply.ok) throw reply.error;
    return reply.answers;
  });
}

/** A dump's objects, or undefined when it has to be tried anew. */
function dumpResult<Answer>(
  request: NetlinkRequest<Answer>,
  collector: ReplyCollector,
  attempt: number,
): readonly Answer[] | undefined {
  const [reply] = collector.replies();
  if (reply === undefined || (!reply.ok && reply.error.errno !== errno.EINTR)) throw reply?.error ?? closed();
  if (reply.ok && !collector.interrupted) return reply.answers as readonly Answer[];
  if (attempt < dumpAttempts) return undefined;
  throw new NetlinkError({
    request: request.name,
    errno: errno.EINTR,
    extendedAck: `the dump was interrupted ${attempt} times`,
  });
}
