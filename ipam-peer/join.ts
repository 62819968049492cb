// The first steps of a peer: what the universe is, founding it, and the own record.
import { families, perFamily } from './address.ts';
import { sameCidrs } from './cidr.ts';
import type { InUse, StoredRecord } from './events.ts';
import { planFounding } from './found.ts';
import { endCycle, type Moment } from './pause.ts';
import {
  formatPeer,
  formatUniverse,
  parseUniverse,
  type PeerRecord,
  type RecordRef,
  type UniverseRecord,
} from './records.ts';
import { request, startWriting } from './requests.ts';
import { type Cycle, emit, type Known, persistPeer, refreshUsable, sayOnce, type State } from './state.ts';
import { firstWants } from './want.ts';

/** Takes in the Universe as read or written; false when it cannot be understood. */
export function knowUniverse(state: State, stored: StoredRecord): boolean {
  const parsed = parseUniverse(stored.value);
  if (!parsed.ok) {
    state.trouble = `the Universe "${stored.name}" cannot be understood: ${parsed.reason}`;
    sayOnce(state, state.trouble);
    return false;
  }
  const { ranges, reserved, founder } = parsed.record;
  const isNews = founder !== undefined && state.universe?.record.founder === undefined;
  state.universe = { stored, record: parsed.record };
  if (isNews) emit(state, { kind: 'changed' });
  const known = state.durable.universe;
  if (known?.uid !== stored.uid || !sameCidrs(known.ranges, ranges) || !sameCidrs(known.reserved, reserved)) {
    persistPeer(state, { universe: { name: stored.name, uid: stored.uid, ranges, reserved } });
    refreshUsable(state);
  }
  return true;
}

/** Founds the universe as far as the last survey allows; each survey serves one attempt. */
export function found(state: State, cycle: Cycle, universe: Known<UniverseRecord>, at: Moment): void {
  const { survey, confirmed } = state;
  if (survey === undefined || confirmed === undefined) {
    emit(state, { kind: 'survey', ranges: universe.record.ranges });
    state.cycle = undefined;
    // One that is never answered is asked for again.
    state.notBeforeMs = at.nowMs + state.config.requestTimeoutMs;
    return;
  }
  state.survey = undefined;
  const self: RecordRef = { name: confirmed.stored.name, uid: confirmed.stored.uid };
  const { universe: founded, problem, news } = planFounding(state, universe.record, self, survey);
  if (problem !== '') {
    state.trouble = problem;
    sayOnce(state, problem);
    endCycle(state, at, '');
    state.notBeforeMs = at.nowMs + state.config.pollMs;
    return;
  }
  startWriting(cycle, { kind: 'found', news, record: undefined });
  const value = formatUniverse(founded);
  const id = request(state, cycle, universe.stored.name);
  emit(state, { kind: 'update', request: id, record: 'universe', stored: universe.stored, value });
}

/** Event `surveyed`. */
export function surveyed(state: State, inUse: readonly InUse[], nowMs: number): void {
  if (state.universe?.record.founder !== undefined) return;
  state.survey = inUse;
  state.notBeforeMs = nowMs;
}

/** The own record is always created empty; when the founder is known, the want rides on it. */
export function createOwn(state: State, cycle: Cycle, at: Moment): void {
  const founded = state.universe?.record.founder !== undefined;
  const wants = founded ? firstWants(state, at.random) : perFamily(() => undefined);
  const record: PeerRecord = {
    universe: state.config.universe,
    node: state.config.node,
    seq: 1,
    seeded: false,
    blocks: [],
    granting: [],
    wants,
    underlay: state.underlay,
    overlay: [],
    free: perFamily(() => 0),
    extra: {},
  };
  const asked = [...new Set(families.flatMap((family) => wants[family]?.name ?? []))];
  const news = [
    `joined as ${state.config.self}${asked.length === 0 ? '' : `, asked ${asked.join(' and ')} for space`}`,
  ];
  startWriting(cycle, { kind: 'create', news, record });
  const id = request(state, cycle, state.config.self);
  emit(state, { kind: 'create', request: id, record: 'peer', name: state.config.self, value: formatPeer(record) });
}
