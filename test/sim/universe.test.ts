// The Universe is deleted by hand again and again, while processes die, disks are lost or set back and nodes go: it is made again, nobody
// founds a second network over the first, and no address has two owners.
import { expect, test } from 'vitest';
import { type RunOptions, runSeed } from './run.ts';
import { noFaults } from './scenario.ts';

const seeds = Number(process.env['WEFT_SIM_SEEDS'] ?? 12);
const first = Number(process.env['WEFT_SIM_FIRST'] ?? 1);

const override: NonNullable<RunOptions['override']> = {
  mood: 'universe',
  joinOnUse: false,
  busyMs: 30_000,
  halves: false,
  timing: { pollMs: 500, resyncMs: 3000 },
  faults: {
    ...noFaults,
    crashPerEffect: 0.002,
    requestLost: 0.03,
    requestLate: 0.1,
    requestTwice: 0.1,
    replyLost: 0.03,
    unknown: 0.05,
    hintLost: 0.2,
    hintLate: 0.2,
    faultEveryMs: 400,
  },
};

test(`${seeds} seeds from ${first}`, { timeout: 3_600_000 }, () => {
  let deleted = 0;
  for (let seed = first; seed < first + seeds; seed++) {
    const { violation, trace, counters } = runSeed({ seed, override });
    expect(violation === '' ? '' : `seed ${seed}: ${violation}\n${trace.slice(-40).join('\n')}`).toBe('');
    deleted += counters.get('universeDeleted');
  }
  expect(deleted).toBeGreaterThan(seeds);
  console.log(`the Universe was deleted ${deleted} times`);
});
