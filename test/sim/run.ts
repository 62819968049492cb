// One seed, one run: draws the scenario, runs the world, asks whether it settled. A violation is a value here, so that the
// mutation test can expect one.
import { checkSettled, Violation } from './checks.ts';
import type { Counters } from './counters.ts';
import { Random } from './random.ts';
import { drawScenario, type Scenario } from './scenario.ts';
import { World } from './world.ts';

export interface RunOptions {
  readonly seed: number;
  readonly peers?: number;
  /** Changes what the seed drew. */
  readonly override?: Partial<Scenario>;
  readonly keepTrace?: boolean;
  /** Quiet times after which the world is asked whether it has come to rest. */
  readonly askAfterMs?: readonly number[];
}

export interface RunResult {
  readonly seed: number;
  readonly steps: number;
  readonly counters: Counters;
  /** What was broken; '' when all is well. */
  readonly violation: string;
  readonly trace: readonly string[];
  /** Who holds what at the end. */
  readonly end: readonly string[];
  readonly records: readonly string[];
}

/** Times after the end of the faults at which the world is asked whether it has come to rest; it must have by the last. */
const askAfterMs = [20_000, 40_000, 60_000, 90_000, 120_000, 180_000];

/** Pods still come and go: what moved a moment ago may be on its way, so that one look could mislead. */
function runUntilSettled(world: World, first: readonly number[]): void {
  const times = [...first, ...askAfterMs];
  for (const [index, afterMs] of times.entries()) {
    world.run(afterMs);
    try {
      checkSettled(world);
      return;
    } catch (error) {
      if (!(error instanceof Violation) || index === times.length - 1) throw error;
    }
  }
}

export function runSeed(options: RunOptions): RunResult {
  const random = new Random(options.seed);
  const scenario: Scenario = { ...drawScenario(random, options.peers), ...options.override };
  const world = new World(scenario, random, options.keepTrace);
  let violation = '';
  try {
    runUntilSettled(world, options.askAfterMs ?? []);
  } catch (error) {
    if (!(error instanceof Violation)) throw error;
    violation = `at ${world.nowMs.toFixed(1)} ms: ${error.message}`;
  }
  return {
    seed: options.seed,
    steps: world.steps,
    counters: world.counters,
    violation,
    trace: violation === '' && options.keepTrace !== true ? [] : world.trace,
    end: world.peers.map((peer) => peer.describe()),
    records: [...world.registry.peers.values()].map(({ stored }) => `${stored.name} ${JSON.stringify(stored.value)}`),
  };
}
