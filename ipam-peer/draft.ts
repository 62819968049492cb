// A draft of the own record's next write. A cycle reads the own record, then the others', then lets every operation change the
// draft in turn, then writes once: what one operation does rides on the same compare-and-swap as what the others do.
import type { Family, PerFamily } from './address.ts';
import { coalesce, compareCidr } from './cidr.ts';
import type { StoredRecord } from './events.ts';
import { type Block, type Grant, isIncarnation, type PeerRecord, type RecordRef } from './records.ts';
import type { Known, State } from './state.ts';

export interface Draft {
  readonly state: State;
  readonly self: RecordRef;
  /** The record as read at the start of the cycle. */
  readonly base: PeerRecord;
  /** Others' records as read after the own one. */
  readonly others: ReadonlyMap<string, Known<PeerRecord> | StoredRecord | undefined>;
  /** `seq` of the record being drafted. */
  readonly seq: number;
  readonly nowMs: number;
  readonly random: number;
  blocks: Block[];
  granting: Grant[];
  seeded: boolean;
  wants: PerFamily<RecordRef | undefined>;
  pulls: PeerRecord['pulls'];
  trail: readonly RecordRef[];
  was: PeerRecord['was'];
  underlay: readonly string[];
  overlay: readonly string[];
  free: PerFamily<number>;
  /** Families of wants that could not be served: the published free count must not go on promising. */
  readonly unserved: Set<Family>;
  /** Said when the write has succeeded. */
  readonly news: string[];
  /** True when the write is worth making. */
  changed: boolean;
}

/** What this cycle read of one incarnation: its record, proof that it is gone, or nothing that could be acted on. */
export function look(draft: Draft, ref: RecordRef): PeerRecord | 'gone' | 'unread' {
  if (ref.name === draft.self.name) return isIncarnation(ref, draft.self, draft.base.was) ? draft.base : 'gone';
  if (!draft.others.has(ref.name)) return 'unread';
  const other = draft.others.get(ref.name);
  if (other === undefined) return 'gone';
  if ('record' in other) return isIncarnation(ref, other.stored, other.record.was) ? other.record : 'gone';
  return other.uid === ref.uid ? 'unread' : 'gone';
}

/** The records read and understood in this cycle. */
export function readPeers(draft: Draft): readonly Known<PeerRecord>[] {
  return [...draft.others.values()].filter(
    (other): other is Known<PeerRecord> => other !== undefined && 'record' in other,
  );
}

export function startDraft(
  state: State,
  own: Known<PeerRecord>,
  others: Draft['others'],
  nowMs: number,
  random: number,
): Draft {
  const { record, stored } = own;
  return {
    state,
    self: { name: stored.name, uid: stored.uid },
    base: record,
    others,
    seq: Math.max(record.seq, state.durable.seq) + 1,
    nowMs,
    random,
    blocks: [...record.blocks],
    granting: [...record.granting],
    seeded: record.seeded,
    wants: record.wants,
    pulls: record.pulls,
    trail: record.trail ?? [],
    was: record.was,
    underlay: record.underlay,
    overlay: record.overlay,
    free: record.free,
    unserved: new Set(),
    news: [],
    changed: false,
  };
}

/** The record that a draft comes to: unmarked blocks in the fewest CIDRs, marked ones as they are. */
export function finish(draft: Draft): PeerRecord {
  const marked = draft.blocks.filter((block) => block.via ?? block.spare ?? block.quarantine);
  const plain = draft.blocks.filter((block) => !marked.includes(block)).map((block) => block.cidr);
  const blocks: readonly Block[] = [...coalesce(plain).map((cidr) => ({ cidr })), ...marked];
  // Only who writes its record back is suspect, and does so by another way.
  const { pulls: _pulled, trail: _led, was: _earlier, suspect: _over, ...base } = draft.base;
  return {
    ...base,
    seq: draft.seq,
    seeded: draft.seeded,
    blocks: blocks.toSorted((a, b) => compareCidr(a.cidr, b.cidr)),
    granting: draft.granting,
    wants: draft.wants,
    ...(draft.pulls && { pulls: draft.pulls }),
    ...(draft.trail.length > 0 && { trail: draft.trail }),
    ...(draft.was && { was: draft.was }),
    underlay: draft.underlay,
    overlay: draft.overlay,
    free: draft.free,
  };
}

/** UTF-8 bytes of a value's JSON, by an upper bound that is exact for ASCII. */
export function jsonBytes(value: unknown): number {
  const text = JSON.stringify(value);
  let bytes = 0;
  for (let index = 0; index < text.length; index++) bytes += text.charCodeAt(index) < 128 ? 1 : 3;
  return bytes;
}
