// What the probes are told: the peers that are programmed, and how. Made once for each desired state. Pure.
import type { ProbeScene } from '#agent/probe/scene.ts';
import type { IpamView } from '#agent/runtime/ipam.ts';

import type { Underlay } from './actual.ts';
import { familyOf } from './cidr.ts';
import { overheadBytes } from './desired.ts';
import { isOnLink } from './direct.ts';
import type { OverlayMode } from './direct.ts';
import type { Expected } from './expected.ts';
import type { DesiredState } from './objects.ts';

export interface SceneInput {
  readonly mode: OverlayMode;
  readonly view: IpamView;
  /** Of the last full round. */
  readonly desired: DesiredState;
  /** What the kernel holds now. */
  readonly expected: Pick<Expected, 'elements' | 'nexthopIds'>;
  readonly underlay: Underlay;
  readonly macs: ReadonlyMap<string, string>;
}

const made = new WeakMap<DesiredState, { readonly view: IpamView; readonly scene: ProbeScene }>();

/** Undefined while there is no overlay. The same object until something has changed. */
export function probeScene(input: SceneInput): ProbeScene | undefined {
  const { mode, view, desired, expected, underlay, macs } = input;
  const { overlay } = desired;
  if (!overlay) return undefined;
  const known = made.get(desired);
  if (known?.view === view) return known.scene;
  const { peers4, peers6 } = expected.elements;
  const direct = new Set(
    [...expected.nexthopIds.keys()].filter((gateway) => gateway.includes('%')).map((gateway) => gateway.split('%')[0]),
  );
  const peers = view.peers.flatMap(({ self, name, nodeName, underlayAddress, overlayAddresses }) => {
    if (self || underlayAddress === undefined) return [];
    if (!peers4.has(underlayAddress) && !peers6.has(underlayAddress)) return [];
    const mac = mode === 'auto' && isOnLink(underlay, underlayAddress) ? macs.get(underlayAddress) : undefined;
    return [{ name, nodeName, underlayAddress, overlayAddresses, direct: direct.has(underlayAddress), mac }];
  });
  const scene: ProbeScene = {
    overlayAddresses: view.overlayAddresses,
    underlayAddress: overlay.local,
    underlayIfindex: underlay.ifindex,
    mtuBytes: overlay.mtuBytes,
    encapsulatedBytes: overlay.mtuBytes + overheadBytes[familyOf(overlay.local)],
    auto: mode === 'auto',
    peers,
  };
  made.set(desired, { view, scene });
  return scene;
}
