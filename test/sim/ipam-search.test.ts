// Transfer and the chain of taking over, everything that may happen within small bounds. WEFT_SIM_DEEP=1 searches further, for minutes.
import { describe, expect, test } from 'vitest';
import type { Config } from '#ipam-peer/events.ts';
import { Bench, cidrs } from '#test/unit/ipam-peer/harness.ts';
import { type Bounds, type Moment, searchIpam, startOf } from './ipam-search.ts';

const setup = {
  ranges: cidrs('10.32.0.0/22'),
  ownAddresses: [],
  lowWater: 1,
  sessionTermMs: 10_000,
  takeOverAfterMs: 10_000,
  quarantineMs: 0,
};

/** Peers with space; the first of them is gone. */
function cluster(names: readonly string[], change: Partial<Config> = {}): Moment {
  const bench = new Bench();
  for (const name of names) {
    bench.peer(name, { ...setup, ...change }).start();
    bench.settle(20_000);
  }
  const [dead, ...others] = bench.peers.map((peer) => peer.sim);
  if (dead !== undefined) bench.registry.deleteNode(dead.config.self, dead.config.node.uid, false);
  return startOf(bench.registry, others);
}

/** A founder, and others that come new. */
function joining(...names: readonly string[]): Moment {
  const bench = new Bench();
  for (const [index, name] of names.entries()) {
    const peer = bench.peer(name, setup);
    if (index === 0) peer.start();
    bench.settle(20_000);
  }
  return startOf(
    bench.registry,
    bench.peers.map((peer) => peer.sim),
  );
}

interface Case {
  readonly name: string;
  readonly start: () => Moment;
  readonly bounds: Partial<Bounds>;
  readonly states: number;
  readonly goal: (moment: Moment) => boolean;
}

function hasSpace({ registry }: Moment): boolean {
  const record = registry.peers.get('n2.x')?.record;
  return record !== undefined && record.blocks.length > 0 && record.blocks.every(({ via }) => via === undefined);
}

function isBuried({ registry, gone }: Moment): boolean {
  return [...registry.peers.values()].every(({ record }) => !gone.includes(record.node.uid));
}

const always: readonly Case[] = [
  {
    name: 'a transfer, with a crash and an unknown outcome',
    start: () => joining('n1', 'n2'),
    bounds: { crashes: 1, unknowns: 1 },
    states: 1000,
    goal: hasSpace,
  },

  {
    name: 'two heirs, one of which is deleted',
    start: () => cluster(['n1', 'n2', 'n3']),
    bounds: { deletions: 1 },
    states: 1500,
    goal: (moment) => moment.deletions === 1 && isBuried(moment),
  },
  {
    name: 'two heirs that carry one block at a time, one of which is deleted',
    start: () => cluster(['n1', 'n2', 'n3'], { mostVias: 1, takeOverStepMs: 0, reserved: cidrs('10.32.0.0/25') }),
    bounds: { deletions: 1 },
    states: 1500,
    goal: (moment) => moment.deletions === 1 && isBuried(moment),
  },
];

const deep: readonly Case[] = [
  {
    name: 'a transfer, with two crashes, two unknown outcomes and a node deleted',
    start: () => joining('n1', 'n2'),
    bounds: { crashes: 2, unknowns: 2, deletions: 1 },
    states: 5000,
    goal: hasSpace,
  },
  {
    name: 'two heirs, one of which is deleted, with a crash and an unknown outcome',
    start: () => cluster(['n1', 'n2', 'n3']),
    bounds: { crashes: 1, unknowns: 1, deletions: 1 },
    states: 5000,
    goal: (moment) => moment.deletions === 1 && isBuried(moment),
  },
  {
    name: 'three heirs, one of which is deleted',
    start: () => cluster(['n1', 'n2', 'n3', 'n4']),
    bounds: { deletions: 1 },
    states: 20_000,
    goal: (moment) => moment.deletions === 1 && isBuried(moment),
  },
];

describe('searched to the end', () => {
  const cases = process.env['WEFT_SIM_DEEP'] === '1' ? [...always, ...deep] : always;
  test.for(cases)('$name', { timeout: 3_600_000 }, ({ name, start, bounds, states, goal }) => {
    const within = { crashes: 0, unknowns: 0, deletions: 0, limit: 1_000_000, ...bounds };
    const { violation, ...found } = searchIpam(start(), within, goal);
    console.log(`${name}: ${JSON.stringify(found)}`);
    expect(violation).toBe('');
    expect(found.states).toBeGreaterThan(states);
    expect(found.goals).toBeGreaterThan(0);
  });

  test('a taker that forgets via is found', { timeout: 300_000 }, () => {
    const withoutVia = (value: unknown): unknown =>
      Array.isArray(value) ? value.map(({ via: _via, ...block }: Readonly<Record<string, unknown>>) => block) : value;
    const bounds: Bounds = {
      crashes: 0,
      unknowns: 0,
      deletions: 0,
      limit: 100_000,
      sabotage: (request) =>
        request.kind === 'update' && request.record === 'peer'
          ? { ...request, value: { ...request.value, blocks: withoutVia(request.value['blocks']) } }
          : request,
    };
    expect(searchIpam(joining('n1', 'n2'), bounds, hasSpace).violation).toMatch(/has two owners/);
  });
});
