// Which pod links should exist right now. The lease snapshot of the last reconcile is one source, links attached or
// detached since then are the other; names that an attach or detach is working on belong to nobody's round.
import type { Lease } from '#agent/runtime/ipam.ts';

import { hostCidr } from './cidr.ts';
import type { ActualState, DesiredFirewall, Operation } from './objects.ts';
import { podElements } from './pod-elements.ts';
import { keyOf, podSets, setNames } from './set-shapes.ts';
import type { SetElements, SetName } from './set-shapes.ts';

export class WantedPods {
  #leases: readonly Lease[] = [];
  readonly #attached = new Map<string, Lease>();
  /** Generations whose detach is done although the snapshot still shows their lease. */
  readonly #detached = new Set<string>();
  readonly #working: Lease[] = [];
  /** Leases that an attach or detach has worked on since the round began, by name. */
  readonly #touched = new Map<string, Lease[]>();
  /** Generations whose kernel objects are in place, as far as a full round and the attaches since know. */
  readonly #settled = new Set<string>();
  readonly #onTouch: () => void;

  /** `onTouch`: what is wanted has changed, or somebody works on a pod's objects. */
  constructor(onTouch: () => void = () => undefined) {
    this.#onTouch = onTouch;
  }

  /** A snapshot that is current at this moment: it knows of every attach and release before. */
  replace(leases: readonly Lease[]): void {
    this.#onTouch();
    this.#leases = leases;
    this.#attached.clear();
    const generations = new Set(leases.map((lease) => lease.generation));
    for (const generation of this.#detached) if (!generations.has(generation)) this.#detached.delete(generation);
  }

  begin(lease: Lease): void {
    this.#onTouch();
    this.#working.push(lease);
    this.#touch(lease);
  }

  end(lease: Lease): void {
    this.#onTouch();
    const at = this.#working.indexOf(lease);
    if (at !== -1) this.#working.splice(at, 1);
  }

  #touch(lease: Lease): void {
    const others = this.#touched.get(lease.hostIfname);
    if (others) others.push(lease);
    else this.#touched.set(lease.hostIfname, [lease]);
  }

  attached(lease: Lease): void {
    this.#attached.set(lease.hostIfname, lease);
    this.#detached.delete(lease.generation);
    this.#settled.add(lease.generation);
  }

  detached(lease: Lease): void {
    if (this.#attached.get(lease.hostIfname)?.generation === lease.generation) this.#attached.delete(lease.hostIfname);
    this.#detached.add(lease.generation);
    this.#settled.delete(lease.generation);
  }

  /** A full round brings the kernel to these leases. */
  settle(leases: readonly Lease[]): void {
    this.#settled.clear();
    for (const { generation } of leases) this.#settled.add(generation);
  }

  /** True where no pod needs a round: each wanted link is in place or being worked on, and no other is. */
  get isSettled(): boolean {
    let settled = 0;
    for (const { hostIfname, generation } of this.list()) {
      if (this.#settled.has(generation)) settled++;
      else if (!this.#working.some((lease) => lease.hostIfname === hostIfname)) return false;
    }
    return settled === this.#settled.size;
  }

  beginRound(): void {
    this.#touched.clear();
    for (const lease of this.#working) this.#touch(lease);
  }

  /** What the round must leave alone: leases by the name of their host link. */
  get untouchable(): ReadonlyMap<string, readonly Lease[]> {
    return this.#touched;
  }

  /** Those among them that a round may touch. */
  get settledLeases(): readonly Lease[] {
    return this.list().filter(({ hostIfname }) => !this.#touched.has(hostIfname));
  }

  /** Every lease whose link should exist, one per host interface name. */
  list(): readonly Lease[] {
    const byName = new Map<string, Lease>();
    for (const lease of [...this.#leases, ...this.#attached.values()]) {
      if (!this.#detached.has(lease.generation)) byName.set(lease.hostIfname, lease);
    }
    return [...byName.values()];
  }

  /** And those that an attach is at: what it has put into the table goes with the table, and is put there again with that. */
  get inTable(): readonly Lease[] {
    return [...this.list(), ...this.#working.filter(({ generation }) => !this.#detached.has(generation))];
  }

  /** The one of that name in the list. Asked for every link that the kernel tells of. */
  find(hostIfname: string): Lease | undefined {
    const isIt = (lease: Lease): boolean => lease.hostIfname === hostIfname && !this.#detached.has(lease.generation);
    const attached = this.#attached.get(hostIfname);
    return attached !== undefined && isIt(attached) ? attached : this.#leases.findLast(isIt);
  }
}

/** The state without every object that belongs to one of these pods, by name, by address or by host port. */
export function withoutPodLinks(state: ActualState, pods: ReadonlyMap<string, readonly Lease[]>): ActualState {
  if (pods.size === 0) return state;
  const own = new Set<string>();
  for (const { set, key } of [...pods.values()].flat().flatMap((lease) => podElements(lease, true)))
    own.add(elementName(set, key));
  // A link that was made between the dump of links and the others has no name in this reading: its routes and elements are told by the
  // address.
  const addresses = new Set([...pods.values()].flat().flatMap((lease) => lease.addresses));
  const prefixes = new Set([...addresses].map(hostCidr));
  const { elements } = state.firewall;
  const isOfPod = (key: string): boolean => {
    const [ifname = '', address = ''] = key.split(' . ');
    return pods.has(ifname) || addresses.has(address);
  };
  const kept = Object.fromEntries(
    setNames.map((set) => {
      const keep = (key: string): boolean => !own.has(elementName(set, key)) && !(ofPods.has(set) && isOfPod(key));
      return [set, new Set([...elements[set]].filter(keep))];
    }),
  ) as unknown as SetElements;
  return {
    ...state,
    portEntries: state.portEntries.filter(({ ifname }) => !pods.has(ifname)),
    podLinks: state.podLinks.filter(({ ifname }) => !pods.has(ifname)),
    addresses: state.addresses.filter(({ ifname }) => !pods.has(ifname)),
    heldNeighbours: state.heldNeighbours.filter(({ ifname }) => !pods.has(ifname)),
    routes: state.routes.filter(
      ({ dst, target }) => !prefixes.has(dst) && (target.kind !== 'link' || !pods.has(target.ifname)),
    ),
    firewall: { ...state.firewall, elements: kept },
  };
}

/** Sets whose keys begin with a pod link's name. */
const ofPods: ReadonlySet<SetName> = new Set<SetName>(['sources4', 'sources6', 'bridged4', 'bridged6']);

/** What the kernel tells elements apart by, across sets. */
function elementName(set: SetName, key: string): string {
  return `${set} ${keyOf(key)}`;
}

/** Whether a round is writing something of the lease's pod, by the names of what it writes. */
export function isBusy(names: ReadonlySet<string>, lease: Lease): boolean {
  if (names.size === 0) return false;
  return names.has(lease.hostIfname) || podElements(lease).some(({ set, key }) => names.has(elementName(set, key)));
}

/** Pod links and elements that the operations are about, as `isBusy` asks for them: thousands of peers have none. */
export function busyNamesIn(operations: readonly Operation[]): ReadonlySet<string> {
  const names = new Set<string>();
  for (const operation of operations) {
    const name = nameOf(operation);
    if (name !== undefined) names.add(name);
  }
  return names;
}

function nameOf(operation: Operation): string | undefined {
  const { kind } = operation;
  if (kind === 'addElement' || kind === 'delElement') {
    return fromPods.has(operation.set) ? elementName(operation.set, operation.key) : undefined;
  }
  if (kind === 'putRoute' || kind === 'delRoute') {
    return 'ifname' in operation.route.target ? operation.route.target.ifname : undefined;
  }
  if (kind === 'addAddress' || kind === 'delAddress') return operation.address.ifname;
  if (kind === 'putPortEntry' || kind === 'delPortEntry') return operation.portEntry.ifname;
  if (kind === 'setPodLink') return operation.link.ifname;
  return 'ifname' in operation ? operation.ifname : undefined;
}

const fromPods: ReadonlySet<SetName> = new Set(podSets);

/** The operations, of which one that loads the table whole has the elements of every pod: those that the round leaves alone too. */
export function loadingAllPods(operations: readonly Operation[], whole: () => DesiredFirewall): readonly Operation[] {
  return operations.map((operation) =>
    operation.kind === 'loadFirewall' ? { ...operation, firewall: withPodsOf(operation.firewall, whole()) } : operation,
  );
}

function withPodsOf(firewall: DesiredFirewall, whole: DesiredFirewall): DesiredFirewall {
  const ofPods = Object.fromEntries(podSets.map((set) => [set, whole.elements[set]]));
  return { ...firewall, elements: { ...firewall.elements, ...ofPods } };
}
