// While the agent runs: changes of ownership and of addresses go to the datapath, and once pods can start here the network
// configuration is written and whoever waits for it is told. Level-triggered: every call looks at what is now.

import { writeConflist } from '#agent/cni/conflist.ts';
import { canServe } from '#agent/cni/status.ts';
import type { Config } from '#agent/config.ts';
import type { BridgedAddresses } from '#agent/datapath/bridged.ts';
import type { Datapath } from '#agent/datapath/datapath.ts';
import { sameRouting } from '#agent/datapath/peer-changes.ts';
import type { Segment } from '#agent/datapath/segment.ts';
import type { Discovery } from '#agent/discovery/discovery.ts';
import { reportReady } from '#agent/engines.ts';
import { toWeftError } from '#agent/errors.ts';
import { gathered } from '#agent/gathered.ts';
import type { Health } from '#agent/health.ts';
import type { Logger } from '#agent/observe/log.ts';
import { linkedHere, type IpamView } from '#agent/runtime/ipam.ts';
import type { RunningIpam } from '#agent/runtime/start.ts';
import { underlayOf, withUnderlay } from '#agent/underlay.ts';

export interface Followed {
  readonly ipam: RunningIpam;
  readonly datapath: Datapath;
  readonly bridged: BridgedAddresses;
  readonly segment: Segment;
  readonly discovery: Discovery;
  readonly health: Pick<Health, 'look'>;
  /** Underlay address that the settings name; ''. */
  readonly underlay: string;
}

/** Until pods can start there may be no further change to wake for, such as a kernel that refuses at first. */
const earlyMs = 500;

/** Begins to follow. Returns how to stop. */
export function follow(
  config: Config,
  log: Logger,
  { ipam, datapath, bridged, segment, discovery, health, underlay }: Followed,
): () => void {
  const ending = new AbortController();
  const announce = announcer(config, log, { ipam, datapath }, ending.signal);
  let handled: IpamView | undefined;
  const change = async (): Promise<number> => {
    const began = performance.now();
    const view = withUnderlay(ipam.view(), discovery.nodes(), underlay);
    // Leases come and go without the datapath's rounds: attach and detach have done their work already.
    const isHandled = handled !== undefined && sameRouting(handled, view);
    const tookMs = performance.now() - began;
    if (!isHandled) {
      handled = view;
      await datapath.reconcile(view, linkedHere(ipam.leases()));
      health.look();
    }
    bridged.sync(ipam.leases());
    segment.sync(ipam.leases());
    await announce();
    return tookMs;
  };
  const onChange = gathered(change, (error) => {
    handled = undefined;
    if (!ending.signal.aborted) log.error({ err: toWeftError(error) }, 'the kernel does not follow; trying again');
  });
  const tellGone = (): void => {
    const uids = discovery.goneUids?.();
    if (uids !== undefined) ipam.setGone(uids);
  };
  const stops = [
    ipam.onChange(onChange),
    discovery.onChange(() => {
      ipam.setUnderlay(underlayOf(discovery, underlay));
      tellGone();
      onChange();
    }),
    discovery.attend?.(ipam) ?? (() => undefined),
  ];
  const timer = setInterval(onChange, config.resyncMs);
  timer.unref();
  const early = setInterval(() => (announce.done() ? clearInterval(early) : onChange()), earlyMs);
  early.unref();
  tellGone();
  onChange();
  return () => {
    ending.abort();
    onChange.stop();
    for (const stop of stops) stop();
    clearInterval(timer);
    clearInterval(early);
  };
}

interface Announcer {
  (): Promise<void>;
  done(): boolean;
}

/** Writes the network configuration once, when the first ADD could be served; it stays when the agent stops. */
function announcer(
  config: Config,
  log: Logger,
  { ipam, datapath }: Pick<Followed, 'ipam' | 'datapath'>,
  signal: AbortSignal,
): Announcer {
  let announced = false;
  const announce = async (): Promise<void> => {
    if (announced || !canServe(ipam, datapath).ready) return;
    announced = true;
    try {
      const written = await writeConflist(config.conflistPath);
      const { overlayAddresses, peers } = ipam.view();
      const blocks = peers.find((peer) => peer.self)?.blocks ?? [];
      const conflist = written ? { conflist: config.conflistPath } : {};
      log.info({ overlayAddresses, blocks, ...conflist }, 'ready: pods can start here');
    } catch (error) {
      announced = false;
      log.error({ err: error }, 'cannot write the network configuration; trying again');
      return;
    }
    await reportReady(config, log.child({ part: 'discovery' }), signal);
  };
  return Object.assign(announce, { done: () => announced });
}
