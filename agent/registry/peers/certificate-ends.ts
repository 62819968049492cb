// Certificates do not last: after their end no voter believes this node, nor it them, and new pods find no space but the node's own.
import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';

import type { Condition } from '#agent/findings.ts';

import type { TlsPaths } from './tls.ts';

const dayMs = 24 * 60 * 60 * 1000;
/** So long before the end it is told: `weft init` makes anew what ends within 90 days. */
const aheadDays = 60;

export interface CertificateEnd {
  readonly path: string;
  /** Milliseconds since the epoch. */
  readonly endsAtMs: number;
}

/** What cannot be read is left out: the agent's start tells of it. */
export async function readCertificateEnds(paths: Pick<TlsPaths, 'ca' | 'cert'>): Promise<readonly CertificateEnd[]> {
  const ends = await Promise.all(
    [paths.ca, paths.cert].map(async (path) => {
      try {
        return [{ path, endsAtMs: new X509Certificate(await readFile(path)).validToDate.getTime() }];
      } catch {
        return [];
      }
    }),
  );
  return ends.flat();
}

/** Findings about those that have ended or do so soon. Pure. */
export function certificateConditions(ends: readonly CertificateEnd[], nowMs: number): readonly Condition[] {
  return ends.flatMap(({ path, endsAtMs }): readonly Condition[] => {
    const days = Math.floor((endsAtMs - nowMs) / dayMs);
    if (days >= aheadDays) return [];
    const day = new Date(endsAtMs).toISOString().slice(0, 10);
    const message = endsAtMs <= nowMs ? `${path} has ended on ${day}` : `${path} ends on ${day}, in ${days} days`;
    return [{ name: 'certificateEnds', subject: path, message }];
  });
}
