// Whose turn it is next among thousands: a binary heap by time. Whoever gets another time is put in once more; the older entry is none
// any more, and is dropped when it comes up. Pure.

export interface Scheduled {
  /** Infinity: never. Written by the agenda alone. */
  nextAtMs: number;
}

interface Entry<Item> {
  readonly atMs: number;
  readonly item: Item;
}

export class Agenda<Item extends Scheduled> {
  readonly #heap: Entry<Item>[] = [];
  readonly #isListed: (item: Item) => boolean;

  /** `isListed`: false for who has gone meanwhile. */
  constructor(isListed: (item: Item) => boolean) {
    this.#isListed = isListed;
  }

  put(item: Item, atMs: number): void {
    item.nextAtMs = atMs;
    const heap = this.#heap;
    const entry = { atMs, item };
    let at = heap.length;
    heap.push(entry);
    while (at > 0) {
      const above = (at - 1) >> 1;
      const parent = heap[above] as Entry<Item>;
      if (parent.atMs <= atMs) break;
      heap[at] = parent;
      at = above;
    }
    heap[at] = entry;
  }

  /** When the next is due; Infinity: nobody is. */
  get nextAtMs(): number {
    return this.#first()?.atMs ?? Infinity;
  }

  /** Takes out those that are due, longest first, `most` at most. Whoever shall come again has to be put in. */
  take(nowMs: number, most: number): readonly Item[] {
    const taken: Item[] = [];
    for (let first = this.#first(); first && first.atMs <= nowMs && taken.length < most; first = this.#first()) {
      taken.push(first.item);
      first.item.nextAtMs = Infinity;
      this.#drop();
    }
    return taken;
  }

  #first(): Entry<Item> | undefined {
    for (let first = this.#heap[0]; first; first = this.#heap[0]) {
      if (first.item.nextAtMs === first.atMs && this.#isListed(first.item)) return first;
      this.#drop();
    }
    return undefined;
  }

  /** The first entry goes. */
  #drop(): void {
    const heap = this.#heap;
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return;
    let at = 0;
    for (;;) {
      const [left, right] = [heap[2 * at + 1], heap[2 * at + 2]];
      const isRight = right !== undefined && left !== undefined && right.atMs < left.atMs;
      const below = isRight ? right : left;
      if (below === undefined || below.atMs >= last.atMs) break;
      heap[at] = below;
      at = 2 * at + (isRight ? 2 : 1);
    }
    heap[at] = last;
  }
}
