// Found: whoever first writes itself into the universe's write-once `founder` owns the whole range, and writes it into its own
// record. No quorum is estimated and no count of nodes awaited: the registry's compare-and-swap decides. Before that the host is
// surveyed: what others use of the ranges (Kubernetes services, routes of the host) is carved out for good, by the same write.
import { perFamily } from './address.ts';
import { isSuspicious } from './back.ts';
import { type Cidr, coalesce, contains, containsAddress, formatCidr, intersect, overlaps, subtract } from './cidr.ts';
import type { Draft } from './draft.ts';
import type { InUse } from './events.ts';
import {
  blocksLimit,
  type PeerRecord,
  type RecordRef,
  reservedLimit,
  isIncarnation,
  type UniverseRecord,
} from './records.ts';
import type { State } from './state.ts';

export interface Founding {
  /** The Universe with this peer as its founder; what others use of it is reserved by the same write. */
  readonly universe: UniverseRecord;
  /** Why it cannot be founded like that; '' when it can. */
  readonly problem: string;
  /** What was carved out, for the log. */
  readonly news: readonly string[];
}

/** Decides how to found, given what a survey found in use. */
export function planFounding(
  state: State,
  universe: UniverseRecord,
  self: RecordRef,
  inUse: readonly InUse[],
): Founding {
  const { ranges } = universe;
  const known = new Set(universe.reserved.map(formatCidr));
  const configured = state.config.reserved.filter((block) => !known.has(formatCidr(block)));
  const asked = [...universe.reserved, ...configured];
  const met = inUse.filter(
    ({ cidr, toldBy }) =>
      ranges.some((range) => overlaps(range, cidr)) &&
      !asked.some((block) => toldBy !== undefined && containsAddress(block, toldBy)),
  );
  const carved = coalesce(
    subtract(
      intersect(
        ranges,
        met.map(({ cidr }) => cidr),
      ),
      asked,
    ),
  );
  const reserved = [...asked, ...carved];
  const news = met
    .filter(({ cidr }) => carved.some((block) => overlaps(block, cidr)))
    .map(({ cidr, by }) => `${formatCidr(cidr)} is ${by}: its part of the range is reserved`);
  const founded = { ...universe, reserved, founder: self };
  return { universe: founded, problem: whyNot(founded, asked, met), news };
}

function whyNot({ ranges, reserved }: UniverseRecord, asked: readonly Cidr[], met: readonly InUse[]): string {
  const remedy = 'choose other ranges, or reserve what is in use by hand';
  for (const { cidr, by, apart } of met) {
    // What a person reserved is known to be in use: that is no surprise any more.
    if (asked.some((block) => contains(block, cidr))) continue;
    const covered = ranges.find((range) => (apart === true ? overlaps(range, cidr) : contains(cidr, range)));
    if (covered !== undefined)
      return `the range ${formatCidr(covered)} is not free: ${formatCidr(cidr)} is ${by}; ${remedy}`;
  }
  for (const range of ranges) {
    if (subtract([range], reserved).length === 0) return `nothing of the range ${formatCidr(range)} is free; ${remedy}`;
  }
  if (reserved.length > reservedLimit) {
    return `${reserved.length} parts of the range are reserved, more than ${reservedLimit}: reserve fewer, larger parts`;
  }
  const blocks = coalesce(subtract(ranges, reserved)).length;
  if (blocks <= blocksLimit) return '';
  return `the reserved parts cut the range into ${blocks} blocks, more than ${blocksLimit}: reserve fewer or larger parts`;
}

/** The Universe as this peer would create it, not yet founded: what its disk knows of the one before, else its settings. */
export function newUniverse({ config, durable }: State): UniverseRecord {
  const { ranges, reserved } = durable.universe ?? config;
  return { ranges, reserved, namespaces: [], extra: {} };
}

/**
 * True when the Universe names an earlier incarnation of this record: it was deleted by hand while its founding was on its way, and this disk
 * tells that it was its own and never had the ranges.
 */
export function isLostFounding({ durable, universe }: State, self: RecordRef, record: PeerRecord): boolean {
  const founder = universe?.record.founder;
  if (record.seeded || founder?.name !== self.name || isIncarnation(founder, self, record.was)) return false;
  return durable.founding?.includes(founder.uid) === true;
}

/** The founder writes the ranges minus what is reserved into its blocks, once. */
export function seed(draft: Draft): void {
  const universe = draft.state.universe?.record;
  if (draft.seeded || universe?.founder === undefined) return;
  if (isLostFounding(draft.state, draft.self, draft.base)) {
    // What anybody has can only come from that incarnation: then its disk knows less than there was.
    const isOthers = [...draft.state.peers.values()].some(
      ({ record }) => record.blocks.length + record.granting.length > 0,
    );
    if (isOthers || !draft.state.listed || isSuspicious(draft.state, draft.nowMs)) return;
    draft.was = [universe.founder.uid, ...(draft.was ?? [])].slice(0, 4);
  } else if (!isIncarnation(universe.founder, draft.self, draft.base.was)) return;
  const space = coalesce(subtract(universe.ranges, universe.reserved));
  draft.blocks = space.map((cidr) => ({ cidr }));
  draft.seeded = true;
  draft.wants = perFamily(() => undefined);
  draft.changed = true;
  draft.news.push(
    `founded the universe ${draft.state.config.universe}: own all of ${space.map(formatCidr).join(', ')}`,
  );
}
