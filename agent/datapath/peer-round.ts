// A round that writes a change of peers alone: part after part, each planned on what the parts before it have made.
import type { KernelFacts } from './actual.ts';
import { applyParts } from './apply.ts';
import type { Expected } from './expected.ts';
import type { KernelIo } from './kernel-io.ts';
import type { Operation } from './objects.ts';
import type { DatapathSettings } from './settings.ts';
import type { TakenRoutes } from './taken-routes.ts';

export interface PeerRound {
  readonly io: KernelIo;
  readonly settings: DatapathSettings;
  readonly expected: Expected;
  readonly taken: TakenRoutes;
  readonly facts: Pick<KernelFacts, 'ifindexes'>;
  readonly signal: AbortSignal;
}

export interface PeerRoundOutcome {
  readonly written: number;
  /** False: a part could not be planned by itself, or the kernel has refused something. A full round is due. */
  readonly isWhole: boolean;
}

/** Throws only when a socket breaks. */
export async function writePeers(
  { io, settings, expected, taken, facts, signal }: PeerRound,
  parts: Iterable<readonly Operation[] | undefined>,
): Promise<PeerRoundOutcome> {
  let written = 0;
  let isPlanned = true;
  function* noted(): Generator<readonly Operation[]> {
    for (const operations of parts) {
      isPlanned = operations !== undefined;
      if (!operations) return;
      expected.note(operations);
      written += operations.length;
      yield taken.retake(operations);
    }
  }
  const refusals = await applyParts(io, settings, noted(), facts.ifindexes, signal);
  expected.refused(refusals.map(({ operation }) => operation));
  return { written, isWhole: isPlanned && refusals.length === 0 };
}
