// Replies: sorts the kernel's messages by sequence number to the requests of one exchange, and reads acknowledgements with
// their extended ACK (linux/netlink.h, NLMSGERR_ATTR_*).
//
//   NLMSG_ERROR: errno(4) | the request's header(16) [| its payload unless CAPPED] [| attributes when ACK_TLVS]

import { AttributeSet, binary, string, u32, type WithUnknown } from './attributes.ts';
import {
  controlType,
  messageFlag,
  messageHeaderBytes,
  readHeader,
  type MessageHeader,
  type NetlinkRequest,
} from './message.ts';
import { errno, NetlinkError } from './netlink-error.ts';
import { align, malformed, readS32, readU32 } from './wire.ts';

/** What became of one request. Answers are what the kernel sent for a get, a dump or `echo`. */
export type NetlinkReply<Answer> =
  | { readonly ok: true; readonly answers: readonly Answer[] }
  | { readonly ok: false; readonly error: NetlinkError };

interface ExtendedAck extends WithUnknown {
  readonly msg?: string;
  readonly offs?: number;
  readonly cookie?: Uint8Array;
  readonly policy?: Uint8Array;
  readonly missType?: number;
  readonly missNest?: number;
}

const extendedAck: AttributeSet<ExtendedAck> = new AttributeSet<ExtendedAck>({
  msg: [1, string],
  offs: [2, u32],
  cookie: [3, binary],
  policy: [4, binary],
  missType: [5, u32],
  missNest: [6, u32],
});

function describe(request: NetlinkRequest<unknown>): string {
  const { message } = request as { readonly message: Readonly<Record<string, unknown>> };
  const subject = ['ifname', 'dst', 'address', 'id', 'lladdr', 'set', 'ifiIndex', 'group'].find(
    (key) => message[key] !== undefined,
  );
  return subject === undefined ? request.name : `${request.name} ${String(message[subject])}`;
}

/** The errno of an NLMSG_ERROR or NLMSG_DONE (positive, 0 for success) and its extended ACK. */
function readAcknowledgement(
  bytes: Buffer,
  header: MessageHeader,
): { readonly number: number; readonly ack: ExtendedAck } {
  const room = header.end - header.start;
  if (header.type === controlType.done && room < 4) return { number: 0, ack: {} };
  if (room < 4) throw malformed(`acknowledgement of ${room} bytes`);
  const number = -readS32(bytes, header.start);
  if ((header.flags & messageFlag.ackTlvs) === 0) return { number, ack: {} };
  let at = header.start + 4;
  if (header.type === controlType.error) {
    if (room < 4 + messageHeaderBytes) throw malformed(`acknowledgement of ${room} bytes`);
    const capped = (header.flags & messageFlag.capped) !== 0;
    at += capped ? messageHeaderBytes : align(readU32(bytes, at));
  }
  if (at > header.end) throw malformed('an acknowledgement that is shorter than the request it quotes');
  return { number, ack: extendedAck.read(bytes, at, header.end) };
}

/** The reply of thousands at a time. */
const accepted: NetlinkReply<never> = { ok: true, answers: [] };

/** Of an exchange in which the kernel accepted everything. */
export function acceptedReplies(count: number): readonly NetlinkReply<never>[] {
  const replies: NetlinkReply<never>[] = [];
  for (let at = 0; at < count; at += 1) replies.push(accepted);
  return replies;
}

/** One exchange's requests and what has come back for them. */
export class ReplyCollector {
  readonly #requests: readonly NetlinkRequest<unknown>[];
  readonly #firstSequence: number;
  /** By the request's position; nothing where nothing has come. */
  readonly #answers: (unknown[] | undefined)[] = [];
  readonly #errors: (NetlinkError | undefined)[] = [];
  /** A dump was cut by a change: what it returned is not one state of the kernel. */
  interrupted = false;

  constructor(requests: readonly NetlinkRequest<unknown>[], firstSequence: number) {
    this.#requests = requests;
    this.#firstSequence = firstSequence;
  }

  /** Takes a buffer of whole datagrams, as far as `length`. Throws WeftError `kernel` when one is malformed. */
  take(bytes: Buffer, length: number = bytes.length): void {
    for (let at = 0; at < length;) {
      const header = readHeader(bytes, at, length);
      at += align(header.length);
      const index = header.sequence - this.#firstSequence;
      const request = this.#requests[index];
      if (request === undefined) continue; // left over from an exchange that failed half-way
      if ((header.flags & messageFlag.dumpInterrupted) !== 0 && header.type !== controlType.error)
        this.interrupted = true;
      this.#takeMessage(bytes, header, index, request);
    }
  }

  #takeMessage(bytes: Buffer, header: MessageHeader, index: number, request: NetlinkRequest<unknown>): void {
    if (header.type === controlType.error || header.type === controlType.done) {
      const { number, ack } = readAcknowledgement(bytes, header);
      if (number === 0) return;
      this.#errors[index] = new NetlinkError({
        request: describe(request),
        errno: number,
        extendedAck: ack.msg ?? '',
        offset: ack.offs,
        missingType: ack.missType,
      });
      return;
    }
    if (header.type < messageHeaderBytes) return; // NLMSG_NOOP and other control messages
    const answers = (this.#answers[index] ??= []);
    answers.push(request.format.read(bytes, header.start, header.end));
  }

  /** What is known once the exchange ended: no error for a request means that the kernel accepted it. */
  replies(): readonly NetlinkReply<unknown>[] {
    return this.#requests.map((_request, index) => {
      const error = this.#errors[index];
      if (error !== undefined) return { ok: false, error };
      const answers = this.#answers[index];
      return answers === undefined ? accepted : { ok: true, answers };
    });
  }
}

/** The reply of every request of an exchange that broke off: its outcome is not known. */
export function brokenReplies(
  requests: readonly NetlinkRequest<unknown>[],
  thrown: unknown,
): readonly NetlinkReply<unknown>[] {
  return requests.map((request) => {
    const error =
      thrown instanceof NetlinkError
        ? thrown
        : new NetlinkError({
            request: describe(request),
            errno: errno.EIO,
            extendedAck: String(thrown),
            cause: thrown,
          });
    return { ok: false, error };
  });
}
