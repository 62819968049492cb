// A voter over its store: nothing is answered that is not on disk, requests share commits, waiting callers are woken.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createChecks } from '#agent/registry/peers/checks.ts';
import { createSeat } from '#agent/registry/peers/seat.ts';
import { createVoterDisk, openVoterStore, type VoterStore } from '#agent/registry/peers/store.ts';
import { createVoter, type Voter } from '#agent/registry/peers/voter.ts';
import type { AcceptorCall } from '#agent/registry/peers/wire.ts';
import type { AcceptorReply, AcceptorRequest } from '#ipam-peer/caspaxos/acceptor.ts';
import { WeftError } from '#agent/errors.ts';

const caller = { nodeName: 'host1' };
const signal = new AbortController().signal;
let directory: string;
let store: VoterStore;
/** The session of the voter that was made last. */
let voterId = '';

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'weft-voter-'));
  createVoterDisk(join(directory, 'voter.db'));
  store = openVoterStore(join(directory, 'voter.db'));
});
afterEach(async () => {
  store[Symbol.dispose]();
  await rm(directory, { recursive: true, force: true });
});

const ballot = (counter: number): { readonly counter: number; readonly proposer: string } => ({
  counter,
  proposer: 'p',
});

function call(key: string, request: AcceptorRequest): AcceptorCall {
  return { key, request };
}

function accept(key: string, counter: number, value: Record<string, unknown> | null): AcceptorCall {
  const cell = { uid: 'u', version: `${counter}.p`, writer: 'host1', lineage: [], value };
  return call(key, { kind: 'accept', ballot: ballot(counter), voterId, cell });
}

/** The only voter, which lets everybody write everything. */
function makeVoter(over: VoterStore): Voter {
  const log = { info: () => undefined, warn: () => undefined };
  const options = { self: 'host1', voters: ['host1'], fellows: [], store: over, log: log as never, trustAfterMs: 0 };
  const seat = createSeat(options);
  seat.start(signal);
  ({ voterId } = seat.self());
  return createVoter(over, seat, createChecks({ store: over, fellows: [], rule: () => undefined }), signal);
}

/** The store as given, counting commits; `failing` makes them fail as a full disk does. */
function watched(state: { commits: number; failing: boolean }): VoterStore {
  return {
    ...store,
    commit: (batch) => {
      state.commits += 1;
      store.commit(() => {
        batch();
        if (state.failing) throw new WeftError('store', 'database or disk is full');
      });
    },
    [Symbol.dispose]: () => undefined,
  };
}

describe('a voter', () => {
  it('forgets neither a promise nor an accepted cell over a restart', async () => {
    const voter = makeVoter(store);
    await voter.acceptor(call('peer/a', { kind: 'prepare', ballot: ballot(5) }), caller);
    await voter.acceptor(accept('peer/b', 7, { x: 1 }), caller);
    store[Symbol.dispose]();
    store = openVoterStore(join(directory, 'voter.db'));
    const again = makeVoter(store);
    expect(await again.acceptor(call('peer/a', { kind: 'prepare', ballot: ballot(5) }), caller)).toMatchObject({
      kind: 'outdated',
      promised: ballot(5),
    });
    expect(await again.acceptor(call('peer/b', { kind: 'read' }), caller)).toMatchObject({
      accepted: ballot(7),
      cell: { value: { x: 1 } },
    });
  });

  it('answers nothing while its disk takes nothing, and works again afterwards', async () => {
    const state = { commits: 0, failing: true };
    const voter = makeVoter(watched(state));
    const prepare = call('peer/a', { kind: 'prepare', ballot: ballot(5) });
    await expect(voter.acceptor(prepare, caller)).rejects.toMatchObject({ kind: 'store' });
    expect(store.read('peer/a').promised.counter).toBe(0);
    state.failing = false;
    expect(await voter.acceptor(prepare, caller)).toMatchObject({ kind: 'promised' });
  });

  it('commits once for requests that come together, in their order', async () => {
    const state = { commits: 0, failing: false };
    const voter = makeVoter(watched(state));
    const replies = await Promise.all(
      [3, 2, 4].map((counter) => voter.acceptor(call('peer/a', { kind: 'prepare', ballot: ballot(counter) }), caller)),
    );
    expect(replies.map((reply: AcceptorReply) => reply.kind)).toEqual(['promised', 'outdated', 'promised']);
    expect(state.commits).toBe(1);
  });

  it('does not accept what was prepared with a voter of another id', async () => {
    const voter = makeVoter(store);
    const request = { kind: 'accept', ballot: ballot(1), voterId: 'the disk before', cell: null } as const;
    expect(await voter.acceptor(call('peer/a', request), caller)).toEqual({
      kind: 'otherVoter',
      voterId,
    });
  });

  it('wakes who waits for a kind when content of that kind changes, and no one else', async () => {
    const voter = makeVoter(store);
    const ask = { after: 0, diskId: store.diskId, waitMs: 2000 } as const;
    const began = performance.now();
    const peers = voter.changes({ ...ask, kind: 'peer' }, signal);
    const universes = voter.changes({ ...ask, kind: 'universe', waitMs: 200 }, signal);
    await voter.acceptor(call('peer/a', { kind: 'prepare', ballot: ballot(1) }), caller);
    await voter.acceptor(accept('peer/a', 1, { x: 1 }), caller);
    expect((await peers).entries).toMatchObject([{ name: 'a', cell: { value: { x: 1 } } }]);
    expect(performance.now() - began).toBeLessThan(1000);
    expect((await universes).entries).toEqual([]);
    // The same content confirmed at a higher ballot is no change.
    const { change } = await peers;
    const quiet = voter.changes({ ...ask, kind: 'peer', after: change, waitMs: 100 }, signal);
    const { cell } = store.read('peer/a');
    await voter.acceptor(call('peer/a', { kind: 'accept', ballot: ballot(9), voterId, cell }), caller);
    expect((await quiet).entries).toEqual([]);
  });

  it('tells everything anew to who comes from another disk', async () => {
    const voter = makeVoter(store);
    await voter.acceptor(accept('peer/a', 1, { x: 1 }), caller);
    const answer = await voter.changes({ kind: 'peer', after: 99, diskId: 'the disk before', waitMs: 2000 }, signal);
    expect(answer).toMatchObject({ diskId: store.diskId, entries: [{ name: 'a' }], more: false });
    const { diskId } = store;
    const setBack = await voter.changes({ kind: 'peer', after: 99, diskId, waitMs: 2000 }, signal);
    expect(setBack).toMatchObject({ entries: [{ name: 'a' }], change: 1 });
  });

  it('pages, and tells of a tombstone', async () => {
    const voter = makeVoter(store);
    await Promise.all(Array.from({ length: 130 }, (_, at) => voter.acceptor(accept(`peer/n${at}`, 1, { at }), caller)));
    await voter.acceptor(accept('peer/n0', 2, null), caller);
    const names: string[] = [];
    let after = 0;
    for (let more = true; more;) {
      const page = await voter.changes({ kind: 'peer', after, diskId: store.diskId, waitMs: 0 }, signal);
      names.push(...page.entries.map(({ name, cell }) => (cell.value === null ? `-${name}` : name)));
      ({ change: after, more } = page);
    }
    expect(new Set(names).size).toBe(130);
    expect(names.at(-1)).toBe('-n0');
  });

  it('refuses a value that is too large', async () => {
    const voter = makeVoter(store);
    expect(await voter.acceptor(accept('peer/a', 1, { x: 'x'.repeat(70_000) }), caller)).toMatchObject({
      kind: 'refused',
      reason: expect.stringContaining('larger than 65536 bytes'),
    });
  });
});
