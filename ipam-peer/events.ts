// What goes into the core and what comes out of it. Time (`nowMs`, monotonic) and randomness (`random`, [0, 1)) are part of
// every event, so that a recorded list of events replays to the same effects.
import type { Address, Family } from './address.ts';
import type { Cidr } from './cidr.ts';
import type { RecordRef } from './records.ts';

export type RecordKind = 'universe' | 'peer' | 'session';

/** A record as the registry holds it; `value` is not yet checked. */
export interface StoredRecord extends RecordRef {
  /** Equal versions mean equal content; only for compare-and-swap. */
  readonly version: string;
  readonly value: unknown;
}

/** The registry's answer to one request. `failed`: a read without an answer. `unknown`: a write that may have taken effect. */
export type Answer =
  | { readonly kind: 'record'; readonly record: StoredRecord | undefined }
  | { readonly kind: 'list'; readonly records: readonly StoredRecord[] }
  | { readonly kind: 'failed'; readonly reason: string }
  | { readonly kind: 'ok'; readonly record: StoredRecord }
  | { readonly kind: 'deleted' }
  /** Whether the node of a peer exists, read as linearizably as a record. */
  | { readonly kind: 'node'; readonly exists: boolean }
  | { readonly kind: 'conflict' }
  | { readonly kind: 'notFound' }
  | { readonly kind: 'refused'; readonly reason: string }
  | { readonly kind: 'unknown'; readonly reason: string };

/** Who holds a lease, for people; the core carries it along unread. */
export interface LeaseOwner {
  readonly podNamespace?: string;
  readonly podName?: string;
  readonly podUid?: string;
  readonly network: string;
  readonly netnsPath: string;
  readonly netnsInode: bigint;
}

/** A port of the node that leads to a port of the pod. */
export interface PortMapping {
  readonly protocol: 'tcp' | 'udp' | 'sctp';
  /** 1-65535. */
  readonly hostPort: number;
  readonly containerPort: number;
  /** Canonical; `0.0.0.0` and `::` mean every address of their family, absent means every address. */
  readonly hostIp?: string;
}

export interface BandwidthLimit {
  readonly bitsPerSecond: number;
  /** Bits that may pass at once after silence. */
  readonly burstBits: number;
}

/** What a pod's link has beyond addresses, kept with the lease so that it can be rebuilt; the core carries it along unread. */
export interface LinkOptions {
  /** MAC of the pod's end, lower case; absent: follows from the address. */
  readonly mac?: string;
  readonly portMappings?: readonly PortMapping[];
  /** `ingress` is towards the pod. */
  readonly bandwidth?: { readonly ingress?: BandwidthLimit; readonly egress?: BandwidthLimit };
}

export interface Lease {
  readonly containerId: string;
  readonly ifname: string;
  /** Tells two uses of one (containerId, ifname) apart. */
  readonly generation: string;
  /** Name of a further pool; the core carries it along. */
  readonly pool?: string;
  readonly addresses: readonly string[];
  readonly owner: LeaseOwner;
  readonly state: 'pending' | 'active';
  /** Milliseconds since the epoch. */
  readonly sinceMs: number;
  readonly hostIfname: string;
  readonly link?: LinkOptions;
}

/** A lease asked for: everything but the addresses, which the core chooses unless they are named. */
export interface LeaseWish extends Omit<Lease, 'addresses' | 'state'> {
  /** Addresses asked for by name; empty: any. */
  readonly addresses: readonly string[];
}

/** Addresses that somebody else uses. */
export interface InUse {
  readonly cidr: Cidr;
  /** Whose they are, to complete "10.43.0.0/16 is …". */
  readonly by: string;
  /** True where carving it out is no remedy: the two must not overlap at all. */
  readonly apart?: boolean;
  /** A block that is a guess: void where a reserved part holds this address, because then a person has told better. */
  readonly toldBy?: Address;
}

export interface Stamp {
  /** Monotonic milliseconds of this process. */
  readonly nowMs: number;
  /** Uniform in [0, 1). */
  readonly random: number;
}

export type CoreEvent = Stamp &
  (
    | { readonly kind: 'wake' }
    | { readonly kind: 'answer'; readonly request: number; readonly answer: Answer }
    /** Something changed; wakes, and is never the ground for an action. `record` absent: deleted or not known. */
    | { readonly kind: 'hint'; readonly name: string; readonly record?: StoredRecord }
    /** The Universe changed, in the same sense. */
    | { readonly kind: 'universe'; readonly record?: StoredRecord }
    | { readonly kind: 'allocate'; readonly ticket: number; readonly wish: LeaseWish }
    | { readonly kind: 'cancel'; readonly ticket: number }
    | {
        readonly kind: 'activate';
        readonly containerId: string;
        readonly ifname: string;
        readonly generation: string;
      }
    | {
        readonly kind: 'free';
        readonly containerId: string;
        readonly ifname: string;
        /** Absent: whichever generation holds the key. */
        readonly generation?: string;
      }
    /** What is in use around this host; the answer to a `survey` effect. */
    | { readonly kind: 'surveyed'; readonly inUse: readonly InUse[] }
    /** What the kernel knows of leases that the disk has lost; the answer to a `recover` effect. */
    | { readonly kind: 'recovered'; readonly leases: readonly Lease[] }
    /** The node's underlay addresses changed. */
    | { readonly kind: 'underlay'; readonly addresses: readonly string[] }
    /** Names of the records, the own one included, whose nodes seem to be gone; replaces what was told before. A hint. */
    | { readonly kind: 'nodes'; readonly gone: readonly string[] }
    /** The answer to a `cut` effect: these leases are cut off the network. */
    | { readonly kind: 'cut'; readonly leases: readonly Lease[] }
  );

/** The peer's own durable copy: small, written whole. */
export interface DurablePeer {
  /** Incarnation of the own record; undefined before it was created. */
  readonly uid: string | undefined;
  /** `seq` of the newest own write known to have succeeded. */
  readonly seq: number;
  /** What may be leased from, as far as the disk knows. Shrinks before the registry does, grows after it. */
  readonly blocks: readonly Cidr[];
  /** Version at which a write that gives space away may still be under way: until it is gone, `blocks` does not grow. */
  readonly doubt: string | undefined;
  readonly overlay: readonly string[];
  /** The universe as last read, so that a start without the registry knows what is never given out. */
  readonly universe: DurableUniverse | undefined;
  /** Name of the own record that all this is about: another one is another identity of this machine. */
  readonly self?: string;
  /** The own record as it was last written or read: what is written back when the registry went back. */
  readonly record?: Readonly<Record<string, unknown>>;
  /** The registry went back, and the own record with it: `record` and `blocks` stand until it is written back. */
  readonly back?: boolean;
  /** What the disk of a process that lost sight of its own session knew of the record: written back should the record be gone. */
  readonly lastKnown?: LastKnown | undefined;
  /** Incarnations of the own record for which this disk sent itself in as the founder, until one of them has the ranges. */
  readonly founding?: readonly string[];
  /** The disk was lost and with it what rests: until a write has put every block into quarantine. */
  readonly lostRests?: boolean;
  /** True from a change of identity until the leases of the earlier one are cut off the network. */
  readonly cutting?: boolean;
  readonly session?: DurableSession;
}

/** The same of the own record as in `DurablePeer`, on a disk whose leases are taken from the kernel. */
export interface LastKnown {
  readonly uid: string;
  readonly seq: number;
  readonly record: Readonly<Record<string, unknown>>;
  readonly back: boolean;
}

/** By which session this disk proves to be the node's own. */
export interface DurableSession {
  /** The session that is known to be held; '' for none yet. */
  readonly id: string;
  /** The session of the process that is about to take it; its write may or may not have arrived. */
  readonly next: string;
  /** Those sent before it since a session was last held, latest first: one of them may have come late. */
  readonly sent?: readonly string[];
  /** How often it was renewed, with those sent of which nothing is known. */
  readonly renewals?: number;
  /** Renewals of the session last known to be held: a record with fewer is older than this disk, not a stranger's. */
  readonly held?: number;
}

export interface DurableUniverse extends RecordRef {
  readonly ranges: readonly Cidr[];
  readonly reserved: readonly Cidr[];
}

export interface Durable {
  readonly peer: DurablePeer;
  readonly leases: readonly Lease[];
  /** Addresses that were freed and may not have rested; their rest begins anew. */
  readonly resting: readonly string[];
}

export type Delta =
  | { readonly kind: 'peer'; readonly peer: DurablePeer }
  | { readonly kind: 'lease'; readonly lease: Lease }
  | { readonly kind: 'unlease'; readonly lease: Lease }
  /** These addresses need no rest any more. */
  | { readonly kind: 'rested'; readonly addresses: readonly string[] };

export type RefusalReason = 'exists' | 'exhausted' | 'waited' | 'notReady' | 'fenced' | 'notOurs' | 'inUse' | 'invalid';

export interface Refusal {
  readonly reason: RefusalReason;
  readonly text: string;
  /** The one of the addresses asked for that it is about; absent: none of them. */
  readonly address?: string;
}

export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

export type Effect =
  /** One transaction, durable before the next effect. `full`: survives power loss; `normal`: survives the process. */
  | { readonly kind: 'persist'; readonly sync: 'full' | 'normal'; readonly deltas: readonly Delta[] }
  | { readonly kind: 'get'; readonly request: number; readonly record: RecordKind; readonly name: string }
  | { readonly kind: 'list'; readonly request: number }
  | {
      readonly kind: 'create';
      readonly request: number;
      readonly record: RecordKind;
      readonly name: string;
      readonly value: Readonly<Record<string, unknown>>;
    }
  | {
      readonly kind: 'update';
      readonly request: number;
      readonly record: RecordKind;
      readonly stored: StoredRecord;
      readonly value: Readonly<Record<string, unknown>>;
    }
  /** Only at the version and incarnation that were read. */
  | { readonly kind: 'delete'; readonly request: number; readonly record: RecordKind; readonly stored: StoredRecord }
  /** Asks whether the node of the record `name` exists. */
  | { readonly kind: 'node'; readonly request: number; readonly name: string; readonly node: RecordRef }
  /** These leases are an earlier identity's: their links are to be removed, then a `cut` event follows. */
  | { readonly kind: 'cut'; readonly leases: readonly Lease[] }
  | { readonly kind: 'leased'; readonly ticket: number; readonly lease: Lease }
  | { readonly kind: 'refused'; readonly ticket: number; readonly refusal: Refusal }
  | { readonly kind: 'freed'; readonly lease: Lease | undefined }
  /** The registry holds blocks for this node, the disk knows of none: nothing is leased until a `recovered` event. */
  | { readonly kind: 'recover' }
  /** Before founding: what of these ranges do others use (services, the host's routes, other pools)? A `surveyed` event answers. */
  | { readonly kind: 'survey'; readonly ranges: readonly Cidr[] }
  /** The view changed. */
  | { readonly kind: 'changed' }
  /** Replaces the timer: a `wake` event is due at that time. */
  | { readonly kind: 'timer'; readonly atMs: number }
  | { readonly kind: 'log'; readonly level: LogLevel; readonly text: string };

export interface Config {
  /** Name of the Universe record. */
  readonly universe: string;
  /** True: the own record is made when the first address is asked for, and others' are only followed until then. */
  readonly joinOnUse: boolean;
  /** Families in which the node takes an address of its own from this universe. */
  readonly ownAddresses: readonly Family[];
  /** Ranges of the universe when this peer creates its record; empty: the record must exist. */
  readonly ranges: readonly Cidr[];
  /** Added to `reserved` when this peer creates the universe or founds it. */
  readonly reserved: readonly Cidr[];
  /** Name of the own record. */
  readonly self: string;
  readonly node: RecordRef;
  /** How long a freed address is not given out again. */
  readonly restMs: number;
  /** Longest wait of an allocation that finds no address. */
  readonly allocateWaitMs: number;
  /** A registry request without answer for so long counts as unknown. */
  readonly requestTimeoutMs: number;
  /** After so long without a grant another donor is asked. */
  readonly answerTimeoutMs: number;
  /** Wants that arrive within this time are served in one write. */
  readonly serveDelayMs: number;
  /** How often records that something pending hangs on are read again without a hint. */
  readonly pollMs: number;
  /** How often all records are listed, in case a hint was lost. */
  readonly resyncMs: number;
  /** With fewer free addresses the peer asks for space. */
  readonly lowWater: number;
  /** Id of this process's session, unlike any other's. */
  readonly session: string;
  /** How often the session is renewed. */
  readonly sessionRenewMs: number;
  /** A session that stands still for so long, by its observer's clock, is dead. */
  readonly sessionTermMs: number;
  /** A start that has its session on disk waits for the registry so long before it goes on without. */
  readonly sessionWaitMs: number;
  /** How long a node must be gone before its space is taken over. */
  readonly takeOverAfterMs: number;
  /** After so long the next three heirs try. */
  readonly takeOverStepMs: number;
  /** Most blocks of the own record that carry `via`: `viasLimit` of records.ts, fewer in tests. */
  readonly mostVias: number;
  /** For so long after the registry went back nobody grants or takes over. */
  readonly suspicionMs: number;
  /** A block that was empty for so long is marked spare. */
  readonly spareAfterMs: number;
  /** How long a block whose last use is not known is not leased from. */
  readonly quarantineMs: number;
}
