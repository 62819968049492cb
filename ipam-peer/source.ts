// The source of a block with `via`: what still counts for it there.
import { type Cidr, overlaps } from './cidr.ts';
import { isIncarnation, type PeerRecord, type RecordRef, type UniverseRecord, type Via } from './records.ts';

/** The founder, before it has written the ranges into its record: they are its own all the same. */
export function isUnseeded(universe: UniverseRecord | undefined, stored: RecordRef, record: PeerRecord): boolean {
  return !record.seeded && isIncarnation(universe?.founder, stored, record.was);
}

/** True while the source has not seen that the block was taken: the grant stands, or the dead record has not let go of it. */
export function stillHolds(universe: UniverseRecord | undefined, source: PeerRecord, via: Via, cidr: Cidr): boolean {
  if (via.id !== undefined) return source.granting.some((grant) => grant.id === via.id);
  if (isUnseeded(universe, via, source)) return true;
  return [...source.blocks, ...source.granting].some((one) => overlaps(one.cidr, cidr));
}
