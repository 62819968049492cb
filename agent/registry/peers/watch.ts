// Hints about changes: one long poll on each voter. What a majority of voters reports alike is passed on at once; what only
// some report (a voter is down or lags) is read first, after a moment. Begins with everything, because polls begin at zero.

import { setTimeout as sleep } from 'node:timers/promises';
import type { VoterLink } from '#agent/registry/peers/link.ts';
import type { ChangedKey } from '#agent/registry/peers/wire.ts';
import type { RecordKind, RegistryRecord, WatchEvent } from '#agent/registry/registry.ts';
import type { Cell } from '#ipam-peer/caspaxos/change.ts';

const pollWaitMs = 25_000;
/** How long a majority may take to report alike before the key is read instead. */
const confirmAfterMs = 30;
const retryStartMs = 100;
const retryLimitMs = 5000;

interface Hint {
  /** Cell version by voter name. */
  readonly reported: Map<string, string>;
  told: string | undefined;
  confirming: boolean;
}

export async function* watchKeys(
  links: readonly VoterLink[],
  kind: RecordKind,
  get: (name: string) => Promise<RegistryRecord | undefined>,
  signal: AbortSignal,
): AsyncGenerator<WatchEvent, void, undefined> {
  const stop = new AbortController();
  const ended = AbortSignal.any([signal, stop.signal]);
  const hints = new Map<string, Hint>();
  const ready: WatchEvent[] = [];
  let wake = Promise.withResolvers<void>();
  const tell = (event: WatchEvent): void => {
    ready.push(event);
    wake.resolve();
  };
  ended.addEventListener('abort', () => wake.resolve());

  const confirm = async (name: string, hint: Hint): Promise<void> => {
    hint.confirming = true;
    let waitMs = confirmAfterMs;
    while (!ended.aborted) {
      await pause(waitMs, ended);
      // A majority has come to agree meanwhile.
      if ([...hint.reported.values()].every((version) => version === hint.told)) break;
      try {
        const record = await get(name);
        const version = record?.version ?? '';
        if (version !== hint.told) tell({ kind, name, ...(record === undefined ? {} : { record }) });
        hint.told = version;
        break;
      } catch {
        waitMs = Math.min(retryLimitMs, Math.max(retryStartMs, waitMs * 2));
      }
    }
    hint.confirming = false;
  };

  const report = (voter: string, { name, cell }: ChangedKey): void => {
    let hint = hints.get(name);
    if (hint === undefined) hints.set(name, (hint = { reported: new Map(), told: undefined, confirming: false }));
    hint.reported.set(voter, cell.version);
    if (hint.told === cell.version) return;
    let count = 0;
    for (const version of hint.reported.values()) if (version === cell.version) count += 1;
    if (count > links.length / 2) {
      hint.told = cell.version;
      tell(eventOf(kind, name, cell));
    } else if (!hint.confirming) void confirm(name, hint);
  };

  const polls = links.map((link) => poll(link, kind, (changed) => report(link.name, changed), ended));
  try {
    while (!signal.aborted) {
      const event = ready.shift();
      if (event !== undefined) {
        yield event;
        continue;
      }
      await wake.promise;
      wake = Promise.withResolvers<void>();
    }
  } finally {
    stop.abort();
    await Promise.all(polls);
  }
}

async function poll(
  link: VoterLink,
  kind: RecordKind,
  report: (changed: ChangedKey) => void,
  signal: AbortSignal,
): Promise<void> {
  let after = 0;
  let voterId = '';
  let failures = 0;
  while (!signal.aborted) {
    try {
      const answer = await link.changes({ kind, after, voterId, waitMs: pollWaitMs }, signal);
      for (const changed of answer.entries) report(changed);
      after = answer.change;
      voterId = answer.voterId;
      failures = 0;
    } catch {
      failures += 1;
      await pause(Math.min(retryLimitMs, retryStartMs * 2 ** Math.min(failures, 10)), signal);
    }
  }
}

function eventOf(kind: RecordKind, name: string, cell: Cell): WatchEvent {
  if (cell.value === null) return { kind, name };
  return { kind, name, record: { kind, name, uid: cell.uid, version: cell.version, value: cell.value } };
}

/** With jitter, so that the watchers of a voter that comes back do not all come at once. Ends early by the signal. */
async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms * (0.5 + Math.random()), undefined, { signal }).catch(() => undefined);
}
