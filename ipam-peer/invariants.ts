// The invariants of the design, computed from what stands in the registry and on the disks. The simulator asserts them after
// every step; on a live cluster they are a finding on one paged list, never the cause of an action.
import { type Cidr, compareCidr, contains, formatCidr, overlaps, sizeOf, subtract } from './cidr.ts';
import { isDeadSource, isIncarnation, isVia, type PeerRecord, type RecordRef, type UniverseRecord } from './records.ts';
import type { Known } from './state.ts';

export interface Owned {
  readonly cidr: Cidr;
  readonly owner: RecordRef;
  /** `grant`: on its way, still the owner's but no longer its to use; `unseeded`: the founder's, not yet in its record. */
  readonly as: 'block' | 'grant' | 'unseeded';
}

/** Who owns which block, by effective owner, sorted by address. */
export function effectiveOwners(
  universe: UniverseRecord | undefined,
  peers: readonly Known<PeerRecord>[],
): readonly Owned[] {
  const byUid = new Map(
    peers.flatMap((peer) => [peer.stored.uid, ...(peer.record.was ?? [])].map((uid) => [uid, peer])),
  );
  const inherited = Map.groupBy(
    peers.flatMap(({ record }) =>
      record.blocks.filter((block) => block.via !== undefined && block.via.id === undefined),
    ),
    (block) => block.via?.uid,
  );
  const isInherited = (cidr: Cidr, dead: RecordRef): boolean =>
    inherited.get(dead.uid)?.some((block) => isDeadSource(block.via, dead) && contains(block.cidr, cidr)) === true;
  const owned: Owned[] = [];
  for (const { record, stored } of peers) {
    const owner: RecordRef = { name: stored.name, uid: stored.uid };
    if (!record.seeded && isIncarnation(universe?.founder, owner, record.was)) {
      for (const cidr of spaceOf(universe)) if (!isInherited(cidr, owner)) owned.push({ cidr, owner, as: 'unseeded' });
    }
    for (const { cidr } of record.blocks) if (!isInherited(cidr, owner)) owned.push({ cidr, owner, as: 'block' });
    for (const grant of record.granting) {
      const taken = byUid
        .get(grant.to.uid)
        ?.record.blocks.some((block) => isVia(block.via, owner, grant.id, record.was));
      if (taken !== true && !isInherited(grant.cidr, owner)) owned.push({ cidr: grant.cidr, owner, as: 'grant' });
    }
  }
  return owned.toSorted((a, b) => compareCidr(a.cidr, b.cidr));
}

/** What the universe has to share: its ranges less what is reserved. */
export function spaceOf(universe: Pick<UniverseRecord, 'ranges' | 'reserved'> | undefined): readonly Cidr[] {
  return universe === undefined ? [] : subtract(universe.ranges, universe.reserved);
}

/** True for a block that lies in the space of the universe; a record may claim more (an enemy's hand). */
export function isShared(universe: Pick<UniverseRecord, 'ranges' | 'reserved'>, block: Cidr): boolean {
  return (
    subtract([block], universe.ranges).length === 0 && !universe.reserved.some((reserved) => overlaps(reserved, block))
  );
}

/** Invariants 1 and 2 over the records: no address with two owners, and once founded none without. Empty: all is well. */
export function ownershipViolations(universe: UniverseRecord | undefined, owned: readonly Owned[]): readonly string[] {
  const problems: string[] = [];
  for (const [index, next] of owned.entries()) {
    const previous = owned[index - 1];
    if (previous === undefined || !overlaps(next.cidr, previous.cidr)) continue;
    problems.push(
      `${formatCidr(next.cidr)} has two owners: ${next.owner.name} and, as ${formatCidr(previous.cidr)}, ${previous.owner.name}`,
    );
  }
  if (universe?.founder === undefined) {
    if (owned.length > 0) problems.push('space is owned in a universe that nobody founded');
    return problems;
  }
  const space = spaceOf(universe);
  const outside = owned.filter(({ cidr }) => !isShared(universe, cidr));
  for (const { cidr, owner } of outside)
    problems.push(`${owner.name} owns ${formatCidr(cidr)}, which is not to be shared`);
  if (problems.length > 0) return problems;
  const missing = totalOf(space) - totalOf(owned.map((one) => one.cidr));
  if (missing !== 0n) {
    const lost = subtract(
      space,
      owned.map((one) => one.cidr),
    );
    problems.push(`nobody owns ${lost.map(formatCidr).join(', ')}`);
  }
  return problems;
}

/** How many addresses these blocks have; what overlaps counts each time. */
export function totalOf(blocks: readonly Cidr[]): bigint {
  return blocks.reduce((total, block) => total + sizeOf(block), 0n);
}

/**
 * Invariant 1 on one disk: the durable copy holds nothing that the peer's incarnation does not effectively own. Space that is
 * granted does not count: its taker may have it at any moment.
 */
export function durableViolations(
  name: string,
  uid: string | undefined,
  durable: readonly Cidr[],
  owned: readonly Owned[],
): readonly string[] {
  const own = owned.filter((one) => one.owner.uid === uid && one.as === 'block').map((one) => one.cidr);
  return subtract(durable, own).map((block) => `${name} may lease from ${formatCidr(block)}, which it does not own`);
}
