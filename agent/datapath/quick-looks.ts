// What no notification tells of, looked at for next to nothing: nftables' generation number says whether anybody but this agent has
// changed any ruleset (the monitor's thread asks for it twice a second), sysctls are small files and two links. A full comparison reads
// every object; with thousands of peers it is the last resort, these looks find what people do.
import { toWeftError } from '#agent/errors.ts';
import { getLink } from '#agent/netlink/link.ts';
import type { Link } from '#agent/netlink/link.ts';
import { dumpNetconf } from '#agent/netlink/netconf.ts';
import type { NetlinkReply } from '#agent/netlink/reply.ts';

import { overlayFrom, readHostRpFilter } from './actual.ts';
import type { KernelFacts } from './actual.ts';
import { bridgeFrom } from './bridge-io.ts';
import { overlayRpFilter } from './desired.ts';
import type { Expected } from './expected.ts';
import { readFirewall } from './firewall.ts';
import { forwardingSwitches } from './forwarding.ts';
import type { KernelIo } from './kernel-io.ts';
import { liveNameOf } from './link-io.ts';
import { getGeneration } from './nft-objects.ts';
import type { ActualFirewall, DesiredState } from './objects.ts';
import { setNames } from './set-shapes.ts';
import type { DatapathSettings } from './settings.ts';

export interface QuickLooksOptions {
  readonly io: KernelIo;
  readonly settings: DatapathSettings;
  readonly expected: () => Expected | undefined;
  readonly desired: () => DesiredState | undefined;
  readonly reading: () => KernelFacts | undefined;
  /** `reason` is for the log. */
  readonly onChange: (reason: string) => void;
  /** Somebody has changed a ruleset, but not ours: a foreign chain may drop pods now. */
  readonly onForeign: () => void;
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
    const stuck = this.#stuckLink();
    if (stuck !== undefined) return `forwarding from ${stuck} was switched off`;
    for (const { ifname, ignoresAdvertisements } of desired.podLinks) {
      // A file of a link that is gone, or has no IPv6, is not there.
      const value = ignoresAdvertisements ? io.readSysctl(`net/ipv6/conf/${ifname}/accept_ra`) : undefined;
      if (value !== undefined && value !== '0') return `accept_ra of ${ifname}`;
    }
    const devices = [settings.overlayDevice, ...(desired.bridge ? [desired.bridge.ifname] : [])];
    const [overlay, bridge] = io.route.batch(devices.map((ifname) => getLink({ ifname }))).map(linkIn);
    if (bridge && !bridgeFrom(io, bridge).settled) return `settings of ${bridge.ifname}`;
    if (!overlay) return undefined;
    const { rpFilter, quietIpv6, settled } = overlayFrom(overlay);
    const wanted = overlayRpFilter({ settings, hostRpFilter: readHostRpFilter(io) });
    if (rpFilter !== wanted || !quietIpv6 || !settled) return `sysctls of ${overlay.ifname}`;
    return undefined;
  }

  /** A link of ours that packets are not forwarded from. */
  #stuckLink(): string | undefined {
    const { ifindexes, underlay } = this.#options.reading() ?? {};
    const off = this.#options.io.route.dump(dumpNetconf()).filter(({ forwarding }) => forwarding === 0);
    if (off.length === 0 || !ifindexes) return undefined;
    const numbers = new Set(off.map(({ ifindex }) => ifindex));
    return ifindexes.entries().find(([name, ifindex]) => numbers.has(ifindex) && name !== underlay?.ifname)?.[0];
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
