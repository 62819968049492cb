// Allocate: the fast path of an ADD. A free address is leased in memory, its row persisted, then the caller answered: no
// registry. Without a free address the wish waits for a rest to end or a grant to come, for a bounded time; when nobody has
// space it fails at once and says who holds the space.
import { type Address, type Family, formatAddress, parseAddress } from './address.ts';
import { containsAddress, formatCidrs } from './cidr.ts';
import type { Delta, Lease, LeaseWish, Refusal, RefusalReason } from './events.ts';
import { holderText } from './holder.ts';
import { freeAddresses, nextRestEndMs, putBack, stateOf, takeAny, takeThis } from './space.ts';
import { exhaustionText } from './want.ts';
import { emit, familiesOf, familyWord, leaseKey, type State, type Waiting } from './state.ts';

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

/** One address of each family of the universe, or of none: those named, any other. */
function chooseAddresses(state: State, wish: LeaseWish): readonly string[] | undefined {
  const taken: Address[] = [];
  for (const family of familiesOf(state)) {
    const address = takeOne(state, family, namedOf(wish, family));
    if (address === undefined) {
      for (const { family: of, value } of taken) putBack(state.spaces[of], value);
      return undefined;
    }
    taken.push(address);
  }
  return taken.length === 0 ? undefined : taken.map(({ family, value }) => formatAddress(family, value));
}

function namedOf(wish: LeaseWish, family: Family): Address | undefined {
  return parseAddress(wish.addresses.find((text) => parseAddress(text)?.family === family) ?? '');
}

function takeOne(state: State, family: Family, named: Address | undefined): Address | undefined {
  const space = state.spaces[family];
  if (named === undefined) {
    const value = takeAny(space);
    return value === undefined ? undefined : { family, value };
  }
  if (stateOf(space, named.value) !== 'free') return undefined;
  takeThis(space, named.value);
  return named;
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

function refuseAddress(reason: RefusalReason, address: string, why: string): Refusal {
  return { reason, address, text: `${address} ${why}` };
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
  const parsed = wish.addresses.map((text) => ({ text, address: parseAddress(text) }));
  const bad = parsed.find(({ address }) => address === undefined);
  if (bad !== undefined) return refuse('invalid', `"${bad.text}" is no address`);
  const named = parsed.flatMap(({ address }) => address ?? []);
  if (new Set(named.map(({ family }) => family)).size < named.length) {
    return refuse('invalid', `at most one address of each family can be asked for, not ${wish.addresses.join(', ')}`);
  }
  return named.map((address) => whyNotThis(state, address)).find((refusal) => refusal !== undefined);
}

function whyNotThis(state: State, address: Address): Refusal | undefined {
  const text = formatAddress(address.family, address.value);
  const space = state.spaces[address.family];
  const universe = state.durable.universe;
  if (universe === undefined) return undefined;
  if (!universe.ranges.some((range) => containsAddress(range, address))) {
    return refuseAddress('invalid', text, `is outside the pool ${formatCidrs(universe.ranges)}`);
  }
  if (universe.reserved.some((range) => containsAddress(range, address))) {
    return refuseAddress('invalid', text, 'is reserved in this pool');
  }
  switch (stateOf(space, address.value)) {
    case 'leased':
      return refuseAddress('inUse', text, `is in use by ${holderOf(state, text)}`);
    case 'resting':
      return refuseAddress('inUse', text, 'was freed a moment ago and rests before it is used again');
    case 'excluded':
      return refuseAddress('invalid', text, 'is the network or broadcast address of the pool');
    case 'outside':
      if (space.total === 0) return undefined;
      return refuseAddress('notOurs', text, `belongs to ${ownerOf(state, address)}, not to this node`);
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
    if (lease.addresses.includes(text)) return holderText(lease);
  }
  return 'another container';
}

/** Families without a free address. */
function lacking(state: State): readonly Family[] {
  return familiesOf(state).filter((family) => freeAddresses(state.spaces[family]) <= 0);
}

/** Why an allocation that finds nothing free must not even wait. */
function whyNotNow(state: State, wish: LeaseWish, nowMs: number): Refusal | undefined {
  if (state.fenced !== '') return refuse('fenced', state.fenced);
  const refusal = wish.addresses.length > 0 ? whyNotNamed(state, wish) : undefined;
  if (refusal !== undefined) return refusal;
  for (const family of lacking(state)) {
    if (!state.asks[family].exhausted || namedOf(wish, family) !== undefined) continue;
    const restEnd = nextRestEndMs(state.spaces[family]);
    if (restEnd !== undefined && restEnd <= nowMs + state.config.allocateWaitMs) continue;
    return refuse('exhausted', `no address is free: ${exhaustionText(state, family)}`);
  }
  return undefined;
}

function waitedInVain(state: State): Refusal {
  const seconds = Math.round(state.config.allocateWaitMs / 1000);
  const served = familiesOf(state);
  return served.length === 0 || served.some((family) => state.spaces[family].total === 0)
    ? refuse('notReady', `this node has no block of the pool yet, after ${seconds} s: ${waitingFor(state)}`)
    : refuse('waited', `no address became free within ${seconds} s: ${waitingFor(state)}`);
}

/** What an allocation waits for, one sentence for people; '' when an address of each family is free. */
export function waitingFor(state: State): string {
  if (state.fenced !== '') return state.fenced;
  const [family] = lacking(state);
  if (family === undefined && familiesOf(state).length > 0) return '';
  if (state.trouble !== '') return state.trouble;
  if (family === undefined || state.durable.universe === undefined) return 'the registry has not answered yet';
  const ask = state.asks[family];
  if (ask.exhausted) return exhaustionText(state, family);
  if (ask.from !== undefined) return `asked ${ask.from.name} for${familyWord(state, family)} space, no grant yet`;
  if (state.confirmed === undefined) return 'the registry has not answered yet';
  if (state.spaces[family].total > 0)
    return `every${familyWord(state, family)} address of this node is leased or rests`;
  return 'no block yet';
}
