// Kinds of worlds for CI: small ones in which one kind of misfortune is the rule, so that each operation and each fault is seen often in
// little time.
import { noFaults, type Faults, type Scenario } from './scenario.ts';

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

const small: Partial<Scenario> = { bootWithinMs: 10, workEveryMs: 1000, podsPerPeer: 3, restMs: 500, joinOnUse: false };

/** In all, each counter comes to more than a thousand. */
export const profiles: readonly Profile[] = [
  {
    name: 'boots',
    seeds: 660,
    peers: 3,
    override: {
      ...small,
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
    name: 'nodes die',
    seeds: 240,
    peers: 5,
    override: {
      ...small,
      mood: 'nodes',
      busyMs: 15_000,
      halves: false,
      workEveryMs: 300,
      podsPerPeer: 8,
      faults: { ...noFaults, hintLate: 0.1, ambush: 0.5, faultEveryMs: 400 },
    },
    askAfterMs: [5000, 10_000],
  },
  {
    name: 'the registry goes back',
    seeds: 170,
    peers: 4,
    override: { ...small, mood: 'registry', busyMs: 30_000, halves: false, faults: { ...noFaults, faultEveryMs: 250 } },
    askAfterMs: [5000, 10_000],
  },
  {
    name: 'disks go back',
    seeds: 60,
    peers: 4,
    override: { ...small, mood: 'disks', busyMs: 30_000, halves: false, faults: { ...noFaults, faultEveryMs: 150 } },
    askAfterMs: [5000, 10_000],
  },
  {
    name: 'space moves',
    seeds: 60,
    peers: 8,
    override: {
      ...small,
      mood: 'records',
      podsPerPeer: 100,
      workEveryMs: 100,
      busyMs: 10_000,
      halves: false,
      faults: { ...rough, faultEveryMs: 1000 },
    },
    askAfterMs: [5000, 10_000],
  },
];
