// The first steps of a peer: founding the universe, and the own record.
import { families, perFamily } from './address.ts';
import type { InUse } from './events.ts';
import { planFounding } from './found.ts';
import { endCycle, type Moment } from './pause.ts';
import { formatPeer, formatUniverse, type PeerRecord, type RecordRef, type UniverseRecord } from './records.ts';
import { request, startWriting } from './requests.ts';
import { type Cycle, emit, type Known, persistPeer, sayOnce, type State } from './state.ts';
import { firstWants } from './want.ts';

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
  const founding = [self.uid, ...(state.durable.founding ?? []).filter((uid) => uid !== self.uid)].slice(0, 4);
  if (founding[0] !== state.durable.founding?.[0]) persistPeer(state, { founding });
  writeFounder(state, cycle, universe, founded, news);
}

/** Writes itself as the founder of a Universe that was deleted and made again, of which this peer's record says that it is seeded. */
export function adopt(state: State, cycle: Cycle, universe: Known<UniverseRecord>, own: Known<PeerRecord>): void {
  const founder: RecordRef = { name: own.stored.name, uid: own.stored.uid };
  const news = [
    `the universe ${state.config.universe} was made again; everybody keeps the space that the records name`,
  ];
  writeFounder(state, cycle, universe, { ...universe.record, founder }, news);
}

function writeFounder(
  state: State,
  cycle: Cycle,
  { stored }: Known<UniverseRecord>,
  founded: UniverseRecord,
  news: readonly string[],
): void {
  startWriting(cycle, { kind: 'found', news, record: undefined });
  const id = request(state, cycle, stored.name);
  emit(state, { kind: 'update', request: id, record: 'universe', stored, value: formatUniverse(founded) });
}

/** Event `surveyed`. */
export function surveyed(state: State, inUse: readonly InUse[], nowMs: number): void {
  if (state.universe?.record.founder !== undefined) return;
  state.survey = inUse;
  state.notBeforeMs = nowMs;
}

/** The own record is always created empty; when the founder is known, the want rides on it. */
export function createOwn(state: State, cycle: Cycle, at: Moment): void {
  // It has no space in which anything could rest.
  if (state.durable.lostRests === true) persistPeer(state, { lostRests: false });
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
