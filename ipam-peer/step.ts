// The pure core: `step(state, event)` takes in one event and returns what is to be done, in order. No clock, no randomness, no
// I/O. Effects are executed one after the other; a `persist` is durable before the next is begun; a process that dies between
// two of them starts again with `restore` from what is durable.
import { families } from './address.ts';
import { allocate, cancel, nextDeadlineMs, serveWaiting } from './allocate.ts';
import { answered, beginCycle } from './cycle.ts';
import { dueMs, noteWants } from './due.ts';
import type { CoreEvent, Effect } from './events.ts';
import { activate, free, rested } from './free.ts';
import { hint } from './hints.ts';
import { surveyed } from './join.ts';
import { recovered } from './own.ts';
import { endCycle } from './pause.ts';
import { driveIdentity, wereCut } from './identity.ts';
import { noteQuarantine } from './quarantine.ts';
import { noteEmpty } from './spare.ts';
import { driveSession, sessionAnswered, sessionDueMs } from './session.ts';
import { nextRestEndMs } from './space.ts';
import { noteNodes } from './takeover.ts';
import { emit, type State } from './state.ts';
import { hintOfUniverse } from './universe.ts';

export interface Step {
  /** The same object, changed in place. */
  readonly state: State;
  readonly effects: readonly Effect[];
}

export function step(state: State, event: CoreEvent): Step {
  state.effects = [];
  state.nowMs = event.nowMs;
  if (event.kind === 'activate') {
    // A pod waits for it, and nothing becomes due by it: what is due has its timer.
    activate(state, event);
    return { state, effects: state.effects };
  }
  rested(state, event.nowMs);
  driveIdentity(state);
  take(state, event);
  drive(state, event);
  if (state.waiting.length > 0) serveWaiting(state, event.nowMs);
  setTimer(state);
  return { state, effects: state.effects };
}

function take(state: State, event: Exclude<CoreEvent, { readonly kind: 'activate' }>): void {
  switch (event.kind) {
    case 'wake':
      // The timer that was set has gone off, or was lost: it is set anew.
      state.timerMs = Infinity;
      return;
    case 'answer':
      if (!sessionAnswered(state, event.request, event.answer, event)) {
        answered(state, event.request, event.answer, event);
      }
      return;
    case 'hint':
      hint(state, event.name, event.record, event.nowMs);
      return;
    case 'universe':
      hintOfUniverse(state, event.record, event.nowMs);
      return;
    case 'allocate':
      allocate(state, event.ticket, event.wish, event.nowMs);
      return;
    case 'cancel':
      cancel(state, event.ticket);
      return;
    case 'free':
      free(state, event, event.nowMs);
      return;
    case 'recovered':
      recovered(state, event.leases, event.nowMs);
      return;
    case 'nodes':
      noteNodes(state, event.gone, event.nowMs);
      return;
    case 'cut':
      wereCut(state, event.leases);
      return;
    case 'surveyed':
      surveyed(state, event.inUse, event.nowMs);
      return;
    case 'underlay':
      state.underlay = event.addresses;
  }
}

/** Starts the next cycle when one is due, or gives up one whose answers do not come. */
function drive(state: State, event: CoreEvent): void {
  if (state.cycle !== undefined && event.nowMs >= state.cycle.deadlineMs) {
    endCycle(state, event, 'the registry does not answer');
  }
  driveSession(state, event.nowMs);
  noteQuarantine(state, event.nowMs);
  noteEmpty(state, event.nowMs);
  noteWants(state, event.nowMs);
  if (state.cycle === undefined && dueMs(state) <= event.nowMs) beginCycle(state, event);
}

/** Rests that nobody waits for may end a little later, many at once. */
const restSlackMs = 1000;

function setTimer(state: State): void {
  let atMs = state.cycle === undefined ? dueMs(state) : state.cycle.deadlineMs;
  const restEndMs = Math.min(...families.map((family) => nextRestEndMs(state.spaces[family]) ?? Infinity));
  if (state.waiting.length > 0) atMs = Math.min(atMs, nextDeadlineMs(state), restEndMs);
  atMs = Math.min(atMs, restEndMs + restSlackMs, sessionDueMs(state));
  if (atMs === state.timerMs) return;
  state.timerMs = atMs;
  emit(state, { kind: 'timer', atMs });
}
