// Each kind of world of profiles.ts, and that together they have seen enough: every operation and every fault a thousand times.
import { expect, test } from 'vitest';
import { Counters, faultNames, operationNames } from './counters.ts';
import { type Profile, profiles } from './profiles.ts';
import { runSeed } from './run.ts';

const wantedOfEach = 1000;
const done = new Map<string, Counters>();

/** Runs the seeds of a profile, once. */
function countersOf({ name, seeds, peers, override, askAfterMs }: Profile): Counters {
  const before = done.get(name);
  if (before !== undefined) return before;
  const counters = new Counters();
  for (let seed = 1; seed <= seeds; seed++) {
    const { violation, ...result } = runSeed({
      seed,
      override,
      ...(peers !== undefined && { peers }),
      ...(askAfterMs && { askAfterMs }),
    });
    expect(violation === '' ? '' : `seed ${seed}: ${violation}\n${result.trace.slice(-40).join('\n')}`).toBe('');
    counters.add(result.counters);
  }
  done.set(name, counters);
  return counters;
}

// Generous: the machine may do other things.
test.for(profiles)('$name', { timeout: 300_000 }, (profile) => {
  expect(countersOf(profile).get('found')).toBe(profile.seeds);
});

test('each operation and each fault was seen a thousand times', { timeout: 600_000 }, () => {
  const totals = new Counters();
  for (const profile of profiles) totals.add(countersOf(profile));
  const names = [...operationNames, ...faultNames];
  console.log(`operations: ${totals.text(operationNames)} | faults: ${totals.text(faultNames)}`);
  expect(names.filter((name) => totals.get(name) < wantedOfEach).map((name) => totals.text([name]))).toEqual([]);
});
