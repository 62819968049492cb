// A voter's id is its session: new at every start, ordered, known to the other voters. It tells a voter that went on with another
// disk (wiped, rolled back, copied to a second machine) from the one that gave a promise: who knows of a later session of a
// voter says so in its answers, and a proposer then counts nothing that an earlier one has said.

import { maxCounter } from './ballot.ts';

/** `<counter>.<random>`. */
const sessionPattern = /^(\d{1,16})\.[0-9a-zA-Z_-]{1,40}$/;

/** Latest known session of each voter, by its name. */
export type Sessions = Readonly<Record<string, string>>;

/** Later than every session of a voter: it was replaced and never votes again. */
export const retiredSession: string = `${maxCounter}.retired`;

/** 0 for a text that is no session. */
export function sessionCounter(session: string): number {
  return Number(sessionPattern.exec(session)?.[1] ?? 0);
}

/** Negative, zero or positive, as for Array.prototype.sort. Total: by counter, then by the random part. */
export function compareSessions(a: string, b: string): number {
  const [counterA, counterB] = [sessionCounter(a), sessionCounter(b)];
  if (counterA !== counterB) return counterA - counterB;
  return a === b ? 0 : a < b ? -1 : 1;
}

/** The later of what both know. */
export function mergeSessions(a: Sessions, b: Sessions): Sessions {
  const merged: Record<string, string> = { ...a };
  for (const [voter, session] of Object.entries(b)) {
    const known = merged[voter];
    if (known === undefined || compareSessions(known, session) < 0) merged[voter] = session;
  }
  return merged;
}

/** Somebody knows a later session of this voter: what this one said does not count. */
export function isSuperseded(voter: string, session: string, known: Sessions): boolean {
  const latest = known[voter];
  return latest !== undefined && compareSessions(session, latest) < 0;
}
