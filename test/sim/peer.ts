// One simulated node: its disk, its process (alive or not), its pods. The disk is what `persist` effects left; a crash keeps it, a
// power loss also takes back lease rows written since the last full sync, and ends the node's pods.
import { formatCidr } from '#ipam-peer/cidr.ts';
import type { Config, Delta, Durable, DurablePeer, Lease } from '#ipam-peer/events.ts';
import { emptyDurable, leaseKey, restore, type State } from '#ipam-peer/state.ts';

export interface Pod {
  readonly lease: Lease;
  /** Whose pod it was when it got its addresses. */
  readonly identity: string;
  /** A DEL was asked for and not yet answered. */
  ending: boolean;
}

export interface Disk {
  peer: DurablePeer;
  readonly leases: Map<string, Lease>;
  readonly resting: Set<string>;
}

export class SimPeer {
  readonly index: number;
  config: Config;
  /** Powered off for good. */
  retired: boolean = false;
  /** Which of the machines of one name this is: '' for the first, for a copy a mark of its own. */
  readonly tag: string;
  /** Another machine of this name holds the session, or held it: the others take no packets of this one's pods. */
  eclipsed: boolean = false;
  underlay: readonly string[];
  /** The monotonic clock since the start: it begins anywhere, and runs a little fast or slow. */
  #clock = { rate: 1, sinceMs: 0, startedMs: 0 };
  /** The disk may be older than what this node went on with: nothing may be leased before the session is held. */
  doubtful: boolean = false;
  /** Its disk was lost or put back at some time. */
  diskChanged: boolean = false;
  state: State | undefined;
  /** Counts process starts: what an earlier process set going is not for this one. */
  epoch = 0;
  reachable: boolean = true;
  timerMs: number = Infinity;
  /** A `nodes` event is on its way; and the last one. */
  nodesPending: boolean = false;
  toldGone: string = '';
  /** How many nodes were gone by the last news: they come late, but in order. */
  toldCount: number = 0;
  nextContainer = 1;
  nextTicket = 1;
  readonly pods: Map<string, Pod> = new Map<string, Pod>();
  /** Wishes under way: ticket to whether an address was named. */
  readonly tickets: Map<number, boolean> = new Map<number, boolean>();
  disk: Disk;
  #synced: { readonly leases: ReadonlyMap<string, Lease>; readonly resting: ReadonlySet<string> };

  constructor(index: number, config: Config, tag = '') {
    this.index = index;
    this.tag = tag;
    this.underlay = [`192.${tag === '' ? 168 : 170}.${index >> 8}.${index & 255}`];
    this.config = config;
    this.disk = { peer: emptyDurable.peer, leases: new Map(), resting: new Set() };
    this.#synced = { leases: new Map(), resting: new Set() };
  }

  /** Name of the own record. */
  get name(): string {
    return this.config.self;
  }

  /** Name and tag: which machine. */
  get label(): string {
    return this.name + this.tag;
  }

  /** The machine is registered anew: another node, and so another record. */
  reidentify(uid: string): void {
    const { name } = this.config.node;
    this.config = { ...this.config, self: `${name}.${uid}`, node: { name, uid } };
  }

  /** The machine's clock at a time of the world's. */
  clockMs(worldMs: number): number {
    return this.#clock.startedMs + (worldMs - this.#clock.sinceMs) * this.#clock.rate;
  }

  /** The first time of the world's at which the machine's clock has come so far. */
  worldMs(clockMs: number): number {
    return this.#clock.sinceMs + (clockMs - this.#clock.startedMs) / this.#clock.rate + 0.001;
  }

  /** Starts the process; its clock stands at `startedMs` and runs at `rate` of the world's. */
  start(nowMs: number, rate = 1, startedMs: number = nowMs): void {
    const durable: Durable = {
      peer: this.disk.peer,
      leases: [...this.disk.leases.values()],
      resting: [...this.disk.resting],
    };
    this.epoch++;
    this.config = { ...this.config, session: `${this.name}-${this.tag}${this.epoch}` };
    this.#clock = { rate, sinceMs: nowMs, startedMs };
    this.timerMs = Infinity;
    this.state = restore(this.config, durable, startedMs, this.underlay);
  }

  crash(): void {
    this.toldCount = 0;
    this.state = undefined;
    this.tickets.clear();
  }

  losePower(): void {
    this.crash();
    this.disk = { ...this.disk, leases: new Map(this.#synced.leases), resting: new Set(this.#synced.resting) };
    this.pods.clear();
  }

  /** The disk is replaced by an empty one; the pods live on. */
  loseDisk(): void {
    this.diskChanged = true;
    this.crash();
    this.disk = { peer: emptyDurable.peer, leases: new Map(), resting: new Set() };
    this.#synced = { leases: new Map(), resting: new Set() };
  }

  /** What a copy of the disk would hold. */
  snapshot(): Disk {
    return { peer: this.disk.peer, leases: new Map(this.disk.leases), resting: new Set(this.disk.resting) };
  }

  /** The disk is put back to an earlier copy while the pods live on. */
  rollBack(disk: Disk): void {
    this.crash();
    this.doubtful = true;
    this.diskChanged = true;
    this.disk = { peer: disk.peer, leases: new Map(disk.leases), resting: new Set(disk.resting) };
    this.#synced = { leases: new Map(disk.leases), resting: new Set(disk.resting) };
  }

  persist(deltas: readonly Delta[], sync: 'full' | 'normal'): void {
    for (const delta of deltas) {
      switch (delta.kind) {
        case 'peer':
          this.disk.peer = delta.peer;
          break;
        case 'lease':
          this.disk.leases.set(leaseKey(delta.lease), delta.lease);
          break;
        case 'unlease':
          this.disk.leases.delete(leaseKey(delta.lease));
          for (const address of delta.lease.addresses) this.disk.resting.add(address);
          break;
        case 'rested':
          for (const address of delta.addresses) this.disk.resting.delete(address);
      }
    }
    if (sync === 'full') {
      this.#synced = { leases: new Map(this.disk.leases), resting: new Set(this.disk.resting) };
    }
  }

  describe(): string {
    const blocks = this.disk.peer.blocks.map(formatCidr).join(' ');
    return `${this.label} ${this.state === undefined ? 'down' : 'up'} blocks [${blocks}] pods ${this.pods.size}`;
  }
}
