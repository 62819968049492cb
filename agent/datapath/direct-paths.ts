// The moving part of direct routes: which link address each peer has, which peers the probes have proven, which the kernel
// refuses. A new agent begins with what the kernel holds, so that nothing switches because of a restart.
//
// What planning was told last is kept as one value: a round that changes peers alone plans the difference to what it is told now.
import { getNeighbour, newNeighbour, neighbourFlag, neighbourState } from '#agent/netlink/neighbour.ts';
import type { IpamView } from '#agent/runtime/ipam.ts';

import type { KernelReading, Underlay } from './actual.ts';
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
  /** Those that notifications have told of since the last reading began: it may have been too early for them. */
  readonly #heard = new Map<string, string>();
  #proven: ReadonlySet<string> | undefined;
  /** Underlay addresses that the kernel takes for no neighbours, by the link's name. */
  readonly #refused = new Map<string, string>();
  #link: Pick<Underlay, 'ifname' | 'ifindex' | 'up' | 'cidrs'> | undefined;
  #now: DirectInput | undefined;

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
    if (same) return false;
    this.#proven = names;
    this.#now = undefined;
    return true;
  }

  /** What the kernel tells from now on may be newer than the reading that begins. */
  beginReading(): void {
    this.#heard.clear();
  }

  /** A notification has told a peer's link address. */
  hear(address: string, mac: string): void {
    this.#heard.set(address, mac);
    this.#learn([[address, mac]]);
  }

  /** What planning needs to know, by the last reading and what was heard since; the same value as long as nothing is new. */
  get now(): DirectInput {
    if (this.#mode === 'vxlan') return noDirect;
    this.#now ??= this.#told();
    return this.#now;
  }

  /** The same after this reading; asks the link for addresses that are still unknown. */
  input(view: IpamView, { state, underlay }: KernelReading): DirectInput {
    if (this.#mode === 'vxlan') return noDirect;
    this.#proven ??= directInKernel(view, state);
    this.#link = underlay;
    if (underlay) {
      const neighbours =
        this.#heard.size === 0 ? underlay.neighbours : new Map([...underlay.neighbours, ...this.#heard]);
      this.#macs = linkAddresses(view.peers, neighbours, this.#macs, state);
    }
    this.#now = undefined;
    this.find(view);
    return this.now;
  }

  /** Looks up link addresses that are not known yet, and has the kernel ask for those that it does not know: notifications tell of them. */
  find({ peers }: IpamView): void {
    const link = this.#link;
    if (this.#mode === 'vxlan' || !link) return;
    const unknown: string[] = [];
    for (const { self, underlayAddress: address } of peers) {
      if (self || address === undefined || this.#macs.has(address) || !isOnLink(link, address)) continue;
      if (unknown.push(address) === questionsPerRound) break;
    }
    if (unknown.length === 0) return;
    const replies = this.#io.route.batch(unknown.map((dst) => getNeighbour({ ndmIfindex: link.ifindex, dst })));
    const found = replies.flatMap((reply, index): (readonly [string, string])[] => {
      const mac = reply.ok ? reply.answers[0]?.lladdr : undefined;
      return mac === undefined ? [] : [[unknown[index] ?? '', mac]];
    });
    this.#learn(found);
    this.#ask(
      link.ifindex,
      unknown.filter((address) => !this.#macs.has(address)),
    );
  }

  /** A peer that the kernel takes for no neighbour keeps the overlay. */
  note(refusals: readonly Refusal[]): void {
    for (const { operation } of refusals) {
      if (operation.kind !== 'addNexthop') continue;
      const [address = '', link] = (operation.gateway ?? '').split('%');
      if (link === undefined) continue;
      this.#refused.set(address, link);
      this.#now = undefined;
    }
  }

  #told(): DirectInput {
    const proven = this.#proven ?? new Set();
    if (!this.#link) return { mode: this.#mode, underlay: undefined, proven };
    const { ifname, up, cidrs } = this.#link;
    const refused = new Set([...this.#refused].flatMap(([address, name]) => (name === ifname ? [address] : [])));
    return { mode: this.#mode, underlay: { ifname, up, cidrs, macs: this.#macs, refused }, proven };
  }

  /** What was told is somebody's: another map. */
  #learn(found: readonly (readonly [address: string, mac: string])[]): void {
    if (found.every(([address, mac]) => this.#macs.get(address) === mac)) return;
    this.#macs = new Map([...this.#macs, ...found]);
    this.#now = undefined;
  }

  #ask(ndmIfindex: number, addresses: readonly string[]): void {
    const requests = addresses.map((dst) =>
      newNeighbour({ ndmIfindex, dst, ndmState: neighbourState.none, ndmFlags: neighbourFlag.use }),
    );
    if (requests.length > 0) this.#io.route.batch(requests);
  }
}
