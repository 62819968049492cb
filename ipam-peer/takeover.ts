// Take over: the space of a peer whose node is gone goes to one heir, without anyone's help.
//
//   node gone, session stands still, grace over ── CAS heir into the dead record ── carry its blocks, `via` the dead record ──
//   settle its grants (taken ones leave it, void ones are carried too) ── delete it ── clear `via`
//
// Heirs try in rendezvous order, three at a time. The write of `heir` moves the dead record's version: a frozen owner's write fails
// from then on. Before it the heir reads the own node after the dead one's: so no two peers become each other's heirs. A heir that is
// dead itself and has an heir is replaced by that one, once it carries all of the dead heir's blocks.
import { contains, overlaps } from './cidr.ts';
import { isSuspicious, mayComeBack } from './back.ts';
import { type Draft, look, readPeers } from './draft.ts';
import { spaceOf } from './invariants.ts';
import {
  type Block,
  blocksLimit,
  type Grant,
  isDeadSource,
  isIncarnation,
  isVia,
  parseSession,
  type PeerRecord,
  type RecordRef,
  sameRef,
  viasLimit,
} from './records.ts';
import { type Cycle, type Foreign, type Gone, type Known, say, selfRef, setFence, type State } from './state.ts';

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

/** How long this peer lets others go first: nothing for the first three, one step more for each further three. */
function turnMs(state: State, dead: string, gone: ReadonlySet<string>): number {
  const { config, peers } = state;
  const own = weight(dead, config.self);
  let before = 0;
  for (const name of peers.keys()) {
    if (name !== dead && name !== config.self && !gone.has(name) && weight(dead, name) < own) before++;
  }
  const turn = Math.floor(before / 3);
  return turn === 0 ? 0 : Math.max(config.takeOverAfterMs, config.sessionTermMs) + turn * config.takeOverStepMs;
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
  return !sameRef(heir, selfRef(state)) && !sameRef(state.peers.get(heir.name)?.stored, heir);
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
  for (const { via } of own.blocks) if (via !== undefined && via.id === undefined) heirOf.push(via.name);
  // Whoever has one of those as its heir waits for this peer.
  if (heirOf.length > 0) {
    for (const [name, { record }] of state.peers) {
      if (record.heir !== undefined && state.heirOf.has(record.heir.name)) heirOf.push(name);
    }
  }
  // Dead records lead to each other by `via`: all of them are read, however far.
  const seen = new Set<string>();
  for (let name = heirOf.pop(); name !== undefined; name = heirOf.pop()) {
    if (seen.has(name)) continue;
    seen.add(name);
    names.add(name);
    const record = state.peers.get(name)?.record;
    for (const { via } of record?.blocks ?? []) {
      if (via === undefined) continue;
      if (via.id === undefined) heirOf.push(via.name);
      else names.add(via.name);
    }
    for (const grant of record?.granting ?? []) names.add(grant.to.name);
  }
  return [...names];
}

/** Records read in this cycle that name this peer as their heir. */
function inherited(draft: Draft): readonly Known<PeerRecord>[] {
  return readPeers(draft).filter(({ record }) => sameRef(record.heir, draft.self));
}

/**
 * The dead records that may carry what others left: those this peer is the heir of and has blocks of. Undefined when one of them, or
 * one that they carry blocks of, was not read: then nothing is known to be without a carrier.
 */
function lineage(draft: Draft): readonly Known<PeerRecord>[] | undefined {
  const known = new Map<string, Known<PeerRecord>>();
  const queue: (readonly Block[])[] = [draft.base.blocks, ...inherited(draft).map(({ record }) => record.blocks)];
  for (let blocks = queue.shift(); blocks !== undefined; blocks = queue.shift()) {
    for (const { via } of blocks) {
      if (via === undefined || via.id !== undefined || known.has(via.uid)) continue;
      const source = look(draft, via);
      if (source === 'unread') return undefined;
      const read = draft.others.get(via.name);
      if (source === 'gone' || read === undefined || !('record' in read)) continue;
      known.set(via.uid, read);
      queue.push(source.blocks);
    }
  }
  for (const dead of inherited(draft)) known.set(dead.stored.uid, dead);
  return [...known.values()];
}

/** Space of a dead record that nobody carries yet: its blocks, grants that are void, and the ranges of a founder that died first. */
function uncarried(
  draft: Draft,
  dead: Known<PeerRecord>,
  carriers: readonly (readonly Block[])[],
): readonly Block['cidr'][] {
  const { record, stored } = dead;
  const voids = record.granting.filter((grant) => isVoid(draft, grant, stored)).map((grant) => grant.cidr);
  const unseeded = !record.seeded && isIncarnation(draft.state.universe?.record.founder, stored, record.was);
  const ranges = unseeded ? spaceOf(draft.state.universe?.record) : [];
  return [...record.blocks.map((block) => block.cidr), ...voids, ...ranges].filter(
    (cidr) =>
      !carriers.some((blocks) =>
        blocks.some((block) => isDeadSource(block.via, stored, record.was) && contains(block.cidr, cidr)),
      ),
  );
}

/** A grant that nobody can take any more. */
function isVoid(draft: Draft, grant: Grant, donor: RecordRef): boolean {
  if (look(draft, grant.to) !== 'gone' || isTakenByName(draft, grant, donor)) return false;
  return !mayComeBack(draft.state, grant.to.name);
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
  if (dead.length === 0 || isSuspicious(draft.state, draft.nowMs)) return;
  const carriers = lineage(draft);
  if (carriers === undefined) return;
  for (const one of dead) {
    const blocks = [draft.blocks, ...carriers.map(({ record }) => record.blocks)];
    for (const cidr of uncarried(draft, one, blocks)) {
      if (draft.blocks.length >= blocksLimit || countVias(draft.blocks) >= viasLimit) return;
      if ([...draft.blocks, ...draft.granting].some((own) => overlaps(own.cidr, cidr))) {
        // Written by hand: what is this peer's already stays so, and the dead record stays for a person to look at.
        continue;
      }
      draft.blocks.push({ cidr, via: { name: one.stored.name, uid: one.stored.uid }, quarantine: true });
      draft.changed = true;
    }
    draft.news.push(`takes over from ${one.stored.name}`);
  }
}

function countVias(blocks: readonly Block[]): number {
  return blocks.filter((block) => block.via !== undefined).length;
}

/** The next write to somebody else's record; undefined when none is due. */
export function chooseForeign(draft: Draft, cycle: Cycle): Foreign | undefined {
  if (isSuspicious(draft.state, draft.nowMs)) return undefined;
  const mine = inherited(draft);
  const carriers = mine.length === 0 ? [] : lineage(draft);
  for (const dead of carriers === undefined ? [] : mine) {
    const foreign = finish(draft, dead, carriers ?? []);
    if (foreign !== undefined) return foreign;
  }
  for (const dead of readPeers(draft)) {
    const first = mayInherit(draft, dead, cycle);
    if (!first && !mayReplaceHeir(draft, dead, carriers)) continue;
    const record = { ...dead.record, heir: draft.self, seq: dead.record.seq + 1 };
    return { kind: 'heir', dead, record, first };
  }
  return undefined;
}

/** One step towards the end of a dead record, all of whose space is carried. */
function finish(draft: Draft, dead: Known<PeerRecord>, carriers: readonly Known<PeerRecord>[]): Foreign | undefined {
  const { record, stored } = dead;
  const blocks = [draft.base.blocks, ...carriers.map((one) => one.record.blocks)];
  const carried = (cidr: Block['cidr']): boolean =>
    blocks.some((list) =>
      list.some((block) => isDeadSource(block.via, stored, record.was) && contains(block.cidr, cidr)),
    );
  const granting = record.granting.filter((grant) => {
    const target = look(draft, grant.to);
    if (target === 'unread') return true;
    if (target === 'gone') return !isTakenByName(draft, grant, stored) && !carried(grant.cidr);
    return !target.blocks.some((block) => isVia(block.via, stored, grant.id, record.was));
  });
  if (granting.length < record.granting.length) {
    return { kind: 'settle', dead, record: { ...record, granting, seq: record.seq + 1 } };
  }
  if (granting.length > 0 || uncarried(draft, dead, blocks).length > 0) return undefined;
  return record.blocks.every((block) => isResolved(draft, block)) ? { kind: 'delete', dead } : undefined;
}

/** The source of a dead record's block has seen that it was taken; before that the record must stay for it to see. */
function isResolved(draft: Draft, { via }: Block): boolean {
  if (via === undefined) return true;
  const source = look(draft, via);
  if (source === 'unread') return false;
  return source === 'gone' || (via.id !== undefined && !source.granting.some((grant) => grant.id === via.id));
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
  const more = record.blocks.length + record.granting.length;
  return draft.blocks.length + more <= blocksLimit && countVias(draft.blocks) + more <= viasLimit;
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

/** The heir is dead and closed, this peer is its heir and carries all of it: it takes its place. */
function mayReplaceHeir(
  draft: Draft,
  { record }: Known<PeerRecord>,
  carriers: readonly Known<PeerRecord>[] | undefined,
): boolean {
  if (record.heir === undefined || sameRef(record.heir, draft.self) || carriers === undefined) return false;
  const heir = carriers.find(({ stored }) => sameRef(stored, record.heir));
  if (heir === undefined || !sameRef(heir.record.heir, draft.self)) return false;
  const blocks = [draft.base.blocks, ...carriers.map((one) => one.record.blocks)];
  return heir.record.blocks.length > 0 && uncarried(draft, heir, blocks).length === 0;
}
