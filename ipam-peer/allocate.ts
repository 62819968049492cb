// Allocate: the fast path of an ADD. A free address is leased in memory, its row persisted, then the caller answered: no
// registry. Without a free address the wish waits for a rest to end or a grant to come, for a bounded time; when nobody has
// space it fails at once and says who holds the space.
import { type Address, formatAddress, parseAddress } from './address.ts';
import { containsAddress, formatCidrs } from './cidr.ts';
import type { Delta, Lease, LeaseWish, Refusal, RefusalReason } from './events.ts';
import { freeAddresses, nextRestEndMs, stateOf, takeAny, takeThis } from './space.ts';
import { exhaustionText } from './want.ts';
import { emit, leaseKey, type State, type Waiting } from './state.ts';

/** Event `allocate`. */
export function allocate(state: State, ticket: number, wish: LeaseWish, nowMs: number): void {
  const refusal = whyNever(state, wish);
  if (refusal !== undefined) {
    emit(state, { kind: 'refused', ticket, refusal });
    return;
  }
  if (state.waiting.length === 0 && tryLease(state, ticket, wish)) return;
  const final = whyNotNow(state, wish, nowMs);
  if (final !== undefined) {
    emit(state, { kind: 'refused', ticket, refusal: final });
    return;
  }
  state.waiting.push({ ticket, wish, deadlineMs: nowMs + state.config.allocateWaitMs });
}

/** Event `cancel`: the caller went away. */
export function cancel(state: State, ticket: number): void {
  const index = state.waiting.findIndex((one) => one.ticket === ticket);
  if (index !== -1) state.waiting.splice(index, 1);
}

/** Serves who waits, in order of arrival; refuses those whose time is over. */
export function serveWaiting(state: State, nowMs: number): void {
  const still: Waiting[] = [];
  for (const waiting of state.waiting.splice(0)) {
    const { ticket, wish, deadlineMs } = waiting;
    // Who came first is served first: nobody overtakes one that still waits, unless that one wants a certain address.
    const mayTry = still.every((earlier) => earlier.wish.addresses.length > 0);
    if (mayTry && tryLease(state, ticket, wish)) continue;
    const refusal = whyNotNow(state, wish, nowMs) ?? (nowMs >= deadlineMs ? waitedInVain(state) : undefined);
    if (refusal === undefined) still.push(waiting);
    else emit(state, { kind: 'refused', ticket, refusal });
  }
  state.waiting.push(...still);
}

/** When the next waiting wish gives up. */
export function nextDeadlineMs(state: State): number {
  return state.waiting.reduce((earliest, one) => Math.min(earliest, one.deadlineMs), Infinity);
}

function tryLease(state: State, ticket: number, wish: LeaseWish): boolean {
  const addresses = chooseAddresses(state, wish);
  if (addresses === undefined) return false;
  const lease: Lease = { ...wish, addresses, state: 'pending' };
  state.leases.set(leaseKey(lease), lease);
  persistLease(state, { kind: 'lease', lease });
  emit(state, { kind: 'leased', ticket, lease });
  return true;
}

function chooseAddresses(state: State, wish: LeaseWish): readonly string[] | undefined {
  const named = parseAddress(wish.addresses[0] ?? '');
  if (named !== undefined) {
    if (stateOf(state.space, named.value) !== 'free') return undefined;
    takeThis(state.space, named.value);
    return [formatAddress(named.family, named.value)];
  }
  const value = takeAny(state.space);
  return value === undefined ? undefined : [formatAddress(state.space.family, value)];
}

/** Persists a lease row and, in the same transaction, the end of rests since the last one. */
export function persistLease(state: State, delta: Delta): void {
  const deltas: Delta[] = [delta];
  if (state.rested.length > 0) {
    deltas.push({ kind: 'rested', addresses: state.rested });
    state.rested = [];
  }
  emit(state, { kind: 'persist', sync: 'normal', deltas });
}

function refuse(reason: RefusalReason, text: string): Refusal {
  return { reason, text };
}

/** Refusals that no waiting can heal. */
function whyNever(state: State, wish: LeaseWish): Refusal | undefined {
  const what = `container ${wish.containerId} interface ${wish.ifname}`;
  const key = leaseKey(wish);
  if (state.leases.has(key) || state.waiting.some((one) => leaseKey(one.wish) === key)) {
    return refuse('exists', `${what} already has a lease`);
  }
  if (state.fenced !== '') return refuse('fenced', state.fenced);
  return wish.addresses.length === 0 ? undefined : whyNotNamed(state, wish);
}

function whyNotNamed(state: State, wish: LeaseWish): Refusal | undefined {
  if (wish.addresses.length > 1) return refuse('invalid', 'at most one address can be asked for (the pool is IPv4)');
  const text = wish.addresses[0] ?? '';
  const address = parseAddress(text);
  if (address === undefined) return refuse('invalid', `"${text}" is no address`);
  const universe = state.durable.universe;
  if (universe === undefined) return undefined;
  if (!universe.ranges.some((range) => containsAddress(range, address))) {
    return refuse('invalid', `${text} is outside the pool ${formatCidrs(universe.ranges)}`);
  }
  if (universe.reserved.some((range) => containsAddress(range, address))) {
    return refuse('invalid', `${text} is reserved in this pool`);
  }
  switch (stateOf(state.space, address.value)) {
    case 'leased':
      return refuse('inUse', `${text} is in use by ${holderOf(state, text)}`);
    case 'resting':
      return refuse('inUse', `${text} was freed a moment ago and rests before it is used again`);
    case 'excluded':
      return refuse('invalid', `${text} is the network or broadcast address of the pool`);
    case 'outside':
      if (state.space.total === 0) return undefined;
      return refuse('notOurs', `${text} belongs to ${ownerOf(state, address)}, not to this node`);
    case 'free':
      return undefined;
  }
}

function ownerOf(state: State, address: Address): string {
  for (const { record } of state.peers.values()) {
    if (record.blocks.some((block) => containsAddress(block.cidr, address))) return `node ${record.node.name}`;
  }
  return 'another node';
}

function holderOf(state: State, text: string): string {
  if (state.durable.overlay.includes(text)) return 'the node itself';
  for (const lease of state.leases.values()) {
    if (!lease.addresses.includes(text)) continue;
    const pod = lease.owner.podName;
    return pod === undefined ? `container ${lease.containerId}` : `pod ${lease.owner.podNamespace ?? ''}/${pod}`;
  }
  return 'another container';
}

/** Why an allocation that finds nothing free must not even wait. */
function whyNotNow(state: State, wish: LeaseWish, nowMs: number): Refusal | undefined {
  if (state.fenced !== '') return refuse('fenced', state.fenced);
  if (wish.addresses.length > 0) return whyNotNamed(state, wish);
  if (!state.exhausted) return undefined;
  const restEnd = nextRestEndMs(state.space);
  if (restEnd !== undefined && restEnd <= nowMs + state.config.allocateWaitMs) return undefined;
  return refuse('exhausted', `no address is free: ${exhaustionText(state)}`);
}

function waitedInVain(state: State): Refusal {
  const seconds = Math.round(state.config.allocateWaitMs / 1000);
  return state.space.total === 0
    ? refuse('notReady', `this node has no block of the pool yet, after ${seconds} s: ${waitingFor(state)}`)
    : refuse('waited', `no address became free within ${seconds} s: ${waitingFor(state)}`);
}

/** What an allocation waits for, one sentence for people; '' when an address is free. */
export function waitingFor(state: State): string {
  if (state.fenced !== '') return state.fenced;
  if (freeAddresses(state.space) > 0) return '';
  if (state.trouble !== '') return state.trouble;
  if (state.exhausted) return exhaustionText(state);
  if (state.durable.universe === undefined) return 'the registry has not answered yet';
  if (state.asking !== undefined) return `asked ${state.asking.from.name} for space, no grant yet`;
  if (state.confirmed === undefined) return 'the registry has not answered yet';
  if (state.space.total > 0) return 'every address of this node is leased or rests';
  return 'no block yet';
}
