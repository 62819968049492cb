// What the datapath and the status page see: who owns which block, by effective owner. A grant counts for its donor until the
// target carries it, and what a dead record holds counts for it until its heir carries it.
import { families, type Family } from './address.ts';
import { type Cidr, compareCidr, contains, formatCidr } from './cidr.ts';
import { waitingFor } from './allocate.ts';
import type { DurableUniverse } from './events.ts';
import { isShared } from './invariants.ts';
import { type Block, isVia, type PeerRecord, type RecordRef, sameRef } from './records.ts';
import { freeAddresses } from './space.ts';
import { familiesOf, type Known, type State } from './state.ts';
import type { UniverseTrack } from './universe-state.ts';

export interface PeerSummary {
  readonly name: string;
  readonly nodeName: string;
  readonly self: boolean;
  readonly underlay: readonly string[];
  readonly overlay: readonly string[];
  readonly blocks: readonly string[];
  /** What the record of another claims and the Universe does not have: none of its blocks, or its node could draw anybody's packets. */
  readonly outside?: readonly string[];
  /** Its node is gone, as far as this peer has heard. */
  readonly gone?: true;
  /** Name of the record that takes its space over. */
  readonly heir?: string;
}

export interface Summary {
  readonly ranges: readonly string[];
  readonly reserved: readonly string[];
  /** False while what is reserved is not known yet: then the ranges are nobody's, and the host's own traffic may need them. */
  readonly founded: boolean;
  readonly peers: readonly PeerSummary[];
  readonly overlay: readonly string[];
  /** Of the scarcer family: so many pods could start. */
  readonly freeAddresses: number;
  readonly leasedAddresses: number;
  readonly restingAddresses: number;
  /** Own free addresses and those that others publish, of the scarcer family. */
  readonly availableAddresses: number;
  /** True once the own record was looked for, and no lost leases are being waited for. */
  readonly settled: boolean;
  readonly ready: boolean;
  readonly waitingFor: string;
  /** What became of the Universe, where something did. */
  readonly ended: UniverseTrack['ended'];
  readonly conflicts: readonly ConflictSummary[];
  /** Space that has been in no record for long. */
  readonly unowned: readonly string[];
}

/** Blocks of this peer that are in another's record too, after the registry went back. */
export interface ConflictSummary {
  readonly name: string;
  readonly nodeName: string;
  /** That node is gone: nobody will make its record smaller. */
  readonly gone: boolean;
  readonly blocks: readonly string[];
}

function conflictsOf(state: State): readonly ConflictSummary[] {
  return state.conflicts.map(({ name, cidrs }) => {
    const record = state.peers.get(name)?.record;
    const gone = state.gone.has(name) || record?.removed === true;
    return { name, nodeName: record?.node.name ?? name, gone, blocks: cidrs.map(formatCidr) };
  });
}

/** The peers as last heard, the own one as confirmed (before that: as the disk has it), sorted by name. */
export function peersOf(state: State): readonly PeerSummary[] {
  const own = state.confirmed;
  const all = new Map(state.peers);
  if (own !== undefined) all.set(own.stored.name, own);
  const summaries = [...all.values()].map((peer) => summaryOf(state, peer, all));
  if (own === undefined && state.durable.uid !== undefined) {
    summaries.push({
      name: state.config.self,
      nodeName: state.config.node.name,
      self: true,
      underlay: state.underlay,
      overlay: state.durable.overlay,
      blocks: state.durable.blocks.map(formatCidr),
    });
  }
  return summaries.toSorted((a, b) => (a.name < b.name ? -1 : 1));
}

function summaryOf(state: State, peer: Known<PeerRecord>, all: ReadonlyMap<string, Known<PeerRecord>>): PeerSummary {
  const { record, stored } = peer;
  const self = stored.name === state.config.self;
  const ref: RecordRef = { name: stored.name, uid: stored.uid };
  const inTransit = record.granting.filter((grant) => {
    const target = all.get(grant.to.name);
    const taken =
      target?.stored.uid === grant.to.uid && target.record.blocks.some((block) => isVia(block.via, ref, grant.id));
    return !taken;
  });
  const carried = carriedByHeir(record, ref, all);
  const kept = record.blocks.filter(({ cidr }) => !carried.some((block) => contains(block.cidr, cidr)));
  const universe = self ? undefined : state.durable.universe;
  const asWritten = inTransit.length === 0 && carried.length === 0;
  const { blocks, outside } = asWritten ? textsOf(record, universe) : splitTexts([...kept, ...inTransit], universe);
  return {
    name: stored.name,
    nodeName: record.node.name,
    self,
    underlay: self ? state.underlay : record.underlay,
    overlay: self ? state.durable.overlay : record.overlay,
    blocks,
    ...(outside.length > 0 && { outside }),
    ...(state.gone.has(stored.name) && { gone: true as const }),
    ...(record.heir !== undefined && { heir: record.heir.name }),
  };
}

function carriedByHeir(
  { heir }: PeerRecord,
  ref: RecordRef,
  all: ReadonlyMap<string, Known<PeerRecord>>,
): readonly Block[] {
  const known = heir === undefined ? undefined : all.get(heir.name);
  if (known?.stored.uid !== heir?.uid) return [];
  return known?.record.blocks.filter(({ via }) => sameRef(via, ref)) ?? [];
}

interface Texts {
  readonly blocks: readonly string[];
  readonly outside: readonly string[];
}

/** Texts of a record's blocks; records are never changed in place, and there may be thousands. */
const knownTexts: WeakMap<PeerRecord, Texts & { readonly universe: DurableUniverse | undefined }> = new WeakMap();

function textsOf(record: PeerRecord, universe: DurableUniverse | undefined): Texts {
  const known = knownTexts.get(record);
  if (known !== undefined && known.universe === universe) return known;
  const texts = { ...splitTexts(record.blocks, universe), universe };
  knownTexts.set(record, texts);
  return texts;
}

/** Without a Universe everything counts: there is nothing to measure it by. */
function splitTexts(blocks: readonly { readonly cidr: Cidr }[], universe: DurableUniverse | undefined): Texts {
  const sorted = blocks.map((block) => block.cidr).toSorted(compareCidr);
  const isOutside = (block: Cidr): boolean => universe !== undefined && !isShared(universe, block);
  return {
    blocks: sorted.filter((block) => !isOutside(block)).map(formatCidr),
    outside: sorted.filter(isOutside).map(formatCidr),
  };
}

function available(state: State, served: readonly Family[]): number {
  if (served.length === 0) return 0;
  const sums = served.map((family) => {
    const others = [...state.peers.values()].reduce((sum, { record }) => sum + record.free[family], 0);
    return freeAddresses(state.spaces[family]) + others;
  });
  return Math.min(...sums);
}

export function summary(state: State): Summary {
  const served = familiesOf(state);
  const free = served.length === 0 ? 0 : Math.min(...served.map((family) => freeAddresses(state.spaces[family])));
  const universe = state.durable.universe;
  return {
    ranges: universe?.ranges.map(formatCidr) ?? [],
    reserved: universe?.reserved.map(formatCidr) ?? [],
    founded: hasSpace(state) || state.universe?.record.founder !== undefined,
    peers: peersOf(state),
    overlay: state.durable.overlay,
    freeAddresses: free,
    leasedAddresses: [...state.leases.values()].reduce((sum, lease) => sum + lease.addresses.length, 0),
    restingAddresses: families.reduce((sum, family) => sum + state.spaces[family].restingCount, 0),
    availableAddresses: available(state, served),
    settled: state.looked && state.recovery !== 'asked',
    ready: free > 0 && state.fenced === '',
    waitingFor: waitingFor(state),
    ended: state.universeTrack.ended,
    conflicts: conflictsOf(state),
    unowned: state.unowned.told.map(formatCidr),
  };
}

/** A disk that knows of own blocks, or of one that it gave away, is of a universe that was founded. */
function hasSpace({ durable }: State): boolean {
  return durable.blocks.length > 0 || durable.overlay.length > 0;
}
