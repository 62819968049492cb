// Sends what takeover.ts decides on: one write to a dead peer's record in a cycle, at the version that the cycle read.
import type { Draft } from './draft.ts';
import { formatPeer } from './records.ts';
import { readNode, request, startWriting } from './requests.ts';
import { type Cycle, emit, type State } from './state.ts';
import { chooseForeign } from './takeover.ts';

/** True when this cycle writes to a dead peer's record instead of the own one. */
export function actOnDead(draft: Draft, cycle: Cycle): boolean {
  const { state } = draft;
  const foreign = chooseForeign(draft, cycle);
  if (foreign === undefined) return false;
  cycle.foreign = foreign;
  if (foreign.kind === 'heir' && foreign.first) {
    cycle.phase = 'self';
    readNode(state, cycle, state.config.self, state.config.node);
  } else {
    send(state, cycle);
  }
  return true;
}

/** The own node was looked at after the dead one; false when it is gone itself. */
export function selfRead(state: State, cycle: Cycle, exists: boolean): boolean {
  if (exists) send(state, cycle);
  return exists;
}

function send(state: State, cycle: Cycle): void {
  const { foreign } = cycle;
  if (foreign === undefined) return;
  const { stored } = foreign.dead;
  const news =
    foreign.kind === 'settle' ? [] : [foreign.kind === 'heir' ? `heir of ${stored.name}` : `${stored.name} is no more`];
  startWriting(cycle, { kind: 'foreign', news, record: undefined });
  const id = request(state, cycle, stored.name);
  if (foreign.kind === 'delete') emit(state, { kind: 'delete', request: id, record: 'peer', stored });
  else emit(state, { kind: 'update', request: id, record: 'peer', stored, value: formatPeer(foreign.record) });
}
