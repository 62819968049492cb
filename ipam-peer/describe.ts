// Describe: what the record tells about its node. The overlay address is chosen with the first block, in the same write, and
// kept for good. The free count is published when it is off by a factor of four, so that leases alone cause few writes.
import { formatAddress, parseAddress } from './address.ts';
import { containsAddress } from './cidr.ts';
import type { Draft } from './draft.ts';
import { enoughToGive, publishedFree } from './grant.ts';
import { firstFree } from './space.ts';
import { edgesOf, type State } from './state.ts';

export function describe(draft: Draft): void {
  const { state } = draft;
  draft.overlay = state.durable.overlay.length > 0 ? state.durable.overlay : chooseOverlay(draft);
  draft.underlay = state.underlay;
  if (!sameTexts(draft.overlay, draft.base.overlay) || !sameTexts(draft.underlay, draft.base.underlay)) {
    draft.changed = true;
  }
  draft.free = publishedFree(state, draft.blocks);
  if (isFarOff(state, draft.base.free, draft.free)) draft.changed = true;
  if (draft.unserved && draft.free < enoughToGive(state) && draft.base.free >= enoughToGive(state))
    draft.changed = true;
}

/** True when the published count is so wrong that it is worth a write of its own. */
export function isFarOff(state: State, published: number, now: number): boolean {
  const enough = enoughToGive(state);
  // Whoever has become worth asking says so; whoever is no more says so when asked.
  if (published < enough) return now >= enough;
  return now >= 4 * published || published >= 4 * Math.max(now, 1);
}

export function sameTexts(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((text, index) => text === b[index]);
}

function chooseOverlay(draft: Draft): readonly string[] {
  const kept = parseAddress(draft.base.overlay[0] ?? '');
  if (kept !== undefined && draft.blocks.some((block) => containsAddress(block.cidr, kept))) return draft.base.overlay;
  const ranges = draft.state.universe?.record.ranges ?? [];
  const blocks = draft.blocks.map((block) => block.cidr);
  const address = firstFree(draft.state.space, blocks, edgesOf(ranges));
  return address === undefined ? [] : [formatAddress(address.family, address.value)];
}
