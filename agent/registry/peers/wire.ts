// What voters and proposers say to each other, and voters among themselves: JSON over HTTPS, four requests. One schema each,
// checked on both sides. A key is `<kind>/<name>`.

import { Type, type TSchema } from 'typebox';
import { Compile } from 'typebox/compile';
import type { AcceptorReply, AcceptorRequest } from '#ipam-peer/caspaxos/acceptor.ts';
import { maxCounter, type Ballot } from '#ipam-peer/caspaxos/ballot.ts';
import { lineageLimit, type Cell } from '#ipam-peer/caspaxos/change.ts';
import type { HelloReply } from '#ipam-peer/caspaxos/join.ts';
import type { Sessions } from '#ipam-peer/caspaxos/session.ts';
import type { KeyedRegister } from '#agent/registry/peers/store.ts';
import { maxValueBytes } from '#agent/registry/record-rules.ts';
import type { RecordKind } from '#agent/registry/registry.ts';

/** A request: one value and what is around it. */
export const maxRequestBytes: number = maxValueBytes + 8 * 1024;
/** Entries in one answer to `changes`, so that an answer stays below maxAnswerBytes. */
export const pageLimit: number = 64;
export const maxAnswerBytes: number = (pageLimit + 1) * maxRequestBytes;
/** Longest that a voter holds a `changes` request open. */
const maxWaitMs: number = 30_000;

export const acceptorPath: string = '/v1/acceptor';
export const changesPath: string = '/v1/changes';
/** Between voters only (ipam-peer/caspaxos/join.ts). */
export const helloPath: string = '/v1/hello';
export const copyPath: string = '/v1/copy';

export interface AcceptorCall {
  readonly key: string;
  readonly request: AcceptorRequest;
}

/** Asks for keys of one kind whose content changed after `after`; waits up to `waitMs` while there is none. */
export interface ChangesCall {
  readonly kind: RecordKind;
  /** The voter's change counter as it was answered last; 0: from the beginning. Means nothing to another disk id. */
  readonly after: number;
  /** The disk id that `after` came from; '' with 0. */
  readonly diskId: string;
  readonly waitMs: number;
}

export interface ChangedKey {
  readonly name: string;
  readonly accepted: Ballot;
  readonly cell: Cell;
}

export interface ChangesAnswer {
  readonly diskId: string;
  /** The voter's session, and those that it knows of others. */
  readonly voterId: string;
  readonly sessions: Sessions;
  /** Give it back as the next `after`. */
  readonly change: number;
  /** Oldest change first. */
  readonly entries: readonly ChangedKey[];
  /** There may be more after `change` already. */
  readonly more: boolean;
}

/** A voter tells another that it has started; the answer is a HelloReply. */
export interface HelloCall {
  readonly session: string;
}

/** A voter asks for every register by key, one page after another; the asked one first raises its floor. */
export interface CopyCall {
  readonly floor: number;
  /** The last key of the page before; ''. */
  readonly after: string;
}

export interface CopyAnswer {
  readonly registers: readonly KeyedRegister[];
  readonly more: boolean;
}

const text = { minLength: 1, maxLength: 200 };
const closed = { additionalProperties: false };
const kindSchema = Type.Enum(['universe', 'peer', 'session']);
const voterIdSchema = Type.String(text);
const sessionSchema = Type.String({ maxLength: 60, pattern: '^[0-9]{1,16}\\.[0-9a-zA-Z_-]{1,40}$' });
const sessionsSchema = Type.Record(Type.String({ maxLength: 253 }), sessionSchema);
const counterSchema = Type.Integer({ minimum: 0, maximum: maxCounter });
const ballotSchema = Type.Object({ counter: counterSchema, proposer: Type.String({ maxLength: 200 }) }, closed);
const cellSchema = Type.Object(
  {
    uid: Type.String(text),
    version: Type.String(text),
    writer: Type.String({ minLength: 1, maxLength: 253 }),
    lineage: Type.Array(Type.String(text), { maxItems: lineageLimit }),
    value: Type.Union([Type.Record(Type.String(), Type.Unknown()), Type.Null()]),
  },
  closed,
);
const contentSchema = Type.Union([cellSchema, Type.Null()]);

export const acceptorCallSchema: TSchema = Type.Object(
  {
    key: Type.String({ maxLength: 262, pattern: '^(universe|peer|session)/[a-z0-9]([-a-z0-9.]*[a-z0-9])?$' }),
    request: Type.Union([
      Type.Object({ kind: Type.Literal('read') }, closed),
      Type.Object({ kind: Type.Literal('prepare'), ballot: ballotSchema }, closed),
      Type.Object(
        { kind: Type.Literal('accept'), ballot: ballotSchema, voterId: voterIdSchema, cell: contentSchema },
        closed,
      ),
    ]),
  },
  closed,
);

export const changesCallSchema: TSchema = Type.Object(
  {
    kind: kindSchema,
    after: Type.Integer({ minimum: 0 }),
    diskId: Type.String({ maxLength: 200 }),
    waitMs: Type.Integer({ minimum: 0, maximum: maxWaitMs }),
  },
  closed,
);

export const helloCallSchema: TSchema = Type.Object({ session: sessionSchema }, closed);
export const copyCallSchema: TSchema = Type.Object(
  { floor: counterSchema, after: Type.String({ maxLength: 262 }) },
  closed,
);

// Answers are open to further fields, so that a voter one version ahead is understood.
const acceptorReplySchema = Type.Union([
  Type.Object({
    kind: Type.Enum(['current', 'promised']),
    voterId: voterIdSchema,
    accepted: ballotSchema,
    cell: contentSchema,
    sessions: sessionsSchema,
  }),
  Type.Object({ kind: Type.Enum(['accepted', 'otherVoter']), voterId: voterIdSchema }),
  Type.Object({ kind: Type.Literal('refused'), voterId: voterIdSchema, reason: Type.String({ maxLength: 2000 }) }),
  Type.Object({ kind: Type.Literal('outdated'), voterId: voterIdSchema, promised: ballotSchema }),
]);

const changesAnswerSchema = Type.Object({
  diskId: voterIdSchema,
  voterId: voterIdSchema,
  sessions: sessionsSchema,
  change: Type.Integer({ minimum: 0 }),
  entries: Type.Array(Type.Object({ name: Type.String(text), accepted: ballotSchema, cell: cellSchema }), {
    maxItems: pageLimit,
  }),
  more: Type.Boolean(),
});

const helloReplySchema = Type.Union([
  Type.Object({ kind: Type.Literal('welcome'), highest: counterSchema, sessions: sessionsSchema }),
  Type.Object({ kind: Type.Literal('superseded'), by: sessionSchema }),
  Type.Object({ kind: Type.Literal('newDisk') }),
]);

const copyAnswerSchema = Type.Object({
  registers: Type.Array(
    Type.Object({
      key: Type.String({ maxLength: 262 }),
      register: Type.Object({ promised: ballotSchema, accepted: ballotSchema, cell: contentSchema }),
    }),
    { maxItems: pageLimit },
  ),
  more: Type.Boolean(),
});

const helloReply = Compile(helloReplySchema);
const copyAnswer = Compile(copyAnswerSchema);
const acceptorReply = Compile(acceptorReplySchema);
const changesAnswer = Compile(changesAnswerSchema);

/** undefined: not an answer that a voter gives. */
export function parseAcceptorReply(body: unknown): AcceptorReply | undefined {
  return acceptorReply.Check(body) ? body : undefined;
}

/** undefined: not an answer that a voter gives. */
export function parseChangesAnswer(body: unknown): ChangesAnswer | undefined {
  return changesAnswer.Check(body) ? body : undefined;
}

/** undefined: not an answer that a voter gives. */
export function parseHelloReply(body: unknown): HelloReply | undefined {
  return helloReply.Check(body) ? body : undefined;
}

/** undefined: not an answer that a voter gives. */
export function parseCopyAnswer(body: unknown): CopyAnswer | undefined {
  return copyAnswer.Check(body) ? body : undefined;
}

export function recordKey(kind: RecordKind, name: string): string {
  return `${kind}/${name}`;
}
