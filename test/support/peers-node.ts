// One node of a peers registry as a process of its own, for tests that kill it: started with a JSON argument, answers each
// line `{"id","kind","name","op","value"}` on stdin with one JSON line on stdout. First line out: {"ready":true}.

import { createInterface } from 'node:readline';
import { openPeersRegistry, type PeersRegistryOptions } from '#agent/registry/peers/peers-registry.ts';
import type { RecordKind, RecordValue } from '#agent/registry/registry.ts';

interface Request {
  readonly id: number;
  readonly op: 'create' | 'get' | 'increment';
  readonly kind: RecordKind;
  readonly name: string;
  readonly value: RecordValue;
}

const log = { info: () => undefined, warn: (...parts: readonly unknown[]) => console.error(JSON.stringify(parts)) };
const options = JSON.parse(process.argv[2] ?? '{}') as PeersRegistryOptions;
const registry = await openPeersRegistry({ ...options, log: log as never, rule: () => undefined });
const signal = new AbortController().signal;

async function answer(request: Request): Promise<unknown> {
  const { kind, name } = request;
  if (request.op === 'create') return registry.create(kind, name, request.value, signal);
  const record = await registry.get(kind, name, signal);
  if (request.op === 'get') return record ?? null;
  if (record === undefined) return { kind: 'notFound' };
  return registry.update(record, { ...record.value, seq: Number(record.value['seq']) + 1 }, signal);
}

console.log(JSON.stringify({ ready: true }));
for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line) as Request;
  answer(request).then(
    (result) => console.log(JSON.stringify({ id: request.id, result })),
    (error: unknown) => console.log(JSON.stringify({ id: request.id, error: String(error) })),
  );
}
await registry.close();
