// Breadth-first search through everything that may happen, a state that was seen before by its key is not gone into again.

export interface Search<S> {
  readonly key: (state: S) => string;
  /** Each thing that may happen next, by name, and what it leads to. */
  readonly next: (state: S) => Iterable<readonly [string, S]>;
  /** What is broken; '' when all is well. */
  readonly violation: (state: S) => string;
  /** What is to be reached somewhere. */
  readonly goal?: (state: S) => boolean;
  /** More states than this are too many: the bounds are to be set lower. */
  readonly limit: number;
}

export interface Found {
  readonly states: number;
  readonly transitions: number;
  /** The longest way to a new state. */
  readonly depth: number;
  /** What is broken, and the shortest way there; '' when nothing is. */
  readonly violation: string;
  /** States from which nothing leads further. */
  readonly ends: number;
  /** States in which the goal is reached. */
  readonly goals: number;
}

interface Node<S> {
  readonly state: S;
  readonly depth: number;
  readonly how: string;
  readonly from: Node<S> | undefined;
}

export function search<S>(start: S, { key, next, violation, goal, limit }: Search<S>): Found {
  const seen = new Set([key(start)]);
  let layer: Node<S>[] = [{ state: start, depth: 0, how: 'start', from: undefined }];
  let [transitions, depth, ends, goals] = [0, 0, 0, 0];
  while (layer.length > 0) {
    const after: Node<S>[] = [];
    for (const node of layer) {
      const broken = violation(node.state);
      const counts = { states: seen.size, transitions, depth, ends, goals };
      if (broken !== '') return { ...counts, violation: `${broken}: ${wayTo(node)}` };
      if (goal?.(node.state) === true) goals++;
      let steps = 0;
      for (const [how, state] of next(node.state)) {
        steps++;
        const text = key(state);
        if (seen.has(text)) continue;
        seen.add(text);
        after.push({ state, depth: node.depth + 1, how, from: node });
      }
      transitions += steps;
      if (steps === 0) ends++;
      if (seen.size > limit) throw new Error(`more than ${limit} states: not searched to the end`);
    }
    if (after.length > 0) depth++;
    layer = after;
  }
  return { states: seen.size, transitions, depth, ends, goals, violation: '' };
}

function wayTo<S>(node: Node<S>): string {
  const way: string[] = [];
  for (let at: Node<S> | undefined = node; at !== undefined; at = at.from) way.unshift(at.how);
  return way.join(', ');
}
