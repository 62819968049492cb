// What the status tells: whether pods can start here, and whether a peer's pods are reached, by what is known of the kernel. Pure.
import type { IpamView, PeerView } from '#agent/runtime/ipam.ts';

import { familyOf, readAddress } from './cidr.ts';
import type { DatapathStatus } from './datapath.ts';
import { canonicalBlocks } from './desired-peers.ts';
import type { Expected } from './expected.ts';
import { vtepOf } from './identity.ts';
import { mainRouteKey, plainMetric } from './objects.ts';
import type { DesiredState } from './objects.ts';
import type { DatapathSettings } from './settings.ts';

export function statusOf(
  { overlayDevice }: Pick<DatapathSettings, 'overlayDevice'>,
  desired: Pick<DesiredState, 'waitingFor' | 'overlay'> | undefined,
  settled: boolean,
): Pick<DatapathStatus, 'ready' | 'waitingFor' | 'overlayDevice' | 'mtuBytes' | 'vtepMac'> {
  const refused = settled ? '' : 'the kernel to accept the state (see findings)';
  const waitingFor = (desired ? desired.waitingFor : 'the first round') || refused;
  const { mtuBytes = 0, mac: vtepMac = '' } = desired?.overlay ?? {};
  return { ready: waitingFor === '', waitingFor, overlayDevice, mtuBytes, vtepMac };
}

/**
 * True where the kernel leads each block of the peer to it, over the overlay or directly. Families that this node has no address of do not
 * count. Thousands are asked about in one go: texts are as a rule as the kernel has them.
 */
export function isProgrammed(
  expected: Pick<Expected, 'fdb' | 'routes' | 'gateways'> | undefined,
  { name, underlayAddress = '', blocks }: PeerView,
  overlayAddresses: IpamView['overlayAddresses'],
): boolean {
  const { mac, linkLocal } = vtepOf(name);
  const underlay = expected?.fdb.get(mac);
  if (!expected || underlay === undefined) return false;
  if (underlay !== underlayAddress && underlay !== readAddress(underlayAddress)) return false;
  const leadsTo = (dst: string): boolean => {
    const target = expected.routes.get(mainRouteKey({ dst, metric: plainMetric[familyOf(dst)] }))?.target;
    const gateway = target?.kind === 'nexthop' ? expected.gateways.get(target.id) : undefined;
    return gateway === underlay || gateway === linkLocal || gateway?.split('%', 1)[0] === underlay;
  };
  return blocks.every((block) => {
    if (leadsTo(block)) return true;
    const canonical = canonicalBlocks([block], name, []);
    if (canonical.length === 0) return false;
    return canonical.some(leadsTo) || !overlayAddresses.some((address) => familyOf(address) === familyOf(block));
  });
}
