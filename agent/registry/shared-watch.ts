// One watch for all who follow the same kind of record on this node: each pool's core follows the peers, and the registry should not
// have to tell a node the same thing once for each of its pools. Who joins late is first told what is known; who is slow is told of
// each record only what it came to.
import type { RecordKind, Registry, WatchEvent } from '#agent/registry/registry.ts';

/** The same registry, which watches each kind once however many ask. */
export function withSharedWatch(registry: Registry): Registry {
  const life = new AbortController();
  const shared = new Map<RecordKind, SharedWatch>();
  return {
    get: async (kind, name, signal) => await registry.get(kind, name, signal),
    list: async (kind, signal) => await registry.list(kind, signal),
    create: async (kind, name, value, signal) => await registry.create(kind, name, value, signal),
    update: async (record, value, signal) => await registry.update(record, value, signal),
    delete: async (record, signal) => await registry.delete(record, signal),
    watch: (kind, signal) => {
      let watch = shared.get(kind);
      if (watch === undefined || watch.ended) {
        watch = new SharedWatch(registry.watch(kind, life.signal));
        shared.set(kind, watch);
      }
      return watch.follow(AbortSignal.any([signal, life.signal]));
    },
    close: async () => {
      life.abort();
      await registry.close();
    },
  };
}

interface Follower {
  /** What it has not been told yet, by name of the record. */
  readonly news: Map<string, WatchEvent>;
  wake: () => void;
}

class SharedWatch {
  /** The last that was heard of each record that exists. */
  readonly #known = new Map<string, WatchEvent>();
  readonly #followers = new Set<Follower>();
  #failure: unknown;
  ended = false;

  constructor(events: AsyncIterable<WatchEvent>) {
    void this.#pump(events);
  }

  async #pump(events: AsyncIterable<WatchEvent>): Promise<void> {
    try {
      for await (const event of events) {
        if (event.record === undefined) this.#known.delete(event.name);
        else this.#known.set(event.name, event);
        for (const follower of this.#followers) {
          follower.news.set(event.name, event);
          follower.wake();
        }
      }
    } catch (error) {
      this.#failure = error;
    }
    this.ended = true;
    for (const follower of this.#followers) follower.wake();
  }

  /** Ends with the watch, or throws what that threw. */
  async *follow(signal: AbortSignal): AsyncGenerator<WatchEvent, void, undefined> {
    const follower: Follower = { news: new Map(this.#known), wake: () => undefined };
    const wake = (): void => follower.wake();
    this.#followers.add(follower);
    signal.addEventListener('abort', wake);
    try {
      while (!signal.aborted) {
        for (const [name, event] of follower.news) {
          follower.news.delete(name);
          yield event;
          if (signal.aborted) return;
        }
        if (follower.news.size > 0) continue;
        if (this.ended) {
          if (this.#failure !== undefined) throw this.#failure;
          return;
        }
        await new Promise<void>((resolve) => {
          follower.wake = resolve;
        });
      }
    } finally {
      this.#followers.delete(follower);
      signal.removeEventListener('abort', wake);
    }
  }
}
