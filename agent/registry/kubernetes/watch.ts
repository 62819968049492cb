// Hints from a collection that is followed: one event for each record that changed, also over a gap in the watch, where the
// new list is compared with what was told before.

import type { Logger } from 'pino';
import type { KubeApi } from '#agent/kubernetes/api.ts';
import { followCollection, type KubeObject } from '#agent/kubernetes/list-watch.ts';
import type { Resource } from '#agent/registry/kubernetes/resources.ts';
import type { WatchEvent } from '#agent/registry/registry.ts';

export async function* watchRecords(
  api: KubeApi,
  resource: Resource,
  log: Pick<Logger, 'info' | 'warn'>,
  signal: AbortSignal,
): AsyncGenerator<WatchEvent, void, undefined> {
  const { kind } = resource;
  const told = new Map<string, string>();
  let trouble = false;
  const onTrouble = (error: Error): void => {
    if (!trouble) log.warn({ kind, reason: error.message }, 'watch interrupted');
    trouble = true;
  };
  const changed = (object: KubeObject): WatchEvent | undefined => {
    const record = resource.recordOf(object);
    const { name } = object.metadata;
    if (record === undefined) return told.delete(name) ? { kind, name } : undefined;
    if (told.get(name) === record.version) return undefined;
    told.set(name, record.version);
    return { kind, name, record };
  };
  for await (const event of followCollection(api, resource.path, resource.query, onTrouble, signal)) {
    if (trouble) log.info({ kind }, 'watch resumed');
    trouble = false;
    const objects = event.kind === 'listed' ? event.objects : event.kind === 'changed' ? [event.object] : [];
    if (event.kind === 'deleted') {
      const { name } = event.object.metadata;
      if (told.delete(name)) yield { kind, name };
    }
    if (event.kind === 'listed') {
      const existing = new Set(objects.map((object) => object.metadata.name));
      for (const name of told.keys()) if (!existing.has(name) && told.delete(name)) yield { kind, name };
    }
    for (const object of objects) {
      const hint = changed(object);
      if (hint !== undefined) yield hint;
    }
  }
}
