// Runs one round at a time and merges what asks for one: whoever asks while a round is under way gets a promise for the
// next, which begins after the question; so no request is lost and none is served by a round that began before it.

export class Rounds {
  readonly #work: () => Promise<void>;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;

  constructor(work: () => Promise<void>) {
    this.#work = work;
  }

  /** The round under way, if any; never rejects. */
  get current(): Promise<void> | undefined {
    return this.#running?.catch(() => undefined);
  }

  /** Resolves after a whole round that began at or after this call; rejects with what that round threw. */
  request(): Promise<void> {
    if (!this.#running) return this.#start();
    this.#next ??= this.#running
      .catch(() => undefined)
      .then(() => {
        this.#next = undefined;
        return this.#start();
      });
    return this.#next;
  }

  /** Resolves when nothing runs and nothing waits. */
  async idle(): Promise<void> {
    while (this.#running ?? this.#next) await (this.#next ?? this.#running)?.catch(() => undefined);
  }

  #start(): Promise<void> {
    const round = this.#work().finally(() => {
      if (this.#running === round) this.#running = undefined;
    });
    this.#running = round;
    return round;
  }
}

interface Counts {
  readonly lastReconcileMs: number | undefined;
  readonly reconciles: number;
  readonly repairs: number;
  readonly writes: number;
}

/** What rounds have done. */
export class RoundCounts {
  soFar: Counts = { lastReconcileMs: undefined, reconciles: 0, repairs: 0, writes: 0 };

  /** A round that began then is over; `repaired`: of what it has written, what nobody had asked for. */
  note(beganAtMs: number, written: number, repaired = 0): void {
    const { reconciles, repairs, writes } = this.soFar;
    const lastReconcileMs = performance.now() - beganAtMs;
    this.soFar = { lastReconcileMs, reconciles: reconciles + 1, repairs: repairs + repaired, writes: writes + written };
  }
}
