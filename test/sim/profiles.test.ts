// Each kind of world of profiles.ts, and that together they have seen enough: every operation and every fault a thousand times in
// `npm run test:sim`, a quarter of that in `npm test`. A change of the core moves what each seed does: where a count falls short, further
// seeds of the profile that brings most of it are run, at most as many again.
import { expect, test } from 'vitest';
import { type CounterName, Counters, faultNames, operationNames } from './counters.ts';
import { type Profile, profiles as wholeProfiles } from './profiles.ts';
import { runSeed } from './run.ts';

const share = process.env['WEFT_SIM_WORLDS'] === 'all' ? 1 : 1 / 4;
const wantedOfEach = 1000 * share;
const profiles = wholeProfiles.map((profile) => ({ ...profile, seeds: Math.ceil(profile.seeds * share) }));

interface Seen {
  readonly profile: Profile;
  readonly counters: Counters;
  seeds: number;
}

const seen = new Map<string, Seen>();

/** Runs the seeds of a profile, once. */
function run(profile: Profile): Seen {
  const before = seen.get(profile.name) ?? { profile, counters: new Counters(), seeds: 0 };
  seen.set(profile.name, before);
  while (before.seeds < profile.seeds) runNext(before);
  return before;
}

function runNext(one: Seen): Counters {
  const { override, peers, askAfterMs } = one.profile;
  const seed = ++one.seeds;
  const { violation, trace, counters } = runSeed({
    seed,
    override,
    ...(peers !== undefined && { peers }),
    ...(askAfterMs && { askAfterMs }),
  });
  expect(violation === '' ? '' : `seed ${seed}: ${violation}\n${trace.slice(-40).join('\n')}`).toBe('');
  one.counters.add(counters);
  return counters;
}

/** Goes on with the profile that brings most of it for each seed. */
function topUp(name: CounterName, totals: Counters): void {
  const rate = (one: Seen): number => one.counters.get(name) / one.seeds;
  const [best] = [...seen.values()].toSorted((a, b) => rate(b) - rate(a));
  while (best !== undefined && totals.get(name) < wantedOfEach && best.seeds < 2 * best.profile.seeds)
    totals.add(runNext(best));
}

// Generous: the machine may do other things.
test.for(profiles)('$name', { timeout: 300_000 }, (profile) => {
  expect(run(profile).counters.get('found')).toBe(profile.seeds);
});

test(`each operation and each fault was seen ${wantedOfEach} times`, { timeout: 600_000 }, () => {
  const totals = new Counters();
  for (const profile of profiles) totals.add(run(profile).counters);
  const names = [...operationNames, ...faultNames];
  for (const name of names) topUp(name, totals);
  console.log(`operations: ${totals.text(operationNames)} | faults: ${totals.text(faultNames)}`);
  expect(names.filter((name) => totals.get(name) < wantedOfEach).map((name) => totals.text([name]))).toEqual([]);
});
