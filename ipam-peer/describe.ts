// Describe: what the record tells about its node. The overlay address of a family is chosen with its first block, in the same
// write, and kept for good. The free count is published when it is off by a factor of four, so that leases alone cause few writes.
import { families, type Family, familyOf, formatAddress, parseAddress, perFamily } from './address.ts';
import { containsAddress } from './cidr.ts';
import type { Draft } from './draft.ts';
import { enoughToGive, publishedFree } from './grant.ts';
import { firstFree } from './space.ts';
import { edgesOf, familiesOf, type State } from './state.ts';

export function describe(draft: Draft): void {
  const { state } = draft;
  const served = familiesOf(state).filter((family) => state.config.ownAddresses.includes(family));
  draft.overlay = served.flatMap((family) => chooseOverlay(draft, family));
  draft.underlay = state.underlay;
  if (!sameTexts(draft.overlay, draft.base.overlay) || !sameTexts(draft.underlay, draft.base.underlay)) {
    draft.changed = true;
  }
  draft.free = perFamily((family) => publishedFree(state, draft.blocks, family));
  const enough = enoughToGive(state);
  for (const family of families) {
    const [before, now] = [draft.base.free[family], draft.free[family]];
    if (isFarOff(state, before, now)) draft.changed = true;
    if (draft.unserved.has(family) && now < enough && before >= enough) draft.changed = true;
  }
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

/** The node's address of a family: the one it has, the one its record tells, else the lowest free one. */
function chooseOverlay(draft: Draft, family: Family): readonly string[] {
  const { state, base } = draft;
  const own = state.durable.overlay.filter((text) => familyOf(text) === family);
  if (own.length > 0) return own;
  const told = base.overlay.find((text) => familyOf(text) === family);
  const kept = parseAddress(told ?? '');
  if (told !== undefined && kept && draft.blocks.some((block) => containsAddress(block.cidr, kept))) return [told];
  const ranges = state.universe?.record.ranges ?? [];
  const blocks = draft.blocks.map((block) => block.cidr).filter((block) => block.family === family);
  const address = firstFree(state.spaces[family], blocks, edgesOf(ranges, family));
  return address === undefined ? [] : [formatAddress(address.family, address.value)];
}
