// How the session stands (session.ts), apart from what is done about it.
import type { StoredRecord } from './events.ts';

export interface Session {
  /** `asking`: no answer since the start. `offline`: none in time, the disk decides. `foreign`: another process has it. */
  status: 'asking' | 'offline' | 'held' | 'foreign' | 'removed';
  stored: StoredRecord | undefined;
  /** Version of the own record that this process did not write, as far as it knows, and for which the session was looked at. */
  checkedVersion: string;
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
    checkedVersion: '',
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
