// Universes that this node does not serve, and why. Whoever names a pool for a namespace wants its pods in that pool and in no other
// network: while it is refused they get no address at all.
import type { Log } from './driver.ts';

interface RefusedPool {
  readonly problem: string;
  /** Empty where the Universe cannot be understood. */
  readonly namespaces: readonly string[];
}

export class RefusedPools {
  readonly #refused = new Map<string, RefusedPool>();
  readonly #log: Log;

  constructor(log: Log) {
    this.#log = log;
  }

  get size(): number {
    return this.#refused.size;
  }

  refuse(name: string, problem: string, namespaces: readonly string[] = []): void {
    const before = this.#refused.get(name);
    this.#refused.set(name, { problem, namespaces });
    if (before?.problem !== problem) this.#log.error(`the pool ${name} is not served: ${problem}`);
  }

  /** It is served, or its Universe is gone. */
  forget(name: string): void {
    this.#refused.delete(name);
  }

  problemOf(name: string): string | undefined {
    return this.#refused.get(name)?.problem;
  }

  ofNamespace(namespace: string): string | undefined {
    const named = [...this.#refused].filter(([, { namespaces }]) => namespaces.includes(namespace));
    return named.map(([name]) => name).toSorted()[0];
  }
}
