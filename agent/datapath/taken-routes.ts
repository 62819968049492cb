// `ip route replace` without our protocol number makes a route of ours somebody else's. Who takes one that was there gets it taken
// back, once: whoever does it again shortly means it, or is a program, and is not fought but named (routeConflict).
import type { Operation } from './objects.ts';
import { mainRouteKey } from './objects.ts';

/** How long a route that was taken back is somebody else's if it is taken again. */
const truceMs = 60_000;

export class TakenRoutes {
  readonly #taken = new Set<string>();
  readonly #restoredAtMs = new Map<string, number>();

  /** Somebody else's route has come to where a route of ours was. */
  note(routeKey: string): void {
    const restored = this.#restoredAtMs.get(routeKey);
    if (restored === undefined || performance.now() - restored > truceMs) this.#taken.add(routeKey);
  }

  /** The operations, of which those that bring back a taken route replace what is there. */
  retake(operations: readonly Operation[]): readonly Operation[] {
    if (this.#taken.size === 0) return operations;
    const now = performance.now();
    const retaken = operations.map((operation) => {
      if (operation.kind !== 'putRoute' || !this.#taken.has(mainRouteKey(operation.route))) return operation;
      this.#restoredAtMs.set(mainRouteKey(operation.route), now);
      return { ...operation, replaces: true };
    });
    this.#taken.clear();
    for (const [key, atMs] of this.#restoredAtMs) if (now - atMs > truceMs) this.#restoredAtMs.delete(key);
    return retaken;
  }
}
