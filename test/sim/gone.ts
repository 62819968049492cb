// Whether the node of a peer, as it is registered now, was deleted.
import type { SimPeer } from './peer.ts';
import type { World } from './world.ts';

export function isGone(world: World, peer: SimPeer): boolean {
  return world.registry.goneNodes.has(peer.config.node.uid);
}
