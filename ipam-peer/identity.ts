// Identity: the disk is about one record. A machine whose node was registered anew (or that was removed and comes back) has another
// one: it owns nothing of what its disk tells, and its pods' addresses may be somebody else's by now. So before it shows itself to
// the others with its address, every lease of the earlier identity is cut off the network and dropped. A disk that knows nothing may have been
// lost since: there the kernel tells of them.
import { parseAddress } from './address.ts';
import { containsAddress } from './cidr.ts';
import type { Delta, DurablePeer, Lease } from './events.ts';
import { parsePeer } from './records.ts';
import { emit, leaseKey, persistPeer, refreshUsable, release, say, type State } from './state.ts';

/** At the first step, and until the leases of an earlier identity are cut. */
export function driveIdentity(state: State): void {
  const { durable, config } = state;
  if (durable.self !== undefined && durable.self !== config.self) {
    const news = `this machine was ${durable.self} and is ${config.self} now: its ${state.leases.size} earlier leases are cut`;
    say(state, 'warn', news);
    const { session: _earlier, ...kept } = durable;
    state.durable = kept;
    disown(state, { self: config.self, cutting: state.leases.size > 0, lostRests: false });
    refreshUsable(state);
  }
  if (state.durable.cutting === true) askToCut(state);
}

function askToCut(state: State): void {
  if (state.cutAsked) return;
  state.cutAsked = true;
  emit(state, { kind: 'cut', leases: outsideLeases(state) });
}

/** Begins to cut the leases on what is not this node's; false when there are none. */
export function cutOutside(state: State): boolean {
  if (outsideLeases(state).length === 0) return false;
  persistPeer(state, { cutting: true });
  refreshUsable(state);
  askToCut(state);
  return true;
}

/** What the disk tells of this peer's record and space is its own no more; its overlay addresses rest. */
export function disown(state: State, also: Partial<DurablePeer> = {}): void {
  for (const text of state.durable.overlay) release(state, text);
  persistPeer(state, {
    uid: undefined,
    seq: 0,
    blocks: [],
    doubt: undefined,
    overlay: [],
    record: {},
    founding: [],
    back: false,
    lastKnown: undefined,
    ...also,
  });
}

/** Leases on addresses that are not this node's by its disk. */
export function outsideLeases(state: State): readonly Lease[] {
  const parsed = parsePeer(state.durable.record);
  const blocks = parsed.ok ? parsed.record.blocks : [];
  const isInside = (text: string): boolean => {
    const address = parseAddress(text);
    return address !== undefined && blocks.some(({ cidr }) => containsAddress(cidr, address));
  };
  return [...state.leases.values()].filter((lease) => !lease.addresses.every(isInside));
}

/** Event `cut`. */
export function wereCut(state: State, leases: readonly Lease[]): void {
  if (state.durable.cutting !== true) return;
  const deltas: Delta[] = [];
  for (const lease of leases) {
    state.leases.delete(leaseKey(lease));
    for (const text of lease.addresses) release(state, text);
    deltas.push({ kind: 'unlease', lease });
  }
  state.durable = { ...state.durable, cutting: false };
  state.cutAsked = false;
  emit(state, { kind: 'persist', sync: 'full', deltas: [...deltas, { kind: 'peer', peer: state.durable }] });
  refreshUsable(state);
}
