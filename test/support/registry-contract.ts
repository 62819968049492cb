// The contract of agent/registry/registry.ts as one suite, run against every engine and against the memory registry that tests
// use in their place. Values are valid records, because an engine may check their shape.

import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type {
  Registry,
  RecordKind,
  RecordValue,
  RegistryRecord,
  WatchEvent,
  WriteOutcome,
} from '#agent/registry/registry.ts';

export interface RegistryFixture extends AsyncDisposable {
  /** Another client of the same store, with caches and connections of its own. */
  open(nodeName: string): Promise<Registry>;
}

/** Longest that a watcher may learn late, milliseconds. */
export interface ContractLimits {
  readonly watchMs: number;
}

export function registryContract(
  name: string,
  make: () => Promise<RegistryFixture>,
  limits: ContractLimits = { watchMs: 2000 },
): void {
  // Generous, for machines that do other things too: what must be quick says so itself.
  describe(`registry contract: ${name}`, { timeout: 30_000 }, () => {
    let fixture: RegistryFixture;
    let alice: Registry;
    let bob: Registry;
    const signal = new AbortController().signal;

    beforeAll(async () => {
      fixture = await make();
      [alice, bob] = await Promise.all([fixture.open('host1'), fixture.open('host2')]);
    }, 60_000);
    afterAll(async () => {
      await Promise.all([alice?.close(), bob?.close()]);
      await fixture?.[Symbol.asyncDispose]();
    }, 60_000);

    it.for<RecordKind>(['universe', 'peer', 'session'])('creates, reads, updates and deletes a %s', async (kind) => {
      const record = name_('life');
      expect(await alice.get(kind, record, signal)).toBeUndefined();
      const created = await created_(alice, kind, record, 1);
      expect(created).toMatchObject({ kind, name: record, value: sampleValue(kind, 1) });
      expect(await bob.get(kind, record, signal)).toEqual(created);

      const updated = await updated_(bob, created, 2);
      expect(updated.uid).toBe(created.uid);
      expect(updated.version).not.toBe(created.version);
      expect(await alice.get(kind, record, signal)).toEqual(updated);
      expect(await alice.list(kind, signal)).toContainEqual(updated);

      expect(await alice.delete(updated, signal)).toEqual({ kind: 'ok' });
      expect(await bob.get(kind, record, signal)).toBeUndefined();
      expect((await bob.list(kind, signal)).map((entry) => entry.name)).not.toContain(record);
    });

    it('creates a name once', async () => {
      const record = name_('once');
      const first = await created_(alice, 'peer', record, 1);
      expect(await bob.create('peer', record, sampleValue('peer', 2), signal)).toEqual({ kind: 'conflict' });
      expect(await bob.get('peer', record, signal)).toEqual(first);
    });

    it('refuses to update or delete at an old version', async () => {
      const first = await created_(alice, 'peer', name_('stale'), 1);
      const second = await updated_(alice, first, 2);
      expect(await bob.update(first, sampleValue('peer', 3), signal)).toEqual({ kind: 'conflict' });
      expect(await bob.delete(first, signal)).toEqual({ kind: 'conflict' });
      expect(await bob.get('peer', first.name, signal)).toEqual(second);
    });

    it('finds nothing to update or delete where nothing is', async () => {
      const first = await created_(alice, 'peer', name_('gone'), 1);
      expect(await alice.delete(first, signal)).toEqual({ kind: 'ok' });
      expect(await bob.update(first, sampleValue('peer', 2), signal)).toEqual({ kind: 'notFound' });
      expect(await bob.delete(first, signal)).toEqual({ kind: 'notFound' });
    });

    it('gives a re-created record another uid and lets nothing of the old one act on it', async () => {
      const first = await created_(alice, 'peer', name_('again'), 1);
      expect(await alice.delete(first, signal)).toEqual({ kind: 'ok' });
      const second = await created_(bob, 'peer', first.name, 1);
      expect(second.uid).not.toBe(first.uid);
      expect(await alice.update(first, sampleValue('peer', 2), signal)).toEqual({ kind: 'conflict' });
      expect(await alice.delete(first, signal)).toEqual({ kind: 'conflict' });
      expect(await alice.get('peer', first.name, signal)).toEqual(second);
    });

    it('keeps kinds apart', async () => {
      const record = name_('kinds');
      await created_(alice, 'peer', record, 1);
      expect(await bob.get('universe', record, signal)).toBeUndefined();
      expect(await bob.get('session', record, signal)).toBeUndefined();
      await created_(bob, 'session', record, 2);
      expect((await alice.get('peer', record, signal))?.value).toEqual(sampleValue('peer', 1));
    });

    it('lets exactly one of many create, and exactly one of many update a version', async () => {
      const record = name_('race');
      const contenders = [alice, bob, alice, bob, alice, bob];
      const creates = await Promise.all(
        contenders.map((client, at) => client.create('peer', record, sampleValue('peer', at), signal)),
      );
      const made = creates.flatMap((outcome) => (outcome.kind === 'ok' ? [outcome.record] : []));
      expect(made).toHaveLength(1);
      expect(creates.filter((outcome) => outcome.kind === 'conflict')).toHaveLength(5);
      const base = made[0] as RegistryRecord;
      const updates = await Promise.all(
        contenders.map((client, at) => client.update(base, sampleValue('peer', 10 + at), signal)),
      );
      const won = updates.flatMap((outcome) => (outcome.kind === 'ok' ? [outcome.record] : []));
      // An engine may have to say that it does not know, but then nobody else may have lost for certain to nothing.
      expect(won.length).toBeLessThanOrEqual(1);
      const now = await alice.get('peer', record, signal);
      expect(now?.version).not.toBe(base.version);
      if (won.length === 1) expect(now).toEqual(won[0]);
    });

    it('loses no update under contention', async () => {
      const record = name_('count');
      await created_(alice, 'peer', record, 0);
      const perClient = 8;
      let unknown = 0;
      const increments = [alice, bob].map(async (client) => {
        for (let done = 0; done < perClient;) {
          const current = (await client.get('peer', record, signal)) as RegistryRecord;
          const outcome = await client.update(current, sampleValue('peer', seqOf(current) + 1), signal);
          if (outcome.kind === 'ok') done += 1;
          else if (outcome.kind === 'unknown') unknown += 1;
          else expect(outcome.kind).toBe('conflict');
        }
      });
      await Promise.all(increments);
      const counted = seqOf((await bob.get('peer', record, signal)) as RegistryRecord);
      expect(counted).toBeGreaterThanOrEqual(2 * perClient);
      expect(counted).toBeLessThanOrEqual(2 * perClient + unknown);
    });

    it('lists more records than fit on a page', async () => {
      const names = Array.from({ length: 150 }, (_, at) => name_(`many-${at}`));
      await inBatches(names, 10, async (record) => {
        await created_(alice, 'peer', record, 1);
      });
      const listed = new Set((await bob.list('peer', signal)).map((entry) => entry.name));
      expect(names.filter((record) => !listed.has(record))).toEqual([]);
    });

    it('watches: begins with what exists, tells of each change, ends with its signal', async () => {
      const record = name_('watch');
      const first = await created_(alice, 'peer', record, 1);
      const stop = new AbortController();
      const events: WatchEvent[] = [];
      const watching = (async () => {
        for await (const event of bob.watch('peer', stop.signal)) if (event.name === record) events.push(event);
      })();
      await until(() => events.at(-1)?.record?.version === first.version, 'what exists', limits.watchMs);
      const second = await updated_(alice, first, 2);
      await until(() => events.at(-1)?.record?.version === second.version, 'the update', limits.watchMs);
      expect(events.at(-1)).toEqual({ kind: 'peer', name: record, record: second });
      await alice.delete(second, signal);
      await until(() => events.length > 0 && events.at(-1)?.record === undefined, 'the deletion', limits.watchMs);
      const third = await created_(alice, 'peer', record, 3);
      await until(() => events.at(-1)?.record?.uid === third.uid, 'the new record', limits.watchMs);
      stop.abort();
      await watching;
    });

    it('refuses a name or a value that cannot be kept, with the reason', async () => {
      const bad = await alice.create('peer', 'Not A Name', sampleValue('peer', 1), signal);
      expect(bad).toMatchObject({ kind: 'refused', reason: expect.stringContaining('Not A Name') });
      const large = { ...sampleValue('session', 1), holder: 'x'.repeat(66_000) };
      const outcome = await alice.create('session', name_('large'), large, signal);
      expect(outcome).toMatchObject({ kind: 'refused', reason: expect.stringMatching(/6553[56]|bytes/) });
    });

    it('gives up when its signal aborts', async () => {
      const aborted = AbortSignal.abort(new Error('enough'));
      await expect(alice.get('peer', name_('aborted'), aborted)).rejects.toThrow();
      await expect(alice.list('peer', aborted)).rejects.toThrow();
      for await (const _ of alice.watch('peer', aborted)) expect.unreachable();
    });
  });
}

/** A valid record of each kind; `seq` tells contents apart. */
export function sampleValue(kind: RecordKind, seq: number): RecordValue {
  switch (kind) {
    case 'universe':
      return { schema: 1, ranges: ['10.32.0.0/12'], reserved: seq % 2 === 0 ? ['10.32.0.0/24'] : [] };
    case 'peer':
      return {
        schema: 1,
        node: { name: 'host1', uid: '3f0c9a52-0000-4000-8000-000000000001' },
        seq,
        seeded: false,
        blocks: [],
        granting: [],
        underlay: ['192.0.2.1'],
        overlay: [],
        free: 0,
      };
    case 'session':
      return { sessionId: `00000000-0000-4000-8000-${String(seq).padStart(12, '0')}`, termSeconds: 240 };
  }
}

/** Polls until the condition holds; fails with `what` after the limit. */
export async function until(condition: () => boolean, what: string, limitMs: number): Promise<void> {
  const deadline = performance.now() + limitMs;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`not within ${limitMs} ms: ${what}`);
    await sleep(5);
  }
}

const runId = Date.now().toString(36);

function name_(what: string): string {
  return `contract-${what}-${runId}`;
}

function seqOf(record: RegistryRecord): number {
  return Number(record.value['seq']);
}

async function created_(registry: Registry, kind: RecordKind, name: string, seq: number): Promise<RegistryRecord> {
  const signal = new AbortController().signal;
  const write = (): Promise<WriteOutcome> => registry.create(kind, name, sampleValue(kind, seq), signal);
  return await decided(`create ${kind} ${name}`, write, async () => registry.get(kind, name, signal));
}

async function updated_(registry: Registry, record: RegistryRecord, seq: number): Promise<RegistryRecord> {
  const signal = new AbortController().signal;
  const write = (): Promise<WriteOutcome> => registry.update(record, sampleValue(record.kind, seq), signal);
  return await decided(`update ${record.name}`, write, async () => {
    const found = await registry.get(record.kind, record.name, signal);
    return found?.version === record.version ? undefined : found;
  });
}

/** As a caller must: what is `unknown`, which a voter without processor time may make it, is read and, where it did nothing, tried again. */
async function decided(
  what: string,
  write: () => Promise<WriteOutcome>,
  find: () => Promise<RegistryRecord | undefined>,
): Promise<RegistryRecord> {
  let outcome = await write();
  for (let time = 0; outcome.kind === 'unknown' && time < 5; time++) {
    const found = await find().catch(() => undefined);
    if (found !== undefined) return found;
    outcome = await write();
  }
  if (outcome.kind !== 'ok') throw new Error(`${what}: ${JSON.stringify(outcome)}`);
  return outcome.record;
}

async function inBatches<T>(items: readonly T[], size: number, action: (item: T) => Promise<void>): Promise<void> {
  for (let at = 0; at < items.length; at += size) await Promise.all(items.slice(at, at + size).map(action));
}
