// The `kubernetes` engine: records are custom resources of group weft.network (value under `spec`), sessions are Leases in
// Weft's namespace. The API server's resourceVersion is the version, its uid the incarnation; reads go without resourceVersion,
// so that they are linearizable; every write and delete carries uid and resourceVersion as preconditions.

import type { Logger } from 'pino';
import { messageOf, WeftError } from '#agent/errors.ts';
import { openKubeApi, type KubeAnswer, type KubeApi, type KubeRequest } from '#agent/kubernetes/api.ts';
import { failure, listAll, statusMessage, type KubeObject } from '#agent/kubernetes/list-watch.ts';
import { resourceOf, writeMetaOf, type Resource } from '#agent/registry/kubernetes/resources.ts';
import { watchRecords } from '#agent/registry/kubernetes/watch.ts';
import { isRecordName, refusalOf } from '#agent/registry/record-rules.ts';
import type { DeleteOutcome, RecordKind, Registry, RegistryRecord, WriteOutcome } from '#agent/registry/registry.ts';

export interface KubernetesRegistryOptions {
  /** Weft's own namespace: its Leases live there. */
  readonly namespace: string;
  /** Path of a kubeconfig; absent or '': the pod's service account. */
  readonly kubeConfig?: string;
  /** Overrides the API server's address. */
  readonly apiServer?: string;
  /** A client to share; closed by who made it. */
  readonly api?: KubeApi;
  readonly log: Pick<Logger, 'info' | 'warn'>;
}

/** Does not wait for the API server; throws WeftError('invalidSetting') only for credentials that cannot be read. */
export async function openKubernetesRegistry(options: KubernetesRegistryOptions): Promise<Registry> {
  const api = options.api ?? openKubeApi(options);
  const life = new AbortController();
  return registryOver(api, options, life.signal, async () => {
    life.abort(new Error('the registry is closed'));
    if (options.api === undefined) api.close();
  });
}

function registryOver(
  api: KubeApi,
  { namespace, log }: KubernetesRegistryOptions,
  life: AbortSignal,
  close: () => Promise<void>,
): Registry {
  const alive = (signal: AbortSignal): AbortSignal => AbortSignal.any([signal, life]);

  const write = async (resource: Resource, call: KubeRequest, signal: AbortSignal): Promise<WriteOutcome> => {
    const answer = await attempt(api, call, alive(signal));
    if ('reason' in answer) return { kind: 'unknown', reason: answer.reason };
    if (answer.status === 200 || answer.status === 201) {
      const record = resource.recordOf(answer.body as KubeObject);
      if (record !== undefined) return { kind: 'ok', record };
    }
    return outcomeOf(answer);
  };

  const get = async (kind: RecordKind, name: string, signal: AbortSignal): Promise<RegistryRecord | undefined> => {
    if (!isRecordName(name)) return undefined;
    const resource = resourceOf(kind, namespace);
    const answer = await api.call({ method: 'GET', path: `${resource.path}/${name}` }, alive(signal));
    if (answer.status === 404 && isMissingObject(answer)) return undefined;
    if (answer.status !== 200) throw failure(`reading ${kind} ${name}`, answer);
    return resource.recordOf(answer.body as KubeObject);
  };

  return {
    get,
    list: async (kind, signal) => {
      const resource = resourceOf(kind, namespace);
      const { objects } = await listAll(api, resource.path, resource.query, alive(signal));
      return objects.map((object) => resource.recordOf(object)).filter((record) => record !== undefined);
    },
    watch: (kind, signal) => watchRecords(api, resourceOf(kind, namespace), log, alive(signal)),
    create: async (kind, name, value, signal) => {
      const reason = refusalOf(name, value);
      if (reason !== undefined) return { kind: 'refused', reason };
      const resource = resourceOf(kind, namespace);
      return write(resource, { method: 'POST', path: resource.path, body: resource.objectOf({ name }, value) }, signal);
    },
    update: async (record, value, signal) => {
      const { kind, name } = record;
      const reason = refusalOf(name, value);
      if (reason !== undefined) return { kind: 'refused', reason };
      const resource = resourceOf(kind, namespace);
      let meta = writeMetaOf(record);
      if (meta === undefined) {
        const now = await get(kind, name, signal).catch(() => undefined);
        meta = now === undefined ? undefined : writeMetaOf(now);
      }
      const { uid, version: resourceVersion } = record;
      const body = resource.objectOf({ ...meta, name, uid, resourceVersion }, value, record.value);
      return write(resource, { method: 'PUT', path: `${resource.path}/${name}`, body }, signal);
    },
    delete: async ({ kind, name, uid, version: resourceVersion }, signal): Promise<DeleteOutcome> => {
      if (!isRecordName(name)) return { kind: 'notFound' };
      const body = { apiVersion: 'v1', kind: 'DeleteOptions', preconditions: { uid, resourceVersion } };
      const path = `${resourceOf(kind, namespace).path}/${name}`;
      const answer = await attempt(api, { method: 'DELETE', path, body }, alive(signal));
      if ('reason' in answer) return { kind: 'unknown', reason: answer.reason };
      if (answer.status !== 200) return outcomeOf(answer);
      // Nobody asks for the session of a record that has ended; what becomes of this request does not matter.
      const session = `${resourceOf('session', namespace).path}/${name}`;
      if (kind === 'peer') await attempt(api, { method: 'DELETE', path: session }, alive(signal));
      return { kind: 'ok' };
    },
    close,
  };
}

/** A write's answer, or why there is none: then nobody knows whether it took effect. */
async function attempt(
  api: KubeApi,
  call: KubeRequest,
  signal: AbortSignal,
): Promise<KubeAnswer | { readonly reason: string }> {
  try {
    return await api.call(call, signal);
  } catch (error) {
    if (error instanceof WeftError && error.kind !== 'registry') throw error;
    return { reason: messageOf(error) };
  }
}

function outcomeOf(answer: KubeAnswer): Exclude<DeleteOutcome, { readonly kind: 'ok' }> {
  const reason = statusMessage(answer);
  switch (answer.status) {
    case 409:
      return { kind: 'conflict' };
    case 404:
      return isMissingObject(answer) ? { kind: 'notFound' } : { kind: 'refused', reason };
    case 400:
    case 401:
    case 403:
    case 405:
    case 413:
    case 415:
    case 422:
      return { kind: 'refused', reason };
    default:
      // A server error may come after etcd has taken the write; 429 has not, but reading again costs little.
      return { kind: 'unknown', reason };
  }
}

/** The object is missing, and not the resource: without the CRDs every path is 404, which must not read as "no record". */
function isMissingObject({ body }: KubeAnswer): boolean {
  const { reason, details } = body as { readonly reason?: string; readonly details?: { readonly name?: string } };
  return reason === 'NotFound' && details?.name !== undefined;
}
