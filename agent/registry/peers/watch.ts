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
/** Reads that run at the same time. */
const readsAtOnce = 8;
const retryStartMs = 100;
const retryLimitMs = 5000;
/** The pause before a silent voter is polled again, as a part of the time that it has been silent. */
const retryShare = 0.1;

export async function* watchKeys(
  links: readonly VoterLink[],
  kind: RecordKind,
  get: (name: string) => Promise<RegistryRecord | undefined>,
  signal: AbortSignal,
): AsyncGenerator<WatchEvent, void, undefined> {
  const stop = new AbortController();
  const ended = AbortSignal.any([signal, stop.signal]);
  const ready: WatchEvent[] = [];
  const arrived = createBell(ended);
  const board = createBoard(kind, links.length, ended, (event) => {
    ready.push(event);
    arrived.ring();
  });
  const followed = links.map((link) => follow(link, kind, board, ended));
  const caughtUp = Promise.all(followed.map((voter) => voter.caughtUp));
  const work = [...followed.map((voter) => voter.done), confirmDoubts(board, get, caughtUp, ended)];
  try {
    while (!signal.aborted) {
      const event = ready.shift();
      if (event === undefined) await arrived.rung();
      else yield event;
    }
  } finally {
    stop.abort();
    await Promise.all(work);
  }
}

/** Who has reported what, and what was passed on. */
interface Board {
  report(voter: string, changed: ChangedKey): void;
  /** Version passed on last; undefined: nothing yet. */
  told(name: string): string | undefined;
  /** The register as a read found it that began when `told` was what it is given here: what was passed on since is newer. */
  confirm(name: string, record: RegistryRecord | undefined, told: string | undefined): void;
  /** Names that voters reported differently from what was passed on; taking them clears them. */
  takeDoubts(): readonly string[];
  doubt(name: string): void;
  /** Resolves when there is a doubt, or the watch has ended. */
  doubted(): Promise<void>;
}

interface Hint {
  /** Cell version by voter name. */
  readonly reported: Map<string, string>;
  /** Version passed on; undefined: nothing yet. */
  told: string | undefined;
}

function createBoard(kind: RecordKind, voters: number, signal: AbortSignal, tell: (event: WatchEvent) => void): Board {
  const hints = new Map<string, Hint>();
  const doubts = new Set<string>();
  const bell = createBell(signal);
  const hintOf = (name: string): Hint => {
    let hint = hints.get(name);
    if (hint === undefined) hints.set(name, (hint = { reported: new Map(), told: undefined }));
    return hint;
  };
  const doubt = (name: string): void => {
    doubts.add(name);
    bell.ring();
  };
  return {
    report: (voter, { name, cell }) => {
      const hint = hintOf(name);
      hint.reported.set(voter, cell.version);
      if (hint.told === cell.version) return;
      let count = 0;
      for (const version of hint.reported.values()) if (version === cell.version) count += 1;
      if (count <= voters / 2) return doubt(name);
      hint.told = cell.version;
      doubts.delete(name);
      return tell(eventOf(kind, name, cell));
    },
    told: (name) => hintOf(name).told,
    confirm: (name, record, told) => {
      const hint = hintOf(name);
      if (hint.told !== told) return;
      const version = record?.version ?? '';
      if (version !== hint.told) tell({ kind, name, ...(record === undefined ? {} : { record }) });
      hint.told = version;
    },
    takeDoubts: () => {
      const taken = [...doubts];
      doubts.clear();
      return taken;
    },
    doubt,
    doubted: async () => {
      while (doubts.size === 0 && !signal.aborted) await bell.rung();
    },
  };
}

/** Reads what voters disagree about. Waits for everyone's first report: until then most keys are one voter's word only. */
async function confirmDoubts(
  board: Board,
  get: (name: string) => Promise<RegistryRecord | undefined>,
  caughtUp: Promise<unknown>,
  signal: AbortSignal,
): Promise<void> {
  await caughtUp;
  let waitMs = confirmAfterMs;
  while (!signal.aborted) {
    await board.doubted();
    await pause(waitMs, signal);
    const names = [...board.takeDoubts()];
    const failed: string[] = [];
    // Where reads fail most would: the rest waits, and is first next time.
    while (names.length > 0 && failed.length === 0 && !signal.aborted) {
      const reads = names.splice(0, readsAtOnce).map(async (name) => {
        const told = board.told(name);
        try {
          board.confirm(name, await get(name), told);
        } catch {
          failed.push(name);
        }
      });
      await Promise.all(reads);
    }
    for (const name of [...names, ...failed]) board.doubt(name);
    waitMs = failed.length > 0 ? Math.min(retryLimitMs, Math.max(retryStartMs, waitMs * 2)) : confirmAfterMs;
  }
}

/** `caughtUp` resolves when the voter has reported all that it had at first, or did not answer. */
function follow(
  link: VoterLink,
  kind: RecordKind,
  board: Board,
  signal: AbortSignal,
): { readonly caughtUp: Promise<void>; readonly done: Promise<void> } {
  const caughtUp = Promise.withResolvers<void>();
  const poll = async (): Promise<void> => {
    let after = 0;
    let diskId = '';
    let silentSince: number | undefined;
    while (!signal.aborted) {
      try {
        // The first one does not wait, nor one after a failure: a voter that stays silent is found out soon.
        const waitMs = diskId === '' || silentSince !== undefined ? 0 : pollWaitMs;
        const answer = await link.changes({ kind, after, diskId, waitMs }, signal);
        for (const changed of answer.entries) board.report(link.name, changed);
        ({ change: after, diskId } = answer);
        silentSince = undefined;
        if (!answer.more) caughtUp.resolve();
      } catch {
        caughtUp.resolve();
        const now = performance.now();
        silentSince ??= now;
        await pause(Math.min(retryLimitMs, Math.max(retryStartMs, (now - silentSince) * retryShare)), signal);
      }
    }
    caughtUp.resolve();
  };
  return { caughtUp: caughtUp.promise, done: poll() };
}

interface Bell {
  ring(): void;
  /** Resolves when it was rung since the last time, or the signal aborts. */
  rung(): Promise<void>;
}

function createBell(signal: AbortSignal): Bell {
  let next = Promise.withResolvers<void>();
  signal.addEventListener('abort', () => next.resolve(), { once: true });
  return {
    ring: () => next.resolve(),
    rung: async () => {
      if (signal.aborted) return;
      await next.promise;
      next = Promise.withResolvers();
    },
  };
}

function eventOf(kind: RecordKind, name: string, cell: Cell): WatchEvent {
  if (cell.value === null) return { kind, name };
  return { kind, name, record: { kind, name, uid: cell.uid, version: cell.version, value: cell.value } };
}

/** With jitter, so that the watchers of a voter that comes back do not all come at once. Ends early by the signal. */
async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms * (0.5 + Math.random()), undefined, { signal }).catch(() => undefined);
}
