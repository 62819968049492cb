// Nodes of which neither a record nor a disk is left.
import { forgetPod } from './hosts.ts';
import type { World } from './world.ts';

/** A node without a record and without a disk that knows of one: the others send its pods nothing and take nothing from them. */
export function forgetForsaken(world: World): void {
  if (!world.forsaken) return;
  for (const peer of world.peers) {
    const { uid, lastKnown } = peer.disk.peer;
    if (uid !== undefined || lastKnown !== undefined || world.registry.peers.has(peer.name)) continue;
    for (const { lease } of peer.pods.values()) forgetPod(world, peer, lease);
  }
}
