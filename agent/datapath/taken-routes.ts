// `ip route replace` without our protocol number makes a route of ours somebody else's. Who takes one that was there gets it taken
// back, once: whoever does it again shortly means it, or is a program, and is not fought but named (routeConflict).
import type { Operation } from './objects.ts';
import { mainRouteKey } from './objects.ts';

/** How long a route that was taken back is somebody else's if it is taken again. */
const truceMs = 60_000;
/** How long the round that takes it back may be away: one that had read the routes before does not see it. */
const patienceMs = 10_000;

export class TakenRoutes {
  readonly #takenAtMs = new Map<string, number>();
  readonly #restoredAtMs = new Map<string, number>();

  /** Somebody else's route has come to where a route of ours was. */
  note(routeKey: string): void {
    const restored = this.#restoredAtMs.get(routeKey);
    const now = performance.now();
    if (restored === undefined || now - restored > truceMs) this.#takenAtMs.set(routeKey, now);
  }

  /** The operations, of which those that bring back a taken route replace what is there. */
  retake(operations: readonly Operation[]): readonly Operation[] {
    if (this.#takenAtMs.size === 0) return operations;
    const now = performance.now();
    forget(this.#takenAtMs, now - patienceMs);
    forget(this.#restoredAtMs, now - truceMs);
    return operations.map((operation) => {
      if (operation.kind !== 'putRoute' || !this.#takenAtMs.delete(mainRouteKey(operation.route))) return operation;
      this.#restoredAtMs.set(mainRouteKey(operation.route), now);
      return { ...operation, replaces: true };
    });
  }
}

function forget(timesMs: Map<string, number>, beforeMs: number): void {
  for (const [key, timeMs] of timesMs) if (timeMs < beforeMs) timesMs.delete(key);
}
