// The Universe after it was founded. It never changes by itself, but a person may delete it under running peers, or put another one in
// its place. Nobody's pods suffer from that:
//
//   deleted                   the default pool's is made again from what the disks know; a further pool is over: no new leases
//   made again                taken as it is where it holds this peer's space; who founds it again seeds nothing (`standingOf`)
//   another one in its place  this peer goes on in the one that it knows, and says so. Once its record is gone too, nothing is leased
//                             any more; with the last lease it forgets the earlier one and begins anew in the other
import { parseAddress } from './address.ts';
import { isSuspicious } from './back.ts';
import { type Cidr, coalesce, formatCidrs, overlaps, sameCidrs, subtract } from './cidr.ts';
import type { StoredRecord } from './events.ts';
import { disown } from './identity.ts';
import { parsePeer, parseUniverse, type PeerRecord, type UniverseRecord } from './records.ts';
import { emit, type Known, persistPeer, refreshUsable, sayOnce, setFence, type State } from './state.ts';

/** Event `universe`: what is known by its version already is no news. Before the first reading every cycle reads it. */
export function hintOfUniverse(state: State, stored: StoredRecord | undefined, nowMs: number): void {
  const known = state.universe?.stored;
  if (known === undefined || (stored?.uid === known.uid && stored.version === known.version)) return;
  state.universeTrack.stale = true;
  state.fruitless = 0;
  state.notBeforeMs = Math.min(state.notBeforeMs, nowMs);
}

/** True when the next cycle begins with reading it. */
export function isUniverseDue(state: State, nowMs: number): boolean {
  const { stale, ended, remakeMs } = state.universeTrack;
  const known = state.universe?.record.founder !== undefined;
  // With each list too: hints get lost.
  return !known || stale || (ended ?? remakeMs) !== undefined || nowMs >= state.nextListMs;
}

/** Takes in the Universe as read or written; false when it cannot be understood. */
export function knowUniverse(state: State, stored: StoredRecord): boolean {
  const { universeTrack: track, durable } = state;
  track.stale = false;
  track.remakeMs = undefined;
  const parsed = parseUniverse(stored.value);
  if (!parsed.ok) {
    state.trouble = `the Universe "${stored.name}" cannot be understood: ${parsed.reason}`;
    sayOnce(state, state.trouble);
    return false;
  }
  const { ranges, reserved, founder } = parsed.record;
  const homeless = outside(ownSpace(state), ranges, reserved);
  if (durable.universe !== undefined && homeless.length > 0) {
    const earlier = `${formatCidrs(homeless)} of an earlier one (${formatCidrs(durable.universe.ranges)})`;
    const text = `the Universe ${stored.name} has the ranges ${formatCidrs(ranges)}, this node holds ${earlier}`;
    end(state, 'universeReplaced', text);
    // Its deletion was heard before: nothing is given out since, and now for this reason.
    if (!track.leaving && (state.fences.get('universe') ?? '') !== '') setFence(state, 'universe', text);
    return true;
  }
  const isNews = founder !== undefined && state.universe?.record.founder === undefined;
  state.universe = { stored, record: parsed.record };
  if (isNews || track.ended !== undefined) emit(state, { kind: 'changed' });
  track.ended = undefined;
  track.leaving = false;
  setFence(state, 'universe', '');
  const known = durable.universe;
  if (known?.uid !== stored.uid || !sameCidrs(known.ranges, ranges) || !sameCidrs(known.reserved, reserved)) {
    persistPeer(state, { universe: { name: stored.name, uid: stored.uid, ranges, reserved } });
    refreshUsable(state);
  }
  return true;
}

/**
 * The Universe was read to be gone. `remake`: it is to be made again now; `goOn`: the cycle goes on in the one that is known; `none`: none
 * was ever known here.
 */
export function missUniverse(state: State, nowMs: number, random: number): 'remake' | 'goOn' | 'none' {
  const { universeTrack: track, durable, config } = state;
  track.stale = false;
  if (durable.universe === undefined) return 'none';
  const gone = `the Universe ${config.universe} was deleted`;
  if (config.joinOnUse) {
    end(state, 'universeDeleted', `${gone}: its pods keep their addresses, no other pod gets one`);
    setFence(state, 'universe', track.ended?.text ?? '');
    return 'goOn';
  }
  end(
    state,
    'universeDeleted',
    `${gone} while nodes hold its space; it is made again from what this node's disk knows`,
  );
  // A person who puts another one in its place has the time for that; and one node is enough.
  track.remakeMs ??= nowMs + config.pollMs * (4 + 4 * random);
  return nowMs >= track.remakeMs ? 'remake' : 'goOn';
}

function end(state: State, name: 'universeDeleted' | 'universeReplaced', text: string): void {
  state.universe ??= remembered(state);
  if (state.universeTrack.ended?.text === text) return;
  state.universeTrack.ended = { name, text };
  sayOnce(state, text);
  emit(state, { kind: 'changed' });
}

/** The Universe as the disk knows it; its founder is nobody that there is. */
function remembered({ durable }: State): Known<UniverseRecord> | undefined {
  if (durable.universe === undefined) return undefined;
  const { name, uid, ranges, reserved } = durable.universe;
  const record = { ranges, reserved, namespaces: [], founder: { name, uid }, extra: {} };
  return { stored: { name, uid, version: '', value: undefined }, record };
}

/** Everything that this peer holds, by its disk and by what it has read. */
function ownSpace({ durable, confirmed, leases }: State): readonly Cidr[] {
  const parsed = parsePeer(durable.lastKnown?.record ?? durable.record);
  const leased = [...leases.values()].flatMap(({ addresses }) => addresses.flatMap((text) => parseAddress(text) ?? []));
  return [
    ...durable.blocks,
    ...(parsed.ok ? spaceOfRecord(parsed.record) : []),
    ...(confirmed === undefined ? [] : spaceOfRecord(confirmed.record)),
    ...leased.map(({ family, value }): Cidr => ({ family, base: value, prefix: family === 4 ? 32 : 128 })),
  ];
}

function spaceOfRecord({ blocks, granting }: PeerRecord): readonly Cidr[] {
  return [...blocks, ...granting].map(({ cidr }) => cidr);
}

/** What of the space is not to be shared in a universe of these ranges. */
function outside(space: readonly Cidr[], ranges: readonly Cidr[], reserved: readonly Cidr[]): readonly Cidr[] {
  return coalesce(subtract(space, subtract(ranges, reserved)));
}

/** True when the Universe of this peer's disk is over and its own record, as read, holds nothing of it any more. */
export function isOver(state: State, stored: StoredRecord | undefined): boolean {
  if (state.universeTrack.ended === undefined || state.universeTrack.remakeMs !== undefined) return false;
  const parsed = parsePeer(stored?.value);
  return stored === undefined || (parsed.ok && spaceOfRecord(parsed.record).length === 0);
}

/** Forgets the Universe that is over, once no pod has an address of it. */
export function leave(state: State): void {
  const { universeTrack: track, durable, leases } = state;
  const text = track.ended?.text ?? '';
  if (leases.size > 0) {
    track.leaving = true;
    setFence(state, 'universe', `${text}; ${leases.size} pods here still have addresses of it`);
    return;
  }
  track.leaving = false;
  if (durable.uid !== undefined) {
    disown(state, { universe: undefined });
    state.confirmed = undefined;
    state.backSinceMs = Infinity;
    state.conflicts = [];
    refreshUsable(state);
  }
  if (track.ended?.name === 'universeDeleted') return;
  // What took its place is read by the next cycle.
  track.ended = undefined;
  state.universe = undefined;
  setFence(state, 'universe', '');
  emit(state, { kind: 'changed' });
}

/** True when the last lease of a Universe that is over has gone. */
export function isLeaving({ universeTrack, leases }: State): boolean {
  return universeTrack.leaving && leases.size === 0;
}

/** How this peer may make itself the founder, as all records tell. */
export type Standing = { readonly kind: 'found' | 'adopt' } | { readonly kind: 'wait'; readonly why: string };

/**
 * A Universe that nobody founded although there are records with space of it was deleted and made again: its founder is then somebody
 * who has `seeded` already and owns nothing new. Where the space is not of these ranges it cannot be founded.
 */
export function standingOf(state: State, universe: UniverseRecord, own: Known<PeerRecord>): Standing {
  const peers = [...state.peers.values(), own];
  const space = peers.flatMap(({ record }) => spaceOfRecord(record));
  const name = state.config.universe;
  if (isSuspicious(state, state.nowMs) || peers.some(({ record }) => record.suspect === true)) {
    return { kind: 'wait', why: `the Universe ${name} is not founded while records are being written back` };
  }
  if (space.length === 0) return { kind: 'found' };
  const homeless = outside(space, universe.ranges, universe.reserved);
  if (homeless.length === 0) return { kind: 'adopt' };
  const holders = peers.filter(({ record }) =>
    spaceOfRecord(record).some((cidr) => homeless.some((one) => overlaps(one, cidr))),
  );
  const who = holders.slice(0, 3).map(({ record, stored }) => record.node.name || stored.name);
  const more = holders.length > who.length ? ` and ${holders.length - who.length} more` : '';
  const why = `the Universe ${name} (${formatCidrs(universe.ranges)}) cannot be founded: ${who.join(', ')}${more} hold ${formatCidrs(homeless)} of an earlier one`;
  return { kind: 'wait', why };
}
