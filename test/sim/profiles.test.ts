// Each kind of world of profiles.ts, a few seeds of it: nodes that die in the middle of transfers, a registry and disks that go back.
import { expect, test } from 'vitest';
import { Counters, faultNames, operationNames } from './counters.ts';
import { profiles } from './profiles.ts';
import { runSeed } from './run.ts';

test.for(profiles)('$name', ({ seeds, peers, override, askAfterMs }) => {
  const counters = new Counters();
  for (let seed = 1; seed <= Math.ceil(seeds / 24); seed++) {
    const result = runSeed({
      seed,
      override,
      ...(peers !== undefined && { peers }),
      ...(askAfterMs && { askAfterMs }),
    });
    expect(result.violation === '' ? '' : `seed ${seed}: ${result.violation}`).toBe('');
    counters.add(result.counters);
  }
  console.log(`${counters.text(operationNames)} ${counters.text(faultNames)}`);
  expect(counters.get('found')).toBe(Math.ceil(seeds / 24));
});
