// Which pod links should exist right now. The lease snapshot of the last reconcile is one source, links attached or
// detached since then are the other; names that an attach or detach is working on belong to nobody's round.
import type { Lease } from '#agent/runtime/ipam.ts';

import type { ActualState, SetElements } from './objects.ts';

export class WantedPods {
  #leases: readonly Lease[] = [];
  readonly #attached = new Map<string, Lease>();
  /** Generations whose detach is done although the snapshot still shows their lease. */
  readonly #detached = new Set<string>();
  readonly #working = new Map<string, number>();
  /** Names that an attach or detach has worked on since the round began. */
  readonly #touched = new Set<string>();

  /** A snapshot that is current at this moment: it knows of every attach and release before. */
  replace(leases: readonly Lease[]): void {
    this.#leases = leases;
    this.#attached.clear();
    const generations = new Set(leases.map((lease) => lease.generation));
    for (const generation of this.#detached) if (!generations.has(generation)) this.#detached.delete(generation);
  }

  begin(lease: Lease): void {
    this.#working.set(lease.hostIfname, (this.#working.get(lease.hostIfname) ?? 0) + 1);
    this.#touched.add(lease.hostIfname);
  }

  end(lease: Lease): void {
    const left = (this.#working.get(lease.hostIfname) ?? 1) - 1;
    if (left > 0) this.#working.set(lease.hostIfname, left);
    else this.#working.delete(lease.hostIfname);
  }

  attached(lease: Lease): void {
    this.#attached.set(lease.hostIfname, lease);
    this.#detached.delete(lease.generation);
  }

  detached(lease: Lease): void {
    if (this.#attached.get(lease.hostIfname)?.generation === lease.generation) this.#attached.delete(lease.hostIfname);
    this.#detached.add(lease.generation);
  }

  beginRound(): void {
    this.#touched.clear();
    for (const ifname of this.#working.keys()) this.#touched.add(ifname);
  }

  /** Names that the round must leave alone. */
  get untouchable(): ReadonlySet<string> {
    return this.#touched;
  }

  /** Every lease whose link should exist, one per host interface name. */
  list(): readonly Lease[] {
    const byName = new Map<string, Lease>();
    for (const lease of [...this.#leases, ...this.#attached.values()]) {
      if (!this.#detached.has(lease.generation)) byName.set(lease.hostIfname, lease);
    }
    return [...byName.values()];
  }

  has(hostIfname: string): boolean {
    return this.list().some((lease) => lease.hostIfname === hostIfname);
  }
}

/** The state without every object that belongs to one of `names`. */
export function withoutPodLinks(state: ActualState, names: ReadonlySet<string>): ActualState {
  if (names.size === 0) return state;
  const keep = (key: string): boolean => !names.has(key.split(' . ')[0] ?? key);
  const { elements } = state.firewall;
  const kept: SetElements = {
    ...elements,
    sources4: new Set([...elements.sources4].filter(keep)),
    sources6: new Set([...elements.sources6].filter(keep)),
    pod_verdicts: new Set([...elements.pod_verdicts].filter(keep)),
  };
  return {
    ...state,
    podLinks: state.podLinks.filter(({ ifname }) => !names.has(ifname)),
    addresses: state.addresses.filter(({ ifname }) => !names.has(ifname)),
    routes: state.routes.filter(({ target }) => target.kind !== 'link' || !names.has(target.ifname)),
    firewall: { ...state.firewall, elements: kept },
  };
}
