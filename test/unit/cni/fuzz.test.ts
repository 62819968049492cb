// The socket's fuzzer for a few seconds, from a fixed seed (WEFT_SEED gives another); `npm run fuzz` runs it for as long as asked.

import { afterEach, beforeEach, expect, test } from 'vitest';

import { fuzzSocket } from '#test/fuzz/socket.ts';
import { CniCase } from '#test/support/cni-case.ts';

let given: CniCase;

beforeEach(async () => {
  given = await CniCase.create();
  await given.start();
});
afterEach(() => given[Symbol.asyncDispose]());

test('requests that are nearly right, several at once', { timeout: 60_000 }, async () => {
  const seed = Number(process.env['WEFT_SEED'] ?? 1);
  await fuzzSocket(given, { seed, runs: 300 });
  await given.addPod('after');
  expect(given.observed.length).toBeGreaterThan(300);
});
