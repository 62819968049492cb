// Runs the pure proposer against the voters: executes its effects, feeds it what comes back. Writes of one key queue up within
// this process, so that it never contends with itself. Randomness and time enter here: backoff with jitter, deadlines.

import { randomBytes } from 'node:crypto';
import type { VoterLink } from '#agent/registry/peers/link.ts';
import type { Change } from '#ipam-peer/caspaxos/change.ts';
import {
  beginOperation,
  operationStep,
  type OperationEffect,
  type OperationEvent,
  type OperationResult,
  type OperationStep,
} from '#ipam-peer/caspaxos/proposer.ts';

export interface Proposer {
  /** Ends by the signal or after the operation's own time as `unreachable` or `unknown`; never throws. */
  run(key: string, change: Change, signal: AbortSignal): Promise<OperationResult>;
}

/** Longest that one operation tries. */
const operationTimeoutMs = 6000;
/** How long a read waits for the last voters when a majority has answered without agreeing. */
const patienceMs = 15;
const backoffStartMs = 8;
const backoffLimitMs = 500;

/** `life` ends everything, also the late requests that outlive their operation for the sake of a slow voter. */
export function createProposer(links: readonly VoterLink[], life: AbortSignal): Proposer {
  const processId = randomBytes(16).toString('base64url');
  const byName = new Map(links.map((link) => [link.name, link]));
  const names = links.map((link) => link.name);
  const queues = new Map<string, Promise<unknown>>();
  let operations = 0;
  let counter = 0;
  /** What a call takes, a running mean: waits that are short against it would never let two contenders part. */
  let callMs = 0;

  const execute = (key: string, change: Change, signal: AbortSignal): Promise<OperationResult> =>
    new Promise((resolve) => {
      operations += 1;
      const timers = new Set<NodeJS.Timeout>();
      const after = (ms: number, event: OperationEvent): void => {
        const timer = setTimeout(() => {
          timers.delete(timer);
          feed(event);
        }, ms);
        timers.add(timer);
      };
      const expire = (): void => feed({ kind: 'expired' });
      const ended = AbortSignal.any([signal, life]);

      let step: OperationStep = beginOperation(change, names, `${processId}.${operations}`, counter);
      const feed = (event: OperationEvent): void => {
        step = operationStep(step.operation, event);
        counter = Math.max(counter, step.operation.counter);
        for (const effect of step.effects) perform(effect);
      };
      const perform = (effect: OperationEffect): void => {
        switch (effect.kind) {
          case 'send': {
            const { round, voter, request } = effect;
            const link = byName.get(voter);
            if (link === undefined) throw new Error(`no link to voter ${voter}`);
            const sentAt = performance.now();
            link.acceptor({ key, request }, life).then(
              (reply) => {
                callMs += (performance.now() - sentAt - callMs) / 8;
                feed({ kind: 'reply', round, voter, reply });
              },
              () => feed({ kind: 'failed', round, voter }),
            );
            return;
          }
          case 'patience':
            after(Math.max(patienceMs, callMs), { kind: 'patienceOver', round: effect.round });
            return;
          case 'backoff':
            after(backoffMs(effect.attempt, callMs), { kind: 'retry' });
            return;
          case 'done':
            for (const timer of timers) clearTimeout(timer);
            ended.removeEventListener('abort', expire);
            resolve(effect.result);
        }
      };
      after(operationTimeoutMs, { kind: 'expired' });
      ended.addEventListener('abort', expire);
      for (const effect of step.effects) perform(effect);
      if (ended.aborted) expire();
    });

  return {
    run: async (key, change, signal) => {
      if (change.kind === 'read') return execute(key, change, signal);
      const turn = (queues.get(key) ?? Promise.resolve()).then(() => execute(key, change, signal));
      queues.set(key, turn);
      try {
        return await turn;
      } finally {
        if (queues.get(key) === turn) queues.delete(key);
      }
    },
  };
}

/** Begins at twice a call's time or more, doubles from attempt to attempt; each is drawn between half and one and a half of it. */
function backoffMs(attempt: number, callMs: number): number {
  const startMs = Math.max(backoffStartMs, 2 * callMs);
  const base = Math.min(Math.max(backoffLimitMs, startMs), startMs * 2 ** Math.min(attempt - 1, 10));
  return base * (0.5 + Math.random());
}
