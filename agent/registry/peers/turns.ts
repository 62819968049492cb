// Whose turn it is to try a voter that does not answer: one call at a time, after a pause that grows with the silence; the others wait for
// how that one ends. An agent that is cut off makes many calls to each voter, and a connection that comes to nothing costs
// milliseconds of TLS.

import { setTimeout as sleep } from 'node:timers/promises';

import { abortable } from '#agent/abortable.ts';

const pauseStartMs = 100;
const pauseLimitMs = 2000;
/** The pause as a part of the time that the voter has been silent. */
const pauseShare = 0.1;

/** How a try ended; `left`: its caller gave it up. */
type End = { readonly kind: 'answered' | 'left' } | { readonly kind: 'silent'; readonly cause: unknown };

export class Turns {
  #silentSinceMs: number | undefined;
  #nextTryMs = 0;
  #trying: Promise<End> | undefined;

  /** To be told of every answer, be it a refusal, and of every call that got none. */
  heard(): void {
    this.#silentSinceMs = undefined;
  }

  missed(): void {
    const nowMs = performance.now();
    this.#silentSinceMs ??= nowMs;
    const pauseMs = Math.min(pauseLimitMs, Math.max(pauseStartMs, (nowMs - this.#silentSinceMs) * pauseShare));
    this.#nextTryMs = nowMs + pauseMs;
  }

  /** Runs `call`, which tells of its end, at its turn: at once while the voter answers. Rejects as the try that it waited for, or by the signal. */
  async run<T>(call: () => Promise<T>, signal: AbortSignal): Promise<T> {
    for (;;) {
      signal.throwIfAborted();
      if (this.#silentSinceMs === undefined) return await call();
      if (this.#trying !== undefined) {
        const end = await abortable(this.#trying, signal);
        if (end.kind === 'silent') throw end.cause;
        continue;
      }
      const waitMs = this.#nextTryMs - performance.now();
      if (waitMs <= 0) return await this.#try(call);
      await sleep(waitMs, undefined, { signal, ref: false });
    }
  }

  async #try<T>(call: () => Promise<T>): Promise<T> {
    const ended = Promise.withResolvers<End>();
    this.#trying = ended.promise;
    let end: End = { kind: 'answered' };
    try {
      return await call();
    } catch (cause) {
      if (this.#silentSinceMs !== undefined) end = { kind: 'left' };
      // It was told of: this try got no answer.
      if (this.#nextTryMs > performance.now()) end = { kind: 'silent', cause };
      throw cause;
    } finally {
      this.#trying = undefined;
      ended.resolve(end);
    }
  }
}
