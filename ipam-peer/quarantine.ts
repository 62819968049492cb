// Quarantine: a block whose last use is not known (its owner died, its disk was lost) is owned but not leased from until every
// address in it has rested. The mark stands in the record; the time starts anew when its holder restarts.
import { formatCidr } from './cidr.ts';
import type { Draft } from './draft.ts';
import type { State } from './state.ts';

/** Notes since when each block is in quarantine. */
export function noteQuarantine(state: State, nowMs: number): void {
  const blocks = state.confirmed?.record.blocks.filter((block) => block.quarantine === true) ?? [];
  if (blocks.length === 0 && state.quarantined.size === 0) return;
  const texts = new Set(blocks.map((block) => formatCidr(block.cidr)));
  for (const text of state.quarantined.keys()) if (!texts.has(text)) state.quarantined.delete(text);
  for (const text of texts) if (!state.quarantined.has(text)) state.quarantined.set(text, nowMs);
}

/** When the first quarantine ends; Infinity: there is none. */
export function quarantineEndMs(state: State): number {
  if (state.quarantined.size === 0) return Infinity;
  return Math.min(...state.quarantined.values()) + state.config.quarantineMs;
}

export function liftQuarantine(draft: Draft): void {
  const { state, nowMs } = draft;
  draft.blocks = draft.blocks.map((block) => {
    if (block.quarantine !== true) return block;
    const sinceMs = state.quarantined.get(formatCidr(block.cidr)) ?? nowMs;
    if (nowMs < sinceMs + state.config.quarantineMs) return block;
    const { quarantine: _over, ...rest } = block;
    draft.changed = true;
    return rest;
  });
}

/** After the disk was lost the rests are not known: everything rests, in the write that brings the blocks back. */
export function quarantineLost(draft: Draft): void {
  if (draft.state.durable.lostRests !== true) return;
  draft.blocks = draft.blocks.map((block) => ({ ...block, quarantine: true }));
  draft.changed = true;
}
