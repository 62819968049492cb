// Order among calls: those on one attachment run one after another in the order of their arrival, those on different ones at once.

import { WeftError } from '#agent/errors.ts';
import type { AttachmentKey } from '#agent/runtime/ipam.ts';

export class AttachmentQueue {
  readonly #tails = new Map<string, Promise<unknown>>();

  /**
   * Runs the work when all earlier work on the key has ended, well or badly. A caller that is gone by then has its work dropped:
   * throws WeftError('interrupted').
   */
  async run<Result>(key: AttachmentKey, signal: AbortSignal, work: () => Promise<Result>): Promise<Result> {
    const name = `${key.containerId}/${key.ifname}`;
    const begin = (): Promise<Result> => {
      if (signal.aborted) throw new WeftError('interrupted', 'the caller went away before the work began');
      return work();
    };
    const before = this.#tails.get(name);
    const mine = before === undefined ? begin() : before.then(begin);
    const tail = mine.then(
      () => undefined,
      () => undefined,
    );
    this.#tails.set(name, tail);
    try {
      return await mine;
    } finally {
      if (this.#tails.get(name) === tail) this.#tails.delete(name);
    }
  }

  /** Keys with work running or waiting. */
  get size(): number {
    return this.#tails.size;
  }
}
