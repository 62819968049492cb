// The third record of a node: its session, read as strictly as the others.
import {
  asCount,
  asFlag,
  asObject,
  asText,
  checkSchema,
  extraOf,
  parsed,
  type Parsed,
  recordSchema,
  type Json,
} from './records.ts';

const sessionFields: ReadonlySet<string> = new Set(['schema', 'sessionId', 'renewals', 'termSeconds', 'removed']);

/** The session of a node: which process acts for it. Renewed by its holder, so that a version that stands still tells of its death. */
export interface SessionRecord {
  readonly sessionId: string;
  readonly renewals: number;
  /** Its holder counts as dead when it stands still for so long. */
  readonly termMs: number;
  /** The node was declared gone by a person; for good. */
  readonly removed: boolean;
  readonly extra: Readonly<Record<string, unknown>>;
}

/** Reads a session as stored. */
export function parseSession(value: unknown): Parsed<SessionRecord> {
  return parsed(() => {
    const object = asObject(value, 'the record');
    checkSchema(object);
    return {
      sessionId: asText(object['sessionId'], 'sessionId'),
      renewals: asCount(object['renewals'] ?? 0, 'renewals'),
      termMs: asCount(object['termSeconds'] ?? 0, 'termSeconds') * 1000,
      removed: asFlag(object['removed'], 'removed'),
      extra: extraOf(object, sessionFields),
    };
  });
}

/** The JSON value of a session. */
export function formatSession(record: SessionRecord): Json {
  return {
    ...record.extra,
    schema: recordSchema,
    sessionId: record.sessionId,
    renewals: record.renewals,
    termSeconds: Math.ceil(record.termMs / 1000),
    ...(record.removed && { removed: true }),
  };
}
