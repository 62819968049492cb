// What no notification tells of, looked at for next to nothing: nftables' generation number says whether anybody but this agent has
// changed any ruleset (the monitor's thread asks for it twice a second), sysctls are small files and two links. A full comparison reads
// every object; with thousands of peers it is the last resort, these looks find what people do.
import { toWeftError } from '#agent/errors.ts';
import { getLink } from '#agent/netlink/link.ts';
import type { Link } from '#agent/netlink/link.ts';
import { dumpNetconf } from '#agent/netlink/netconf.ts';
import type { NetlinkReply } from '#agent/netlink/reply.ts';
import type { Lease } from '#agent/runtime/ipam.ts';

import { overlayFrom, readHostRpFilter } from './actual.ts';
import type { KernelFacts } from './actual.ts';
import { bridgeFrom } from './bridge-io.ts';
import { overlayRpFilter } from './desired.ts';
import type { Expected } from './expected.ts';
import { readFirewall } from './firewall.ts';
import { forwardingSwitches, hasIpv6 } from './forwarding.ts';
import type { KernelIo } from './kernel-io.ts';
import { liveNameOf, readSummary } from './link-io.ts';
import { getGeneration } from './nft-objects.ts';
import type { NftChain } from './nft-objects.ts';
import type { ActualFirewall, DesiredState } from './objects.ts';
import { needsRouteLocalnet } from './pod-elements.ts';
import { setNames } from './set-shapes.ts';
import type { DatapathSettings } from './settings.ts';
import type { WantedPods } from './wanted.ts';

export interface QuickLooksOptions {
  readonly io: KernelIo;
  readonly settings: DatapathSettings;
  readonly expected: () => Expected | undefined;
  readonly desired: () => DesiredState | undefined;
  readonly reading: () => KernelFacts | undefined;
  readonly pods: Pick<WantedPods, 'list'>;
  /** The pod's link is a port of the bridge. */
  readonly isPort: (lease: Lease) => boolean;
  /** Whether the last full comparison found that the overlay has IPv6. */
  readonly ipv6: () => boolean;
  /** `reason` is for the log. */
  readonly onChange: (reason: string) => void;
  /** Somebody has changed a ruleset, but not ours. */
  readonly onForeign: () => void;
  /** False where a foreign chain drops what its tagged rule would let pass. */
  readonly isOpen: (foreignChains: readonly NftChain[]) => Promise<boolean>;
}

const lookEveryMs = 4000;
/** What was written while it was read is looked at again so soon. */
const againMs = 500;

export class QuickLooks implements Disposable {
  readonly #options: QuickLooksOptions;
  readonly #timer: NodeJS.Timeout;
  #again: NodeJS.Timeout | undefined;
  #generation: number | undefined;
  #looking = false;
  #missed = false;
  #stopped = false;

  constructor(options: QuickLooksOptions) {
    this.#options = options;
    this.#timer = setInterval(() => void this.#look(true), lookEveryMs);
    this.#timer.unref();
  }

  /** A ruleset of nftables is another. */
  rulesetChanged(): void {
    void this.#look(false);
  }

  async #look(atSysctls: boolean): Promise<void> {
    this.#missed = this.#looking;
    if (this.#looking) return;
    this.#looking = true;
    try {
      const reason = (await this.#firewallReason()) ?? (atSysctls ? this.#sysctlReason() : undefined);
      if (reason !== undefined) this.#options.onChange(reason);
    } catch (error) {
      // A reading that fails is the full comparison's to report.
      this.#options.onChange(`a look failed: ${toWeftError(error).message}`);
    } finally {
      this.#looking = false;
      if (this.#missed || this.#generation === undefined) this.#lookAgain();
    }
  }

  #lookAgain(): void {
    if (this.#stopped) return;
    clearTimeout(this.#again);
    this.#again = setTimeout(() => this.rulesetChanged(), againMs);
    this.#again.unref();
  }

  async #firewallReason(): Promise<string | undefined> {
    const { io, settings, expected } = this.#options;
    const own = io.nftWrites();
    const [reply] = io.netfilter.batch([getGeneration()]);
    if (!reply.ok) throw reply.error;
    const generation = (reply.answers[0]?.id ?? 0) - own;
    const before = this.#generation;
    this.#generation = generation;
    if (before === generation) return undefined;
    const found = await readFirewall(io, settings.nftTable, liveNameOf(io));
    const wanted = expected();
    if (io.nftWrites() !== own) this.#generation = undefined;
    else if (wanted && !sameFirewall(found, wanted)) return 'the nft table was changed';
    else if (wanted && !(await this.#options.isOpen(found.foreignChains))) return 'a foreign chain drops pods';
    this.#options.onForeign();
    return undefined;
  }

  #sysctlReason(): string | undefined {
    const { io, settings, desired: current } = this.#options;
    const desired = current();
    if (!desired?.overlay) return undefined;
    const families = desired.routes.some(({ dst }) => dst.includes(':')) ? ([4, 6] as const) : ([4] as const);
    const off = families.find((family) => io.readSysctl(forwardingSwitches[family]) !== '1');
    if (off !== undefined) return `forwarding of IPv${off} was switched off`;
    const ipv6 = hasIpv6(io, settings.overlayDevice);
    if (ipv6 !== this.#options.ipv6()) return `IPv6 of the node was switched ${ipv6 ? 'on' : 'off'}`;
    const stuck = this.#stuckLink();
    if (stuck !== undefined) return `forwarding from ${stuck} was switched off`;
    const altered = this.#alteredPod(ipv6);
    if (altered !== undefined) return `sysctls of ${altered}`;
    const devices = [settings.overlayDevice, ...(desired.bridge ? [desired.bridge.ifname] : [])];
    const [overlay, bridge] = io.route.batch(devices.map((ifname) => getLink({ ifname }))).map(linkIn);
    if (bridge && !bridgeFrom(io, bridge).settled) return `settings of ${bridge.ifname}`;
    if (!overlay) return undefined;
    const { rpFilter, quietIpv6, settled } = overlayFrom(overlay);
    const wanted = overlayRpFilter({ settings, hostRpFilter: readHostRpFilter(io) });
    if (rpFilter !== wanted || !quietIpv6 || !settled) return `sysctls of ${overlay.ifname}`;
    return undefined;
  }

  /** A pod's link that takes routes from what the pod advertises, or keeps its host ports from 127.0.0.1. */
  #alteredPod(ipv6: boolean): string | undefined {
    const { io, pods, isPort } = this.#options;
    // A file of a link that is gone, or has no IPv6, is not there.
    const isOther = (file: string, wanted: string): boolean => (io.readSysctl(file) ?? wanted) !== wanted;
    const altered = pods.list().find((lease) => {
      const { hostIfname } = lease;
      if (isPort(lease)) return false;
      if (needsRouteLocalnet(lease) && isOther(`net/ipv4/conf/${hostIfname}/route_localnet`, '1')) return true;
      if (!ipv6 || !lease.addresses.some((address) => address.includes(':'))) return false;
      return isOther(`net/ipv6/conf/${hostIfname}/accept_ra`, '0');
    });
    return altered?.hostIfname;
  }

  /** A link of ours that packets are not forwarded from. */
  #stuckLink(): string | undefined {
    const { io, pods } = this.#options;
    const { ifindexes, underlay } = this.#options.reading() ?? {};
    const off = io.route.dump(dumpNetconf()).filter(({ forwarding }) => forwarding === 0);
    if (off.length === 0 || !ifindexes) return undefined;
    const numbers = new Set(off.map(({ ifindex }) => ifindex));
    const isOff = (ifindex: number | undefined): boolean => ifindex !== undefined && numbers.has(ifindex);
    const known = ifindexes.entries().find(([name, ifindex]) => isOff(ifindex) && name !== underlay?.ifname);
    if (known) return known[0];
    const younger = pods.list().filter(({ hostIfname }) => !ifindexes.has(hostIfname));
    return younger.find(({ hostIfname }) => isOff(readSummary(io, hostIfname)?.ifiIndex))?.hostIfname;
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    clearTimeout(this.#again);
    this.#stopped = true;
  }
}

/** Undefined where the link is not there: a notification has told of that. */
function linkIn(reply: NetlinkReply<Link>): Link | undefined {
  return reply.ok ? reply.answers[0] : undefined;
}

function sameFirewall(found: ActualFirewall, wanted: Expected): boolean {
  return (
    found.fingerprint.length === wanted.fingerprint.length &&
    found.fingerprint.every((line, index) => line === wanted.fingerprint[index]) &&
    setNames.every((set) => found.elements[set].symmetricDifference(wanted.elements[set]).size === 0)
  );
}
