// The linearizable key-value store that IPAM stands on (docs/ipam design: "One record per peer in a linearizable registry").
// Two engines implement it: `kubernetes` (custom resources) and `peers` (CASPaxos). Nothing above knows which one runs;
// test/support/registry-contract.ts runs against both.

/** Kinds of record. `universe` and `peer` are what IPAM shares; `session` proves that one agent holds a node's name. */
export type RecordKind = 'universe' | 'peer' | 'session';

/** JSON as stored. Engines validate size (64 KiB) and that it is an object; meaning is checked by who reads it. */
export type RecordValue = Readonly<Record<string, unknown>>;

export interface RegistryRecord {
  readonly kind: RecordKind;
  /** DNS-1123 subdomain, at most 253 bytes. */
  readonly name: string;
  /** The record's incarnation: a re-created record of the same name has another uid. */
  readonly uid: string;
  /** Opaque; equal versions mean equal content. Only for compare-and-swap, never ordered. */
  readonly version: string;
  readonly value: RecordValue;
}

/** What a write came to. `unknown`: the request may or may not have taken effect; read again before the next step. */
export type WriteOutcome =
  | { readonly kind: 'ok'; readonly record: RegistryRecord }
  | { readonly kind: 'conflict' }
  | { readonly kind: 'notFound' }
  | { readonly kind: 'refused'; readonly reason: string }
  | { readonly kind: 'unknown'; readonly reason: string };

export type DeleteOutcome =
  | { readonly kind: 'ok' }
  | { readonly kind: 'conflict' }
  | { readonly kind: 'notFound' }
  | { readonly kind: 'refused'; readonly reason: string }
  | { readonly kind: 'unknown'; readonly reason: string };

/** A hint that something changed; never the ground for an action. `record` absent: deleted or not known. */
export interface WatchEvent {
  readonly kind: RecordKind;
  readonly name: string;
  readonly record?: RegistryRecord;
}

export interface Registry {
  /** Linearizable read. Throws WeftError('registry') when no answer can be had. */
  get(kind: RecordKind, name: string, signal: AbortSignal): Promise<RegistryRecord | undefined>;
  /** Every record of a kind; not a snapshot. Throws WeftError('registry'). */
  list(kind: RecordKind, signal: AbortSignal): Promise<readonly RegistryRecord[]>;
  /** Hints until the signal aborts; reconnects by itself with jitter; begins with what exists. */
  watch(kind: RecordKind, signal: AbortSignal): AsyncIterable<WatchEvent>;
  /** `conflict` when a record of that name exists. */
  create(kind: RecordKind, name: string, value: RecordValue, signal: AbortSignal): Promise<WriteOutcome>;
  /** Compare-and-swap of the whole value at `record.version` and `record.uid`. */
  update(record: RegistryRecord, value: RecordValue, signal: AbortSignal): Promise<WriteOutcome>;
  /** Compare-and-delete at `record.version` and `record.uid`. */
  delete(record: RegistryRecord, signal: AbortSignal): Promise<DeleteOutcome>;
  close(): Promise<void>;
}
