// Giving begins on the own disk: what is about to go may not be leased from any more before anybody else can have it.
import { intersect, subtract } from './cidr.ts';
import { formatPeer, type PeerRecord } from './records.ts';
import { type Known, persistPeer, refreshUsable, type State } from './state.ts';

/** What the record is about to lose leaves the durable copy first, and stays out until the version at which it was written is gone. */
export function withdrawGiven(state: State, own: Known<PeerRecord>, next: PeerRecord): void {
  const nextBlocks = next.blocks.map((block) => block.cidr);
  const given = subtract(
    own.record.blocks.map((block) => block.cidr),
    nextBlocks,
  );
  if (given.length === 0) return;
  // Should the registry go back while the write is under way, it is this record that is written back.
  const record = formatPeer(next);
  persistPeer(state, { blocks: intersect(state.durable.blocks, nextBlocks), doubt: own.stored.version, record });
  refreshUsable(state);
}
