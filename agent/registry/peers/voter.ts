// A voter: the pure acceptor over its durable store. Requests that arrive together share one commit; whoever waits for changes
// is woken after the commit that made one.

import type { Checks } from '#agent/registry/peers/checks.ts';
import type { Seat } from '#agent/registry/peers/seat.ts';
import type { RecordKind } from '#agent/registry/registry.ts';
import type { VoterStore } from '#agent/registry/peers/store.ts';
import {
  pageLimit,
  type AcceptorCall,
  type ChangesAnswer,
  type ChangesCall,
  type CopyAnswer,
  type CopyCall,
  type HelloCall,
} from '#agent/registry/peers/wire.ts';
import { acceptorStep, type AcceptorReply, type AcceptorSelf } from '#ipam-peer/caspaxos/acceptor.ts';
import type { HelloReply } from '#ipam-peer/caspaxos/join.ts';

/** Who asks: the node name that the certificate authority put into the caller's certificate. */
export interface Caller {
  readonly nodeName: string;
}

/** Every call throws WeftError('registry') while the voter has not joined, or where the caller may not ask. */
export interface Voter {
  /** Answers when what it promises or accepts is on disk. Throws WeftError('store'). */
  acceptor(call: AcceptorCall, caller: Caller): Promise<AcceptorReply>;
  /** For other voters: on disk when answered. */
  hello(call: HelloCall, caller: Caller): HelloReply;
  copy(call: CopyCall, caller: Caller): CopyAnswer;
  /** Answers at once when there is something, else when there is, at the latest after `waitMs`. */
  changes(call: ChangesCall, signal: AbortSignal): Promise<ChangesAnswer>;
}

interface Pending {
  readonly call: AcceptorCall;
  readonly resolve: (reply: AcceptorReply) => void;
  readonly reject: (error: unknown) => void;
}

/** `life` ends the questions that a check asks other voters. */
export function createVoter(store: VoterStore, seat: Seat, checks: Checks, life: AbortSignal): Voter {
  let queue: Pending[] = [];
  const waiters = new Set<{ readonly kind: string; readonly wake: () => void }>();

  const flush = (): void => {
    const batch = queue;
    queue = [];
    const replies: AcceptorReply[] = [];
    const changedKinds = new Set<string>();
    try {
      const self = seat.self();
      store.commit(() => {
        for (const { call } of batch) {
          const before = store.read(call.key);
          const { register, reply } = acceptorStep(self, before, call.request);
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
    acceptor: async (call, caller) => {
      const self = seat.self();
      const { reply } = acceptorStep(self, store.read(call.key), call.request);
      // What changes nothing needs neither a check nor a commit.
      if (reply.kind !== 'promised' && reply.kind !== 'accepted') return reply;
      const reason = await checks(call, caller.nodeName, life);
      if (reason !== undefined) return { kind: 'refused', voterId: self.voterId, reason: reason.slice(0, 2000) };
      return new Promise((resolve, reject) => {
        if (queue.length === 0) setImmediate(flush);
        queue.push({ call, resolve, reject });
      });
    },
    hello: (call, { nodeName }) => seat.hello(nodeName, call),
    copy: (call, { nodeName }) => seat.copy(nodeName, call),
    changes: async (call, signal) => {
      const deadline = performance.now() + call.waitMs;
      for (;;) {
        const answer = answerChanges(store, seat.self(), call);
        const remainingMs = deadline - performance.now();
        if (answer.entries.length > 0 || answer.diskId !== call.diskId || remainingMs <= 0 || signal.aborted) {
          return answer;
        }
        await nextChange(waiters, call.kind, remainingMs, signal);
      }
    },
  };
}

function answerChanges(store: VoterStore, { voterId, sessions }: AcceptorSelf, call: ChangesCall): ChangesAnswer {
  const { diskId } = store;
  // A counter of another disk, or of this one before it was set back, says nothing.
  const known = call.diskId === diskId && call.after <= store.lastChange();
  const after = known ? call.after : 0;
  const rows = store.changedKeys(call.kind, after, pageLimit);
  const entries = rows.map(({ name, accepted, cell }) => ({ name, accepted, cell }));
  return { diskId, voterId, sessions, change: rows.at(-1)?.change ?? after, entries, more: rows.length === pageLimit };
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
