// The two records that peers share, and their strict reading: what stands in the registry may have been written by hand, by
// another version or by an enemy. A malformed record is a value (`reason`), never an exception. Fields that this version does
// not know are kept when it writes its record again, so that a downgrade by one version loses nothing.
import { parseAddress, type PerFamily } from './address.ts';
import { type Cidr, contains, disjoint, formatCidr, overlaps, parseCidr } from './cidr.ts';

/** Version of both records' form. A reader accepts its own and the next, whose additions it carries along. */
export const recordSchema = 1;
/** Name of the Universe that a `Peer` without one belongs to. */
export const defaultUniverse = 'default';
/** Hard limit of a record as JSON, in bytes. */
export const recordLimitBytes: number = 64 * 1024;
/** Most grants that may be under way from one peer. */
export const grantsLimit = 64;
/** Most blocks of one record, and most of them that may carry `via`; deploy/ has the same bounds. */
export const blocksLimit = 128;
export const viasLimit = 64;
/** Most dead heirs in the trail of one record. */
export const trailLimit = 8;
/** Most reserved parts of a universe; deploy/ has the same bound. */
export const reservedLimit = 64;

/** One incarnation of a record: a re-created record of the same name has another uid. */
export interface RecordRef {
  readonly name: string;
  readonly uid: string;
}

/** Where a taken block came from: a grant of an incarnation, or (without `id`) the dead record itself. */
export interface Via extends RecordRef {
  readonly id?: number;
}

export interface Block {
  readonly cidr: Cidr;
  readonly via?: Via;
  readonly spare?: boolean;
  readonly quarantine?: boolean;
}

export interface Grant {
  /** Unique within the donor's incarnation. */
  readonly id: number;
  readonly cidr: Cidr;
  readonly to: RecordRef;
}

export interface PeerRecord {
  /** Name of the Universe whose space this is. */
  readonly universe: string;
  readonly node: RecordRef;
  /** Counts this record's writes. */
  readonly seq: number;
  /** True once the founder has written the ranges into its blocks. */
  readonly seeded: boolean;
  readonly blocks: readonly Block[];
  readonly granting: readonly Grant[];
  /** Whom this peer asks for space of a family. */
  readonly wants: PerFamily<RecordRef | undefined>;
  /** A spare block of another peer that would merge with one of this peer's. */
  readonly pulls?: { readonly from: RecordRef; readonly cidr: Cidr };
  readonly heir?: RecordRef;
  /** Dead heirs that this peer is the heir of, and that may have taken more than it carries yet: they lead to what they were heirs of. */
  readonly trail?: readonly RecordRef[];
  /** The node was declared gone by a person; its session says so for good. */
  readonly removed?: boolean;
  /** Uids of earlier incarnations that this record goes on from (the registry went back), latest first. */
  readonly was?: readonly string[];
  /** The registry went back and this record is not written back yet. */
  readonly suspect?: boolean;
  /** Underlay addresses, preferred first. */
  readonly underlay: readonly string[];
  /** The node's own addresses in the overlay, at most one per family. */
  readonly overlay: readonly string[];
  /** Addresses that could move to another peer, rounded to a power of two; a hint. */
  readonly free: PerFamily<number>;
  /** Fields of a later version, kept as they are. */
  readonly extra: Readonly<Record<string, unknown>>;
}

export interface UniverseRecord {
  readonly ranges: readonly Cidr[];
  readonly reserved: readonly Cidr[];
  readonly founder?: RecordRef;
  /** Namespaces whose pods take their addresses from here when nothing else is said. */
  readonly namespaces: readonly string[];
  readonly extra: Readonly<Record<string, unknown>>;
}

export type Parsed<T> = { readonly ok: true; readonly record: T } | { readonly ok: false; readonly reason: string };

export type Json = Readonly<Record<string, unknown>>;

class Malformed extends Error {}

function fail(field: string, wanted: string): never {
  throw new Malformed(`${field} is not ${wanted}`);
}

export function asObject(value: unknown, field: string): Json {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) fail(field, 'an object');
  return value as Json;
}

export function asText(value: unknown, field: string): string {
  if (typeof value !== 'string' || value === '' || value.length > 253) fail(field, 'a name of 1 to 253 characters');
  return value;
}

export function asCount(value: unknown, field: string): number {
  if (typeof value !== 'number' || !Number.isFinite(value) || value < 0) fail(field, 'a count');
  return value;
}

function asList(value: unknown, field: string, limit: number): readonly unknown[] {
  if (value === undefined) return [];
  if (!Array.isArray(value) || value.length > limit) fail(field, `a list of at most ${limit}`);
  return value as readonly unknown[];
}

function asCidr(value: unknown, field: string): Cidr {
  const block = typeof value === 'string' ? parseCidr(value) : undefined;
  return block ?? fail(field, 'an aligned CIDR block');
}

function asCidrs(value: unknown, field: string): readonly Cidr[] {
  return asList(value, field, 1024).map((item, index) => asCidr(item, `${field}[${index}]`));
}

function asRef(value: unknown, field: string): RecordRef {
  const object = asObject(value, field);
  return { name: asText(object['name'], `${field}.name`), uid: asText(object['uid'], `${field}.uid`) };
}

export function asFlag(value: unknown, field: string): boolean {
  if (value !== undefined && typeof value !== 'boolean') fail(field, 'true or false');
  return value === true;
}

function asAddresses(value: unknown, field: string): readonly string[] {
  return asList(value, field, 16).map((item, index) => {
    if (typeof item !== 'string' || parseAddress(item) === undefined) fail(`${field}[${index}]`, 'an address');
    return item;
  });
}

export function checkSchema(object: Json): void {
  const schema = asCount(object['schema'], 'schema');
  if (schema !== recordSchema && schema !== recordSchema + 1) {
    fail('schema', `${recordSchema} or ${recordSchema + 1} (written by another version of weft?)`);
  }
}

const noExtra: Json = {};

export function extraOf(object: Json, known: ReadonlySet<string>): Json {
  const fields = Object.keys(object).filter((field) => !known.has(field));
  return fields.length === 0 ? noExtra : Object.fromEntries(fields.map((field) => [field, object[field]]));
}

export function parsed<T>(read: () => T): Parsed<T> {
  try {
    return { ok: true, record: read() };
  } catch (error) {
    if (error instanceof Malformed) return { ok: false, reason: error.message };
    throw error;
  }
}

function asBlock(value: unknown, field: string): Block {
  const object = asObject(value, field);
  const cidr = asCidr(object['cidr'], `${field}.cidr`);
  const via = object['via'] === undefined ? undefined : asVia(object['via'], `${field}.via`);
  return {
    cidr,
    ...(via && { via }),
    ...(asFlag(object['spare'], `${field}.spare`) && { spare: true }),
    ...(asFlag(object['quarantine'], `${field}.quarantine`) && { quarantine: true }),
  };
}

function asVia(value: unknown, field: string): Via {
  const object = asObject(value, field);
  const ref = asRef(value, field);
  return object['id'] === undefined ? ref : { ...ref, id: asCount(object['id'], `${field}.id`) };
}

function asGrant(value: unknown, field: string): Grant {
  const object = asObject(value, field);
  return {
    id: asCount(object['id'], `${field}.id`),
    cidr: asCidr(object['cidr'], `${field}.cidr`),
    to: asRef(object['to'], `${field}.to`),
  };
}

const peerFields: ReadonlySet<string> = new Set(
  'schema universe node seq seeded blocks granting wants wants6 pulls heir trail removed was suspect underlay overlay free freeBits6'.split(
    ' ',
  ),
);
const universeFields: ReadonlySet<string> = new Set(['schema', 'ranges', 'reserved', 'namespaces', 'founder']);

function asWant(value: unknown, field: string): RecordRef | undefined {
  return value === undefined ? undefined : asRef(asObject(value, field)['from'], `${field}.from`);
}

function asPull(value: unknown): { readonly from: RecordRef; readonly cidr: Cidr } {
  const object = asObject(value, 'pulls');
  return { from: asRef(object['from'], 'pulls.from'), cidr: asCidr(object['cidr'], 'pulls.cidr') };
}

/** The free count of IPv6 goes by its logarithm: 2^80 is no number for a registry. */
function asFreeBits(value: unknown): number {
  if (value === undefined) return 0;
  const bits = asCount(value, 'freeBits6');
  if (bits > 128) fail('freeBits6', 'at most 128');
  return 2 ** Math.floor(bits);
}

/** The Universe that a `Peer` value belongs to, whether or not the rest of it can be understood. */
export function universeOf(value: unknown): string {
  const told = typeof value === 'object' && value !== null ? (value as Json)['universe'] : undefined;
  return typeof told === 'string' && told !== '' ? told : defaultUniverse;
}

/** What each value came to: nobody changes one, and the same is read more than once. */
const parsedPeers = new WeakMap<object, Parsed<PeerRecord>>();

/** Reads a `Peer` value as stored. Sizes are bounded, blocks and grants of one record may not overlap. */
export function parsePeer(value: unknown): Parsed<PeerRecord> {
  if (typeof value !== 'object' || value === null) return { ok: false, reason: 'the record is not an object' };
  const known = parsedPeers.get(value) ?? readPeer(value);
  parsedPeers.set(value, known);
  return known;
}

function readPeer(value: unknown): Parsed<PeerRecord> {
  return parsed(() => {
    const object = asObject(value, 'the record');
    checkSchema(object);
    const blocks = asList(object['blocks'], 'blocks', 1024).map((item, i) => asBlock(item, `blocks[${i}]`));
    const granting = asList(object['granting'], 'granting', 1024).map((item, i) => asGrant(item, `granting[${i}]`));
    if (!disjoint([...blocks, ...granting].map((one) => one.cidr))) fail('blocks', 'free of overlaps');
    return {
      universe: universeOf(object),
      node: asRef(object['node'], 'node'),
      seq: asCount(object['seq'], 'seq'),
      seeded: asFlag(object['seeded'], 'seeded'),
      blocks,
      granting,
      wants: { 4: asWant(object['wants'], 'wants'), 6: asWant(object['wants6'], 'wants6') },
      ...(object['pulls'] !== undefined && { pulls: asPull(object['pulls']) }),
      ...(object['heir'] !== undefined && { heir: asRef(object['heir'], 'heir') }),
      ...(object['trail'] !== undefined && {
        trail: asList(object['trail'], 'trail', trailLimit).map((item, i) => asRef(item, `trail[${i}]`)),
      }),
      ...(asFlag(object['removed'], 'removed') && { removed: true }),
      ...(object['was'] !== undefined && {
        was: asList(object['was'], 'was', 4).map((item, i) => asText(item, `was[${i}]`)),
      }),
      ...(asFlag(object['suspect'], 'suspect') && { suspect: true }),
      underlay: asAddresses(object['underlay'], 'underlay'),
      overlay: asAddresses(object['overlay'], 'overlay'),
      free: { 4: asCount(object['free'] ?? 0, 'free'), 6: asFreeBits(object['freeBits6']) },
      extra: extraOf(object, peerFields),
    };
  });
}

/** The JSON value of a `Peer`. */
export function formatPeer(record: PeerRecord): Json {
  return {
    ...record.extra,
    schema: recordSchema,
    ...(record.universe !== defaultUniverse && { universe: record.universe }),
    node: record.node,
    seq: record.seq,
    seeded: record.seeded,
    blocks: record.blocks.map((block) => ({ ...block, cidr: formatCidr(block.cidr) })),
    granting: record.granting.map((grant) => ({ ...grant, cidr: formatCidr(grant.cidr) })),
    ...(record.wants[4] && { wants: { from: record.wants[4] } }),
    ...(record.wants[6] && { wants6: { from: record.wants[6] } }),
    ...(record.pulls && { pulls: { from: record.pulls.from, cidr: formatCidr(record.pulls.cidr) } }),
    ...(record.heir && { heir: record.heir }),
    ...(record.trail !== undefined && record.trail.length > 0 && { trail: record.trail }),
    ...(record.removed === true && { removed: true }),
    ...(record.was !== undefined && record.was.length > 0 && { was: record.was }),
    ...(record.suspect === true && { suspect: true }),
    underlay: record.underlay,
    overlay: record.overlay,
    free: record.free[4],
    ...(record.free[6] >= 1 && { freeBits6: Math.floor(Math.log2(record.free[6])) }),
  };
}

/** Space that no pod may have, whatever a Universe says: this host, loopback, link-local, multicast, and all of it. */
const neverPods: readonly Cidr[] = [
  '0.0.0.0/8',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '224.0.0.0/4',
  '::/8',
  'fe80::/10',
  'ff00::/8',
].flatMap((text) => parseCidr(text) ?? []);

function refuseNeverPods(ranges: readonly Cidr[]): void {
  for (const range of ranges) {
    const met = neverPods.find((block) => overlaps(block, range));
    if (met !== undefined) fail('ranges', `free of ${formatCidr(met)}, which is no pod's`);
  }
}

/** Reads a `Universe` value as stored. Ranges may not overlap; reserved parts must lie inside them. */
export function parseUniverse(value: unknown): Parsed<UniverseRecord> {
  return parsed(() => {
    const object = asObject(value, 'the record');
    checkSchema(object);
    const ranges = asCidrs(object['ranges'], 'ranges');
    const reserved = asCidrs(object['reserved'], 'reserved');
    if (ranges.length === 0) fail('ranges', 'at least one block');
    if (!disjoint(ranges)) fail('ranges', 'free of overlaps');
    refuseNeverPods(ranges);
    if (ranges.some((range) => reserved.some((one) => contains(one, range)))) fail('reserved', 'smaller than a range');
    return {
      ranges,
      reserved,
      namespaces: asList(object['namespaces'], 'namespaces', 256).map((item, index) =>
        asText(item, `namespaces[${index}]`),
      ),
      ...(object['founder'] !== undefined && { founder: asRef(object['founder'], 'founder') }),
      extra: extraOf(object, universeFields),
    };
  });
}

/** The JSON value of a `Universe`. */
export function formatUniverse(record: UniverseRecord): Json {
  return {
    ...record.extra,
    schema: recordSchema,
    ranges: record.ranges.map(formatCidr),
    reserved: record.reserved.map(formatCidr),
    ...(record.namespaces.length > 0 && { namespaces: record.namespaces }),
    ...(record.founder && { founder: record.founder }),
  };
}

export function sameRef(a: RecordRef | undefined, b: RecordRef | undefined): boolean {
  return a !== undefined && b !== undefined && a.uid === b.uid && a.name === b.name;
}

/** True when `ref` names this record: its incarnation, or an earlier one that it goes on from. */
export function isIncarnation(ref: RecordRef | undefined, stored: RecordRef, was: PeerRecord['was']): boolean {
  return ref !== undefined && ref.name === stored.name && (ref.uid === stored.uid || was?.includes(ref.uid) === true);
}

/** One text for one incarnation of a record. */
export function incarnationKey({ name, uid }: RecordRef): string {
  return `${name}/${uid}`;
}

/** True when `via` names grant `id` of the incarnation `donor`, or of an earlier one that it goes on from. */
export function isVia(via: Via | undefined, donor: RecordRef, id: number, was?: PeerRecord['was']): boolean {
  return via?.id === id && isIncarnation(via, donor, was);
}

/** True when `via` names the dead record itself. */
export function isDeadSource(via: Via | undefined, dead: RecordRef, was?: PeerRecord['was']): boolean {
  return via !== undefined && via.id === undefined && isIncarnation(via, dead, was);
}
