// What a cycle asks of the registry: every request is remembered with what it is about until its answer has come.
import type { RecordKind } from './events.ts';
import type { RecordRef } from './records.ts';
import { type Asked, type Cycle, emit, type State, type Writing } from './state.ts';

export function request(state: State, cycle: Cycle, name: string, about: Asked['about'] = 'record'): number {
  const id = state.nextRequest++;
  cycle.pending.set(id, { about, name });
  return id;
}

export function read(state: State, cycle: Cycle, record: RecordKind, name: string): void {
  const about = record === 'session' ? 'session' : 'record';
  emit(state, { kind: 'get', request: request(state, cycle, name, about), record, name });
}

/** Asks whether the node of the record `name` exists. */
export function readNode(state: State, cycle: Cycle, name: string, node: RecordRef): void {
  emit(state, { kind: 'node', request: request(state, cycle, name, 'node'), name, node });
}

export function startWriting(cycle: Cycle, writing: Writing): void {
  cycle.phase = 'write';
  cycle.writing = writing;
}
