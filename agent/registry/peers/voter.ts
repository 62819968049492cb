// A voter: the pure acceptor over its durable store. Requests that arrive together share one commit; whoever waits for changes
// is woken after the commit that made one.

import { WeftError } from '#agent/errors.ts';
import type { RecordKind } from '#agent/registry/registry.ts';
import type { VoterStore } from '#agent/registry/peers/store.ts';
import {
  maxValueBytes,
  pageLimit,
  type AcceptorCall,
  type ChangesAnswer,
  type ChangesCall,
} from '#agent/registry/peers/wire.ts';
import { acceptorStep, type AcceptorReply } from '#ipam-peer/caspaxos/acceptor.ts';

/** Who asks: the node name that the certificate authority put into the caller's certificate. */
export interface Caller {
  readonly nodeName: string;
}

export interface Voter {
  readonly voterId: string;
  /** Answers when what it promises or accepts is on disk. Throws WeftError('store'), WeftError('registry') when refused. */
  acceptor(call: AcceptorCall, caller: Caller): Promise<AcceptorReply>;
  /** Answers at once when there is something, else when there is, at the latest after `waitMs`. */
  changes(call: ChangesCall, signal: AbortSignal): Promise<ChangesAnswer>;
}

interface Pending {
  readonly call: AcceptorCall;
  readonly resolve: (reply: AcceptorReply) => void;
  readonly reject: (error: unknown) => void;
}

export function createVoter(store: VoterStore): Voter {
  let queue: Pending[] = [];
  const waiters = new Set<{ readonly kind: string; readonly wake: () => void }>();

  const flush = (): void => {
    const batch = queue;
    queue = [];
    const replies: AcceptorReply[] = [];
    const changedKinds = new Set<string>();
    try {
      store.commit(() => {
        for (const { call } of batch) {
          const before = store.read(call.key);
          const { register, reply } = acceptorStep(store.voterId, before, call.request);
          if (register !== before) store.write(call.key, register);
          if (register.cell?.version !== before.cell?.version) changedKinds.add(kindOf(call.key));
          replies.push(reply);
        }
      });
    } catch (error) {
      for (const { reject } of batch) reject(error);
      return;
    }
    for (const [at, { resolve }] of batch.entries()) resolve(replies[at] as AcceptorReply);
    for (const waiter of waiters) if (changedKinds.has(waiter.kind)) waiter.wake();
  };

  return {
    voterId: store.voterId,
    acceptor: async (call, caller) => {
      checkCall(call, caller);
      if (call.request.kind === 'read') return acceptorStep(store.voterId, store.read(call.key), call.request).reply;
      return new Promise((resolve, reject) => {
        if (queue.length === 0) setImmediate(flush);
        queue.push({ call, resolve, reject });
      });
    },
    changes: async (call, signal) => {
      const deadline = performance.now() + call.waitMs;
      for (;;) {
        const answer = answerChanges(store, call);
        const remainingMs = deadline - performance.now();
        if (answer.entries.length > 0 || answer.voterId !== call.voterId || remainingMs <= 0 || signal.aborted) {
          return answer;
        }
        await nextChange(waiters, call.kind, remainingMs, signal);
      }
    },
  };
}

/**
 * What a voter refuses whatever the ballot says. The place where a record's writer is compared with the certificate
 * (design/ipam "A record says who may write it"): `caller` is proven by TLS, `cell.writer` is only claimed.
 */
function checkCall(call: AcceptorCall, caller: Caller): void {
  if (call.request.kind !== 'accept' || call.request.cell === null) return;
  const { value } = call.request.cell;
  if (value !== null && Buffer.byteLength(JSON.stringify(value)) > maxValueBytes) {
    throw new WeftError('registry', `${call.key} from ${caller.nodeName} is larger than ${maxValueBytes} bytes`);
  }
}

function answerChanges(store: VoterStore, call: ChangesCall): ChangesAnswer {
  const { voterId } = store;
  // A counter of another disk, or of this one before it was set back, says nothing.
  const known = call.voterId === voterId && call.after <= store.lastChange();
  const after = known ? call.after : 0;
  const rows = store.changedKeys(call.kind, after, pageLimit);
  const entries = rows.map(({ name, accepted, cell }) => ({ name, accepted, cell }));
  return { voterId, change: rows.at(-1)?.change ?? after, entries, more: rows.length === pageLimit };
}

function nextChange(
  waiters: Set<{ readonly kind: string; readonly wake: () => void }>,
  kind: RecordKind,
  waitMs: number,
  signal: AbortSignal,
): Promise<void> {
  return new Promise((resolve) => {
    const waiter = { kind, wake: done };
    const timer = setTimeout(done, waitMs);
    function done(): void {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      waiters.delete(waiter);
      resolve();
    }
    signal.addEventListener('abort', done);
    waiters.add(waiter);
  });
}

function kindOf(key: string): string {
  return key.slice(0, key.indexOf('/'));
}
