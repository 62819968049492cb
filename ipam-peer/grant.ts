// Grant: a donor serves the wants that name it, up to 16 in one write, evenly among itself and them:
//
//   /12, two wants:   |---- /13 stays ----|-- /14 to a --|-- /14 to b --|
//
// Only blocks without `via` are cut, only parts without a leased or resting address travel, none smaller than /25 (IPv6: /121), and
// the donor keeps more than its low-water mark; each family for itself. The runtime removes what is given from the durable copy before the write is sent.
import { isSuspicious } from './back.ts';
import { families, type Family, familyOf } from './address.ts';
import { type Cidr, compareCidr, countAddresses, formatCidr, halvesOf, overlaps, sizeOf, subtract } from './cidr.ts';
import { type Draft, readPeers } from './draft.ts';
import { type Block, blocksLimit, grantsLimit, type RecordRef, sameRef } from './records.ts';
import { emptyPieces, freeAddresses, unitSize } from './space.ts';
import { pulledFrom } from './spare.ts';
import type { State } from './state.ts';

/** Most wants served in one write. */
export const wantsPerWrite = 16;

/** Ids that one write may use: wants of both families. */
const idsPerWrite = 2 * wantsPerWrite;

export function grant(draft: Draft): void {
  if (isSuspicious(draft.state, draft.nowMs)) return;
  for (const family of families) grantFamily(draft, family);
}

function grantFamily(draft: Draft, family: Family): void {
  const firstId = draft.seq * idsPerWrite + (family === 4 ? 0 : wantsPerWrite);
  const pulled = grantPulled(draft, family, firstId);
  const wanters = wantersOf(draft, family, pulled);
  if (wanters.length === 0) return;
  // The first block is being written just now, and the node's own address with it: serve from the next write on.
  const { config, durable } = draft.state;
  if (config.ownAddresses.includes(family) && !durable.overlay.some((text) => familyOf(text) === family)) return;
  const pieces = cutFor(draft.state, draft.blocks, wanters.length, family);
  const rest = draft.blocks.flatMap((block): readonly Block[] =>
    mayCut(block) && pieces.some((piece) => overlaps(piece, block.cidr))
      ? subtract([block.cidr], pieces).map((cidr) => ({ cidr }))
      : [block],
  );
  if (pieces.length < wanters.length) draft.unserved.add(family);
  if (pieces.length === 0 || rest.length > blocksLimit) return;
  for (const [index, to] of wanters.entries()) {
    const cidr = pieces[index];
    if (cidr === undefined) break;
    draft.granting.push({ id: firstId + pulled + index, cidr, to });
    draft.news.push(`granted ${formatCidr(cidr)} to ${to.name}`);
  }
  draft.blocks = [...rest];
  draft.changed = true;
}

/** A spare block that the holder of its buddy pulls goes whole. Returns how many went. */
function grantPulled(draft: Draft, family: Family, firstId: number): number {
  if (draft.granting.length >= grantsLimit) return 0;
  const pulled = pulledFrom(draft, family, readPeers(draft));
  for (const [index, { block, to }] of pulled.entries()) {
    draft.blocks = draft.blocks.filter((one) => one !== block);
    draft.granting.push({ id: firstId + index, cidr: block.cidr, to });
    draft.news.push(`granted the spare ${formatCidr(block.cidr)} to ${to.name}`);
    draft.changed = true;
  }
  return pulled.length;
}

function wantersOf(draft: Draft, family: Family, taken: number): readonly RecordRef[] {
  const room = Math.min(wantsPerWrite - taken, grantsLimit - draft.granting.length);
  return readPeers(draft)
    .filter(({ record }) => sameRef(record.wants[family], draft.self) && record.heir === undefined)
    .map(({ stored }): RecordRef => ({ name: stored.name, uid: stored.uid }))
    .filter((ref) => !draft.granting.some(({ to, cidr }) => cidr.family === family && sameRef(to, ref)))
    .toSorted((a, b) => (a.name < b.name ? -1 : 1))
    .slice(0, Math.max(0, room));
}

function mayCut(block: Block): boolean {
  return block.via === undefined && block.quarantine !== true;
}

/** Addresses a donor must have free before it is worth asking: the smallest piece, and what the donor keeps. */
export function enoughToGive(state: State): number {
  return unitSize + state.config.lowWater;
}

/** Empty parts of the blocks that may travel, largest last; of equal ones the highest last. */
function movable(state: State, blocks: readonly Block[], family: Family): Cidr[] {
  return blocks
    .filter((block) => block.cidr.family === family && mayCut(block))
    .flatMap((block) => emptyPieces(state.spaces[family], block.cidr))
    .filter((piece) => sizeOf(piece) >= BigInt(unitSize))
    .toSorted((a, b) => b.prefix - a.prefix || compareCidr(a, b));
}

/** Free addresses once these blocks are usable, those included whose last grant is still in doubt. */
function freeOf(state: State, blocks: readonly Block[], family: Family): number {
  const space = state.spaces[family];
  const open = blocks.filter((block) => block.quarantine !== true);
  const cidrs = open.map((block) => block.cidr).filter((cidr) => cidr.family === family);
  const more = countAddresses(cidrs) - countAddresses(space.usable);
  return Math.max(0, freeAddresses(space) + more);
}

/** Cuts one piece of equal size for each of at most `count` wants; fewer when there is not enough. */
function cutFor(state: State, blocks: readonly Block[], count: number, family: Family): readonly Cidr[] {
  const free = freeOf(state, blocks, family);
  for (let wants = count; wants > 0; wants--) {
    let units = 2 ** Math.floor(Math.log2(Math.ceil(free / unitSize) / (wants + 1)));
    for (; units >= 1; units /= 2) {
      if (free - wants * units * unitSize < state.config.lowWater) continue;
      const pieces = cutPieces(movable(state, blocks, family), BigInt(units * unitSize), wants);
      if (pieces.length === wants) return pieces;
    }
  }
  return [];
}

function cutPieces(pieces: Cidr[], size: bigint, wants: number): readonly Cidr[] {
  const cut: Cidr[] = [];
  while (cut.length < wants) {
    let piece = pieces.pop();
    if (piece === undefined || sizeOf(piece) < size) return cut;
    while (sizeOf(piece) > size) {
      const [lower, upper] = halvesOf(piece);
      pieces.push(upper);
      piece = lower;
    }
    cut.push(piece);
    pieces.sort((a, b) => b.prefix - a.prefix || compareCidr(a, b));
  }
  return cut;
}

/**
 * The count to publish with these blocks: free addresses rounded to a power of two, kept below what is worth asking for when
 * nothing could move. Blocks that still carry `via` count: it is cleared before long.
 */
export function publishedFree(state: State, blocks: readonly Block[], family: Family): number {
  const free = freeOf(state, blocks, family);
  const rounded = free === 0 ? 0 : 2 ** Math.round(Math.log2(free));
  const enough = enoughToGive(state);
  if (rounded < enough) return rounded;
  const whole = blocks.filter((block) => block.quarantine !== true).map(({ cidr }): Block => ({ cidr }));
  return free >= enough && movable(state, whole, family).length > 0 ? rounded : Math.min(rounded, unitSize);
}

/** The count to publish with the confirmed blocks; computed again only when something that matters changed. */
export function publishedFreeNow(state: State, family: Family): number {
  const { confirmed } = state;
  const [space, published] = [state.spaces[family], state.published[family]];
  const free = freeAddresses(space);
  const key = `${space.busyVersion} ${free < enoughToGive(state) ? free : Math.round(Math.log2(free))} ${confirmed?.stored.version}`;
  if (published.key !== key) {
    published.free = publishedFree(state, confirmed?.record.blocks ?? [], family);
    published.key = key;
  }
  return published.free;
}
