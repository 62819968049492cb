// A process ends: by itself, with its host's power, or with its disk lost or put back to an earlier copy. It starts again later.
import { addressBits } from '#ipam-peer/address.ts';
import { addressOf } from './parsed.ts';
import type { SimPeer } from './peer.ts';
import type { World } from './world.ts';

export function crash(
  world: World,
  peer: SimPeer,
  how: 'crash' | 'crashBetweenEffects' | 'powerLoss' | 'diskLost' | 'diskRolledBack',
): void {
  world.counters.count(how);
  world.note(`${peer.label} ${how}`);
  if (how === 'powerLoss') {
    for (const pod of peer.pods.values()) {
      for (const address of pod.lease.addresses) {
        if (world.inUse.get(address) === peer) world.inUse.delete(address);
      }
    }
    for (const address of world.freedAtMs.keys()) if (ownsOnDisk(peer, address)) world.freedAtMs.delete(address);
    peer.losePower();
  } else if (how === 'diskLost') {
    peer.loseDisk();
  } else {
    peer.crash();
  }
  world.agenda.add(world.nowMs + world.random.between(1, world.random.chance(0.3) ? 10_000 : 500), {
    kind: 'start',
    peer,
  });
}

function ownsOnDisk(peer: SimPeer, text: string): boolean {
  const value = addressOf(text)?.value ?? 0n;
  return peer.disk.peer.blocks.some(
    (block) => value >= block.base && value < block.base + (1n << BigInt(addressBits(block.family) - block.prefix)),
  );
}
