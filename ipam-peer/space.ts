// The addresses a peer may lease from, kept in units of 128 so that a /12 costs nothing until it is used:
//
//   usable blocks   |----------------- 10.32.0.0/13 ------------------|
//   open units      [128][128]            (the window: only these have tables)
//   queue           oldest-freed -> ... -> youngest-freed, over all open units
//
// An address is free, leased or resting. The least recently used free address of the window is taken first; a further unit is
// opened only when the window holds none. While the window has more than it needs, its emptiest unit drains: it hands out nothing
// more and closes once it is empty; it is the first to come back when the window runs out.
// So the used part of a peer's space stays compact and the rest can be given away.
import type { Address, Family } from './address.ts';
import { type Cidr, compareCidr, countAddresses, lastAddress } from './cidr.ts';

/** Addresses in a unit; also the smallest piece that travels (/25 in IPv4, /121 in IPv6). */
export const unitSize = 128;
const unitMask = ~127n;

const free = 0;
const leased = 1;
const resting = 2;

interface Unit {
  readonly base: bigint;
  open: boolean;
  /** Hands out nothing, so that it empties and closes. */
  draining: boolean;
  /** Leased and resting addresses. */
  used: number;
  /** Free addresses that may be handed out. */
  freeCount: number;
  readonly status: Uint8Array;
  /** 1: inside the usable blocks and not excluded. */
  readonly allowed: Uint8Array;
  /** The queue entry that is valid for an address; older entries are skipped. */
  readonly stamp: Float64Array;
}

interface Entry {
  readonly unit: Unit;
  readonly offset: number;
  readonly stamp: number;
}

interface Rest {
  readonly value: bigint;
  readonly untilMs: number;
}

interface Fifo<T> {
  items: T[];
  head: number;
}

export interface Space {
  readonly family: Family;
  usable: readonly Cidr[];
  excluded: ReadonlySet<bigint>;
  readonly units: Map<bigint, Unit>;
  readonly queue: Fifo<Entry>;
  readonly rests: Fifo<Rest>;
  nextStamp: number;
  /** Usable addresses less excluded ones. */
  total: number;
  /** Leased or resting addresses among them. */
  usedAllowed: number;
  leasedCount: number;
  restingCount: number;
  windowFree: number;
  /** Where the search for an unopened unit goes on; undefined: from the first block. */
  cursor: bigint | undefined;
  /** Changes with the set of units in use. */
  busyVersion: number;
}

export function makeSpace(family: Family): Space {
  return {
    family,
    usable: [],
    excluded: new Set(),
    units: new Map(),
    queue: { items: [], head: 0 },
    rests: { items: [], head: 0 },
    nextStamp: 1,
    total: 0,
    usedAllowed: 0,
    leasedCount: 0,
    restingCount: 0,
    windowFree: 0,
    cursor: undefined,
    busyVersion: 0,
  };
}

/** Addresses that could be leased now. */
export function freeAddresses(space: Space): number {
  return space.total - space.usedAllowed;
}

/** Replaces what may be leased from. Leases and rests stay, also those outside. */
export function setUsable(space: Space, usable: readonly Cidr[], excluded: ReadonlySet<bigint>): void {
  space.usable = usable.filter((block) => block.family === space.family).toSorted(compareCidr);
  space.excluded = excluded;
  space.cursor = undefined;
  space.busyVersion++;
  const inside = [...excluded].filter((value) => isUsable(space, value)).length;
  space.total = countAddresses(space.usable) - inside;
  space.usedAllowed = 0;
  space.windowFree = 0;
  for (const unit of space.units.values()) {
    allow(space, unit);
    if (unit.used === 0 && unit.freeCount === 0) close(space, unit);
    if (!unit.draining) space.windowFree += unit.freeCount;
  }
}

/** True when the usable blocks hold the address, leased or not. */
export function isUsable(space: Space, value: bigint): boolean {
  return space.usable.some((block) => value >= block.base && value <= lastAddress(block));
}

export type AddressState = 'free' | 'leased' | 'resting' | 'excluded' | 'outside';

export function stateOf(space: Space, value: bigint): AddressState {
  const status = space.units.get(value & unitMask)?.status[Number(value & 127n)] ?? free;
  if (status === leased) return 'leased';
  if (status === resting) return 'resting';
  if (!isUsable(space, value)) return 'outside';
  return space.excluded.has(value) ? 'excluded' : 'free';
}

/** The least recently used free address of the window, now leased; undefined when nothing is free. */
export function takeAny(space: Space): bigint | undefined {
  for (;;) {
    const entry = shift(space.queue) ?? (openNext(space) ? shift(space.queue) : undefined);
    if (entry === undefined) return undefined;
    const { unit, offset, stamp } = entry;
    if (
      !unit.open ||
      unit.draining ||
      unit.stamp[offset] !== stamp ||
      unit.status[offset] !== free ||
      unit.allowed[offset] === 0
    )
      continue;
    occupy(space, unit, offset, leased);
    return unit.base + BigInt(offset);
  }
}

/** Undoes a `takeAny` or `takeThis` whose address nobody has heard of. */
export function putBack(space: Space, value: bigint): void {
  const unit = openUnit(space, value & unitMask);
  vacate(space, unit, Number(value & 127n));
}

/** Marks one address leased, usable or not (a lease found on disk); false when it is leased already. */
export function takeThis(space: Space, value: bigint): boolean {
  const unit = openUnit(space, value & unitMask);
  const offset = Number(value & 127n);
  if (unit.status[offset] === leased) return false;
  if (unit.status[offset] === resting) stopRest(space, unit, offset);
  occupy(space, unit, offset, leased);
  return true;
}

/** What is left of a rest that was broken off must not end a later one of the same address. */
function stopRest(space: Space, unit: Unit, offset: number): void {
  const value = unit.base + BigInt(offset);
  const { items, head } = space.rests;
  space.rests.items = items.slice(head).filter((item) => item.value !== value);
  space.rests.head = 0;
  vacate(space, unit, offset);
}

/** A leased address begins to rest, or an address found on disk goes on resting. */
export function rest(space: Space, value: bigint, untilMs: number): void {
  const unit = openUnit(space, value & unitMask);
  const offset = Number(value & 127n);
  if (unit.status[offset] === resting) stopRest(space, unit, offset);
  else if (unit.status[offset] !== free) vacate(space, unit, offset);
  occupy(space, unit, offset, resting);
  space.rests.items.push({ value, untilMs });
}

/** Ends the rests that are over and returns their addresses. */
export function endRests(space: Space, nowMs: number): readonly bigint[] {
  const ended: bigint[] = [];
  for (;;) {
    const next = space.rests.items[space.rests.head];
    if (next === undefined || next.untilMs > nowMs) return ended;
    shift(space.rests);
    const unit = space.units.get(next.value & unitMask);
    const offset = Number(next.value & 127n);
    if (unit === undefined || unit.status[offset] !== resting) continue;
    vacate(space, unit, offset);
    ended.push(next.value);
    if (unit.used === 0 && unit.draining) close(space, unit);
    else shrinkWindow(space);
  }
}

/** Lets the emptiest unit drain (of equal ones the highest) while the rest of the window keeps a unit's worth free. */
function shrinkWindow(space: Space): void {
  if (space.windowFree < 2 * unitSize) return;
  let emptiest: Unit | undefined;
  for (const unit of space.units.values()) {
    if (unit.draining || space.windowFree - unit.freeCount < unitSize) continue;
    const better =
      emptiest === undefined || unit.used < emptiest.used || (unit.used === emptiest.used && unit.base > emptiest.base);
    if (better) emptiest = unit;
  }
  if (emptiest === undefined) return;
  emptiest.draining = true;
  space.windowFree -= emptiest.freeCount;
  if (emptiest.used === 0) close(space, emptiest);
}

/** The fullest draining unit hands out again; false when none drains. */
function stopDraining(space: Space): boolean {
  let fullest: Unit | undefined;
  for (const unit of space.units.values()) {
    if (unit.draining && unit.freeCount > 0 && unit.used > (fullest?.used ?? -1)) fullest = unit;
  }
  if (fullest === undefined) return false;
  fullest.draining = false;
  space.windowFree += fullest.freeCount;
  for (let offset = 0; offset < unitSize; offset++) {
    if (fullest.allowed[offset] === 1 && fullest.status[offset] === free) enqueue(space, fullest, offset);
  }
  return true;
}

/** When the next rest ends; undefined when nothing rests. */
export function nextRestEndMs(space: Space): number | undefined {
  return space.rests.items[space.rests.head]?.untilMs;
}

/** The parts of `block` that hold no leased and no resting address, as the largest aligned blocks, in units. */
export function emptyPieces(space: Space, block: Cidr): readonly Cidr[] {
  const busy: bigint[] = [];
  for (const unit of space.units.values()) {
    if (unit.used > 0 && unit.base <= lastAddress(block) && unit.base + 127n >= block.base) busy.push(unit.base);
  }
  return piecesOf(block, busy);
}

function piecesOf(block: Cidr, busy: readonly bigint[]): readonly Cidr[] {
  const last = lastAddress(block);
  const inside = busy.filter((base) => base <= last && base + 127n >= block.base);
  if (inside.length === 0) return [block];
  if (last - block.base < 128n) return [];
  const half = (last - block.base + 1n) / 2n;
  const prefix = block.prefix + 1;
  return [
    ...piecesOf({ family: block.family, base: block.base, prefix }, inside),
    ...piecesOf({ family: block.family, base: block.base + half, prefix }, inside),
  ];
}

/** The lowest address of `blocks` that is neither excluded nor in use. */
export function firstFree(space: Space, blocks: readonly Cidr[], excluded: ReadonlySet<bigint>): Address | undefined {
  for (const block of blocks.toSorted(compareCidr)) {
    const last = lastAddress(block);
    for (let value = block.base; value <= last; value++) {
      const status = space.units.get(value & unitMask)?.status[Number(value & 127n)] ?? free;
      if (status === free && !excluded.has(value)) return { family: block.family, value };
    }
  }
  return undefined;
}

function shift<T>(fifo: Fifo<T>): T | undefined {
  const item = fifo.items[fifo.head];
  if (item === undefined) return undefined;
  fifo.head++;
  if (fifo.head > 1024 && fifo.head * 2 > fifo.items.length) {
    fifo.items = fifo.items.slice(fifo.head);
    fifo.head = 0;
  }
  return item;
}

function openNext(space: Space): boolean {
  if (stopDraining(space)) return true;
  for (const block of space.usable) {
    const last = lastAddress(block);
    if (space.cursor !== undefined && space.cursor > last) continue;
    let base = block.base & unitMask;
    if (space.cursor !== undefined && space.cursor > base) base = space.cursor;
    for (; base <= last; base += 128n) {
      space.cursor = base + 128n;
      // A unit that two blocks share is opened once, with what is allowed of both.
      if (!space.units.has(base) && openUnit(space, base).freeCount > 0) return true;
    }
  }
  return false;
}

function openUnit(space: Space, base: bigint): Unit {
  const known = space.units.get(base);
  if (known !== undefined) return known;
  const unit: Unit = {
    base,
    open: true,
    draining: false,
    used: 0,
    freeCount: 0,
    status: new Uint8Array(unitSize),
    allowed: new Uint8Array(unitSize),
    stamp: new Float64Array(unitSize),
  };
  space.units.set(base, unit);
  allow(space, unit);
  space.windowFree += unit.freeCount;
  return unit;
}

function close(space: Space, unit: Unit): void {
  unit.open = false;
  space.units.delete(unit.base);
  if (!unit.draining) space.windowFree -= unit.freeCount;
  unit.freeCount = 0;
  space.cursor = undefined;
}

/** Computes which addresses of a unit may be handed out; newly allowed free ones enter the queue. */
function allow(space: Space, unit: Unit): void {
  const blocks = space.usable.filter((block) => unit.base <= lastAddress(block) && unit.base + 127n >= block.base);
  unit.freeCount = 0;
  for (let offset = 0; offset < unitSize; offset++) {
    const value = unit.base + BigInt(offset);
    const inside = blocks.some((block) => value >= block.base && value <= lastAddress(block));
    const before = unit.allowed[offset];
    unit.allowed[offset] = inside && !space.excluded.has(value) ? 1 : 0;
    if (unit.allowed[offset] === 0) continue;
    if (unit.status[offset] !== free) {
      space.usedAllowed++;
      continue;
    }
    unit.freeCount++;
    if (before === 0) enqueue(space, unit, offset);
  }
}

function enqueue(space: Space, unit: Unit, offset: number): void {
  const stamp = space.nextStamp++;
  unit.stamp[offset] = stamp;
  space.queue.items.push({ unit, offset, stamp });
}

function occupy(space: Space, unit: Unit, offset: number, status: typeof leased | typeof resting): void {
  unit.status[offset] = status;
  if (unit.used++ === 0) space.busyVersion++;
  if (status === leased) space.leasedCount++;
  else space.restingCount++;
  if (unit.allowed[offset] === 1) {
    unit.freeCount--;
    if (!unit.draining) space.windowFree--;
    space.usedAllowed++;
  }
}

function vacate(space: Space, unit: Unit, offset: number): void {
  if (unit.status[offset] === leased) space.leasedCount--;
  else space.restingCount--;
  unit.status[offset] = free;
  if (--unit.used === 0) space.busyVersion++;
  if (unit.allowed[offset] === 1) {
    unit.freeCount++;
    space.usedAllowed--;
    if (unit.draining) return;
    space.windowFree++;
    enqueue(space, unit, offset);
  }
}
