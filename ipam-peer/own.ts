// The own record against the durable copy. Usable = durable ∩ confirmed, and a doubt resolves to the smaller: a record of another
// incarnation, a missing one, one with an heir or one that cannot be read stops allocation and says so.
import { families, type Family, familyOf, parseAddress } from './address.ts';
import { wentBack } from './back.ts';
import { containsAddress, intersect, sameCidrs, subtract } from './cidr.ts';
import { sameTexts } from './describe.ts';
import type { Delta, DurablePeer, Lease, StoredRecord } from './events.ts';
import { markAllInterest } from './hints.ts';
import { cutOutside, outsideLeases } from './identity.ts';
import { formatPeer, parsePeer, type PeerRecord, type RecordRef, sameRef } from './records.ts';
import { wasFound } from './session.ts';
import { takeThis } from './space.ts';
import {
  type Ask,
  emit,
  type Known,
  leasableBlocks,
  leaseKey,
  persistPeer,
  refreshUsable,
  say,
  setFence,
  type State,
} from './state.ts';

/** Takes in the own record as read or written; undefined when this peer may not act on it. */
export function confirm(state: State, stored: StoredRecord, nowMs: number): Known<PeerRecord> | undefined {
  const parsed = parsePeer(stored.value);
  const problem = parsed.ok
    ? whyNotMine(state, stored, parsed.record)
    : `this node's record cannot be read: ${parsed.reason}`;
  if (!parsed.ok || problem !== '') {
    fence(state, problem);
    return undefined;
  }
  if (isDiskLost(state, parsed.record)) {
    fence(state, 'the registry has a record of this node, but its disk knows of none: the state directory was lost');
    recover(state);
    return undefined;
  }
  const { record } = parsed;
  const known: Known<PeerRecord> = { stored, record };
  const newIdentity = state.confirmed?.stored.uid !== stored.uid;
  state.confirmed = known;
  state.interestVersion++;
  setFence(state, 'own', '');
  state.backSinceMs = Infinity;
  state.conflicts = [];
  const wasLost = state.durable.uid === undefined;
  adopt(state, known);
  // What the kernel knew may have been given away by another machine of this name that held the session in between.
  if (wasLost && outsideLeases(state).length > 0) persistPeer(state, { cutting: true });
  refreshUsable(state);
  if (newIdentity) markAllInterest(state);
  for (const family of families) noteAsking(state.asks[family], record.wants[family], nowMs);
  return known;
}

/** Asks the kernel for the leases, once. */
function recover(state: State): void {
  if (state.recovery === 'none') emit(state, { kind: 'recover' });
  state.recovery = 'asked';
}

/**
 * True while this node may not make its record yet. Its disk knows of none, and there is none: it is new, or the disk was lost, and then its
 * pods are an earlier identity's, on what is somebody else's by now. The kernel tells which it is; such pods are cut first.
 */
export function mayHaveOldPods(state: State): boolean {
  if (state.durable.uid !== undefined) return false;
  if (state.recovery === 'done') return cutOutside(state);
  recover(state);
  return true;
}

/**
 * What a disk without leases still knows of its record is taken up again when the record as read does not tell of it; true while the leases
 * are waited for. Rests are not known: everything is in quarantine.
 */
export function recall(state: State, stored: StoredRecord | undefined): boolean {
  const { lastKnown } = state.durable;
  if (lastKnown === undefined) return false;
  if (!wentBack(state, lastKnown, stored)) {
    persistPeer(state, { lastKnown: undefined });
    return false;
  }
  if (state.recovery !== 'done') {
    fence(state, 'this node’s record is to be written back: its leases are waited for');
    recover(state);
    return true;
  }
  const parsed = parsePeer(lastKnown.record);
  if (!parsed.ok) return false;
  const blocks = parsed.record.blocks.map((block) => ({ ...block, quarantine: true }));
  const { uid, seq } = lastKnown;
  const record = formatPeer({ ...parsed.record, blocks });
  persistPeer(state, { uid, seq, record, back: true, lastKnown: undefined });
  return false;
}

function noteAsking(ask: Ask, from: RecordRef | undefined, nowMs: number): void {
  if (from === undefined) ask.silent.clear();
  else if (!sameRef(ask.from, from)) ask.sinceMs = nowMs;
  ask.from = from;
}

/** Brings the durable copy up to the confirmed record; grows it only when no write that gives is in doubt. */
function adopt(state: State, own: Known<PeerRecord>): void {
  const { durable } = state;
  const { record, stored } = own;
  const blocks = leasableBlocks(record);
  const lost = durable.uid === undefined && holdsSpace(record);
  const foreign = wasFound(state, stored) && subtract(blocks, durable.blocks).length > 0;
  const doubt = lost || foreign || durable.doubt === stored.version ? stored.version : undefined;
  const next: DurablePeer = {
    ...durable,
    uid: stored.uid,
    seq: durable.uid === stored.uid ? Math.max(durable.seq, record.seq) : record.seq,
    blocks: doubt === undefined ? blocks : intersect(durable.blocks, blocks),
    doubt,
    overlay: families.flatMap((family) => overlayOf(state, record, family)),
    record: formatPeer(record),
    ...(record.seeded && { founding: [] }),
    back: false,
    lastKnown: undefined,
  };
  const same =
    next.uid === durable.uid &&
    next.seq === durable.seq &&
    next.doubt === durable.doubt &&
    durable.back !== true &&
    sameCidrs(next.blocks, durable.blocks) &&
    sameTexts(next.overlay, durable.overlay);
  if (!same) persistPeer(state, next);
}

/** The overlay address as it is known, else that of the record, now occupied; none when it is not this node's to use. */
function overlayOf(state: State, record: PeerRecord, family: Family): readonly string[] {
  const known = state.durable.overlay.find((text) => familyOf(text) === family);
  if (known !== undefined) return [known];
  const told = record.overlay.find((text) => familyOf(text) === family);
  const address = parseAddress(told ?? '');
  if (told === undefined || address === undefined) return [];
  if (!record.blocks.some((block) => containsAddress(block.cidr, address))) return [];
  return takeThis(state.spaces[family], address.value) ? [told] : [];
}

function whyNotMine(state: State, stored: StoredRecord, record: PeerRecord): string {
  if (record.universe !== state.config.universe)
    return `the record ${stored.name} is of the universe ${record.universe}`;
  if (record.removed === true) return 'this node was removed from the network (weft peers remove)';
  if (record.heir !== undefined) return `this node was removed: ${record.heir.name} takes its space over`;
  return '';
}

function holdsSpace(record: PeerRecord): boolean {
  return record.blocks.length + record.granting.length > 0;
}

/** An empty record that says `suspect` was made again by a process whose disk knew of space, and of pods there. */
function isDiskLost(state: State, record: PeerRecord): boolean {
  const mayHavePods = holdsSpace(record) || record.suspect === true;
  return state.durable.uid === undefined && mayHavePods && state.recovery !== 'done';
}

/**
 * Event `recovered`: the leases are back, the blocks may follow (after a write that overtakes any of the lost process). Rests went
 * with the disk.
 */
export function recovered(state: State, found: readonly Lease[], nowMs: number): void {
  if (state.durable.uid !== undefined || state.recovery !== 'asked') return;
  const leases = withoutRepeated(found);
  dropOthers(state, leases);
  for (const lease of leases) {
    state.leases.set(leaseKey(lease), lease);
    for (const text of lease.addresses) {
      const address = parseAddress(text);
      if (address !== undefined) takeThis(state.spaces[address.family], address.value);
    }
  }
  state.durable = { ...state.durable, lostRests: true };
  const deltas = leases.map((lease): Delta => ({ kind: 'lease', lease }));
  emit(state, { kind: 'persist', sync: 'full', deltas: [...deltas, { kind: 'peer', peer: state.durable }] });
  // Every new node asks.
  if (leases.length > 0 || state.fenced !== '')
    say(state, 'warn', `${leases.length} leases of the lost state directory were found in the kernel`);
  state.recovery = 'done';
  state.polledMs = -Infinity;
  state.notBeforeMs = nowMs;
}

/** A pod may have its address on a second link too, as virtual machines in pods do: it is the first lease's, and ends with that one. */
function withoutRepeated(found: readonly Lease[]): readonly Lease[] {
  const taken = new Set<string>();
  return found.flatMap((lease) => {
    const addresses = lease.addresses.filter((text) => !taken.has(text));
    for (const text of addresses) taken.add(text);
    return addresses.length === 0 ? [] : [{ ...lease, addresses }];
  });
}

/** Leases of a disk that was rolled back, which the kernel does not know, are no more. */
function dropOthers(state: State, leases: readonly Lease[]): void {
  const keys = new Set(leases.map(leaseKey));
  for (const [key, lease] of state.leases) {
    if (keys.has(key)) continue;
    state.leases.delete(key);
    emit(state, { kind: 'persist', sync: 'normal', deltas: [{ kind: 'unlease', lease }] });
  }
}

function fence(state: State, problem: string): void {
  setFence(state, 'own', problem);
}
