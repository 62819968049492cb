// Whether the node of a peer, as it is registered now, was deleted.
import type { SimPeer } from './peer.ts';
import type { World } from './world.ts';

/** Its disk alone tells of its founding, and nobody is there to say so: it is spared. */
export function isBound(world: World, peer: SimPeer): boolean {
  return world.scenario.mood !== 'forsaken' && world.registry.isLostFounding(peer.name);
}

export function isGone(world: World, peer: SimPeer): boolean {
  return world.registry.goneNodes.has(peer.config.node.uid);
}
