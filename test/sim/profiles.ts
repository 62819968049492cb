// Kinds of worlds for CI: small ones in which one kind of misfortune is the rule, so that each operation and each fault is seen often in
// little time.
import { type Cidr, parseCidr } from '#ipam-peer/cidr.ts';
import { mostSkew, noFaults, type Faults, type Scenario } from './scenario.ts';

export interface Profile {
  readonly name: string;
  readonly seeds: number;
  readonly peers?: number;
  readonly override: Partial<Scenario>;
  /** Quiet times after which the world is asked whether it has settled. */
  readonly askAfterMs?: readonly number[];
}

const rough: Faults = {
  ...noFaults,
  crashPerEffect: 0.01,
  requestLost: 0.1,
  requestLate: 0.1,
  requestTwice: 0.15,
  replyLost: 0.05,
  replyLate: 0.1,
  replyTwice: 0.15,
  unknown: 0.1,
  hintLost: 0.1,
  hintLate: 0.2,
  hintTwice: 0.15,
  faultEveryMs: 500,
};

function ranges(...texts: readonly string[]): Partial<Scenario> {
  return { ranges: texts.flatMap((text) => parseCidr(text) ?? []), reserved: [], inUse: [] };
}

/** Leaves a range of 49 blocks. */
const smallHole: Cidr = { family: 6, base: 0xfd00_0032_0000_0000_0000_0000_0000_8000n, prefix: 113 };

const plain: Partial<Scenario> = { ...ranges('10.32.0.0/20'), lowWater: 1 };
const small: Partial<Scenario> = { bootWithinMs: 10, workEveryMs: 1000, podsPerPeer: 3, restMs: 500, joinOnUse: false };

/** Space that moves often, and nothing else: no pods, nodes without addresses, blocks that are spare soon. */
const bare: Partial<Scenario> = {
  ...small,
  ...ranges('10.32.0.0/20'),
  mood: 'nodes',
  ownAddresses: [],
  lowWater: 1,
  workEveryMs: 1e7,
  halves: false,
  timing: {
    spareAfterMs: 100,
    sessionRenewMs: 1500,
    pollMs: 2000,
    resyncMs: 60_000,
    answerTimeoutMs: 300,
    takeOverAfterMs: 500,
    takeOverStepMs: 100,
  },
};

const soon: readonly number[] = [900, 3000, 6000, 10_000];
const later: readonly number[] = [3000, 6000, 10_000, 15_000];

/** Each counter comes to more than a thousand in all of them together; which of them brings which, their names tell. */
export const profiles: readonly Profile[] = [
  {
    name: 'boots at once',
    seeds: 280,
    peers: 4,
    override: { ...bare, bootWithinMs: 0, busyMs: 100, timing: { ...bare.timing, serveDelayMs: 60 } },
    askAfterMs: soon,
  },
  {
    name: 'boots in halves, over a bad network',
    seeds: 200,
    peers: 3,
    override: {
      ...small,
      ...plain,
      mood: 'records',
      busyMs: 1500,
      halves: true,
      faults: {
        ...rough,
        requestTwice: 0.5,
        replyLost: 0.2,
        unknown: 0.35,
        hintLost: 0.4,
        hintTwice: 0.4,
        faultEveryMs: 120,
      },
    },
    askAfterMs: [1500, 3000, 6000],
  },
  {
    name: 'space comes back',
    seeds: 50,
    peers: 8,
    override: {
      ...bare,
      busyMs: 30_000,
      faults: {
        ...noFaults,
        requestTwice: 0.05,
        replyLost: 0.03,
        unknown: 0.08,
        hintLost: 0.02,
        hintTwice: 0.02,
        faultEveryMs: 600,
      },
    },
    askAfterMs: later,
  },
  {
    name: 'heirs die',
    seeds: 45,
    peers: 6,
    override: { ...bare, busyMs: 30_000, faults: { ...noFaults, faultEveryMs: 1000, heirsDie: 1 } },
    askAfterMs: later,
  },
  {
    name: 'heirs die before they carry',
    seeds: 80,
    peers: 6,
    override: { ...bare, busyMs: 30_000, faults: { ...noFaults, faultEveryMs: 600, ambush: 1 } },
    askAfterMs: later,
  },
  {
    name: 'records too large for their heirs',
    seeds: 20,
    peers: 4,
    override: {
      ...bare,
      ...ranges('fd00:32::/64'),
      inUse: [{ cidr: smallHole, by: 'a route of the host' }],
      mostVias: 8,
      busyMs: 8000,
      faults: { ...noFaults, faultEveryMs: 1000, heirsDie: 0.5 },
    },
    askAfterMs: later,
  },
  {
    name: 'donors die',
    seeds: 34,
    peers: 6,
    override: { ...bare, busyMs: 30_000, faults: { ...noFaults, faultEveryMs: 1000, donorsDie: 0.8 } },
    askAfterMs: later,
  },
  {
    name: 'grants to records that are gone',
    seeds: 10,
    peers: 6,
    override: {
      ...bare,
      mood: 'records',
      busyMs: 15_000,
      timing: { suspicionMs: 500 },
      faults: { ...noFaults, faultEveryMs: 1000, snatch: 0.95 },
    },
    askAfterMs: later,
  },
  {
    name: 'nodes with pods are deleted',
    seeds: 68,
    peers: 4,
    override: {
      ...small,
      ...plain,
      mood: 'nodes',
      busyMs: 15_000,
      halves: false,
      workEveryMs: 60,
      podsPerPeer: 40,
      faults: { ...noFaults, hintLate: 0.1, ambush: 0.2, faultEveryMs: 200 },
    },
    askAfterMs: later,
  },
  {
    name: 'the registry goes back',
    seeds: 95,
    peers: 3,
    override: {
      ...small,
      ...plain,
      mood: 'registry',
      busyMs: 30_000,
      halves: false,
      faults: { ...noFaults, faultEveryMs: 60 },
    },
    askAfterMs: later,
  },
  {
    name: 'two machines of one name',
    seeds: 160,
    peers: 3,
    override: {
      ...small,
      ...plain,
      mood: 'twins',
      busyMs: 30_000,
      halves: false,
      workEveryMs: 3000,
      faults: { ...noFaults, clockSkew: mostSkew, faultEveryMs: 100 },
    },
    askAfterMs: later,
  },
  {
    name: 'disks go back',
    seeds: 10,
    peers: 4,
    override: {
      ...small,
      ...plain,
      mood: 'disks',
      busyMs: 30_000,
      halves: false,
      faults: { ...noFaults, faultEveryMs: 100 },
    },
    askAfterMs: later,
  },
  {
    name: 'pods come and go over a bad network',
    seeds: 88,
    peers: 8,
    override: {
      ...small,
      ...plain,
      mood: 'records',
      podsPerPeer: 100,
      workEveryMs: 100,
      busyMs: 10_000,
      halves: false,
      faults: { ...rough, unknown: 0.4, hintLost: 0.2, hintTwice: 0.4, faultEveryMs: 1000 },
    },
    askAfterMs: later,
  },
];
