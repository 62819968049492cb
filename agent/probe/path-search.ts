// The largest packet that reaches a peer's underlay address whole, found by asking: first the size that a full packet of the overlay
// has on the wire; only where that gets lost, by halving. A size counts as lost after two unanswered probes. Pure.

import { minPacketBytes } from './echo-socket.ts';

/** How close the result of a search is to the truth, bytes. */
const preciseBytes = 8;
const triesPerSize = 2;

export class PathSearch {
  readonly goalBytes: number;
  /** Undefined: not known, or the peer answers no echo on the underlay. */
  resultBytes: number | undefined;
  #low = 0;
  #high: number;
  #tries = 0;

  constructor(goalBytes: number) {
    this.goalBytes = goalBytes;
    this.#high = goalBytes + 1;
  }

  /** Size of the next probe, bytes of the whole IP packet. */
  get sizeBytes(): number {
    if (this.#high > this.goalBytes) return this.goalBytes;
    return this.#low === 0 ? minPacketBytes : (this.#low + this.#high) >> 1;
  }

  /** True while a search is under way, which is worth asking more often. */
  get searching(): boolean {
    return this.#high <= this.goalBytes || this.#tries > 0;
  }

  /** What became of a probe of `sizeBytes`. */
  outcome(answered: boolean): void {
    const size = this.sizeBytes;
    if (answered) {
      this.#tries = 0;
      this.#low = size;
      if (size === this.goalBytes) this.#finish(size);
    } else {
      this.#tries++;
      if (this.#tries < triesPerSize) return;
      this.#tries = 0;
      if (size === minPacketBytes) this.#finish(undefined);
      else this.#high = size;
    }
    if (this.#low > 0 && this.#high - this.#low <= preciseBytes) this.#finish(this.#low);
  }

  #finish(resultBytes: number | undefined): void {
    this.resultBytes = resultBytes;
    this.#low = 0;
    this.#high = this.goalBytes + 1;
  }
}
