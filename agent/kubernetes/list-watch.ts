// A collection followed: listed page by page, then watched from there with bookmarks; an expired version (410) lists again, a
// lost connection resumes where it was. Reconnects wait with jitter, so that an API server that comes back is not run over.

import { setTimeout as sleep } from 'node:timers/promises';
import { WeftError } from '#agent/errors.ts';
import type { KubeAnswer, KubeApi } from '#agent/kubernetes/api.ts';

export interface ObjectMeta {
  readonly name: string;
  readonly uid: string;
  readonly resourceVersion: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly finalizers?: readonly string[];
  readonly ownerReferences?: readonly unknown[];
}

export interface KubeObject {
  readonly metadata: ObjectMeta;
}

export type CollectionEvent =
  /** The whole collection, at the start and after each gap in the watch: what is not in it does not exist. */
  | { readonly kind: 'listed'; readonly objects: readonly KubeObject[] }
  | { readonly kind: 'changed'; readonly object: KubeObject }
  | { readonly kind: 'deleted'; readonly object: KubeObject };

const pageLimit = '500';
const retryStartMs = 200;
const retryLimitMs = 30_000;
/** Bookmarks come about once a minute: a stream that is silent for longer than this is dead. */
const idleMs = 150_000;

/** All objects at one revision, page by page (`limit` in the query: other pages than of 500). Throws WeftError('registry'). */
export async function listAll(
  api: KubeApi,
  path: string,
  query: Readonly<Record<string, string>>,
  signal: AbortSignal,
): Promise<{ readonly objects: readonly KubeObject[]; readonly resourceVersion: string }> {
  for (let attempt = 1; ; attempt += 1) {
    const listed = await listOnce(api, path, query, signal);
    if (listed !== 'expired') return listed;
    if (attempt === 3) throw new WeftError('registry', `API server, listing ${path}: the pages expired three times`);
  }
}

async function listOnce(
  api: KubeApi,
  path: string,
  query: Readonly<Record<string, string>>,
  signal: AbortSignal,
): Promise<{ readonly objects: readonly KubeObject[]; readonly resourceVersion: string } | 'expired'> {
  const objects: KubeObject[] = [];
  let token = '';
  for (;;) {
    const page = { limit: pageLimit, ...query, ...(token !== '' && { continue: token }) };
    const answer = await api.call({ method: 'GET', path, query: page }, signal);
    if (answer.status === 410 && token !== '') return 'expired';
    if (answer.status !== 200) throw failure(`listing ${path}`, answer);
    const body = answer.body as {
      readonly metadata?: { readonly resourceVersion?: string; readonly continue?: string };
      readonly items?: readonly KubeObject[];
    };
    objects.push(...(body.items ?? []));
    token = body.metadata?.continue ?? '';
    if (token === '') return { objects, resourceVersion: body.metadata?.resourceVersion ?? '' };
  }
}

/** Until the signal aborts; failures are passed to `onTrouble` and retried. */
export async function* followCollection(
  api: KubeApi,
  path: string,
  query: Readonly<Record<string, string>>,
  onTrouble: (error: WeftError) => void,
  signal: AbortSignal,
): AsyncGenerator<CollectionEvent, void, undefined> {
  let resourceVersion = '';
  let failures = 0;
  while (!signal.aborted) {
    try {
      if (resourceVersion === '') {
        const listed = await listAll(api, path, query, signal);
        ({ resourceVersion } = listed);
        yield { kind: 'listed', objects: listed.objects };
      }
      const began = performance.now();
      for await (const event of watchOnce(api, path, query, resourceVersion, signal)) {
        if (event.kind === 'expired') {
          resourceVersion = '';
          break;
        }
        failures = 0;
        ({ resourceVersion } = event.object.metadata);
        if (event.kind !== 'bookmark') yield event;
      }
      // The server ends watches now and then; one that ends at once is trouble.
      if (performance.now() - began > 1000) failures = 0;
      else failures += 1;
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof WeftError)) throw error;
      failures += 1;
      onTrouble(error);
    }
    const waitMs = failures === 0 ? retryStartMs : Math.min(retryLimitMs, retryStartMs * 2 ** Math.min(failures, 10));
    await sleep(waitMs * (0.5 + Math.random()), undefined, { signal }).catch(() => undefined);
  }
}

type WatchLine =
  | { readonly kind: 'changed'; readonly object: KubeObject }
  | { readonly kind: 'deleted'; readonly object: KubeObject }
  | { readonly kind: 'bookmark'; readonly object: KubeObject }
  | { readonly kind: 'expired' };

async function* watchOnce(
  api: KubeApi,
  path: string,
  query: Readonly<Record<string, string>>,
  resourceVersion: string,
  signal: AbortSignal,
): AsyncGenerator<WatchLine, void, undefined> {
  // Between five and ten minutes, as client-go asks: watches of many agents must not all end at once.
  const timeoutSeconds = String(300 + Math.floor(Math.random() * 300));
  const watch = { ...query, watch: 'true', resourceVersion, allowWatchBookmarks: 'true', timeoutSeconds };
  for await (const answer of api.lines({ method: 'GET', path, query: watch }, idleMs, signal)) {
    if (answer.status === 410) {
      yield { kind: 'expired' };
      return;
    }
    if (answer.status !== 200) throw failure(`watching ${path}`, answer);
    const { type, object } = answer.body as { readonly type: string; readonly object: KubeObject };
    switch (type) {
      case 'ADDED':
      case 'MODIFIED':
        yield { kind: 'changed', object };
        break;
      case 'DELETED':
        yield { kind: 'deleted', object };
        break;
      case 'BOOKMARK':
        yield { kind: 'bookmark', object };
        break;
      case 'ERROR': {
        const { code } = object as unknown as { readonly code?: number };
        if (code === 410) {
          yield { kind: 'expired' };
          return;
        }
        throw failure(`watching ${path}`, { status: code ?? 0, body: object });
      }
      default:
        throw new WeftError('registry', `API server, watching ${path}: unknown event type ${type}`);
    }
  }
}

/** What the API server said, as an error. */
export function failure(what: string, answer: KubeAnswer): WeftError {
  return new WeftError('registry', `API server, ${what}: ${statusMessage(answer)}`, { details: String(answer.status) });
}

export function statusMessage({ status, body }: KubeAnswer): string {
  const message: unknown = (body as { readonly message?: unknown } | null)?.message;
  return typeof message === 'string' && message !== '' ? message : `HTTP ${status}`;
}
