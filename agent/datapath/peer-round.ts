// A round that writes a change of peers alone: part after part, each planned on what the parts before it have made.
import type { IpamView } from '#agent/runtime/ipam.ts';

import type { KernelFacts } from './actual.ts';
import { applyParts } from './apply.ts';
import type { DesiredInput } from './desired.ts';
import type { DirectPaths } from './direct-paths.ts';
import type { Expected } from './expected.ts';
import type { KernelIo } from './kernel-io.ts';
import type { Finding, Operation } from './objects.ts';
import { peerOperations } from './peer-changes.ts';
import type { PeersTold } from './peer-changes.ts';
import type { TakenRoutes } from './taken-routes.ts';

export interface PeerRound {
  readonly io: KernelIo;
  /** What planning is told beside the peers. */
  readonly given: Omit<DesiredInput, 'view' | 'leases' | 'direct'>;
  readonly expected: Expected;
  readonly taken: TakenRoutes;
  readonly direct: DirectPaths;
  /** Of the last full round. */
  readonly facts: KernelFacts;
  readonly findings: readonly Finding[];
  /** What the kernel was brought to. */
  readonly before: PeersTold;
  readonly view: IpamView;
  readonly signal: AbortSignal;
}

export interface PeerRoundOutcome {
  readonly written: number;
  /** What the kernel was brought to now. Undefined: a part could not be planned by itself, or the kernel has refused something. */
  readonly told: PeersTold | undefined;
}

/** Undefined where more has changed than peers: a full round is due. Rejects only when a socket breaks. */
export function changePeers(round: PeerRound): Promise<PeerRoundOutcome> | undefined {
  const { given, direct, findings, expected, before, view } = round;
  direct.find(view);
  const after = { view, direct: direct.now };
  const parts = peerOperations({ before, after, findings, expected, ...given });
  return parts && writeParts(round, parts, after);
}

async function writeParts(
  { io, given, expected, taken, direct, facts, signal }: PeerRound,
  parts: Iterable<readonly Operation[] | undefined>,
  after: PeersTold,
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
  const refusals = await applyParts(io, given.settings, noted(), facts.ifindexes, signal);
  expected.refused(refusals.map(({ operation }) => operation));
  direct.note(refusals);
  return { written, told: isPlanned && refusals.length === 0 ? after : undefined };
}
