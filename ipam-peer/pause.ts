// How a cycle ends when it wrote nothing, and how long the next one waits.
import { dueMs } from './due.ts';
import { say, type State } from './state.ts';

/** When a step happens, and its share of randomness. */
export interface Moment {
  readonly nowMs: number;
  /** Uniform in [0, 1). */
  readonly random: number;
}

/** Ends a cycle that came to nothing; the next one waits longer, up to five seconds. */
export function endCycle(state: State, at: Moment, problem: string): void {
  state.cycle = undefined;
  pause(state, at);
  if (problem !== '') say(state, state.fruitless <= 2 ? 'warn' : 'debug', problem);
}

function pause(state: State, at: Moment): void {
  state.fruitless = Math.min(state.fruitless + 1, 8);
  state.notBeforeMs = at.nowMs + Math.min(20 * 2 ** state.fruitless, 5000) * (0.5 + at.random);
}

/** Ends a cycle that found nothing to write. One that would be due again at once is spaced out. */
export function idle(state: State, at: Moment): void {
  state.cycle = undefined;
  if (dueMs(state) <= at.nowMs) pause(state, at);
  else state.fruitless = 0;
}
