// Space that is in no record: the record of its owner was deleted by hand, and the disk that knew of it was lost, is not believed, or belongs
// to a node that is gone. No rule gives it to anybody: a disk that believes in it may be switched off. A person who knows that none is
// left says so (`weft ipam reclaim`), and one node takes it, in quarantine until whatever ran there has rested.
import { type Cidr, formatCidrs, intersect, subtract } from './cidr.ts';
import { spaceOf, totalOf } from './invariants.ts';
import { blocksLimit, type PeerRecord, type UniverseRecord } from './records.ts';
import { isUnseeded } from './source.ts';
import { emit, type Known, type State } from './state.ts';

/** What of a founded universe is in none of these records, all that there are. In a list that is no snapshot it may be on its way. */
export function unownedSpace(
  universe: UniverseRecord | undefined,
  peers: readonly Known<PeerRecord>[],
): readonly Cidr[] {
  if (universe?.founder === undefined) return [];
  if (peers.some(({ stored, record }) => isUnseeded(universe, stored, record))) return [];
  return subtract(spaceOf(universe), heldBy(peers));
}

function heldBy(peers: readonly Known<PeerRecord>[]): readonly Cidr[] {
  return peers.flatMap(({ record }) => [...record.blocks, ...record.granting].map(({ cidr }) => cidr));
}

/** A sum costs little with thousands of peers. What is counted twice, granted and taken, is so for a moment only. */
function mayLack(universe: UniverseRecord | undefined, peers: readonly Known<PeerRecord>[]): boolean {
  return totalOf(heldBy(peers)) < totalOf(spaceOf(universe));
}

/** After a list of all records: what each list of a long time found to be nobody's is told. */
export function noteUnowned(state: State, nowMs: number): void {
  const { confirmed, unowned } = state;
  const peers = [...state.peers.values(), ...(confirmed === undefined ? [] : [confirmed])];
  const isWhole =
    confirmed !== undefined && state.malformed.size === 0 && !peers.some(({ record }) => record.suspect === true);
  const universe = state.universe?.record;
  const now = isWhole && mayLack(universe, peers) ? unownedSpace(universe, peers) : [];
  const still = intersect(unowned.cidrs, now);
  const cidrs = still.length > 0 ? still : now;
  const sinceMs = still.length > 0 ? unowned.sinceMs : nowMs;
  const told = cidrs.length > 0 && nowMs >= sinceMs + state.config.suspicionMs ? cidrs : [];
  if (formatCidrs(told) !== formatCidrs(unowned.told)) emit(state, { kind: 'changed' });
  state.unowned = { cidrs, sinceMs, told };
}

export type Reclaim =
  | { readonly kind: 'none' }
  | { readonly kind: 'take'; readonly space: readonly Cidr[]; readonly record: PeerRecord }
  | { readonly kind: 'wait'; readonly why: string };

/** How a node takes what is nobody's, by all records as they stood at one time, at a person's word. */
export function planReclaim(
  universe: UniverseRecord | undefined,
  peers: readonly Known<PeerRecord>[],
  self: string,
): Reclaim {
  const space = unownedSpace(universe, peers);
  if (space.length === 0) return { kind: 'none' };
  const suspect = peers.find(({ record }) => record.suspect === true);
  if (suspect !== undefined) return { kind: 'wait', why: `${suspect.stored.name} is still writing its record back` };
  const own = peers.find(({ stored }) => stored.name === self)?.record;
  if (own === undefined) return { kind: 'wait', why: `${self} has no record yet` };
  if (own.heir !== undefined || own.removed === true) return { kind: 'wait', why: `${self} was removed` };
  if (own.blocks.length + space.length > blocksLimit) {
    return { kind: 'wait', why: `the record of ${self} has no room for ${space.length} more blocks` };
  }
  const blocks = [...own.blocks, ...space.map((cidr) => ({ cidr, quarantine: true }))];
  return { kind: 'take', space, record: { ...own, blocks, seq: own.seq + 1 } };
}
