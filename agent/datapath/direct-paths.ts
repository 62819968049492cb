// The moving part of direct routes: which link address each peer has, which peers the probes have proven, which the kernel
// refuses. A new agent begins with what the kernel holds, so that nothing switches because of a restart.
import { newNeighbour, neighbourFlag, neighbourState } from '#agent/netlink/neighbour.ts';
import type { IpamView } from '#agent/runtime/ipam.ts';

import type { KernelReading } from './actual.ts';
import type { Refusal } from './apply.ts';
import { directInKernel, isOnLink, linkAddresses, noDirect } from './direct.ts';
import type { DirectInput } from './direct.ts';
import type { KernelIo } from './kernel-io.ts';
import type { DatapathSettings } from './settings.ts';

/** Link addresses asked for in one round: each is an ARP or ND question on the wire. */
const questionsPerRound = 100;

export class DirectPaths {
  readonly #io: KernelIo;
  readonly #mode: DatapathSettings['overlayMode'];
  #macs: ReadonlyMap<string, string> = new Map();
  #proven: ReadonlySet<string> | undefined;
  /** Underlay addresses that the kernel takes for no neighbours, by the link's name. */
  readonly #refused = new Map<string, string>();

  constructor(io: KernelIo, settings: Pick<DatapathSettings, 'overlayMode'>) {
    this.#io = io;
    this.#mode = settings.overlayMode;
  }

  /** Peers (record names) to which packets go directly in mode `auto`; undefined before the first reading. */
  get proven(): ReadonlySet<string> | undefined {
    return this.#proven;
  }

  get macs(): ReadonlyMap<string, string> {
    return this.#macs;
  }

  /** True where that is a change. */
  prove(names: ReadonlySet<string>): boolean {
    const same = this.#proven !== undefined && this.#proven.symmetricDifference(names).size === 0;
    this.#proven = names;
    return !same;
  }

  /** What planning needs of this reading; asks the link for addresses that are still unknown. */
  input(view: IpamView, { state, underlay }: KernelReading): DirectInput {
    if (this.#mode === 'vxlan') return noDirect;
    this.#proven ??= directInKernel(view, state);
    if (!underlay) return { mode: this.#mode, underlay: undefined, proven: this.#proven };
    const { ifname, up, cidrs, neighbours } = underlay;
    this.#macs = linkAddresses(view.peers, neighbours, this.#macs, state);
    const link = { ifname, up, cidrs, macs: this.#macs };
    const onLink = view.peers.flatMap(({ self, underlayAddress }) =>
      !self && underlayAddress !== undefined && isOnLink(link, underlayAddress) ? [underlayAddress] : [],
    );
    this.#ask(
      underlay.ifindex,
      onLink.filter((address) => !this.#macs.has(address)),
    );
    const refused = new Set([...this.#refused].flatMap(([address, name]) => (name === ifname ? [address] : [])));
    return { mode: this.#mode, underlay: { ...link, refused }, proven: this.#proven };
  }

  /** A peer that the kernel takes for no neighbour keeps the overlay. */
  note(refusals: readonly Refusal[]): void {
    for (const { operation } of refusals) {
      if (operation.kind !== 'addNexthop') continue;
      const [address = '', link] = (operation.gateway ?? '').split('%');
      if (link !== undefined) this.#refused.set(address, link);
    }
  }

  #ask(ndmIfindex: number, addresses: readonly string[]): void {
    const requests = addresses
      .slice(0, questionsPerRound)
      .map((dst) => newNeighbour({ ndmIfindex, dst, ndmState: neighbourState.none, ndmFlags: neighbourFlag.use }));
    if (requests.length > 0) this.#io.route.batch(requests);
  }
}
