// How the session stands (session.ts), apart from what is done about it.
import type { StoredRecord } from './events.ts';

export interface Session {
  /** `asking`: no answer since the start. `offline`: none in time, the disk decides. `foreign`: another process has it. */
  status: 'asking' | 'offline' | 'held' | 'foreign' | 'removed';
  stored: StoredRecord | undefined;
  /** The own record as this process wrote it, or read it before it found the session to be its own. '' at the start. */
  knownVersion: string;
  /** The own record as read, while it is not known yet whose session it is; '' when nothing waits for that. */
  doubtedVersion: string;
  /** The own record that was in doubt and that this process may act on now, though it did not write it. */
  foundVersion: string;
  /** When the version of `stored` was first seen. */
  sinceMs: number;
  /** The foreign session was seen to move. */
  moved: boolean;
  pending: { readonly id: number; readonly deadlineMs: number; readonly doing: 'read' | 'write' } | undefined;
  nextMs: number;
  /** When a start without an answer goes on offline. */
  readonly offlineAtMs: number;
}

export function makeSession(nowMs: number, waitMs: number): Session {
  return {
    status: 'asking',
    stored: undefined,
    knownVersion: '',
    doubtedVersion: '',
    foundVersion: '',
    sinceMs: nowMs,
    moved: false,
    pending: undefined,
    nextMs: nowMs,
    offlineAtMs: nowMs + waitMs,
  };
}

/** True when the disk may be leased from: the session is held, or nobody answers who could say otherwise. */
export function mayLease(session: Session): boolean {
  return session.status === 'held' || session.status === 'offline';
}
