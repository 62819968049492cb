// The simulator in CI: a bounded number of seeds, replay, and the boots at which Weave failed. The planted bugs of the second part
// prove that the checks see what they claim to see.
import { describe, expect, test } from 'vitest';
import type { Effect } from '#ipam-peer/events.ts';
import type { State } from '#ipam-peer/state.ts';
import { parsePeer } from '#ipam-peer/records.ts';
import { type RunOptions, runSeed } from './run.ts';
import { type Faults, noFaults, type Scenario } from './scenario.ts';

function violationOf(options: RunOptions): string {
  const { seed, violation, trace } = runSeed(options);
  return violation === '' ? '' : `seed ${seed}: ${violation}\n${trace.slice(-40).join('\n')}`;
}

describe('any weather', () => {
  test.for(Array.from({ length: 2 }, (_, index) => 1 + index * 10))('seeds from %i', { timeout: 300_000 }, (first) => {
    for (let seed = first; seed < first + 10; seed++) expect(violationOf({ seed })).toBe('');
  });

  test('a seed replays to the same trace', () => {
    const traces = [1, 2].map(() => runSeed({ seed: 77, keepTrace: true }).trace);
    expect(traces[0]?.length).toBeGreaterThan(100);
    expect(traces[1]).toEqual(traces[0]);
  });
});

describe('booting at once, split in halves', () => {
  test.for([2, 4, 6])('%i nodes make one universe', { timeout: 300_000 }, (peers) => {
    for (let seed = 1; seed <= 5; seed++) {
      const override: Partial<Scenario> = { bootWithinMs: 0, halves: true };
      expect(violationOf({ seed, peers, override })).toBe('');
    }
  });
});

type Effects = readonly Effect[];
type Value = Readonly<Record<string, unknown>>;

function isWithdrawal(effect: Effect): boolean {
  return (
    effect.kind === 'persist' && effect.deltas.some((delta) => delta.kind === 'peer' && delta.peer.doubt !== undefined)
  );
}

function list(value: unknown): readonly Value[] {
  return Array.isArray(value) ? (value as readonly Value[]) : [];
}

/** Changes what is written into the own record, given what stood there. */
function rewrite(effects: Effects, change: (next: Value, before: Value) => Value): Effects {
  return effects.map((effect) => {
    if (effect.kind !== 'update' || effect.record !== 'peer') return effect;
    return { ...effect, value: { ...effect.value, ...change(effect.value, effect.stored.value as Value) } };
  });
}

/** Puts the blocks of a record on the disk before the record is written. */
function persistFirst(effects: Effects, state: State): Effects {
  return effects.flatMap((effect): Effects => {
    const next = effect.kind === 'update' && effect.record === 'peer' ? parsePeer(effect.value) : undefined;
    if (next?.ok !== true || next.record.granting.length > 0) return [effect];
    const peer = { ...state.durable, blocks: next.record.blocks.map((block) => block.cidr) };
    return [{ kind: 'persist', sync: 'full', deltas: [{ kind: 'peer', peer }] }, effect];
  });
}

const harsh: Faults = { ...noFaults, crashPerEffect: 0.02, replyLost: 0.1, requestLate: 0.1, unknown: 0.1 };

const plantedBugs: readonly (readonly [string, Partial<Scenario>, RegExp])[] = [
  [
    'what is given stays on the disk',
    { sabotage: (effects) => effects.filter((effect) => !isWithdrawal(effect)), faults: harsh },
    /may lease from/,
  ],
  [
    'the grant is written before the space leaves the disk',
    {
      sabotage: (effects) => {
        const withdrawals = effects.filter(isWithdrawal);
        return [...effects.filter((effect) => !isWithdrawal(effect)), ...withdrawals];
      },
      // Only crashes: a late request keeps the giver from granting at all.
      faults: { ...noFaults, crashPerEffect: 0.02 },
      peers: 8,
    },
    /may lease from/,
  ],
  [
    'a write that gives is forgotten while it is under way',
    {
      sabotage: (effects, state) => {
        state.durable = { ...state.durable, doubt: undefined };
        return effects;
      },
      faults: { ...noFaults, requestLate: 0.4 },
      peers: 5,
      // Most late writes arrive when their peer has given them up.
      timing: { requestTimeoutMs: 200 },
    },
    /may lease from/,
  ],
  [
    'what is taken is on the disk before it is in the record',
    { sabotage: persistFirst, faults: harsh },
    /may lease from/,
  ],
  [
    'via is ignored',
    {
      sabotage: (effects) =>
        rewrite(effects, ({ blocks }) => ({ blocks: list(blocks).map(({ via: _via, ...block }) => block) })),
    },
    /two owners/,
  ],
  [
    'a grant is withdrawn while its target exists',
    {
      sabotage: (effects) =>
        rewrite(effects, ({ blocks, granting }, before) => {
          const old = list(granting).filter((grant) =>
            list(before['granting']).some((one) => one['id'] === grant['id']),
          );
          return {
            blocks: [...list(blocks), ...old.map(({ cidr }) => ({ cidr }))],
            granting: list(granting).filter((grant) => !old.includes(grant)),
          };
        }),
      peers: 8,
    },
    /withdrew|two owners|the blocks of the dead/,
  ],
  // A read that is older than what was heard before makes a peer distrust the registry: nobody grants, takes over or clears a mark
  // then, so that nearly every such world merely never comes to rest.
  [
    'reads are not linearizable',
    { staleReads: true, peers: 8 },
    /two owners|withdrew|may lease from|nobody owns|seq|has a pod on|though space is with|is gone, its record|still ha[sv]/,
  ],
  [
    'a node is taken over without a look at its session',
    { timing: { sessionTermMs: 0 }, mood: 'nodes', faults: { ...noFaults, faultEveryMs: 400 } },
    /had not stood still/,
  ],
  [
    'quarantine is forgotten',
    {
      timing: { quarantineMs: 0 },
      mood: 'nodes',
      restMs: 20_000,
      workEveryMs: 50,
      faults: { ...noFaults, faultEveryMs: 400 },
    },
    /leased again after/,
  ],
  ['an address is used again at once', { peersRestMs: 0 }, /leased again after/],
  [
    'a lease is answered before it is durable',
    {
      sabotage: (effects) => {
        const leases = effects.filter((effect) => effect.kind === 'persist' && effect.sync === 'normal');
        return [...effects.filter((effect) => !leases.includes(effect)), ...leases];
      },
    },
    /before its lease was durable/,
  ],
];

/** What the first of the seeds that finds a planted bug says. */
function firstFinding(override: Partial<Scenario>): string {
  for (let seed = 1; seed <= 400; seed++) {
    const { violation } = runSeed({ seed, override: { ...override, podsPerPeer: 20, busyMs: 20_000 } });
    if (violation !== '') return violation;
  }
  return 'not found';
}

describe('planted bugs are found', () => {
  // Generous: the machine may do other things.
  test.for(plantedBugs)('%s', { timeout: 300_000 }, ([, override, expected]) => {
    expect(firstFinding(override)).toMatch(expected);
  });
});
