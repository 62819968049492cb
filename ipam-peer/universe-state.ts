// What a peer remembers of a Universe that went away, of a registry that went back, and of space that it finds in no record.
import type { Cidr } from './cidr.ts';

/** What became of the Universe that this peer knows. */
export interface UniverseTrack {
  /** A hint tells of a change that was not read yet. */
  stale: boolean;
  /** When it is made again, after it was read to be gone. */
  remakeMs: number | undefined;
  /** Its end waits for the last lease of this node. */
  leaving: boolean;
  /** It is gone, or another one took its place. */
  ended: { readonly name: 'universeDeleted' | 'universeReplaced'; readonly text: string } | undefined;
}

export function trackUniverse(): UniverseTrack {
  return { stale: false, remakeMs: undefined, leaving: false, ended: undefined };
}

/** What of this peer's disk stands in another's record, after the registry went back. */
export interface Conflict {
  readonly name: string;
  readonly cidrs: readonly Cidr[];
}

/** Space that is in no record. */
export interface Unowned {
  readonly cidrs: readonly Cidr[];
  readonly sinceMs: number;
  /** What a person is told of. */
  readonly told: readonly Cidr[];
}
