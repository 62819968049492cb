// Randomness out of the pool: nothing comes twice, and what comes is spread evenly.
import { expect, test } from 'vitest';

import { randomGeneration, randomUnit } from '#agent/runtime/random.ts';

test('generations are 64 bits of hex, and none comes twice, across many refills', () => {
  const all = Array.from({ length: 20_000 }, () => randomGeneration());
  expect(all.every((generation) => /^[0-9a-f]{16}$/.test(generation))).toBe(true);
  expect(new Set(all).size).toBe(all.length);
});

test('units lie in [0, 1) and are spread over it, with generations taken in between', () => {
  const tenths = Array.from({ length: 10 }, () => 0);
  for (let at = 0; at < 20_000; at++) {
    const unit = randomUnit();
    expect(unit >= 0 && unit < 1).toBe(true);
    const tenth = Math.floor(unit * 10);
    tenths[tenth] = (tenths[tenth] ?? 0) + 1;
    if (at % 3 === 0) randomGeneration();
  }
  expect(Math.min(...tenths)).toBeGreaterThan(1700);
});
