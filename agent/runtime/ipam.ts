// What the rest of the agent sees of IPAM. The runtime behind it feeds the pure core (ipam-peer/) with events and executes
// its effects; this file holds only the shapes, so that cni/, datapath/ and observe/ do not depend on how it is done.

import type { LinkOptions } from '#ipam-peer/events.ts';

export type { BandwidthLimit, LinkOptions, PortMapping } from '#ipam-peer/events.ts';

/** One attachment of a container to the network: CNI's key, plus the generation that tells two uses of one key apart. */
export interface AttachmentKey {
  readonly containerId: string;
  readonly ifname: string;
}

/**
 * True where the attachment is of that network: CNI's key has the network's name too, and of one key and two networks the runtime may take
 * down either. A lease that was rebuilt from a link is of any: its network's name was lost.
 */
export function isOfNetwork({ owner }: Pick<Lease, 'owner'>, network: string): boolean {
  return owner.network === network || owner.netnsPath === '';
}

/** Where a lease's owner can be found by a person. */
export interface LeaseOwner {
  readonly podNamespace?: string;
  readonly podName?: string;
  readonly podUid?: string;
  /** The network name of the CNI configuration (`name`). */
  readonly network: string;
  /** CNI_NETNS as given at ADD. */
  readonly netnsPath: string;
  /** Inode of that namespace (nsfs), so that a path used again is told apart. */
  readonly netnsInode: bigint;
  /** The plugin that makes the link, where Weft is only its IPAM plugin (`bridge`, `macvlan`, …); absent: Weft itself. */
  readonly linkedBy?: string;
  /** The bridge whose port that link is. */
  readonly onBridge?: string;
}

/** Another plugin that gave the addresses, and what it is called with again. */
export interface Delegate {
  /** Its file name in a directory of CNI_PATH; '' where that was lost with the state directory. */
  readonly type: string;
  /** Every CNI_* variable of the call. */
  readonly env: Readonly<Record<string, string>>;
  /** The whole network configuration. */
  readonly stdin: string;
  /** Of an OwedDel alone: its `why`. */
  readonly owed?: string;
}

/** A DEL that another plugin has not taken yet: its attachment is gone from here, its addresses are still given out in that plugin's books. */
export interface OwedDel extends AttachmentKey {
  readonly delegate: Delegate;
  /** What the plugin had given; empty where that is not known. */
  readonly addresses: readonly string[];
  /** Why it could not be told the last time. */
  readonly why: string;
  /** Milliseconds since the epoch. */
  readonly sinceMs: number;
}

/** The DELs that other plugins are owed, at most one for each key; durable. Every method throws WeftError('store'). */
export interface OwedDels {
  /** Takes the place of the attachment's lease, where there is one. */
  owe(del: OwedDel): void;
  find(key: AttachmentKey): OwedDel | undefined;
  all(): readonly OwedDel[];
  /** The plugin has been told. */
  settle(key: AttachmentKey): void;
}

/** Only a DEL whose configuration names the plugin can tell it. */
export const unknownDelegate: Delegate = { type: '', env: {}, stdin: '' };

export interface LeaseRequest extends AttachmentKey {
  readonly owner: LeaseOwner;
  /** Name of the pool; absent: the one that has the address asked for, else that names the pod's namespace, else `default`. */
  readonly pool?: string;
  /** Addresses asked for by name (the `ips` capability); plain addresses without prefix length. Empty: any. */
  readonly addresses: readonly string[];
  /** What the link shall have beyond addresses; kept with the lease. */
  readonly link?: LinkOptions;
  /** The plugin that gave `addresses`, or will give them; none of them is of the pool. */
  readonly delegate?: Delegate;
}

export interface Lease extends AttachmentKey {
  /** The pool that the addresses are of; absent: `default`. */
  readonly pool?: string;
  /** Random 64-bit hex: a DEL acts only on the generation that it names. */
  readonly generation: string;
  /** Plain addresses, at most one per family; IPv4 first. */
  readonly addresses: readonly string[];
  readonly owner: LeaseOwner;
  /** `pending` until ADD has finished: a pending lease found at start is undone. */
  readonly state: 'pending' | 'active';
  /** Milliseconds since the epoch. */
  readonly sinceMs: number;
  /** Host end of the veth, known from the moment of the lease (derived from the generation). */
  readonly hostIfname: string;
  readonly link?: LinkOptions;
  /** The plugin that gave the addresses; absent: the pool. */
  readonly delegate?: Delegate;
}

/** True where a DHCP server gives the addresses: the pod's link is in that server's segment (agent/datapath/segment.ts). */
export function isOnSegment({ delegate }: { readonly delegate?: Delegate | undefined }): boolean {
  return delegate?.type === dhcpPlugin;
}

/** The reference plugin whose daemon asks through the pod's own link. */
export const dhcpPlugin = 'dhcp';

/** The leases whose link is Weft's own and routed or bridged by the datapath: those that it builds. */
export function linkedHere(leases: readonly Lease[]): readonly Lease[] {
  return leases.filter((lease) => lease.owner.linkedBy === undefined && !isOnSegment(lease));
}

/** A peer as the datapath and the status page need it. */
export interface PeerView {
  /** Record name: `<node>.<first 8 of the Node UID>`. */
  readonly name: string;
  readonly nodeName: string;
  readonly self: boolean;
  /** Underlay address where VXLAN packets go. */
  readonly underlayAddress: string | undefined;
  /** The node's own overlay addresses (`weft0`), at most one per family. */
  readonly overlayAddresses: readonly string[];
  /** Blocks whose effective owner this peer is, CIDR strings, sorted. */
  readonly blocks: readonly string[];
  /** What its record claims outside the pool's space; routed nowhere. Absent: nothing. */
  readonly outside?: readonly string[];
  /** Its node is gone; absent: as far as is known it is not. */
  readonly gone?: true;
  /** Record name of the peer that takes its space over; absent: nobody does. */
  readonly heir?: string;
}

/** What became of a pool's Universe under running agents. */
export interface UniverseEnd {
  readonly name: 'universeDeleted' | 'universeReplaced';
  /** One sentence. */
  readonly text: string;
}

/** Blocks of this node that another's record has too, after the registry went back (docs/ipam.md). */
export interface Conflict {
  /** Name of that record. */
  readonly name: string;
  readonly nodeName: string;
  /** That node is gone: nobody makes its record smaller. */
  readonly gone: boolean;
  readonly blocks: readonly string[];
}

/** One pool as this node sees it: a Universe and who owns what of it. */
export interface PoolView {
  readonly name: string;
  /** Namespaces whose pods take their addresses from here. */
  readonly namespaces: readonly string[];
  readonly ranges: readonly string[];
  readonly reserved: readonly string[];
  /** Owners of its blocks, by the names of their records in this pool. */
  readonly peers: readonly PeerView[];
  /** Addresses of this node, of the scarcer family. */
  readonly freeAddresses: number;
  readonly leasedAddresses: number;
  readonly restingAddresses: number;
  /** Free addresses of this node and those that others say could move, of the scarcer family. */
  readonly availableAddresses: number;
  readonly ready: boolean;
  /** Absent: its Universe is there as it was. */
  readonly ended?: UniverseEnd;
  /** Absent: none. */
  readonly conflicts?: readonly Conflict[];
  /** Space that has been in no record for long; absent: none. */
  readonly unowned?: readonly string[];
  /** Why nothing can be leased from it here; empty when something can, or when nobody has asked here yet. */
  readonly waitingFor: string;
}

export interface IpamView {
  /**
   * The ranges of all pools and what is never given out of them, CIDR strings. A pool that nobody has founded yet is left out, because
   * what is reserved in it is not known: the API server's Service address may be in it.
   */
  readonly ranges: readonly string[];
  readonly reserved: readonly string[];
  /** Of one pool: nobody has founded it yet, as far as is known here. */
  readonly unfounded?: true;
  readonly peers: readonly PeerView[];
  /** Overlay addresses of this node; empty until the first block is owned. */
  readonly overlayAddresses: readonly string[];
  /** Addresses that could be leased right now, own usable blocks less leases and resting ones. */
  readonly freeAddresses: number;
  readonly leasedAddresses: number;
  readonly restingAddresses: number;
  /** True when an ADD would find an address. */
  readonly ready: boolean;
  /** Why not ready, one sentence; empty when ready. */
  readonly waitingFor: string;
  /** Milliseconds since the epoch of the registry's last answer; undefined before the first. */
  readonly registryAnsweredAtMs: number | undefined;
  /** As in PoolView, of the default pool. */
  readonly availableAddresses?: number;
  readonly ended?: UniverseEnd;
  readonly conflicts?: readonly Conflict[];
  readonly unowned?: readonly string[];
  /** False until it is known whether this node has a record, and its leases are there. */
  readonly settled?: boolean;
  /** Every pool, `default` first; the counts and readiness above are that one's. */
  readonly pools?: readonly PoolView[];
}

export interface Ipam {
  /**
   * Leases addresses for one attachment, durable (state `pending`) when resolved. A lease of the same key fails with
   * `attachmentExists`; no free address waits up to `allocateWaitMs` for a grant, then fails with `noAddress`.
   */
  lease(request: LeaseRequest, signal: AbortSignal): Promise<Lease>;
  /** Marks a pending lease active; durable on return. */
  activate(lease: Lease): void;
  /** Releases the lease; its addresses rest before reuse. Idempotent: undefined when there is none (or another generation). */
  release(key: AttachmentKey, generation?: string): Lease | undefined;
  find(key: AttachmentKey): Lease | undefined;
  leases(): readonly Lease[];
  view(): IpamView;
  /** Called after each change of the view that the datapath or the status must follow. Returns the way to stop it. */
  onChange(listener: () => void): () => void;
  /** Resolves when the first block is usable and the overlay address is chosen. */
  whenReady(signal: AbortSignal): Promise<void>;
}
