// Random worlds for properties of planning: who owns which block at which address, which pods there are.
import * as fc from 'fast-check';

import { desiredState } from '#agent/datapath/desired.ts';
import type { DesiredInput } from '#agent/datapath/desired.ts';
import { diff } from '#agent/datapath/diff.ts';
import { noDirect } from '#agent/datapath/direct.ts';
import type { DirectInput } from '#agent/datapath/direct.ts';
import { hostIfnameOf } from '#test/support/pod-names.ts';
import type { ActualState, DesiredState } from '#agent/datapath/objects.ts';
import { defaultDatapathSettings } from '#agent/datapath/settings.ts';
import type { DatapathSettings } from '#agent/datapath/settings.ts';
import type { IpamView, Lease, PeerView } from '#agent/runtime/ipam.ts';

import { applyToModel } from './model.ts';

export interface World {
  readonly overlay: string;
  readonly mtu: number;
  readonly ipv6: boolean;
  /** Pods and blocks of IPv6 too, and peers that reach each other by IPv6. */
  readonly dual: boolean;
  readonly underlay6: boolean;
  /** Peer and underlay address of each of the sixteen /16 blocks of 10.32.0.0/12; 0 is this node, undefined nobody. */
  readonly owners: readonly (number | undefined)[];
  readonly underlays: readonly number[];
  readonly pods: readonly number[];
  /** Overlay mode `direct` or `auto`: all peers are on the underlay link. */
  readonly direct?: DirectWorld;
}

export interface DirectWorld {
  readonly mode: 'direct' | 'auto';
  /** By peer: its link address, if it is known, and whether the probes have found it good. */
  readonly macs: readonly (number | undefined)[];
  readonly proven: readonly boolean[];
  /** Last parts of underlay addresses that the kernel takes for no neighbours. */
  readonly refused: readonly number[];
}

export const worlds: fc.Arbitrary<World> = fc
  .record({
    overlay: fc.constantFrom('10.32.0.1', '10.33.0.1'),
    mtu: fc.constantFrom(1500, 9000, 1300),
    ipv6: fc.boolean(),
    dual: fc.boolean(),
    underlay6: fc.boolean(),
    owners: fc.array(fc.option(fc.integer({ min: 0, max: 5 }), { nil: undefined }), { minLength: 15, maxLength: 15 }),
    underlays: fc.array(fc.integer({ min: 2, max: 9 }), { minLength: 5, maxLength: 5 }),
    pods: fc.uniqueArray(fc.integer({ min: 1, max: 12 }), { maxLength: 6 }),
  })
  .map((world) => ({ ...world, ipv6: world.ipv6 || world.underlay6 }));

/** What moves of direct routes, without the mode. */
export const directions: fc.Arbitrary<Omit<DirectWorld, 'mode'>> = fc.record({
  macs: fc.array(fc.option(fc.integer({ min: 1, max: 9 }), { nil: undefined }), { minLength: 5, maxLength: 5 }),
  proven: fc.array(fc.boolean(), { minLength: 5, maxLength: 5 }),
  refused: fc.uniqueArray(fc.integer({ min: 2, max: 8 }), { maxLength: 1 }),
});

export const directWorlds: fc.Arbitrary<World> = fc
  .tuple(worlds, fc.constantFrom('direct' as const, 'auto' as const), directions)
  .map(([world, mode, direct]) => ({ ...world, direct: { mode, ...direct } }));

function wire(world: World, number: number): string {
  return world.underlay6 ? `2001:db8::${number}` : `192.0.2.${number}`;
}

/** The same array each time: a link that stays. */
const cidrs = ['192.0.2.1/24', '2001:db8::1/64'];

export function directOf(world: World): DirectInput {
  if (!world.direct) return noDirect;
  const { mode, macs, proven, refused } = world.direct;
  const known = world.underlays.flatMap((underlay, index): (readonly [string, string])[] =>
    macs[index] === undefined ? [] : [[wire(world, underlay), `02:00:00:00:0${macs[index]}:0${index}`]],
  );
  return {
    mode,
    underlay: {
      ifname: 'eth0',
      up: true,
      cidrs,
      macs: new Map(known),
      refused: new Set(refused.map((number) => wire(world, number))),
    },
    proven: new Set(proven.flatMap((good, index) => (good ? [`peer${index + 1}.00000000`] : []))),
  };
}

export function viewOf(world: World): IpamView {
  const blocksOf = (peer: number): readonly string[] =>
    world.owners.flatMap((owner, index) => {
      if (owner !== peer) return [];
      const six = `fd42:0:0:${(index + 1).toString(16)}000::/52`;
      return [`10.${33 + index}.0.0/16`, ...(world.dual ? [six] : [])];
    });
  const overlayAddresses = [world.overlay, ...(world.dual ? ['fd42::1'] : [])];
  const self: PeerView = {
    name: 'self.00000000',
    nodeName: 'self',
    self: true,
    underlayAddress: wire(world, 1),
    overlayAddresses,
    blocks: ['10.32.0.0/16', ...(world.dual ? ['fd42::/52'] : []), ...blocksOf(0)],
  };
  const peers = world.underlays.map((underlay, index): PeerView => ({
    name: `peer${index + 1}.00000000`,
    nodeName: `peer${index + 1}`,
    self: false,
    underlayAddress: underlay === 9 ? undefined : wire(world, underlay),
    overlayAddresses: [],
    blocks: blocksOf(index + 1),
  }));
  return {
    ranges: ['10.32.0.0/12', ...(world.dual ? ['fd42::/48'] : [])],
    reserved: ['10.47.128.0/17'],
    peers: [...peers, self],
    overlayAddresses,
    freeAddresses: 0,
    leasedAddresses: 0,
    restingAddresses: 0,
    ready: true,
    waitingFor: '',
    registryAnsweredAtMs: 0,
  };
}

export function leasesOf(world: World): readonly Lease[] {
  return world.pods.map((pod) => {
    const key = { containerId: `pod${pod}`, ifname: 'eth0' };
    return {
      ...key,
      generation: `${pod}`.padStart(16, '0'),
      addresses: [`10.32.1.${pod}`, ...(world.dual ? [`fd42::${pod}`] : [])],
      owner: { network: 'weft', netnsPath: '/run/netns/x', netnsInode: 1n },
      state: 'active',
      sinceMs: 0,
      hostIfname: hostIfnameOf('weftp', key),
    };
  });
}

function settingsOf({ direct }: World): DatapathSettings {
  return { ...defaultDatapathSettings, overlayMode: direct?.mode ?? 'vxlan' };
}

/** What planning is told beside peers and pods. */
export function givenOf(world: World): Omit<DesiredInput, 'view' | 'leases' | 'direct'> {
  return {
    settings: settingsOf(world),
    underlayMtuBytes: world.mtu,
    hostRpFilter: 0,
    underlayIfindex: 2,
    ipv6: world.ipv6,
    ports: new Set(),
  };
}

export function wanted(world: World): DesiredState {
  return desiredState({
    ...givenOf(world),
    view: viewOf(world),
    leases: leasesOf(world),
    direct: directOf(world),
  });
}

/** Pod links come from attach, not from diff: they are there before. */
export function withPods(state: ActualState, world: World): ActualState {
  const present = new Set(state.podLinks.map(({ ifname }) => ifname));
  const fresh = leasesOf(world)
    .filter(({ hostIfname }) => !present.has(hostIfname))
    .map(({ hostIfname }) => ({
      ifname: hostIfname,
      alias: '',
      mac: '',
      mtuBytes: 1450,
      up: false,
      doomed: false,
      ignoresAdvertisements: false,
      ipv6Off: false,
      quietIpv6: true,
      settled: false,
      routeLocalnet: false,
      bridge: undefined,
    }));
  return { ...state, podLinks: [...state.podLinks, ...fresh] };
}

export function settle(state: ActualState, desired: DesiredState, look?: (state: ActualState) => void): ActualState {
  let current = state;
  for (const operation of diff(desired, current)) {
    current = applyToModel(current, operation);
    look?.(current);
  }
  return current;
}
