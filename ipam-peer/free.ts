// Free and activate: idempotent, and only on the generation named. A freed address rests before it is leased again; the row of
// its rest stands on disk until the rest is over, so that a restart does not cut it short.
import { families, formatAddress, parseAddress } from './address.ts';
import { persistLease, serveWaiting } from './allocate.ts';
import type { Lease } from './events.ts';
import { endRests, rest } from './space.ts';
import { emit, leaseKey, type State } from './state.ts';

interface Key {
  readonly containerId: string;
  readonly ifname: string;
  readonly generation?: string;
}

function find(state: State, key: Key): Lease | undefined {
  const lease = state.leases.get(leaseKey(key));
  return key.generation === undefined || key.generation === lease?.generation ? lease : undefined;
}

/** A disk that somebody wrote into may have two leases of one address: it rests with the last. */
function isLeased({ leases }: State, text: string): boolean {
  for (const { addresses } of leases.values()) if (addresses.includes(text)) return true;
  return false;
}

/** Event `free`. */
export function free(state: State, key: Key, nowMs: number): void {
  const lease = find(state, key);
  if (lease !== undefined) {
    state.leases.delete(leaseKey(lease));
    const addresses = lease.addresses.filter((text) => !isLeased(state, text));
    for (const text of addresses) {
      const address = parseAddress(text);
      if (address !== undefined) rest(state.spaces[address.family], address.value, nowMs + state.config.restMs);
    }
    persistLease(state, { kind: 'unlease', lease: { ...lease, addresses } });
  }
  emit(state, { kind: 'freed', lease });
}

/** Event `activate`. */
export function activate(state: State, key: Key): void {
  const lease = find(state, key);
  if (lease === undefined || lease.state === 'active') return;
  const active: Lease = { ...lease, state: 'active' };
  state.leases.set(leaseKey(active), active);
  persistLease(state, { kind: 'lease', lease: active });
}

/** Ends rests that are over and lets who waits have the addresses. */
export function rested(state: State, nowMs: number): void {
  for (const family of families) {
    for (const value of endRests(state.spaces[family], nowMs)) state.rested.push(formatAddress(family, value));
  }
  if (state.waiting.length > 0) serveWaiting(state, nowMs);
}
