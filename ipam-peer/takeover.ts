// Take over: the space of a peer whose node is gone goes to one heir, without anyone's help.
//
//   node gone, session stands still, grace over ── CAS heir into the dead record ── carry its blocks, `via` the dead record ──
//   settle its grants (taken ones leave it, void ones are carried too) ── delete it ── clear `via`
//
// Heirs try in rendezvous order, three at a time. The write of `heir` moves the dead record's version: a frozen owner's write fails
// from then on. Before it the heir reads the own node after the dead one's: so no two peers become each other's heirs. A heir that is
// dead itself and has an heir is replaced by that one, once its record leads to all that the dead heir had taken over: so that whoever comes
// next finds it (decision 020). What does not fit into the heir's record at once comes in parts: what is carried leaves the dead record, and
// then its `via` the heir's; until all is carried the `trail` leads to the dead heir (decision 320).
import { type Cidr, contains, overlaps } from './cidr.ts';
import { isSuspicious, mayComeBack } from './back.ts';
import { type Draft, look, readPeers } from './draft.ts';
import { isShared, spaceOf } from './invariants.ts';
import {
  type Block,
  blocksLimit,
  type Grant,
  isDeadSource,
  isIncarnation,
  isVia,
  type PeerRecord,
  type RecordRef,
  sameRef,
  trailLimit,
  type UniverseRecord,
} from './records.ts';
import { parseSession } from './session-record.ts';
import { isUnseeded, stillHolds } from './source.ts';
import { type Cycle, type Foreign, type Gone, type Known, say, setFence, type State } from './state.ts';

/** Event `nodes`. */
export function noteNodes(state: State, gone: readonly string[], nowMs: number): void {
  setFence(state, 'node', gone.includes(state.config.self) ? 'the node that this agent stands for is gone' : '');
  const names = new Set(gone);
  names.delete(state.config.self);
  for (const name of state.gone.keys()) if (!names.has(name)) state.gone.delete(name);
  for (const name of names) {
    if (state.gone.has(name)) continue;
    state.gone.set(name, { sinceMs: nowMs, session: undefined, nextLookMs: nowMs + turnMs(state, name, names) });
    say(state, 'info', `the node of ${name} is gone; its space is taken over unless it comes back`);
  }
}

/** Order of the heirs of one dead peer, different for each (FNV-1a). */
function weight(dead: string, heir: string): number {
  let hash = 0x811c9dc5;
  for (const text of [dead, '/', heir]) {
    for (let index = 0; index < text.length; index++) hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  }
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  return (hash ^ (hash >>> 13)) >>> 0;
}

/** Heirs try three at a time: how many threes come before this peer, at most `limit`. Who is gone, or has an heir itself, is none. */
function turnOf(state: State, dead: string, gone: { has(name: string): boolean }, limit: number): number {
  const { config, peers } = state;
  const own = weight(dead, config.self);
  let before = 0;
  for (const [name, { record }] of peers) {
    if (name === dead || name === config.self || gone.has(name) || record.heir !== undefined) continue;
    if (weight(dead, name) < own && ++before >= 3 * limit) return limit;
  }
  return Math.floor(before / 3);
}

/** How long this peer lets others go first: nothing for the first three, one step more for each further three. */
function turnMs(state: State, dead: string, gone: ReadonlySet<string>): number {
  const { takeOverAfterMs, sessionTermMs, takeOverStepMs } = state.config;
  const turn = turnOf(state, dead, gone, Infinity);
  return turn === 0 ? 0 : Math.max(takeOverAfterMs, sessionTermMs) + turn * takeOverStepMs;
}

/** Peers that nobody takes over and for which this one is in the first `turns` threes of heirs: it watches over their nodes. */
export function wardsOf(state: State, turns: number): readonly Known<PeerRecord>[] {
  return [...state.peers.values()].filter(
    ({ stored: { name } }) => needsHeir(state, name) && turnOf(state, name, state.gone, turns) < turns,
  );
}

/** When the first dead peer is to be looked at. */
export function takeoverDueMs(state: State): number {
  let due = Infinity;
  for (const [name, gone] of state.gone) {
    if (gone.nextLookMs < due && needsHeir(state, name)) due = gone.nextLookMs;
  }
  return due;
}

/** As far as was heard: a record without an heir that exists and lives. */
function needsHeir(state: State, name: string): boolean {
  const dead = state.peers.get(name);
  if (dead === undefined) return false;
  const { heir } = dead.record;
  if (heir === undefined) return true;
  const known = heir.name === state.config.self ? state.confirmed : state.peers.get(heir.name);
  return known === undefined || !isIncarnation(heir, known.stored, known.record.was);
}

/** Names of dead peers whose sessions and nodes this cycle reads. */
export function toLookAt(state: State, nowMs: number): readonly string[] {
  const names: string[] = [];
  for (const [name, gone] of state.gone) {
    if (names.length < 4 && gone.nextLookMs <= nowMs && needsHeir(state, name)) names.push(name);
  }
  return names;
}

/** Records that the taking over under way depends on. */
export function takeoverReads(state: State, own: PeerRecord, looked: readonly string[]): readonly string[] {
  const names = new Set<string>();
  const heirOf = [...state.heirOf];
  for (const name of looked) {
    names.add(name);
    const heir = state.peers.get(name)?.record.heir;
    if (heir !== undefined) names.add(heir.name);
  }
  for (const { name } of leadsTo(own)) heirOf.push(name);
  // Whoever has one of those as its heir waits for this peer.
  if (heirOf.length > 0) {
    for (const [name, { record }] of state.peers) {
      if (record.heir !== undefined && state.heirOf.has(record.heir.name)) heirOf.push(name);
    }
  }
  // Dead records lead to each other: all of them are read, however far.
  const seen = new Set<string>();
  for (let name = heirOf.pop(); name !== undefined; name = heirOf.pop()) {
    if (seen.has(name)) continue;
    seen.add(name);
    names.add(name);
    const record = state.peers.get(name)?.record;
    if (record === undefined) continue;
    for (const ref of leadsTo(record)) heirOf.push(ref.name);
    for (const { via } of record.blocks) if (via !== undefined) names.add(via.name);
    for (const grant of record.granting) names.add(grant.to.name);
  }
  return [...names];
}

/** The dead records that a record carries blocks of, and those in its trail. */
function leadsTo({ blocks, trail }: PeerRecord): readonly RecordRef[] {
  return [...blocks.flatMap(({ via }) => (via !== undefined && via.id === undefined ? [via] : [])), ...(trail ?? [])];
}

/** The heir is this peer, or an earlier record of it that its own goes on from. */
function isOwnHeir({ self, base }: Draft, { heir }: PeerRecord): boolean {
  return isIncarnation(heir, self, base.was);
}

/** Records read in this cycle that name this peer as their heir. */
function inherited(draft: Draft): readonly Known<PeerRecord>[] {
  return readPeers(draft).filter(({ record }) => isOwnHeir(draft, record));
}

/**
 * The dead records that may carry what others left: those this peer is the heir of and has blocks of. Undefined when one of them, or
 * one that they carry blocks of, was not read: then nothing is known to be without a carrier.
 */
function lineage(draft: Draft): readonly Known<PeerRecord>[] | undefined {
  const known = new Map<string, Known<PeerRecord>>();
  const queue = [draft.base, ...inherited(draft).map(({ record }) => record)].flatMap(leadsTo);
  for (let ref = queue.shift(); ref !== undefined; ref = queue.shift()) {
    if (known.has(ref.uid)) continue;
    const source = look(draft, ref);
    if (source === 'unread') return undefined;
    const read = draft.others.get(ref.name);
    if (source === 'gone' || read === undefined || !('record' in read)) continue;
    known.set(ref.uid, read);
    queue.push(...leadsTo(source));
  }
  for (const dead of inherited(draft)) known.set(dead.stored.uid, dead);
  return [...known.values()];
}

/**
 * What a dead record owns as blocks: those it has, and the ranges of a founder that died before it wrote them. What it claims beyond the
 * universe goes with it.
 */
function heldBy({ state }: Draft, { record, stored }: Known<PeerRecord>): readonly Block[] {
  const universe = state.universe?.record;
  const blocks = sharedOf(universe, record.blocks);
  if (!isUnseeded(universe, stored, record)) return blocks;
  return [...blocks, ...spaceOf(universe).map((cidr): Block => ({ cidr }))];
}

function sharedOf<T extends { readonly cidr: Cidr }>(
  universe: UniverseRecord | undefined,
  list: readonly T[],
): readonly T[] {
  return universe === undefined ? list : list.filter(({ cidr }) => isShared(universe, cidr));
}

/** Space of a dead record that nobody carries yet, grants that are void included. */
function uncarried(draft: Draft, dead: Known<PeerRecord>, carriers: readonly (readonly Block[])[]): readonly Cidr[] {
  const { record, stored } = dead;
  const granting = sharedOf(draft.state.universe?.record, record.granting);
  const voids = granting.filter((grant) => isVoid(draft, grant, stored));
  return [...heldBy(draft, dead), ...voids].map(({ cidr }) => cidr).filter((cidr) => !isCarried(cidr, dead, carriers));
}

function isCarried(
  cidr: Cidr,
  { record, stored }: Known<PeerRecord>,
  carriers: readonly (readonly Block[])[],
): boolean {
  return carriers.some((blocks) =>
    blocks.some((block) => isDeadSource(block.via, stored, record.was) && contains(block.cidr, cidr)),
  );
}

/** A grant that nobody can take any more. */
function isVoid(draft: Draft, grant: Grant, donor: RecordRef): boolean {
  if (look(draft, grant.to) !== 'gone' || isTakenByName(draft, grant, donor)) return false;
  return !mayComeBack(draft.state, grant.to);
}

/** A target that was made again carries the grant by its number all the same. */
function isTakenByName(draft: Draft, grant: Grant, donor: RecordRef): boolean {
  const target = draft.others.get(grant.to.name);
  return (
    target !== undefined &&
    'record' in target &&
    target.record.blocks.some((block) => isVia(block.via, donor, grant.id))
  );
}

/** Carries what the dead left: from this write on it is this peer's, in quarantine, and only to lease from while `via` stands. */
export function inherit(draft: Draft): void {
  const dead = inherited(draft);
  if (isSuspicious(draft.state, draft.nowMs) || (dead.length === 0 && draft.trail.length === 0)) return;
  const carriers = lineage(draft);
  if (carriers === undefined) return;
  const others = carriers.map(({ record }) => record.blocks);
  for (const one of dead) carry(draft, one, others);
  keepTrail(draft, dead, others);
}

/** As much as there is room for; the rest follows when there is room again. */
function carry(draft: Draft, dead: Known<PeerRecord>, others: readonly (readonly Block[])[]): void {
  const via: RecordRef = { name: dead.stored.name, uid: dead.stored.uid };
  for (const cidr of uncarried(draft, dead, [draft.blocks, ...others])) {
    if (!hasRoom(draft, 1)) return;
    // Written by hand: what is this peer's already stays so, and the dead record stays for a person to look at.
    if ([...draft.blocks, ...draft.granting].some((own) => overlaps(own.cidr, cidr))) continue;
    draft.blocks.push({ cidr, via, quarantine: true });
    draft.changed = true;
  }
  draft.news.push(`takes over from ${via.name}`);
}

/** True when what this peer carries leads to all that a dead heir had taken over, as long as the dead heir has not let go of it. */
function isLedTo({ stored, record }: Known<PeerRecord>, carriers: readonly (readonly Block[])[]): boolean {
  return (
    record.blocks.length > 0 &&
    record.trail === undefined &&
    record.blocks.every(
      ({ via, cidr }) => via === undefined || via.id !== undefined || isCarried(cidr, { stored, record }, carriers),
    )
  );
}

/** Into the trail goes a dead heir that another record waits for and that nothing else leads to; it leaves when its record is gone. */
function keepTrail(draft: Draft, dead: readonly Known<PeerRecord>[], others: readonly (readonly Block[])[]): void {
  const kept = draft.trail.filter((ref) => look(draft, ref) !== 'gone');
  const heirsRead = readPeers(draft).map(({ record }) => record.heir);
  const awaited = dead.filter(({ stored, record }) =>
    heirsRead.some((heir) => isIncarnation(heir, stored, record.was)),
  );
  const more = awaited
    .filter((one) => !isLedTo(one, [draft.blocks, ...others]) && !kept.some((ref) => sameRef(ref, one.stored)))
    .map(({ stored }): RecordRef => ({ name: stored.name, uid: stored.uid }))
    .slice(0, Math.max(0, trailLimit - kept.length));
  if (more.length > 0 || kept.length < draft.trail.length) draft.changed = true;
  draft.trail = [...kept, ...more];
}

function countVias(blocks: readonly Block[]): number {
  return blocks.filter((block) => block.via !== undefined).length;
}

/** The next write to somebody else's record; undefined when none is due. */
export function chooseForeign(draft: Draft, cycle: Cycle): Foreign | undefined {
  if (isSuspicious(draft.state, draft.nowMs)) return undefined;
  const mine = inherited(draft);
  const carriers = mine.length === 0 ? [] : lineage(draft);
  const lists = [draft.base.blocks, ...(carriers ?? []).map((one) => one.record.blocks)];
  const isTight = mine.some((dead) => uncarried(draft, dead, lists).length > 0);
  for (const dead of carriers === undefined ? [] : mine) {
    const foreign = finish(draft, dead, lists, isTight);
    if (foreign !== undefined) return foreign;
  }
  for (const dead of readPeers(draft)) {
    const first = mayInherit(draft, dead, cycle);
    if (!first && !mayReplaceHeir(draft, dead, carriers, lists)) continue;
    const record = { ...dead.record, heir: draft.self, seq: dead.record.seq + 1 };
    return { kind: 'heir', dead, record, first };
  }
  return undefined;
}

/**
 * One step towards the end of a dead record: its grants are settled; while room is wanted (`isTight`) what is carried leaves it; once all is
 * carried it is deleted.
 */
function finish(
  draft: Draft,
  dead: Known<PeerRecord>,
  carriers: readonly (readonly Block[])[],
  isTight: boolean,
): Foreign | undefined {
  const { record, stored } = dead;
  const universe = draft.state.universe?.record;
  const granting = sharedOf(universe, record.granting).filter((grant) => {
    const target = look(draft, grant.to);
    if (target === 'unread') return true;
    if (target === 'gone') return !isTakenByName(draft, grant, stored) && !isCarried(grant.cidr, dead, carriers);
    return !target.blocks.some((block) => isVia(block.via, stored, grant.id, record.was));
  });
  const held = heldBy(draft, dead);
  const isOver = (block: Block): boolean => isCarried(block.cidr, dead, carriers) && isResolved(draft, block);
  const left = isTight ? held.filter((block) => !isOver(block)) : held;
  if (granting.length < record.granting.length || left.length < held.length) {
    // A founder that died before it wrote the ranges is seeded with what is left of them.
    const seeded = record.seeded || isUnseeded(universe, stored, record);
    const parts = left.length < held.length && { blocks: left, seeded };
    return { kind: 'settle', dead, record: { ...record, granting, ...parts, seq: record.seq + 1 } };
  }
  const isTrailOver = (record.trail ?? []).every((ref) => look(draft, ref) === 'gone');
  return granting.length === 0 && isTrailOver && held.every(isOver) ? { kind: 'delete', dead } : undefined;
}

/** The source of a dead record's block has seen that it was taken; before that the record must stay for it to see. */
function isResolved(draft: Draft, { via, cidr }: Block): boolean {
  if (via === undefined) return true;
  const source = look(draft, via);
  if (source === 'unread') return false;
  return source === 'gone' || !stillHolds(draft.state.universe?.record, source, via, cidr);
}

/** Every condition for becoming the heir of a dead peer, from what this cycle read. */
function mayInherit(draft: Draft, dead: Known<PeerRecord>, cycle: Cycle): boolean {
  const { state, nowMs } = draft;
  const { record, stored } = dead;
  const gone = state.gone.get(stored.name);
  if (gone === undefined || !cycle.nodes.has(stored.name) || !cycle.sessions.has(stored.name)) return false;
  const stands = standsStill(state, gone, cycle.sessions.get(stored.name), nowMs);
  if (cycle.nodes.get(stored.name) === true || !stands || nowMs < gone.sinceMs + state.config.takeOverAfterMs)
    return false;
  if (record.heir !== undefined && look(draft, record.heir) !== 'gone') return false;
  if (hasRoom(draft, record.blocks.length + record.granting.length)) return true;
  // In parts, where nobody had room for all.
  const lateMs = gone.sinceMs + state.config.takeOverAfterMs + partsAfterSteps * state.config.takeOverStepMs;
  return nowMs >= lateMs && draft.blocks.length < blocksLimit;
}

/** Takeover steps that those with room for a whole record are ahead of those without. */
const partsAfterSteps = 4;

/** Room in the own record for so many more blocks that are taken over. */
function hasRoom({ blocks, state: { config } }: Draft, more: number): boolean {
  return blocks.length + more <= blocksLimit && countVias(blocks) + more <= config.mostVias;
}

/** Notes the session as read; true when it has stood still for its term. */
function standsStill(
  state: State,
  gone: Gone,
  session: { readonly version: string; readonly value: unknown } | undefined,
  nowMs: number,
): boolean {
  const version = session?.version ?? 'none';
  const known = parseSession(session?.value);
  const termMs = Math.max(known.ok ? known.record.termMs : 0, state.config.sessionTermMs);
  if (gone.session?.version !== version) gone.session = { version, sinceMs: nowMs };
  const ripeMs = Math.max(gone.session.sinceMs + termMs, gone.sinceMs + state.config.takeOverAfterMs);
  gone.nextLookMs = ripeMs > nowMs ? ripeMs : nowMs + state.config.pollMs;
  return nowMs >= gone.session.sinceMs + termMs;
}

/** The heir is dead and closed, and this peer is its heir and leads to it: it takes its place. */
function mayReplaceHeir(
  draft: Draft,
  { record: { heir } }: Known<PeerRecord>,
  carriers: readonly Known<PeerRecord>[] | undefined,
  lists: readonly (readonly Block[])[],
): boolean {
  const closed = heir && carriers?.find(({ stored, record }) => isIncarnation(heir, stored, record.was));
  if (closed === undefined || !isOwnHeir(draft, closed.record)) return false;
  return isLedTo(closed, lists) || draft.base.trail?.some((ref) => sameRef(ref, closed.stored)) === true;
}
