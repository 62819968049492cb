// The hint stream over voters that disagree, lag, or are silent: scripted voters, real time.

import { expect, it } from 'vitest';
import type { VoterLink } from '#agent/registry/peers/link.ts';
import { watchKeys } from '#agent/registry/peers/watch.ts';
import type { ChangesAnswer } from '#agent/registry/peers/wire.ts';
import type { RegistryRecord, WatchEvent } from '#agent/registry/registry.ts';
import { until } from '#test/support/registry-contract.ts';

class ScriptedVoter implements VoterLink {
  readonly name: string;
  down = false;
  calls = 0;
  #change = 0;
  #pending: ChangesAnswer['entries'] = [];
  #wake = Promise.withResolvers<void>();

  constructor(name: string) {
    this.name = name;
  }

  report(name: string, version: string): void {
    const cell = { uid: 'u', version, writer: 'w', lineage: [], value: { version } };
    this.#change += 1;
    this.#pending = [...this.#pending, { name, accepted: { counter: this.#change, proposer: 'p' }, cell }];
    this.#wake.resolve();
  }

  async changes({ waitMs }: { readonly waitMs: number }, signal: AbortSignal): Promise<ChangesAnswer> {
    this.calls += 1;
    if (this.down) throw new Error('down');
    signal.addEventListener('abort', () => this.#wake.resolve(), { once: true });
    if (this.#pending.length === 0 && waitMs > 0 && !signal.aborted) await this.#wake.promise;
    this.#wake = Promise.withResolvers();
    const entries = this.#pending;
    this.#pending = [];
    return { diskId: `id-${this.name}`, voterId: '1.s', sessions: {}, change: this.#change, entries, more: false };
  }

  acceptor(): never {
    throw new Error('the watch only polls');
  }

  close(): void {}
}

function record(version: string): RegistryRecord {
  return { kind: 'peer', name: 'a', uid: 'u', version, value: { version } };
}

async function watching(
  get: () => Promise<RegistryRecord | undefined>,
  body: (
    voters: readonly [ScriptedVoter, ScriptedVoter, ScriptedVoter],
    events: readonly WatchEvent[],
  ) => Promise<void>,
): Promise<void> {
  const voters = [new ScriptedVoter('a'), new ScriptedVoter('b'), new ScriptedVoter('c')] as const;
  const stop = new AbortController();
  const events: WatchEvent[] = [];
  const done = (async () => {
    for await (const event of watchKeys(voters, 'peer', get, stop.signal)) events.push(event);
  })();
  try {
    await body(voters, events);
  } finally {
    stop.abort();
    await done;
  }
}

it('passes on what a majority reports without reading, once', async () => {
  await watching(
    () => expect.unreachable('nothing is in doubt'),
    async ([a, b], events) => {
      a.report('a', 'v1');
      b.report('a', 'v1');
      await until(() => events.length === 1, 'the event', 1000);
      expect(events).toEqual([{ kind: 'peer', name: 'a', record: record('v1') }]);
    },
  );
});

it('reads what only one voter reports, again while reads fail, and once more for what came meanwhile', async () => {
  let reads = 0;
  let late: (() => void) | undefined;
  await watching(
    async () => {
      reads += 1;
      if (reads === 1) throw new Error('no majority');
      if (reads > 2) return record('v2');
      // A newer write reaches one voter while this read is under way.
      late?.();
      await new Promise((resolve) => setTimeout(resolve, 50));
      return record('v1');
    },
    async ([a], events) => {
      late = () => a.report('a', 'v2');
      a.report('a', 'v1');
      await until(() => events.at(-1)?.record?.version === 'v2', 'the newer write', 5000);
      expect(events.map((event) => event.record?.version)).toEqual(['v1', 'v2']);
      expect(reads).toBe(3);
    },
  );
});

it('passes over a read that is older than what a majority has reported meanwhile: a record that was just made would be gone', async () => {
  let made: (() => void) | undefined;
  await watching(
    async () => {
      made?.();
      await new Promise((resolve) => setTimeout(resolve, 50));
      return undefined;
    },
    async ([a, b], events) => {
      const reported = new Promise<void>((resolve) => {
        made = () => {
          b.report('a', 'v1');
          resolve();
        };
      });
      a.report('a', 'v1');
      await reported;
      await until(() => events.length > 0, 'the record', 1000);
      await new Promise((resolve) => setTimeout(resolve, 100));
      expect(events).toEqual([{ kind: 'peer', name: 'a', record: record('v1') }]);
    },
  );
});

it('tells of a deletion that only one voter reports, and goes on without a voter that is down', async () => {
  await watching(
    async () => undefined,
    async ([a, b, c], events) => {
      c.down = true;
      a.report('a', 'v1');
      b.report('a', 'v1');
      await until(() => events.length === 1, 'the record', 1000);
      a.report('a', 'v2');
      await until(() => events.length === 2, 'the deletion', 1000);
      expect(events[1]).toEqual({ kind: 'peer', name: 'a' });
    },
  );
});

it('hears a voter that starts 2 s late within 0.3 s of its start, and does not hammer it before', async () => {
  const voters = [new ScriptedVoter('a'), new ScriptedVoter('b'), new ScriptedVoter('c')] as const;
  const [a, b, c] = voters;
  b.down = true;
  c.down = true;
  const stop = new AbortController();
  const events: WatchEvent[] = [];
  const read = async (): Promise<RegistryRecord> => record('v1');
  const done = (async () => {
    for await (const event of watchKeys(voters, 'peer', read, stop.signal)) events.push(event);
  })();
  try {
    const late = performance.now() + 2000;
    await until(() => performance.now() >= late, 'the start', 3000);
    expect(Math.max(b.calls, c.calls)).toBeLessThan(40);
    // Known to the late voters alone: the own voter would never tell of it.
    b.report('a', 'v1');
    c.report('a', 'v1');
    const startedAt = performance.now();
    b.down = false;
    c.down = false;
    await until(() => events.length === 1, 'the event', 2000);
    // A tenth of the silence, with jitter at most half as much again; the rest is what a busy machine takes.
    expect(performance.now() - startedAt).toBeLessThan(400);
    expect(a.calls).toBeLessThan(5);
  } finally {
    stop.abort();
    await done;
  }
});

it('tries few of many doubts while reads fail, and reads them all once they do not', async () => {
  const names = Array.from({ length: 100 }, (_, index) => `peer${index}`);
  let away = true;
  let reads = 0;
  await watching(
    async () => {
      reads++;
      if (away) throw new Error('no majority');
      return record('v1');
    },
    async ([a], events) => {
      for (const name of names) a.report(name, 'v1');
      await until(() => reads > 0, 'a read', 1000);
      await new Promise((resolve) => setTimeout(resolve, 500));
      // Half a second has room for four sweeps at most.
      expect(reads).toBeLessThan(50);
      away = false;
      await until(() => events.length === names.length, 'every record', 5000);
    },
  );
});
