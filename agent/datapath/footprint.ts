// Whether the kernel is still as the last full comparison found it right: one number of all that it would read, taken on a pool thread
// (agent/native/digest.c), beside nftables' generation and the few sysctls. Equal: nothing is decoded, compared or left as garbage.
//
//   clock ──▶ footprint ──the known one──▶ nothing to do
//                 │ another
//                 ▼
//           full comparison ──found nothing to do──▶ footprint again ──still the same──▶ known
//
// It is taken before and after the comparison, so that the known one is of what was compared.

import { dumpAddresses } from '#agent/netlink/addr.ts';
import { dumpLinks } from '#agent/netlink/link.ts';
import { dumpFdb, dumpNeighbours } from '#agent/netlink/neighbour.ts';
import { dumpNexthops } from '#agent/netlink/nexthop.ts';
import { dumpRoutes } from '#agent/netlink/route.ts';

import type { KernelFacts } from './actual.ts';
import { bridgeNetfilterSwitch, bridgeSysctls } from './bridge-io.ts';
import { forwardingSwitches, hasIpv6 } from './forwarding.ts';
import { legacyInUse } from './foreign-firewall.ts';
import type { KernelIo } from './kernel-io.ts';
import { getGeneration } from './nft-objects.ts';
import type { DesiredState } from './objects.ts';
import type { DatapathSettings } from './settings.ts';

/** After so many glances comes a full comparison, whatever they say. */
const mostGlances = 15;

/** Numbers of the overlay device and, where pods are ports of one, of the bridge. */
export interface OwnDevices {
  readonly overlay: number;
  readonly bridge: number | undefined;
}

export class Footprints {
  readonly #io: KernelIo;
  readonly #settings: DatapathSettings;
  #known: string | undefined;
  #before: string | undefined;
  #glances = 0;

  constructor(io: KernelIo, settings: DatapathSettings) {
    this.#io = io;
    this.#settings = settings;
  }

  /** Undefined where one that shall be there is not. */
  devices(facts: KernelFacts | undefined, desired: DesiredState | undefined): OwnDevices | undefined {
    const overlay = facts?.ifindexes.get(this.#settings.overlayDevice);
    const bridge = facts?.ifindexes.get(this.#settings.bridgeDevice);
    return overlay === undefined || (desired?.bridge && bridge === undefined) ? undefined : { overlay, bridge };
  }

  /** Whether a full comparison would find what the last one did. */
  async isKnown(devices: OwnDevices): Promise<boolean> {
    this.#before = await this.#take(devices);
    if (this.#before !== this.#known || this.#glances >= mostGlances) return false;
    if (this.#before === undefined) return false;
    this.#glances++;
    return true;
  }

  /** The comparison that `isKnown` asked for found nothing to do. */
  async learn(devices: OwnDevices): Promise<void> {
    const before = this.#before;
    this.forget();
    if (before !== undefined && (await this.#take(devices)) === before) this.#known = before;
  }

  /** Whatever is there has to be compared. */
  forget(): void {
    this.#known = undefined;
    this.#before = undefined;
    this.#glances = 0;
  }

  /** Undefined where it cannot be had, or would not tell everything: legacy iptables has no number for its state. */
  async #take({ overlay, bridge }: OwnDevices): Promise<string | undefined> {
    const { route, netfilter } = this.#io;
    const { overlayDevice, bridgeDevice, routeProtocol } = this.#settings;
    const sysctls = [
      ...Object.values(forwardingSwitches),
      ...(bridge === undefined ? [] : [...bridgeSysctls(bridgeDevice).map(([name]) => name), bridgeNetfilterSwitch]),
    ];
    try {
      if (legacyInUse(this.#io)) return undefined;
      const [[generation]] = netfilter.batchOrThrow([getGeneration()]);
      const values = sysctls.map((name) => this.#io.readSysctl(name));
      const digest = await route.digest([
        dumpLinks(),
        dumpAddresses(),
        dumpRoutes({ rtmProtocol: routeProtocol }),
        dumpNexthops(),
        dumpNeighbours({ ifindex: overlay }),
        dumpFdb({ ndmIfindex: overlay }),
        ...(bridge === undefined ? [] : [dumpFdb({ master: bridge })]),
      ]);
      return [digest, generation?.id, ...values, hasIpv6(this.#io, overlayDevice)].join(' ');
    } catch {
      // What cannot be read is the full comparison's to report.
      return undefined;
    }
  }
}
