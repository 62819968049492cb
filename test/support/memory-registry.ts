// The registry in memory, for tests: linearizable, watched, and able to fail as real ones do (conflict, refusal, an outcome that
// nobody learns, silence). Several agents in one process share one `MemoryRegistry`; each takes its own `client()`.
import { setTimeout as delay } from 'node:timers/promises';
import { WeftError } from '#agent/errors.ts';
import type {
  DeleteOutcome,
  RecordKind,
  RecordValue,
  Registry,
  RegistryRecord,
  WatchEvent,
  WriteOutcome,
} from '#agent/registry/registry.ts';

export type Operation = 'get' | 'list' | 'create' | 'update' | 'delete';

export interface Call {
  readonly operation: Operation;
  readonly kind: RecordKind;
  readonly name: string;
}

/** `lost`: not executed, outcome unknown. `unanswered`: executed, outcome unknown. `away`: as if not reachable. */
export type Fault = 'none' | 'conflict' | 'lost' | 'unanswered' | 'away';

export interface Behaviour {
  /** Decides the fate of each call; default: none. */
  fault: (call: Call) => Fault;
  /** Milliseconds before a call is answered; default 0 (next turn of the loop). */
  delayMs: (call: Call) => number;
}

/** Sizes and names as the real engines check them. */
const valueLimitBytes = 64 * 1024;
const recordName = /^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/;

export class MemoryRegistry {
  readonly behaviour: Behaviour = { fault: () => 'none', delayMs: () => 0 };
  readonly #records = new Map<string, RegistryRecord>();
  readonly #watchers = new Set<(event: WatchEvent) => void>();
  #next = 1;

  /** A view of its own that can be closed. */
  client(): Registry {
    return new MemoryClient(this);
  }

  read(kind: RecordKind, name: string): RegistryRecord | undefined {
    return this.#records.get(`${kind}/${name}`);
  }

  all(kind: RecordKind): readonly RegistryRecord[] {
    return [...this.#records.values()].filter((record) => record.kind === kind);
  }

  /** Writes past every check, as a person with kubectl might. */
  put(kind: RecordKind, name: string, value: RecordValue): RegistryRecord {
    const uid = this.read(kind, name)?.uid ?? `uid-${this.#next++}`;
    const record: RegistryRecord = { kind, name, uid, version: `v${this.#next++}`, value: structuredClone(value) };
    this.#records.set(`${kind}/${name}`, record);
    this.#tell({ kind, name, record });
    return record;
  }

  remove(kind: RecordKind, name: string): void {
    if (this.#records.delete(`${kind}/${name}`)) this.#tell({ kind, name });
  }

  subscribe(watcher: (event: WatchEvent) => void): () => void {
    this.#watchers.add(watcher);
    return () => void this.#watchers.delete(watcher);
  }

  #tell(event: WatchEvent): void {
    for (const watcher of this.#watchers) watcher(event);
  }
}

function problemOf(name: string, value: RecordValue): string {
  if (name.length > 253 || !recordName.test(name)) return `"${name}" is no DNS-1123 subdomain`;
  const bytes = Buffer.byteLength(JSON.stringify(value));
  return bytes > valueLimitBytes ? `value of ${bytes} bytes exceeds ${valueLimitBytes}` : '';
}

class MemoryClient implements Registry {
  readonly #store: MemoryRegistry;
  readonly #closed = new AbortController();

  constructor(store: MemoryRegistry) {
    this.#store = store;
  }

  async #enter(call: Call, signal: AbortSignal): Promise<Fault> {
    const { behaviour } = this.#store;
    const either = AbortSignal.any([signal, this.#closed.signal]);
    if (either.aborted) return 'away';
    const delayMs = behaviour.delayMs(call);
    try {
      await delay(delayMs, undefined, { signal: either });
    } catch {
      return 'lost';
    }
    return behaviour.fault(call);
  }

  async get(kind: RecordKind, name: string, signal: AbortSignal): Promise<RegistryRecord | undefined> {
    this.#checkRead(await this.#enter({ operation: 'get', kind, name }, signal));
    return this.#store.read(kind, name);
  }

  async list(kind: RecordKind, signal: AbortSignal): Promise<readonly RegistryRecord[]> {
    this.#checkRead(await this.#enter({ operation: 'list', kind, name: '' }, signal));
    return this.#store.all(kind);
  }

  #checkRead(fault: Fault): void {
    if (fault !== 'none' && fault !== 'conflict') throw new WeftError('registry', 'the registry did not answer');
  }

  async create(kind: RecordKind, name: string, value: RecordValue, signal: AbortSignal): Promise<WriteOutcome> {
    return await this.#write({ operation: 'create', kind, name }, signal, () => {
      const problem = problemOf(name, value);
      if (problem !== '') return { kind: 'refused', reason: problem };
      if (this.#store.read(kind, name) !== undefined) return { kind: 'conflict' };
      return { kind: 'ok', record: this.#store.put(kind, name, value) };
    });
  }

  async update(record: RegistryRecord, value: RecordValue, signal: AbortSignal): Promise<WriteOutcome> {
    const { kind, name } = record;
    return await this.#write({ operation: 'update', kind, name }, signal, () => {
      const current = this.#store.read(kind, name);
      const problem = problemOf(name, value);
      if (problem !== '') return { kind: 'refused', reason: problem };
      if (current === undefined) return { kind: 'notFound' };
      if (current.uid !== record.uid || current.version !== record.version) return { kind: 'conflict' };
      return { kind: 'ok', record: this.#store.put(kind, name, value) };
    });
  }

  async delete(record: RegistryRecord, signal: AbortSignal): Promise<DeleteOutcome> {
    const { kind, name } = record;
    return await this.#write({ operation: 'delete', kind, name }, signal, (): DeleteOutcome => {
      const current = this.#store.read(kind, name);
      if (current === undefined) return { kind: 'notFound' };
      if (current.uid !== record.uid || current.version !== record.version) return { kind: 'conflict' };
      this.#store.remove(kind, name);
      return { kind: 'ok' };
    });
  }

  async #write<T extends WriteOutcome | DeleteOutcome>(
    call: Call,
    signal: AbortSignal,
    execute: () => T,
  ): Promise<T | { readonly kind: 'unknown'; readonly reason: string } | { readonly kind: 'conflict' }> {
    const fault = await this.#enter(call, signal);
    if (fault === 'conflict') return { kind: 'conflict' };
    if (fault === 'lost' || fault === 'away') return { kind: 'unknown', reason: 'the registry did not answer' };
    const outcome = execute();
    return fault === 'unanswered' ? { kind: 'unknown', reason: 'the answer was lost' } : outcome;
  }

  async *watch(kind: RecordKind, signal: AbortSignal): AsyncGenerator<WatchEvent> {
    const either = AbortSignal.any([signal, this.#closed.signal]);
    const queue: WatchEvent[] = this.#store.all(kind).map((record) => ({ kind, name: record.name, record }));
    let wake: () => void = () => undefined;
    const stop = this.#store.subscribe((event) => {
      if (event.kind !== kind) return;
      queue.push(event);
      wake();
    });
    const onAbort = (): void => wake();
    either.addEventListener('abort', onAbort);
    try {
      while (!either.aborted) {
        const event = queue.shift();
        if (event !== undefined) {
          yield event;
          continue;
        }
        await new Promise<void>((resolve) => {
          wake = resolve;
          if (either.aborted) resolve();
        });
      }
    } finally {
      stop();
      either.removeEventListener('abort', onAbort);
    }
  }

  // eslint-disable-next-line typescript/require-await -- the interface waits, this one has nothing to wait for
  async close(): Promise<void> {
    this.#closed.abort();
  }
}
