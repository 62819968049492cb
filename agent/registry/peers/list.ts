// Every record of a kind: the union of the keys over a majority of voters. Where a whole majority reports the same accepted
// ballot for a key, its content is the newest chosen one, as in a one-round read; the other keys are read one by one.

import { WeftError } from '#agent/errors.ts';
import type { VoterLink } from '#agent/registry/peers/link.ts';
import type { ChangedKey } from '#agent/registry/peers/wire.ts';
import type { RecordKind, RegistryRecord } from '#agent/registry/registry.ts';
import { ballotText } from '#ipam-peer/caspaxos/ballot.ts';
import { isSuperseded, type Sessions } from '#ipam-peer/caspaxos/session.ts';

/** Reads that run at the same time. */
const readsAtOnce = 16;

/** Throws WeftError('registry') when fewer than a majority answer. */
export async function listKeys(
  links: readonly VoterLink[],
  kind: RecordKind,
  get: (name: string) => Promise<RegistryRecord | undefined>,
  signal: AbortSignal,
): Promise<readonly RegistryRecord[]> {
  signal.throwIfAborted();
  const ask = (link: VoterLink, began: () => Promise<void>): Promise<Keys> => keysOf(link, kind, signal, began);
  const answers = (await firstMajority(links, ask)).map(({ keys }) => keys);
  const majority = Math.floor(links.length / 2) + 1;
  const records: RegistryRecord[] = [];
  const doubtful: string[] = [];
  const names = new Set(answers.flatMap((keys) => [...keys.keys()]));
  for (const name of names) {
    const agreed = agreedKey(answers, name, majority);
    if (agreed === undefined) doubtful.push(name);
    else if (agreed.cell.value !== null) {
      const { uid, version, value } = agreed.cell;
      records.push({ kind, name, uid, version, value });
    }
  }
  while (doubtful.length > 0) {
    const read = await Promise.all(doubtful.splice(0, readsAtOnce).map((name) => get(name)));
    records.push(...read.filter((record) => record !== undefined));
  }
  return records.toSorted((a, b) => (a.name < b.name ? -1 : 1));
}

interface Keys {
  readonly voter: string;
  readonly voterId: string;
  readonly sessions: Sessions;
  readonly keys: ReadonlyMap<string, ChangedKey>;
}

/** `began` is told of the first page, and resolves when the others are worth reading. */
async function keysOf(
  link: VoterLink,
  kind: RecordKind,
  signal: AbortSignal,
  began: () => Promise<void>,
): Promise<Keys> {
  const keys = new Map<string, ChangedKey>();
  let after = 0;
  let diskId = '';
  for (;;) {
    const answer = await link.changes({ kind, after, diskId, waitMs: 0 }, signal);
    const { voterId, sessions } = answer;
    if (diskId !== '' && answer.diskId !== diskId) keys.clear();
    for (const entry of answer.entries) keys.set(entry.name, entry);
    ({ change: after, diskId } = answer);
    if (!answer.more) return { voter: link.name, voterId, sessions, keys };
    await began();
  }
}

function agreedKey(
  answers: readonly ReadonlyMap<string, ChangedKey>[],
  name: string,
  majority: number,
): ChangedKey | undefined {
  const counts = new Map<string, number>();
  for (const keys of answers) {
    const entry = keys.get(name);
    if (entry === undefined) continue;
    const ballot = ballotText(entry.accepted);
    const count = (counts.get(ballot) ?? 0) + 1;
    if (count >= majority) return entry;
    counts.set(ballot, count);
  }
  return undefined;
}

/**
 * The answers of the first majority; all of them would mean waiting for a voter that is down. Superseded ones do not count. Where no majority
 * begins to answer nobody is asked for more than a page: a voter that is alone would read thousands of records for nothing, again and again.
 */
function firstMajority(
  links: readonly VoterLink[],
  ask: (link: VoterLink, began: () => Promise<void>) => Promise<Keys>,
): Promise<readonly Keys[]> {
  const majority = Math.floor(links.length / 2) + 1;
  return new Promise((resolve, reject) => {
    const answers: Keys[] = [];
    const begun = new Set<VoterLink>();
    const enough = Promise.withResolvers<void>();
    enough.promise.catch(() => undefined); // where nobody waits for it
    let failed = 0;
    const begins = (link: VoterLink): Promise<void> => {
      if (begun.add(link).size >= majority) enough.resolve();
      return enough.promise;
    };
    let cause: unknown;
    const judge = (): void => {
      const standing = answers.filter(
        ({ voter, voterId }) => !answers.some(({ sessions }) => isSuperseded(voter, voterId, sessions)),
      );
      if (standing.length >= majority) return resolve(standing);
      if (failed + answers.length < links.length) return;
      const why = cause instanceof Error ? `: ${cause.message}` : '';
      reject(new WeftError('registry', `no majority of the voters answers${why}`, { cause }));
    };
    for (const link of links) {
      ask(link, () => begins(link))
        .then(
          (answer) => {
            answers.push(answer);
            void begins(link);
          },
          (error: unknown) => {
            failed += 1;
            cause = error;
            if (links.length - failed < majority) enough.reject(error);
          },
        )
        .then(judge, reject);
    }
  });
}
