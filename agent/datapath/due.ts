// When the next comparison is due: the earliest of all the times that anybody has asked for.

/** What the pause before the next full comparison is at least, per object of ours in the kernel: the reading and its garbage take 0.2 % of a core. */
const perObjectMs = 20;
/** Unless the settings ask for more: legacy iptables tells nobody of a change. */
const longestPauseMs = 120_000;

/** Time until the next full comparison when nothing calls for one. */
export function comparePauseMs(periodMs: number, objects: number): number {
  return Math.max(periodMs, Math.min(longestPauseMs, objects * perObjectMs));
}

export class Due {
  readonly #work: () => Promise<void>;
  readonly #onError: (error: unknown) => void;
  #timer: NodeJS.Timeout | undefined;
  #dueMs = Infinity; // What was heard during a round is not put off by its end.
  #stopped = false;

  constructor(work: () => Promise<void>, onError: (error: unknown) => void) {
    this.#work = work;
    this.#onError = onError;
  }

  /** The work begins in `delayMs` at the latest. It does not keep the process alive. */
  within(delayMs: number): void {
    const dueMs = performance.now() + delayMs;
    if (this.#stopped || dueMs >= this.#dueMs) return;
    clearTimeout(this.#timer);
    this.#dueMs = dueMs;
    this.#timer = setTimeout(() => {
      this.#dueMs = Infinity;
      this.#work().catch(this.#onError);
    }, delayMs);
    this.#timer.unref();
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }
}
