// The shim under ASan and UBSan with generated calls, from a fixed seed (WEFT_SEED gives another); `npm run fuzz` runs it under libFuzzer.

import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { buildFuzzer, runFuzzer } from '#test/fuzz/shim.ts';

let directory = '';

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'weft-fuzz-'));
});
afterAll(() => rm(directory, { recursive: true, force: true }));

test('no input breaks the shim', { timeout: 120_000 }, async () => {
  const program = buildFuzzer(directory, 'generator');
  const seed = process.env['WEFT_SEED'] ?? '1';
  const run = await runFuzzer(program, [seed, '3000'], directory);
  expect(run, `generate ${seed} 3000`).toEqual({ code: 0, output: `3000 inputs of seed ${seed}\n` });
  expect(await readdir(directory)).toEqual(['generator']);
});
