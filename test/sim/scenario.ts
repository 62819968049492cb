// What one seed draws before anything happens: how large the world is, how it boots, which faults it meets and how often.
import type { Family } from '#ipam-peer/address.ts';
import { type Cidr, parseCidr } from '#ipam-peer/cidr.ts';
import type { Config, Effect, InUse } from '#ipam-peer/events.ts';
import { viasLimit } from '#ipam-peer/records.ts';
import type { State } from '#ipam-peer/state.ts';
import type { Random } from './random.ts';

export interface Faults {
  /** Probability of dying before an effect. */
  readonly crashPerEffect: number;
  readonly requestLost: number;
  readonly requestLate: number;
  readonly requestTwice: number;
  readonly replyLost: number;
  readonly replyLate: number;
  readonly replyTwice: number;
  readonly unknown: number;
  readonly hintLost: number;
  readonly hintLate: number;
  readonly hintTwice: number;
  /** Probability that a node is deleted just when its record got a grant, gave one, or made it an heir. */
  readonly ambush: number;
  /** Probability that the node of an heir is deleted when it has just carried what the dead left. */
  readonly heirsDie: number;
  /** Probability that the node of a donor is deleted when it has just granted something. */
  readonly donorsDie: number;
  /** Probability that the record of a peer that holds nothing is deleted by hand just when something was granted to it. */
  readonly snatch: number;
  /** By how much of its own rate a machine's clock may be fast or slow. */
  readonly clockSkew: number;
  /** Mean milliseconds between faults of the world (crash, power loss, partition, deletion); Infinity: none. */
  readonly faultEveryMs: number;
}

export const noFaults: Faults = {
  crashPerEffect: 0,
  requestLost: 0,
  requestLate: 0,
  requestTwice: 0,
  replyLost: 0,
  replyLate: 0,
  replyTwice: 0,
  unknown: 0,
  hintLost: 0,
  hintLate: 0,
  hintTwice: 0,
  ambush: 0,
  heirsDie: 0,
  donorsDie: 0,
  snatch: 0,
  clockSkew: 0,
  faultEveryMs: Infinity,
};

/** A session must stand still for its term by an observer's clock, however fast. */
export const mostSkew = 0.1;

export interface Scenario {
  readonly peers: number;
  readonly ranges: readonly Cidr[];
  readonly reserved: readonly Cidr[];
  /** What the survey before founding finds in use. */
  readonly inUse: readonly InUse[];
  /** Peers make their records when they first need an address, as in a further pool. */
  readonly joinOnUse: boolean;
  readonly ownAddresses: readonly Family[];
  /** Peers boot within this time. */
  readonly bootWithinMs: number;
  /** Split into halves from the beginning until the faults end: a peer reaches the registry only in turn with its half. */
  readonly halves: boolean;
  readonly faults: Faults;
  /** What befalls the world most: anything, whole nodes, or the registry and the disks. */
  readonly mood: 'any' | 'nodes' | 'registry' | 'disks' | 'records' | 'twins' | 'universe' | 'forsaken';
  /** Faults and load last so long; then the world must come to rest. */
  readonly busyMs: number;
  /** Mean milliseconds between attachments or detachments per peer. */
  readonly workEveryMs: number;
  /** Pods per peer aimed at. */
  readonly podsPerPeer: number;
  readonly restMs: number;
  readonly lowWater: number;
  /** So many blocks with `via` fit into a record: with few of them an heir carries what it takes over in parts. */
  readonly mostVias: number;
  /** A planted bug: changes what a peer does before it is done. */
  readonly sabotage?: (effects: readonly Effect[], state: State) => readonly Effect[];
  /** A planted bug: every third read is of the state before the last write. */
  readonly staleReads?: boolean;
  /** A planted bug: timings that the peers keep, while the world still expects others. */
  readonly timing?: Partial<Config>;
  /** A planted bug: rest that the peers keep, while the world still expects `restMs`. */
  readonly peersRestMs?: number;
}

function cidr(text: string): Cidr {
  const block = parseCidr(text);
  if (block === undefined) throw new Error(text);
  return block;
}

interface Drawn {
  readonly ranges: readonly string[];
  readonly reserved: readonly string[];
  readonly inUse?: readonly string[];
}

const universes: readonly Drawn[] = [
  { ranges: ['10.32.0.0/12'], reserved: [], inUse: ['10.43.0.0/16', '10.0.0.0/24', '10.33.128.0/17'] },
  { ranges: ['10.32.0.0/12'], reserved: ['10.43.0.0/16', '10.33.4.8/29'] },
  { ranges: ['10.32.0.0/20'], reserved: [] },
  { ranges: ['10.32.0.0/21', '10.64.1.0/24'], reserved: ['10.32.1.0/26'] },
  { ranges: ['10.32.0.0/22'], reserved: [] },
  { ranges: ['10.32.0.0/23'], reserved: ['10.32.0.128/27'] },
  { ranges: ['fd00:32::/48'], reserved: [] },
  { ranges: ['fd00:32::/117', 'fd00:64::/120'], reserved: ['fd00:32::40/122'] },
  { ranges: ['10.32.0.0/12', 'fd00:32::/64'], reserved: ['10.43.0.0/16'], inUse: ['fd00:32::8000/113'] },
  { ranges: ['10.32.0.0/21', 'fd00:32::/64'], reserved: [] },
  { ranges: ['10.32.0.0/22', 'fd00:32::/118'], reserved: ['fd00:32::80/123'] },
  { ranges: ['10.32.0.0/20', 'fd00:32::/119'], reserved: [] },
];

export function drawScenario(random: Random, peers: number | undefined): Scenario {
  const universe = random.pick(universes);
  const calm = random.chance(0.1);
  // Faults of the network hide those of the nodes: in a storm there are few of them and many of these.
  const storm = random.chance(0.6);
  const mood = storm ? random.pick(['nodes', 'nodes', 'registry', 'disks', 'twins'] as const) : 'any';
  const maybe = (high: number): number => (random.chance(storm ? 0.8 : 0.5) ? 0 : random.between(0, high));
  return {
    peers: peers ?? (storm ? 3 + random.below(4) : 2 + random.below(random.chance(0.2) ? 15 : 5)),
    ranges: universe.ranges.map(cidr),
    reserved: universe.reserved.map(cidr),
    inUse: (universe.inUse ?? []).map((text) => ({ cidr: cidr(text), by: 'a route of the host' })),
    joinOnUse: random.chance(0.25),
    ownAddresses: random.pick([[4, 6], [4, 6], [6], []]),
    bootWithinMs: random.pick([0, 10, 1000, 15_000]),
    halves: random.chance(0.1),
    mood,
    faults: calm
      ? noFaults
      : {
          crashPerEffect: maybe(0.02),
          requestLost: maybe(0.2),
          requestLate: maybe(0.2),
          requestTwice: maybe(0.2),
          replyLost: maybe(0.2),
          replyLate: maybe(0.2),
          replyTwice: maybe(0.2),
          unknown: maybe(0.2),
          hintLost: maybe(0.4),
          hintLate: maybe(0.5),
          hintTwice: maybe(0.2),
          ambush: mood === 'nodes' ? random.between(0.1, 0.6) : mood === 'any' ? maybe(0.1) : 0,
          heirsDie: mood === 'nodes' ? maybe(0.5) : 0,
          donorsDie: mood === 'nodes' ? maybe(0.3) : 0,
          snatch: mood === 'nodes' ? maybe(0.5) : 0,
          clockSkew: random.chance(0.5) ? 0 : random.between(0, mostSkew),
          faultEveryMs: storm ? random.between(150, 800) : random.chance(0.3) ? Infinity : random.between(300, 6000),
        },
    busyMs: storm ? random.between(5_000, 20_000) : random.between(5_000, 40_000),
    workEveryMs: random.pick([50, 200, 1000]),
    podsPerPeer: random.pick([3, 20, 150, 400]),
    restMs: random.pick([500, 3000]),
    lowWater: random.pick([1, 16, 32]),
    mostVias: random.pick([viasLimit, viasLimit, 8, 12, 20]),
  };
}
