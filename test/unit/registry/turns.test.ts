// Calls to a voter that answers, that is silent, and that answers again: how many of them reach it.

import { setTimeout as sleep } from 'node:timers/promises';

import { describe, expect, it, vi } from 'vitest';

import { Turns } from '#agent/registry/peers/turns.ts';

/** Longer than any test: who waits for it is cut off. */
const foreverMs = 3_600_000;

/** A voter: how many calls it got, and what it does with them. */
class Voter {
  readonly turns = new Turns();
  calls = 0;
  answers = false;
  tookMs = 20;

  async call(signal: AbortSignal = AbortSignal.timeout(2000)): Promise<string> {
    return await this.turns.run(async () => {
      this.calls++;
      await sleep(this.tookMs, undefined, { signal });
      if (this.answers) {
        this.turns.heard();
        return 'answer';
      }
      this.turns.missed();
      throw new Error('no answer');
    }, signal);
  }
}

async function outcomes(voter: Voter, count: number): Promise<ReadonlySet<string>> {
  const calls = Array.from({ length: count }, async () => await voter.call().catch((error: unknown) => String(error)));
  return new Set(await Promise.all(calls));
}

describe('calls to a voter', () => {
  it('all go at once while it answers', async () => {
    const voter = new Voter();
    voter.answers = true;
    expect(await outcomes(voter, 20)).toEqual(new Set(['answer']));
    expect(voter.calls).toBe(20);
  });

  it('are one try where it is silent, and all have its end', async () => {
    const voter = new Voter();
    await expect(voter.call()).rejects.toThrow('no answer');
    expect(await outcomes(voter, 20)).toEqual(new Set(['Error: no answer']));
    expect(voter.calls).toBe(2);
  });

  it('all go once one is answered again', async () => {
    const voter = new Voter();
    await expect(voter.call()).rejects.toThrow('no answer');
    voter.answers = true;
    expect(await outcomes(voter, 20)).toEqual(new Set(['answer']));
    expect(voter.calls).toBe(21);
  });

  it('go on when the caller whose try it was gives up', async () => {
    const voter = new Voter();
    await expect(voter.call()).rejects.toThrow('no answer');
    voter.answers = true;
    voter.tookMs = foreverMs;
    const leaver = new AbortController();
    const left = voter.call(leaver.signal);
    await vi.waitFor(() => expect(voter.calls).toBe(2), { timeout: 10_000 });
    const other = voter.call(new AbortController().signal);
    voter.tookMs = 20;
    leaver.abort(new Error('left'));
    await expect(left).rejects.toThrow('aborted');
    expect(await other).toBe('answer');
    expect(voter.calls).toBe(3);
  });

  it('end by their own signal while they wait', async () => {
    const voter = new Voter();
    voter.tookMs = foreverMs;
    voter.turns.missed();
    const leaver = new AbortController();
    const trying = voter.call(leaver.signal);
    await vi.waitFor(() => expect(voter.calls).toBe(1), { timeout: 10_000 });
    await expect(voter.call(AbortSignal.timeout(30))).rejects.toThrow('timeout');
    expect(voter.calls).toBe(1);
    leaver.abort();
    await expect(trying).rejects.toThrow('aborted');
  });
});
