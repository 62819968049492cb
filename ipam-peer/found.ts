// Found: whoever first writes itself into the universe's write-once `founder` owns the whole range, and writes it into its own
// record. No quorum is estimated and no count of nodes awaited: the registry's compare-and-swap decides.
import { perFamily } from './address.ts';
import { coalesce, formatCidr, subtract } from './cidr.ts';
import type { Draft } from './draft.ts';
import { blocksLimit, type RecordRef, sameRef, type UniverseRecord } from './records.ts';
import type { State } from './state.ts';

/** The Universe with this peer as its founder; reserved parts that only this host knows go in by the same write. */
export function withFounder(state: State, universe: UniverseRecord, self: RecordRef): UniverseRecord {
  const known = new Set(universe.reserved.map(formatCidr));
  const more = state.config.reserved.filter((block) => !known.has(formatCidr(block)));
  return { ...universe, reserved: [...universe.reserved, ...more], founder: self };
}

/** Why this universe cannot be founded as it is; '' when it can. */
export function whyNotFound(universe: UniverseRecord): string {
  const blocks = coalesce(subtract(universe.ranges, universe.reserved)).length;
  if (blocks <= blocksLimit) return '';
  return `the reserved parts cut the range into ${blocks} blocks, more than ${blocksLimit}: reserve fewer or larger parts`;
}

/** The Universe as this peer would create it, not yet founded. */
export function newUniverse(state: State): UniverseRecord {
  return { ranges: state.config.ranges, reserved: state.config.reserved, extra: {} };
}

/** The founder writes the ranges minus what is reserved into its blocks, once. */
export function seed(draft: Draft): void {
  const universe = draft.state.universe?.record;
  if (draft.seeded || universe === undefined || !sameRef(universe.founder, draft.self)) return;
  const space = coalesce(subtract(universe.ranges, universe.reserved));
  draft.blocks = space.map((cidr) => ({ cidr }));
  draft.seeded = true;
  draft.wants = perFamily(() => undefined);
  draft.changed = true;
  draft.news.push(
    `founded the universe ${draft.state.config.universe}: own all of ${space.map(formatCidr).join(', ')}`,
  );
}
