// Ipam and Datapath that keep real state in memory, for tests of the CNI server: addresses are unique, releases idempotent, links
// there or not, and any step can be made to fail or to wait.

import { randomBytes } from 'node:crypto';

import type {
  Datapath,
  DatapathFinding,
  DatapathStatus,
  LinkFault,
  PodLink,
  PodLinkRequest,
} from '#agent/datapath/datapath.ts';
import { WeftError } from '#agent/errors.ts';
import type { AttachmentKey, Ipam, IpamView, Lease, LeaseRequest, OwedDel, OwedDels } from '#agent/runtime/ipam.ts';

function nameOf(key: AttachmentKey): string {
  return `${key.containerId}/${key.ifname}`;
}

export class FakeIpam implements Ipam {
  readonly #leases = new Map<string, Lease>();
  readonly #free: string[];
  readonly families: readonly ('4' | '6')[];
  /** What `view` says beside the leases. */
  overlayAddresses: readonly string[] = ['10.32.0.1'];
  /** Runs in `lease` before anything else. */
  beforeLease: (signal: AbortSignal) => Promise<void> = () => Promise.resolve();
  activateFails: boolean = false;
  released: number = 0;

  constructor(free = 200, families: readonly ('4' | '6')[] = ['4']) {
    this.families = families;
    this.#free = Array.from({ length: free }, (_, at) => String(at + 2));
  }

  async lease(request: LeaseRequest, signal: AbortSignal): Promise<Lease> {
    await this.beforeLease(signal);
    if (this.#leases.has(nameOf(request))) throw new WeftError('attachmentExists', 'there is a lease');
    const host = this.#free.shift();
    if (host === undefined) throw new WeftError('noAddress', 'no address is free');
    const lease: Lease = {
      containerId: request.containerId,
      ifname: request.ifname,
      generation: randomBytes(8).toString('hex'),
      addresses: this.families.map((family) => (family === '4' ? `10.32.0.${host}` : `fd00::${host}`)),
      owner: request.owner,
      state: 'pending',
      sinceMs: Date.now(),
      hostIfname: `weft${randomBytes(4).toString('hex')}`,
      ...(request.link !== undefined && { link: request.link }),
    };
    this.#leases.set(nameOf(request), lease);
    return lease;
  }

  activate(lease: Lease): void {
    if (this.activateFails) throw new WeftError('store', 'the disk is full');
    if (this.#leases.get(nameOf(lease))?.generation !== lease.generation) throw new Error('activate without lease');
    this.#leases.set(nameOf(lease), { ...lease, state: 'active' });
  }

  release(key: AttachmentKey, generation?: string): Lease | undefined {
    const lease = this.#leases.get(nameOf(key));
    if (lease === undefined || (generation !== undefined && lease.generation !== generation)) return undefined;
    this.#leases.delete(nameOf(key));
    this.#free.push(lease.addresses[0]?.split('.').at(-1) ?? '');
    this.released += 1;
    return lease;
  }

  find(key: AttachmentKey): Lease | undefined {
    return this.#leases.get(nameOf(key));
  }

  leases(): readonly Lease[] {
    return [...this.#leases.values()];
  }

  view(): IpamView {
    return {
      ranges: ['10.32.0.0/12'],
      reserved: [],
      peers: [],
      overlayAddresses: this.overlayAddresses,
      freeAddresses: this.#free.length,
      leasedAddresses: this.#leases.size,
      restingAddresses: 0,
      ready: this.#free.length > 0 && this.overlayAddresses.length > 0,
      waitingFor: this.overlayAddresses.length === 0 ? 'the first block' : '',
      registryAnsweredAtMs: Date.now(),
    };
  }

  onChange(): () => void {
    return () => undefined;
  }

  whenReady(): Promise<void> {
    return Promise.resolve();
  }
}

/** What plugins are owed, in memory. */
export class FakeOwedDels implements OwedDels {
  readonly #owed = new Map<string, OwedDel>();

  owe(del: OwedDel): void {
    this.#owed.set(nameOf(del), del);
  }

  find(key: AttachmentKey): OwedDel | undefined {
    return this.#owed.get(nameOf(key));
  }

  all(): readonly OwedDel[] {
    return [...this.#owed.values()];
  }

  settle(key: AttachmentKey): void {
    this.#owed.delete(nameOf(key));
  }
}

export class FakeDatapath implements Datapath {
  /** Generation of each link by host interface name. */
  readonly links: Map<string, string> = new Map();
  readonly calls: string[] = [];
  ready: boolean = true;
  faults: readonly LinkFault[] = [];
  findings: readonly DatapathFinding[] = [];
  beforeAttach: (request: PodLinkRequest, signal: AbortSignal) => Promise<void> = () => Promise.resolve();
  beforeDetach: (lease: Lease) => Promise<void> = () => Promise.resolve();
  readonly gateways: readonly string[];

  constructor(gateways: readonly string[] = ['169.254.1.1']) {
    this.gateways = gateways;
  }

  start(): Promise<void> {
    return Promise.resolve();
  }

  reconcile(): Promise<void> {
    return Promise.resolve();
  }

  async attach(request: PodLinkRequest, signal: AbortSignal): Promise<PodLink> {
    this.calls.push(`attach ${request.lease.containerId}`);
    await this.beforeAttach(request, signal);
    this.links.set(request.lease.hostIfname, request.lease.generation);
    return {
      hostIfname: request.lease.hostIfname,
      hostMac: 'ee:ee:ee:ee:ee:ee',
      podMac: '0a:58:0a:20:00:02',
      mtuBytes: 1450,
      gateways: this.gateways,
      routes: this.gateways.map((gateway) => ({ dst: gateway.includes(':') ? '::/0' : '0.0.0.0/0', gateway })),
    };
  }

  async detach(lease: Lease): Promise<void> {
    this.calls.push(`detach ${lease.containerId}`);
    await this.beforeDetach(lease);
    this.links.delete(lease.hostIfname);
  }

  check(): Promise<readonly LinkFault[]> {
    return Promise.resolve(this.faults);
  }

  isProgrammed(): boolean {
    return false;
  }

  status(): DatapathStatus {
    return {
      ready: this.ready,
      waitingFor: this.ready ? '' : 'the overlay device',
      overlayDevice: 'weft0',
      mtuBytes: 1450,
      vtepMac: '02:00:00:00:00:01',
      podLinks: this.links.size,
      lastReconcileMs: undefined,
      reconciles: 0,
      repairs: 0,
      writes: 0,
      findings: this.findings,
    };
  }

  stop(): Promise<void> {
    return Promise.resolve();
  }
}
