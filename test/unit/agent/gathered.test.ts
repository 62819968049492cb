// Work for whoever asks, gathered: nobody is forgotten, nothing runs twice at a time, and expensive work leaves room for other things.
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { gathered } from '#agent/gathered.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

it('runs at once, then once more for all who asked meanwhile, after a pause of twenty times what it cost', async () => {
  const work = vi.fn(async () => 10);
  const ask = gathered(work, () => expect.unreachable());
  ask();
  expect(work).toHaveBeenCalledTimes(1);
  for (let i = 0; i < 50; i++) ask();
  await vi.advanceTimersByTimeAsync(199);
  expect(work).toHaveBeenCalledTimes(1);
  await vi.advanceTimersByTimeAsync(2);
  expect(work).toHaveBeenCalledTimes(2);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(work).toHaveBeenCalledTimes(2);
  ask();
  expect(work).toHaveBeenCalledTimes(3);
});

it('never runs twice at a time; who asks while it waits for something is served by the next', async () => {
  const { promise, resolve } = Promise.withResolvers<number>();
  const work = vi.fn(() => promise);
  const ask = gathered(work, () => expect.unreachable());
  ask();
  ask();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(work).toHaveBeenCalledTimes(1);
  resolve(0);
  await vi.advanceTimersByTimeAsync(1);
  expect(work).toHaveBeenCalledTimes(2);
});

it('says what failed and goes on', async () => {
  const errors: unknown[] = [];
  const work = vi.fn(async (): Promise<number> => {
    throw new Error('broke');
  });
  const ask = gathered(work, (error) => errors.push(error));
  ask();
  await vi.advanceTimersByTimeAsync(1);
  ask();
  await vi.advanceTimersByTimeAsync(1);
  expect(errors).toHaveLength(2);
});

it('begins nothing once it was stopped', async () => {
  const work = vi.fn(async () => 1);
  const ask = gathered(work, () => expect.unreachable());
  ask();
  ask();
  ask.stop();
  await vi.advanceTimersByTimeAsync(1000);
  ask();
  expect(work).toHaveBeenCalledTimes(1);
});
