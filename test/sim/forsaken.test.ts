// Records are deleted by hand while disks are lost, set back or copied and nodes go: what nobody knows of any more is nobody's. Once the faults
// have ended a person says that one node takes it (`weft ipam reclaim`), and nothing is missing; no address ever has two owners.
import { expect, test } from 'vitest';
import { type RunOptions, runSeed } from './run.ts';
import { noFaults } from './scenario.ts';

const seeds = Number(process.env['WEFT_SIM_SEEDS'] ?? 30);
const first = Number(process.env['WEFT_SIM_FIRST'] ?? 1);

const override: NonNullable<RunOptions['override']> = {
  mood: 'forsaken',
  joinOnUse: false,
  busyMs: 10_000,
  halves: false,
  podsPerPeer: 20,
  faults: { ...noFaults, crashPerEffect: 0.002, requestLate: 0.1, unknown: 0.05, hintLost: 0.2, faultEveryMs: 250 },
};

test(`${seeds} seeds from ${first}`, { timeout: 3_600_000 }, () => {
  let reclaimed = 0;
  for (let seed = first; seed < first + seeds; seed++) {
    const { violation, trace, counters } = runSeed({ seed, override });
    expect(violation === '' ? '' : `seed ${seed}: ${violation}\n${trace.slice(-40).join('\n')}`).toBe('');
    reclaimed += counters.get('reclaim');
  }
  expect(reclaimed).toBeGreaterThan(0);
  console.log(`space was reclaimed ${reclaimed} times`);
});
