// What a pod's link gets from the node at the moment of its ADD or CHECK: MTU, sources, the bridge.
import { WeftError } from '#agent/errors.ts';
import type { IpamView } from '#agent/runtime/ipam.ts';

import { portCidr } from './bridge.ts';
import { byFamily } from './cidr.ts';
import type { KernelIo } from './kernel-io.ts';
import type { DesiredState } from './objects.ts';
import { readLink } from './link-io.ts';

import type { BridgePort, PodLinkPlan } from './pod-link.ts';
import type { DatapathSettings } from './settings.ts';

export interface NodeState {
  readonly io: KernelIo;
  readonly settings: DatapathSettings;
  readonly desired: DesiredState | undefined;
  readonly view: IpamView | undefined;
  readonly ipv6: boolean;
}

/** Throws WeftError `notReady` while the overlay, an address of this node or the bridge is not there. */
export function podLinkPlan({ io, settings, desired, view, ipv6 }: NodeState): PodLinkPlan {
  if (!desired?.overlay || !view || view.overlayAddresses.length === 0) {
    throw new WeftError('notReady', `the overlay waits for ${desired?.waitingFor ?? 'its first round'}`);
  }
  const onBridge = desired.bridge !== undefined;
  return {
    mtuBytes: desired.overlay.mtuBytes,
    overlayAddresses: byFamily(view.overlayAddresses),
    ipv6,
    onBridge,
    ...(settings.podLink === 'bridge' ? { port: bridgePort(io, settings.bridgeDevice, view) } : {}),
  };
}

/** What a port needs; throws WeftError `notReady` while there is no bridge. */
export function bridgePort(io: KernelIo, ifname: string, view: IpamView): BridgePort {
  const bridge = readLink(io, ifname);
  if (!bridge) throw new WeftError('notReady', `the bridge ${ifname} is not there yet`);
  const self = view.peers.find((peer) => peer.self);
  return { bridgeIfindex: bridge.ifiIndex, cidrOf: (address) => portCidr(address, self) };
}
