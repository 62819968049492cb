// How the kinds of record look in Kubernetes: two custom resources that hold the value under `spec`, and the Lease, whose spec
// has no room for it: the value is an annotation, and what the Lease knows (holder, term) is filled in from it for kubectl.

import type { KubeObject, ObjectMeta } from '#agent/kubernetes/list-watch.ts';
import { partLabel, partOfName } from '#agent/kubernetes/node-part.ts';
import { peerLabels } from '#agent/registry/kubernetes/peer-labels.ts';
import type { RecordKind, RegistryRecord, RecordValue } from '#agent/registry/registry.ts';

/** What a write says about the object: with uid and resourceVersion it is a compare-and-swap; the rest must not get lost. */
export type WriteMeta = Pick<ObjectMeta, 'name'> & Partial<ObjectMeta>;

export interface Resource {
  readonly kind: RecordKind;
  readonly path: string;
  /** Narrows lists and watches down to Weft's own. */
  readonly query: Readonly<Record<string, string>>;
  /** `before`: the value that this one takes the place of. */
  objectOf(meta: WriteMeta, value: RecordValue, before?: RecordValue): unknown;
  /** undefined: not a record of ours, or not one any more. */
  recordOf(object: KubeObject): RegistryRecord | undefined;
}

export const apiGroup: string = 'weft.network';
const apiVersion = `${apiGroup}/v1alpha1`;
const sessionAnnotation = `${apiGroup}/session`;
const managedByLabel = 'app.kubernetes.io/managed-by';

export function resourceOf(kind: RecordKind, namespace: string): Resource {
  switch (kind) {
    case 'universe':
      return customResource(kind, 'Universe', 'universes');
    case 'peer':
      return customResource(kind, 'Peer', 'peers');
    case 'session':
      return sessionLease(namespace);
  }
}

function customResource(kind: RecordKind, objectKind: string, plural: string): Resource {
  return {
    kind,
    path: `/apis/${apiVersion}/${plural}`,
    query: {},
    objectOf: (meta, spec, before) => {
      const { labels: kept, ...rest } = meta;
      const labels = kind === 'peer' ? peerLabels(kept, spec, before) : kept;
      return { apiVersion, kind: objectKind, metadata: { ...rest, ...(labels !== undefined && { labels }) }, spec };
    },
    recordOf: (object) => {
      const { spec } = object as { readonly spec?: RecordValue };
      // An object made by hand may lack its spec: the reader of the record says what is wrong with it.
      return recordOf(kind, object, spec ?? {});
    },
  };
}

function sessionLease(namespace: string): Resource {
  return {
    kind: 'session',
    path: `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases`,
    query: { labelSelector: `${managedByLabel}=weft` },
    objectOf: (meta, value) => ({
      apiVersion: 'coordination.k8s.io/v1',
      kind: 'Lease',
      metadata: {
        ...meta,
        namespace,
        labels: { ...meta.labels, ...sessionLabels(meta.name) },
        annotations: { ...meta.annotations, [sessionAnnotation]: JSON.stringify(value) },
      },
      spec: leaseSpec(value),
    }),
    recordOf: (object) => {
      const text = object.metadata.annotations?.[sessionAnnotation];
      const value = text === undefined ? undefined : parseObject(text);
      return value === undefined ? undefined : recordOf('session', object, value);
    },
  };
}

function sessionLabels(name: string): Readonly<Record<string, string>> {
  const part = partOfName(name);
  return { [managedByLabel]: 'weft', ...(part !== undefined && { [partLabel]: part }) };
}

/** The fields that `kubectl get lease` prints; renewTime is for people, nobody's decision stands on it. */
function leaseSpec(value: RecordValue): Readonly<Record<string, unknown>> {
  const holder = value['sessionId'] ?? value['holder'];
  const termSeconds = Number(value['termSeconds']);
  return {
    ...(typeof holder === 'string' && holder !== '' && { holderIdentity: holder.slice(0, 253) }),
    ...(Number.isInteger(termSeconds) && termSeconds > 0 && { leaseDurationSeconds: termSeconds }),
    renewTime: new Date().toISOString().replace('Z', '000Z'),
  };
}

/** Metadata of others (labels, kubectl's annotation) by the record that was made of it: an update is a PUT of the whole. */
const metadataByRecord = new WeakMap<RegistryRecord, ObjectMeta>();

function recordOf(kind: RecordKind, { metadata }: KubeObject, value: RecordValue): RegistryRecord {
  const record = { kind, name: metadata.name, uid: metadata.uid, version: metadata.resourceVersion, value };
  metadataByRecord.set(record, keptMetadata(metadata));
  return record;
}

/** undefined: this record object was not made here (a copy); read it again. */
export function writeMetaOf(record: RegistryRecord): WriteMeta | undefined {
  return metadataByRecord.get(record);
}

function keptMetadata(metadata: ObjectMeta): ObjectMeta {
  const { name, uid, resourceVersion, labels, annotations, finalizers, ownerReferences } = metadata;
  return {
    name,
    uid,
    resourceVersion,
    ...(labels !== undefined && { labels }),
    ...(annotations !== undefined && { annotations }),
    ...(finalizers !== undefined && { finalizers }),
    ...(ownerReferences !== undefined && { ownerReferences }),
  };
}

function parseObject(text: string): RecordValue | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as RecordValue) : undefined;
  } catch {
    return undefined;
  }
}
