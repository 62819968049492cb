// One watch for all who follow a kind: the registry sees one, everybody hears everything.
import { describe, expect, test } from 'vitest';
import type { Registry, WatchEvent } from '#agent/registry/registry.ts';
import { withSharedWatch } from '#agent/registry/shared-watch.ts';
import { until } from '#test/support/ipam-nodes.ts';
import { MemoryRegistry } from '#test/support/memory-registry.ts';

function counted(memory: MemoryRegistry): { readonly registry: Registry; watches: number } {
  const client = memory.client();
  const counter = {
    watches: 0,
    registry: withSharedWatch({
      ...client,
      get: async (...args) => await client.get(...args),
      watch: (...args) => {
        counter.watches++;
        return client.watch(...args);
      },
      close: async () => await client.close(),
    }),
  };
  return counter;
}

function follow(registry: Registry): { readonly heard: string[]; stop(): Promise<void> } {
  const stop = new AbortController();
  const heard: string[] = [];
  const done = (async () => {
    for await (const { name, record } of registry.watch('peer', stop.signal)) {
      heard.push(`${name} ${record === undefined ? 'gone' : String(record.value['seq'])}`);
    }
  })();
  return {
    heard,
    stop: async () => {
      stop.abort();
      await done;
    },
  };
}

describe('a shared watch', () => {
  test('is one for the registry, and tells each follower all of it', async () => {
    const memory = new MemoryRegistry();
    memory.put('peer', 'a', { seq: 1 });
    const counter = counted(memory);
    const one = follow(counter.registry);
    await until('the first hears what exists', () => one.heard.join() === 'a 1');
    const two = follow(counter.registry);
    await until('the second hears what exists', () => two.heard.join() === 'a 1');
    memory.put('peer', 'b', { seq: 1 });
    await until('both hear of b', () => [one, two].every(({ heard }) => heard.includes('b 1')));
    await one.stop();
    memory.put('peer', 'a', { seq: 2 });
    await until('who stays hears on', () => two.heard.includes('a 2'));
    expect(one.heard).not.toContain('a 2');
    const late = follow(counter.registry);
    await until('who comes late hears the newest only', () => late.heard.length === 2);
    expect(late.heard.toSorted()).toEqual(['a 2', 'b 1']);
    expect(counter.watches).toBe(1);
    await two.stop();
    await late.stop();
    await counter.registry.close();
  });

  test('that fails, fails for everybody, and the next who asks begins it anew', async () => {
    let fail: (error: Error) => void = () => undefined;
    let watches = 0;
    async function* events(): AsyncGenerator<WatchEvent, void, undefined> {
      watches++;
      yield { kind: 'peer', name: `w${watches}` };
      await new Promise<void>((_, reject) => {
        fail = reject;
      });
    }
    const client = new MemoryRegistry().client();
    const registry = withSharedWatch({ ...client, watch: () => events(), close: async () => await client.close() });
    const signal = new AbortController().signal;
    const iterators = [registry.watch('peer', signal), registry.watch('peer', signal)].map((watch) =>
      watch[Symbol.asyncIterator](),
    );
    const first = await Promise.all(iterators.map(async (iterator) => await iterator.next()));
    expect(first.map(({ value }) => (value as WatchEvent).name)).toEqual(['w1', 'w1']);
    const next = iterators.map(async (iterator) => await iterator.next());
    fail(new Error('the server went away'));
    for (const failed of next) await expect(failed).rejects.toThrow('the server went away');
    const again = registry.watch('peer', signal)[Symbol.asyncIterator]();
    expect((await again.next()).value).toMatchObject({ name: 'w2' });
    expect(watches).toBe(2);
  });

  test('ends with its followers’ signals and with the registry', async () => {
    const registry = withSharedWatch(new MemoryRegistry().client());
    const one = follow(registry);
    await one.stop();
    const two = follow(registry);
    await registry.close();
    await two.stop();
    expect(two.heard).toEqual([]);
  });
});
