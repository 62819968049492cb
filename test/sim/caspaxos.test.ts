// CASPaxos under seeded faults: every history must be linearizable; worlds with a planted bug must be found out.
// WEFT_SIM_SEEDS and WEFT_SIM_FIRST_SEED choose the seeds; a failure names its seed and prints the history.

import { describe, expect, it } from 'vitest';
import { zeroBallot } from '#ipam-peer/caspaxos/ballot.ts';
import { beginOperation, operationStep, type OperationEvent } from '#ipam-peer/caspaxos/proposer.ts';
import type { Plant } from './caspaxos-voters.ts';
import { runWorld, type Counters, type WorldOptions } from './caspaxos-world.ts';
import { findViolation } from './linearizable.ts';

const seeds = Number(process.env['WEFT_SIM_SEEDS'] ?? 300);
const firstSeed = Number(process.env['WEFT_SIM_FIRST_SEED'] ?? 1);

function optionsOf(seed: number, plant: Plant): WorldOptions {
  const voters = ([3, 3, 5, 1, 3, 7] as const)[seed % 6] ?? 3;
  return { seed, voters, clients: 2 + (seed % 4), operations: 8, plant };
}

const noFaults: Counters = {
  lost: 0,
  duplicated: 0,
  crashes: 0,
  wiped: 0,
  rolledBack: 0,
  cloned: 0,
  joined: 0,
  operations: 0,
  unknown: 0,
};

// Generous: the machine may do other things.
describe('CASPaxos', { timeout: 600_000 }, () => {
  it('is linearizable for every seed', () => {
    const total = { ...noFaults, confirmed: 0 };
    for (let seed = firstSeed; seed < firstSeed + seeds; seed += 1) {
      const { history, counters } = runWorld(optionsOf(seed, 'none'));
      const violation = findViolation(history);
      if (violation !== undefined) throw new Error(`seed ${seed} is not linearizable:\n${violation}`);
      for (const key of Object.keys(noFaults) as (keyof Counters)[]) total[key] += counters[key];
      total.confirmed += history.filter((call) => call.outcome === 'ok').length;
    }
    console.log(`caspaxos: ${seeds} seeds from ${firstSeed}: ${JSON.stringify(total)}`);
    expect(total.crashes).toBeGreaterThan(seeds / 2);
    for (const tampered of [total.wiped, total.rolledBack, total.cloned]) expect(tampered).toBeGreaterThan(seeds / 5);
    // Faults must not stop it: most calls come to a certain end.
    expect(total.unknown).toBeLessThan(total.operations / 4);
    expect(total.confirmed).toBeGreaterThan(total.operations / 4);
  });

  it('replays a seed to the same history', () => {
    expect(runWorld(optionsOf(7, 'none'))).toEqual(runWorld(optionsOf(7, 'none')));
  });

  // Each is searched for from shortly before a seed that shows it, to save time.
  it.for<readonly [Plant, number]>([
    ['promisesNotDurable', 250],
    ['acceptsNotDurable', 25],
    ['ballotReuse', 1],
    ['newDiskTrusted', 100],
    ['joinWithoutFloor', 9225],
    ['joinWithoutCopy', 80],
    ['sessionsUnsaid', 2285],
  ])('finds the planted bug %s', ([plant, from]) => {
    let found = 0;
    for (let seed = from; seed < from + 3000 && found === 0; seed += 1) {
      if (findViolation(runWorld(optionsOf(seed, plant)).history) !== undefined) found = seed;
    }
    expect(found).toBeGreaterThan(0);
  });
});

describe('the proposer', () => {
  // Found by seed 205: the late promise of an earlier round was answered with an accept at the newer, unpromised ballot.
  it('sends nothing for acceptance at a ballot that no majority has promised', () => {
    const promise = { kind: 'promised', voterId: 'id', accepted: zeroBallot, cell: null, sessions: {} } as const;
    const change = { kind: 'create', uid: 'u', writer: 'w', value: {} } as const;
    let { operation } = beginOperation(change, ['a', 'b', 'c'], 'p', 0);
    const firstRound = operation.round;
    const events: readonly OperationEvent[] = [
      { kind: 'failed', round: firstRound, voter: 'a' },
      { kind: 'failed', round: firstRound, voter: 'b' },
      { kind: 'retry' },
      { kind: 'reply', round: firstRound + 1, voter: 'a', reply: { ...promise, kind: 'current' } },
      { kind: 'reply', round: firstRound + 1, voter: 'b', reply: { ...promise, kind: 'current' } },
      { kind: 'expired' },
      { kind: 'reply', round: firstRound, voter: 'c', reply: promise },
      { kind: 'reply', round: firstRound + 2, voter: 'c', reply: promise },
    ];
    for (const event of events) {
      const step = operationStep(operation, event);
      operation = step.operation;
      const accepts = step.effects.filter((effect) => effect.kind === 'send' && effect.request.kind === 'accept');
      expect(accepts).toEqual([]);
    }
  });

  // Found in a run of three agents that started together: the operation hung until its deadline.
  it('backs off at once when a refused prepare and a refused accept leave no majority', () => {
    const promise = { kind: 'promised', voterId: 'id', accepted: zeroBallot, cell: null, sessions: {} } as const;
    const outdated = { kind: 'outdated', voterId: 'id', promised: { counter: 9, proposer: 'q' } } as const;
    const change = { kind: 'create', uid: 'u', writer: 'w', value: {} } as const;
    const { operation: begun } = beginOperation(change, ['a', 'b', 'c'], 'p', 0);
    const prepares = begun.round;
    const accepts = prepares + 1;
    const promises: readonly OperationEvent[] = [
      { kind: 'reply', round: prepares, voter: 'b', reply: promise },
      { kind: 'reply', round: prepares, voter: 'a', reply: promise },
    ];
    const accepted = { kind: 'reply', round: accepts, voter: 'a', reply: { kind: 'accepted', voterId: 'id' } } as const;
    const refusedAccept: OperationEvent = { kind: 'reply', round: accepts, voter: 'b', reply: outdated };
    for (const lost of [
      { kind: 'reply', round: prepares, voter: 'c', reply: outdated },
      { kind: 'failed', round: prepares, voter: 'c' },
    ] as const) {
      // The third voter's refusal of the prepare comes before the proposal, or at any moment after it.
      for (let at = 0; at <= 4; at += 1) {
        const events: OperationEvent[] = [...promises, refusedAccept, accepted].toSpliced(at, 0, lost);
        let operation = begun;
        for (const event of events) ({ operation } = operationStep(operation, event));
        expect(operation.phase, `${lost.kind} at ${at}`).toBe('backoff');
      }
    }
  });

  it('waits for a promise that is still to come when one accept was refused', () => {
    const promise = { kind: 'promised', voterId: 'id', accepted: zeroBallot, cell: null, sessions: {} } as const;
    const outdated = { kind: 'outdated', voterId: 'id', promised: { counter: 9, proposer: 'q' } } as const;
    const accepted = { kind: 'accepted', voterId: 'id' } as const;
    const change = { kind: 'create', uid: 'u', writer: 'w', value: {} } as const;
    let { operation } = beginOperation(change, ['a', 'b', 'c'], 'p', 0);
    const { round } = operation;
    for (const event of [
      { kind: 'reply', round, voter: 'a', reply: promise },
      { kind: 'reply', round, voter: 'b', reply: promise },
      { kind: 'reply', round: round + 1, voter: 'b', reply: outdated },
      { kind: 'reply', round: round + 1, voter: 'a', reply: accepted },
      { kind: 'reply', round, voter: 'c', reply: promise },
      { kind: 'reply', round: round + 1, voter: 'c', reply: accepted },
    ] as const) {
      expect(operation.phase).not.toBe('backoff');
      ({ operation } = operationStep(operation, event));
    }
    expect(operation.phase).toBe('done');
  });

  it('waits longer from one failed round to the next', () => {
    let step = beginOperation({ kind: 'read' }, ['a', 'b', 'c'], 'p', 0);
    const waits: number[] = [];
    for (let failure = 0; failure < 12; failure += 1) {
      const { round } = step.operation;
      step = operationStep(step.operation, { kind: 'failed', round, voter: failure % 2 === 0 ? 'a' : 'b' });
      for (const effect of step.effects) {
        if (effect.kind !== 'backoff') continue;
        waits.push(effect.attempt);
        step = operationStep(step.operation, { kind: 'retry' });
      }
    }
    expect(waits).toEqual([1, 2, 3, 4, 5, 6]);
  });

  it('brings a voter that promised late up to date, also after the decision', () => {
    const promise = { kind: 'promised', voterId: 'id', accepted: zeroBallot, cell: null, sessions: {} } as const;
    const accepted = { kind: 'accepted', voterId: 'id' } as const;
    const change = { kind: 'create', uid: 'u', writer: 'w', value: {} } as const;
    let { operation } = beginOperation(change, ['a', 'b', 'c'], 'p', 0);
    const { round } = operation;
    for (const event of [
      { kind: 'reply', round, voter: 'a', reply: promise },
      { kind: 'reply', round, voter: 'b', reply: promise },
      { kind: 'reply', round: round + 1, voter: 'a', reply: accepted },
      { kind: 'reply', round: round + 1, voter: 'b', reply: accepted },
    ] as const) {
      ({ operation } = operationStep(operation, event));
    }
    expect(operation.phase).toBe('done');
    const late = operationStep(operation, { kind: 'reply', round, voter: 'c', reply: promise });
    expect(late.effects).toMatchObject([{ kind: 'send', voter: 'c', request: { kind: 'accept' } }]);
  });
});

describe('the checker', () => {
  const base = { client: 0, expects: 0, writes: 0, found: 0 };

  it('accepts a call of unknown outcome that took effect late, or never', () => {
    const create = { ...base, change: 'create', writes: 1, calledAt: 0, answeredAt: 1, outcome: 'unknown' } as const;
    const readNothing = { ...base, change: 'read', calledAt: 2, answeredAt: 3, outcome: 'ok' } as const;
    const readIt = { ...base, change: 'read', calledAt: 4, answeredAt: 5, outcome: 'ok', found: 1 } as const;
    expect(findViolation([create, readNothing])).toBeUndefined();
    expect(findViolation([create, readNothing, readIt])).toBeUndefined();
  });

  it('refuses a lost update, a stale read and a conflict with nothing', () => {
    const create = {
      ...base,
      change: 'create',
      writes: 1,
      calledAt: 0,
      answeredAt: 1,
      outcome: 'ok',
      found: 1,
    } as const;
    const update = { ...base, change: 'update', expects: 1, outcome: 'ok', calledAt: 2, answeredAt: 3 } as const;
    const stale = { ...base, change: 'read', calledAt: 4, answeredAt: 5, outcome: 'ok', found: 1 } as const;
    const conflict = {
      ...base,
      change: 'update',
      expects: 1,
      outcome: 'conflict',
      calledAt: 4,
      answeredAt: 5,
    } as const;
    expect(
      findViolation([create, { ...update, writes: 2, found: 2 }, { ...update, writes: 3, found: 3 }]),
    ).toBeDefined();
    expect(findViolation([create, { ...update, writes: 2, found: 2 }, stale])).toBeDefined();
    expect(findViolation([create, { ...conflict, writes: 2 }])).toBeDefined();
  });
});
