// The kernel's refusals: errno, its name and the extended ACK stay apart, so that callers decide by number and operators
// read the kernel's own words.

import { constants } from 'node:os';

import { WeftError } from '#agent/errors.ts';
import type { NativeError } from '#agent/native/addon.ts';

const names = new Map<number, string>(Object.entries(constants.errno).map(([name, number]) => [number, name]));
names.set(constants.errno.EAGAIN, 'EAGAIN');
names.set(constants.errno.EOPNOTSUPP, 'EOPNOTSUPP');
// Numbers that leave the kernel though user space has no name for them.
names.set(85, 'ERESTART');
names.set(524, 'ENOTSUPP');

export const errno: typeof constants.errno = constants.errno;

function errorNameOf(number: number): string {
  return names.get(number) ?? `errno ${number}`;
}

export interface NetlinkErrorFields {
  /** What was asked: `newLink weft1a2b`. */
  readonly request: string;
  /** Positive. */
  readonly errno: number;
  /** The kernel's text, '' when it gave none. */
  readonly extendedAck?: string;
  /** Byte offset in the message of the attribute that the kernel refused. */
  readonly offset?: number | undefined;
  /** Number of the attribute that the kernel misses. */
  readonly missingType?: number | undefined;
  readonly cause?: unknown;
}

export class NetlinkError extends WeftError {
  readonly errno: number;
  /** `EEXIST`, … */
  readonly errorName: string;
  readonly extendedAck: string;
  readonly offset: number | undefined;
  readonly missingType: number | undefined;

  constructor(fields: NetlinkErrorFields) {
    const errorName = errorNameOf(fields.errno);
    const extendedAck = fields.extendedAck ?? '';
    const words = extendedAck === '' ? errorName : `${errorName} (${extendedAck})`;
    const details = [`errno=${fields.errno} ${errorName}`];
    if (extendedAck !== '') details.push(`extack="${extendedAck}"`);
    if (fields.offset !== undefined) details.push(`offset=${fields.offset}`);
    if (fields.missingType !== undefined) details.push(`missingType=${fields.missingType}`);
    super('kernel', `${fields.request}: ${words}`, {
      details: details.join(' '),
      ...(fields.cause === undefined ? {} : { cause: fields.cause }),
    });
    this.errno = fields.errno;
    this.errorName = errorName;
    this.extendedAck = extendedAck;
    this.offset = fields.offset;
    this.missingType = fields.missingType;
  }
}

function isNativeError(thrown: unknown): thrown is NativeError {
  return thrown instanceof Error && 'errno' in thrown && 'syscall' in thrown && typeof thrown.errno === 'number';
}

/** What the addon threw, as a NetlinkError; anything else as it is. */
export function fromNative(thrown: unknown, request: string): unknown {
  if (!isNativeError(thrown)) return thrown;
  return new NetlinkError({ request: `${request}: ${thrown.syscall}`, errno: thrown.errno });
}
