// Joins what IPAM's records say about a peer with what discovery says: a node's present address wins over the one in its
// record, which may be older than the node's last move.

import { isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import { WeftError } from '#agent/errors.ts';
import type { Discovery, NodeIdentity } from '#agent/discovery/discovery.ts';
import type { IpamView } from '#agent/runtime/ipam.ts';

/**
 * The view with underlay addresses from discovery where it knows the node, otherwise as the record has them. Of a node with
 * several addresses the one that its record names counts, else the first of this node's own underlay family. `ownAddress` ('' for none) overrules discovery for self.
 */
export function withUnderlay(view: IpamView, nodes: readonly NodeIdentity[], ownAddress: string): IpamView {
  const byName = new Map(nodes.map((node) => [node.nodeName, node.underlayAddresses]));
  const selfName = view.peers.find((peer) => peer.self)?.nodeName;
  const own = ownAddress || (selfName === undefined ? undefined : byName.get(selfName)?.[0]);
  const family = own === undefined ? 0 : isIP(own);
  const peers = view.peers.map((peer) => {
    if (peer.self && own !== undefined) return { ...peer, underlayAddress: own };
    const known = byName.get(peer.nodeName) ?? [];
    const usable = known.filter((address) => family === 0 || isIP(address) === family);
    const [first] = usable;
    if (first === undefined || usable.some((address) => address === peer.underlayAddress)) return peer;
    return { ...peer, underlayAddress: first };
  });
  return { ...view, peers };
}

/** The underlay address that the settings name, directly or by interface; '' when they leave it to discovery. */
export function namedUnderlay(settings: {
  readonly underlayAddress: string;
  readonly underlayInterface: string;
}): string {
  const { underlayAddress, underlayInterface } = settings;
  if (underlayAddress !== '' || underlayInterface === '') return underlayAddress;
  const addresses = (networkInterfaces()[underlayInterface] ?? [])
    .map(({ address }) => address)
    .filter((address) => !/^fe[89ab]/i.test(address));
  const [first] = addresses.toSorted((a, b) => isIP(a) - isIP(b));
  if (first !== undefined) return first;
  throw new WeftError('invalidSetting', `underlayInterface: ${underlayInterface} has no address, or is not there`);
}

/** This node's underlay addresses, preferred first. */
export function underlayOf({ self }: Discovery, named: string): readonly string[] {
  return named === '' ? self.underlayAddresses : [named];
}
