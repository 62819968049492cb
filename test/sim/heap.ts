// What happens next: a binary heap by time, then by order of insertion, so that a run replays exactly.

interface Item<T> {
  readonly atMs: number;
  readonly order: number;
  readonly value: T;
}

export class Agenda<T> {
  readonly #items: Item<T>[] = [];
  #order = 0;

  get size(): number {
    return this.#items.length;
  }

  add(atMs: number, value: T): void {
    const items = this.#items;
    items.push({ atMs, order: this.#order++, value });
    let index = items.length - 1;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (!this.#before(index, parent)) break;
      this.#swap(index, parent);
      index = parent;
    }
  }

  next(): { readonly atMs: number; readonly value: T } | undefined {
    const items = this.#items;
    const top = items[0];
    const last = items.pop();
    if (top === undefined || last === undefined || items.length === 0) return top;
    items[0] = last;
    let index = 0;
    for (;;) {
      let least = index;
      for (const child of [2 * index + 1, 2 * index + 2]) {
        if (child < items.length && this.#before(child, least)) least = child;
      }
      if (least === index) return top;
      this.#swap(index, least);
      index = least;
    }
  }

  #before(a: number, b: number): boolean {
    const [one, other] = [this.#items[a], this.#items[b]];
    if (one === undefined || other === undefined) return false;
    return one.atMs === other.atMs ? one.order < other.order : one.atMs < other.atMs;
  }

  #swap(a: number, b: number): void {
    const items = this.#items;
    const [one, other] = [items[a], items[b]];
    if (one === undefined || other === undefined) return;
    items[a] = other;
    items[b] = one;
  }
}
