// Which pods are ports of the bridge. The setting decides for new pods only: a pod keeps the link that it was made with. After a start
// the link's alias says it, and where somebody altered that, whether the link has a master.
import type { Lease } from '#agent/runtime/ipam.ts';

import { parseAlias } from './identity.ts';
import type { ActualPodLink } from './objects.ts';
import type { PodLinkKind } from './settings.ts';

/** An address of another plugin is in no block of the node, so the bridge has no route to it and nobody on it an ARP entry: routed. */
export function podLinkOf(lease: Pick<Lease, 'delegate'>, setting: PodLinkKind): PodLinkKind {
  return lease.delegate === undefined ? setting : 'routed';
}

export class Ports {
  readonly #setting: PodLinkKind;
  readonly #kinds = new Map<string, PodLinkKind>();

  constructor(setting: PodLinkKind) {
    this.#setting = setting;
  }

  /** An attach makes the link of this lease. */
  made(lease: Lease): void {
    this.#kinds.set(lease.generation, podLinkOf(lease, this.#setting));
  }

  isPort({ generation }: Lease): boolean {
    return this.#kinds.get(generation) === 'bridge';
  }

  /** Host interface names of those among the leases whose links are ports, by what is known and by the links as they are. */
  names(leases: readonly Lease[], links: readonly ActualPodLink[]): ReadonlySet<string> {
    const byName = new Map(links.map((link) => [link.ifname, link]));
    const generations = new Set(leases.map(({ generation }) => generation));
    for (const generation of this.#kinds.keys()) if (!generations.has(generation)) this.#kinds.delete(generation);
    for (const { generation, hostIfname } of leases) {
      const link = byName.get(hostIfname);
      if (this.#kinds.has(generation) || !link) continue;
      this.#kinds.set(generation, parseAlias(link.alias)?.podLink ?? (link.bridge === undefined ? 'routed' : 'bridge'));
    }
    return new Set(
      leases.flatMap((lease) => (this.#kinds.get(lease.generation) === 'bridge' ? [lease.hostIfname] : [])),
    );
  }
}
