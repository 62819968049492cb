// Work that is done again and again, with a pause between its end and its next beginning. It does not keep the process alive.

export interface RecurringOptions {
  /** From the start, and from each end, to the next beginning. */
  readonly everyMs: number;
  readonly work: (signal: AbortSignal) => Promise<unknown>;
  /** Hears what `work` throws, unless that was stopped. */
  readonly onError: (error: unknown) => void;
}

export class Recurring {
  readonly #options: RecurringOptions;
  readonly #stop = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #working: Promise<void> = Promise.resolve();

  constructor(options: RecurringOptions) {
    this.#options = options;
  }

  start(): void {
    this.#timer = setTimeout(() => {
      this.#working = this.#workAndGoOn();
    }, this.#options.everyMs);
    this.#timer.unref();
  }

  async #workAndGoOn(): Promise<void> {
    const { signal } = this.#stop;
    try {
      await this.#options.work(signal);
    } catch (error) {
      if (!signal.aborted) this.#options.onError(error);
    }
    if (!signal.aborted) this.start();
  }

  /** Aborts the work under way; resolves when it has ended. */
  async stop(): Promise<void> {
    this.#stop.abort();
    clearTimeout(this.#timer);
    await this.#working;
  }
}
