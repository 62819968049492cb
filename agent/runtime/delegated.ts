// Leases whose addresses another plugin gave (`ipam.type`): no address of theirs is the pool's, so the core knows nothing of them. They
// are durable beside its state, in a file that exists only where there has been one, and look like any other lease to CNI and datapath.
// What such a plugin is still owed of attachments that are gone is kept there too.

import { existsSync } from 'node:fs';
import { networkInterfaces } from 'node:os';

import { WeftError } from '#agent/errors.ts';
import { segmentPrefix } from '#agent/datapath/segment-plan.ts';
import { rangeOf, requireForeign, requireUnused } from './foreign-address.ts';
import {
  type AttachmentKey,
  type Delegate,
  isOnSegment,
  type Lease,
  type LeaseRequest,
  type OwedDel,
  type OwedDels,
  unknownDelegate,
} from './ipam.ts';
import { randomGeneration } from './random.ts';
import { hostIfname, type RunningIpam } from './start.ts';
import { openStore, type Store } from './store.ts';

/** How many DELs of attachments that may never have had an address are remembered. */
const mostWithoutAddress = 1000;

export interface IpamWithDelegated extends RunningIpam {
  readonly owed: OwedDels;
  /** Of leases found in the kernel, after the state directory was lost: those of no pool are another plugin's, nobody knows which. */
  keepForeign(found: readonly Lease[]): void;
}

/** The same IPAM, which also keeps delegated leases in the SQLite file at `path`. Throws WeftError('store'). */
export function withDelegatedLeases(ipam: RunningIpam, path: string): IpamWithDelegated {
  const delegated = new DelegatedLeases(path);
  return {
    ...ipam,
    owed: {
      owe: (del) => delegated.owe(del),
      find: (key) => delegated.owed.get(nameOf(key)),
      all: () => [...delegated.owed.values()],
      settle: (key) => delegated.settle(key),
    },
    lease: async (request, signal) => {
      if (delegated.find(request) !== undefined) throw exists(request);
      if (request.delegate === undefined) return ipam.lease(request, signal);
      if (ipam.find(request) !== undefined) throw exists(request);
      const view = ipam.view();
      requireForeign(request, view.ranges);
      requireUnused(request, delegated.all(), view, hostAddresses());
      return delegated.add(request);
    },
    activate: (lease) => {
      if (lease.delegate === undefined) ipam.activate(lease);
      else delegated.put({ ...lease, state: 'active' });
    },
    release: (key, generation) => delegated.remove(key, generation) ?? ipam.release(key, generation),
    find: (key) => delegated.find(key) ?? ipam.find(key),
    leases: () => [...ipam.leases(), ...delegated.all()],
    keepForeign: (found) => {
      const { ranges } = ipam.view();
      for (const lease of found) {
        if (ipam.find(lease) !== undefined || delegated.find(lease) !== undefined) continue;
        if (rangeOf(lease.addresses, ranges) === undefined) delegated.put({ delegate: unknownDelegate, ...lease });
      }
    },
    close: async () => {
      await ipam.close();
      delegated.close();
    },
  };
}

/** Every address of this network namespace. */
function hostAddresses(): readonly string[] {
  return Object.values(networkInterfaces()).flatMap((infos = []) => infos.map(({ address }) => address));
}

function exists(key: AttachmentKey): WeftError {
  return new WeftError('attachmentExists', `container ${key.containerId} already has ${key.ifname}`);
}

class DelegatedLeases {
  readonly #path: string;
  readonly #leases = new Map<string, Lease>();
  /** In the order in which they came to be owed. A row like a lease's, under the same key: one write turns the one into the other. */
  readonly owed: Map<string, OwedDel> = new Map();
  #store: Store | undefined;

  constructor(path: string) {
    this.#path = path;
    if (!existsSync(path)) return;
    this.#store = openStore(path);
    for (const lease of this.#store.load().leases) {
      const { delegate } = lease as Lease;
      if (delegate?.owed === undefined) this.#leases.set(nameOf(lease), lease);
      else this.owed.set(nameOf(lease), { ...lease, delegate, why: delegate.owed });
    }
  }

  add({ containerId, ifname, addresses, owner, link, delegate }: LeaseRequest): Lease {
    const generation = randomGeneration();
    const lease: Lease = {
      containerId,
      ifname,
      generation,
      addresses,
      owner,
      state: 'pending',
      sinceMs: Date.now(),
      hostIfname: hostIfname(generation, isOnSegment({ delegate }) ? segmentPrefix : undefined),
      ...(link === undefined ? {} : { link }),
      ...(delegate === undefined ? {} : { delegate }),
    };
    this.put(lease);
    return lease;
  }

  owe(del: OwedDel): void {
    const name = nameOf(del);
    const generation = randomGeneration();
    const lease: Lease = this.#leases.get(name) ?? {
      ...del,
      generation,
      owner: { network: '', netnsPath: '', netnsInode: 0n },
      state: 'pending',
      hostIfname: hostIfname(generation),
    };
    if (!this.owed.has(name) && del.addresses.length === 0) this.#forgetOldest();
    const delegate: Delegate = { ...del.delegate, owed: del.why };
    this.#persist({ ...lease, state: 'pending', sinceMs: del.sinceMs, delegate });
    this.#leases.delete(name);
    // What has just been tried goes behind what has not.
    this.owed.delete(name);
    this.owed.set(name, del);
  }

  settle(key: AttachmentKey): void {
    if (!this.owed.has(nameOf(key))) return;
    this.#store?.persist([{ kind: 'unlease', lease: { ...key, addresses: [] } as unknown as Lease }], 'normal');
    this.owed.delete(nameOf(key));
  }

  /** A plugin that fails at every ADD and DEL is owed one for each try of the runtime; hardly any has an address to give back. */
  #forgetOldest(): void {
    const without = [...this.owed.values()].filter(({ addresses }) => addresses.length === 0);
    const [oldest] = without;
    if (oldest !== undefined && without.length >= mostWithoutAddress) this.settle(oldest);
  }

  put(lease: Lease): void {
    this.#persist(lease);
    this.#leases.set(nameOf(lease), lease);
  }

  #persist(lease: Lease): void {
    this.#store ??= openStore(this.#path);
    this.#store.persist([{ kind: 'lease', lease }], 'normal');
  }

  remove(key: AttachmentKey, generation: string | undefined): Lease | undefined {
    const lease = this.#leases.get(nameOf(key));
    if (lease === undefined || (generation !== undefined && lease.generation !== generation)) return undefined;
    // The plugin that gave the addresses decides when they are given again: none rests here.
    this.#store?.persist(
      [
        { kind: 'unlease', lease },
        { kind: 'rested', addresses: lease.addresses },
      ],
      'normal',
    );
    this.#leases.delete(nameOf(key));
    return lease;
  }

  find(key: AttachmentKey): Lease | undefined {
    return this.#leases.size === 0 ? undefined : this.#leases.get(nameOf(key));
  }

  all(): readonly Lease[] {
    return [...this.#leases.values()];
  }

  close(): void {
    this.#store?.close();
  }
}

function nameOf({ containerId, ifname }: AttachmentKey): string {
  return `${containerId}/${ifname}`;
}
