// When the next cycle is due, and which records it has to read. Both look only at what concerns this peer (its pending grants,
// its `via` marks, the peers that want from it or grant to it), so an event costs the same with ten peers and with 5,000.
import { families, type Family } from './address.ts';
import { sameCidr } from './cidr.ts';
import { isFarOff, sameTexts } from './describe.ts';
import { isLostFounding } from './found.ts';
import { publishedFreeNow } from './grant.ts';
import { isSuspicious, mayComeBack } from './back.ts';
import { type Block, type Grant, isIncarnation, isVia, type PeerRecord, type RecordRef, sameRef } from './records.ts';
import { type Heard, isObserving, type Known, selfRef, type State } from './state.ts';
import { quarantineEndMs } from './quarantine.ts';
import { isHeld } from './session.ts';
import { isUnseeded, stillHolds } from './source.ts';
import { pullDueMs, pullsFrom, spareDueMs } from './spare.ts';
import { takeoverDueMs, takeoverReads } from './takeover.ts';
import { isLeaving } from './universe.ts';
import { isShort, stillHopeful } from './want.ts';

/** Monotonic milliseconds at which a cycle should start; in the past: now. */
export function dueMs(state: State): number {
  const { confirmed, universe } = state;
  if (!isHeld(state) && !isObserving(state)) return Infinity;
  if (state.durable.cutting === true || (state.fences.get('node') ?? '') !== '') return Infinity;
  if (isLeaving(state)) return state.notBeforeMs;
  // One whose pool was deleted hears of what ends that.
  const isStopped = state.fenced !== '' && state.fenced !== state.fences.get('universe');
  if (isStopped || state.recovery === 'asked') {
    return state.polledMs + state.config.pollMs;
  }
  const self = selfRef(state);
  if (universe === undefined || confirmed === undefined || self === undefined) {
    const quiet =
      universe !== undefined && isObserving(state) && state.listed && !state.ownChanged && !state.universeTrack.stale;
    return quiet ? Math.max(state.nextListMs, state.notBeforeMs) : state.notBeforeMs;
  }
  if (state.durable.back === true) return Math.max(state.notBeforeMs, state.polledMs + state.config.pollMs);
  if (isUrgent(state, confirmed, self)) return state.notBeforeMs;
  let due = state.nextListMs;
  if (hasWants(state, self) && state.wantsSinceMs !== undefined) {
    due = Math.min(due, state.wantsSinceMs + state.config.serveDelayMs);
  }
  due = Math.min(due, state.universeTrack.remakeMs ?? Infinity);
  due = Math.min(due, takeoverDueMs(state), quarantineEndMs(state), spareDueMs(state), pullDueMs(state));
  const pending =
    state.heirOf.size > 0 ||
    confirmed.record.trail !== undefined ||
    confirmed.record.granting.length > 0 ||
    confirmed.record.blocks.some((block) => block.via !== undefined);
  if (pending || families.some((family) => isShort(state, family, confirmed.record.blocks, 0))) {
    due = Math.min(due, state.polledMs + state.config.pollMs);
  }
  for (const family of families) {
    const { from, sinceMs } = state.asks[family];
    if (from !== undefined && confirmed.record.wants[family] !== undefined) {
      due = Math.min(due, sinceMs + state.config.answerTimeoutMs);
    }
  }
  return Math.max(due, state.notBeforeMs);
}

function isUrgent(state: State, confirmed: Known<PeerRecord>, self: RecordRef): boolean {
  const { record, stored } = confirmed;
  const founder = state.universe?.record.founder;
  if (founder === undefined || state.ownChanged || state.universeTrack.stale) return true;
  if (isUnseeded(state.universe?.record, self, record) || isLostFounding(state, self, record)) return true;
  if (state.durable.doubt === stored.version || record.suspect === true) return true;
  if (record.granting.some((grant) => looksSettled(state, grant, self))) return true;
  if (record.blocks.some((block) => looksCleared(state, block))) return true;
  if (heard(state, self).grants) return true;
  if (!sameTexts(record.underlay, state.underlay)) return true;
  return families.some(
    (family) =>
      isFarOff(state, record.free[family], publishedFreeNow(state, family)) || shouldAsk(state, family, record),
  );
}

function shouldAsk(state: State, family: Family, record: PeerRecord): boolean {
  const short = isShort(state, family, record.blocks, 0);
  const donor = record.wants[family];
  const { from, exhausted } = state.asks[family];
  if (donor === undefined) return short && !exhausted;
  // Without the deadline of `stillHopeful`, which `dueMs` adds.
  return !short || (from !== undefined && !exhausted && !stillHopeful(state, family, donor, -Infinity));
}

function looksSettled(state: State, grant: Grant, self: RecordRef): boolean {
  const target = state.peers.get(grant.to.name);
  if (target === undefined || !isIncarnation(grant.to, target.stored, target.record.was)) {
    return state.listed && !isSuspicious(state, state.nowMs) && !mayComeBack(state, grant.to);
  }
  const was = state.confirmed?.record.was;
  return target.record.blocks.some((block) => isVia(block.via, self, grant.id, was));
}

function looksCleared(state: State, block: Block): boolean {
  if (block.via === undefined) return false;
  const { via } = block;
  const source = state.peers.get(via.name);
  if (source === undefined || !isIncarnation(via, source.stored, source.record.was)) {
    return state.listed && (via.id === undefined || !mayComeBack(state, via));
  }
  return !stillHolds(state.universe?.record, source.record, via, block.cidr);
}

/** With 5,000 peers that all want of the founder, each event would go through all of them: it is worked out once for each change. */
function heard(state: State, self: RecordRef): Heard {
  if (state.heard.version !== state.interestVersion) {
    state.heard = {
      version: state.interestVersion,
      wanters: wanters(state, self),
      pullers: pullers(state, self),
      grants: grantsHeard(state, self),
    };
  }
  return state.heard;
}

function grantsHeard(state: State, self: RecordRef): boolean {
  const own = state.confirmed?.record;
  for (const name of state.interest) {
    const peer = state.peers.get(name);
    const untaken = peer?.record.granting.some(
      (grant) =>
        isIncarnation(grant.to, self, own?.was) &&
        own?.blocks.some((block) => isVia(block.via, peer.stored, grant.id, peer.record.was)) !== true,
    );
    if (untaken === true) return true;
  }
  return false;
}

function wanters(state: State, self: RecordRef): readonly string[] {
  const granted = new Set((state.confirmed?.record.granting ?? []).map(({ to, cidr }) => `${cidr.family} ${to.uid}`));
  return [...state.interest].filter((name) => {
    const peer = state.peers.get(name);
    return families.some(
      (family) => sameRef(peer?.record.wants[family], self) && !granted.has(`${family} ${peer?.stored.uid ?? ''}`),
    );
  });
}

/** Peers that pull a spare block of this one. */
function pullers(state: State, self: RecordRef): readonly string[] {
  const own = state.confirmed?.record.blocks ?? [];
  return [...state.interest].filter((name) => {
    const record = state.peers.get(name)?.record;
    const cidr = record?.pulls?.cidr;
    return record !== undefined && cidr && pullsFrom(record, self) && own.some((block) => sameCidr(block.cidr, cidr));
  });
}

function hasWants(state: State, self: RecordRef): boolean {
  if (state.interest.size === 0) return false;
  const { wanters, pullers } = heard(state, self);
  return wanters.length > 0 || pullers.length > 0;
}

/** Notes when the first unserved want was heard, so that those close behind it are served with it. */
export function noteWants(state: State, nowMs: number): void {
  const self = selfRef(state);
  if (self === undefined || !hasWants(state, self)) state.wantsSinceMs = undefined;
  else state.wantsSinceMs ??= nowMs;
}

/** Most records that one cycle reads. */
const readsLimit = 48;

/** Names of the records that a cycle reads after the own one. */
export function toRead(state: State, own: PeerRecord, self: RecordRef, dead: readonly string[]): readonly string[] {
  const names = new Set<string>(takeoverReads(state, own, dead));
  for (const name of state.interest) {
    const granting = state.peers.get(name)?.record.granting ?? [];
    if (granting.some((grant) => isIncarnation(grant.to, self, own.was))) names.add(name);
  }
  for (const grant of own.granting) names.add(grant.to.name);
  for (const block of own.blocks) if (block.via !== undefined) names.add(block.via.name);
  for (const family of families) {
    const donor = own.wants[family];
    if (donor !== undefined) names.add(donor.name);
  }
  const { wanters, pullers } = heard(state, self);
  for (const name of [...wanters, ...pullers]) names.add(name);
  if (own.pulls !== undefined) names.add(own.pulls.from.name);
  names.delete(state.config.self);
  return [...names].slice(0, readsLimit);
}
