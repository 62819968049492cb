// Load: pods come and go on each peer, some with an address asked for by name, some with a key that is taken.
import { addressBits, formatAddress } from '#ipam-peer/address.ts';
import type { Lease } from '#ipam-peer/events.ts';
import type { SimPeer } from './peer.ts';
import type { World } from './world.ts';

export function work(world: World, peer: SimPeer): void {
  if (peer.retired && peer.tag !== '') return;
  const everyMs = world.calm ? world.scenario.workEveryMs * 10 : world.scenario.workEveryMs;
  world.agenda.add(world.nowMs + world.random.between(0, 2 * everyMs), { kind: 'work', peer });
  if (peer.state === undefined || (peer.doubtful && peer.tag === '')) return;
  const wanted = world.scenario.podsPerPeer;
  if (world.random.chance(peer.pods.size < wanted ? 0.7 : 0.3)) allocate(world, peer);
  else if (peer.pods.size > 0) end(world, peer, world.random.pick([...peer.pods.keys()]));
}

export function allocate(world: World, peer: SimPeer): void {
  const ticket = peer.nextTicket++;
  // One address by name, of a universe of both families now and then two; perhaps both of one family, which is refused.
  const named = Array.from({ length: world.random.chance(0.12) ? 1 + world.random.below(2) : 0 }, () =>
    someAddress(world, peer),
  );
  const repeated = world.random.chance(0.02) && peer.pods.size > 0;
  const containerId = repeated ? world.random.pick([...peer.pods.keys()]) : `${peer.name}-${peer.nextContainer++}`;
  peer.tickets.set(ticket, named.length > 0);
  const wish = {
    containerId,
    ifname: 'eth0',
    generation: String(ticket),
    sinceMs: 0,
    hostIfname: '',
    addresses: named,
    owner: { network: 'weft', netnsPath: '', netnsInode: 0n },
  };
  world.feed(peer, { kind: 'allocate', ticket, wish });
}

/** An address of the own blocks, or of anybody's. */
function someAddress(world: World, peer: SimPeer): string {
  const block = world.random.pick(peer.disk.peer.blocks.length > 0 ? peer.disk.peer.blocks : world.scenario.ranges);
  const offset = world.random.below(Math.min(300, 2 ** (addressBits(block.family) - block.prefix)));
  return formatAddress(block.family, block.base + BigInt(offset));
}

export function end(world: World, peer: SimPeer, containerId: string): void {
  const pod = peer.pods.get(containerId);
  if (pod === undefined) return;
  for (const address of pod.lease.addresses) {
    // Pods of a deleted node count no more.
    if (world.inUse.get(address) === peer) world.inUse.delete(address);
    else if (!pod.ending) continue;
    if (!pod.ending) world.freedAtMs.set(address, world.nowMs);
  }
  pod.ending = true;
  free(world, peer, pod.lease);
  // A DEL that the process did not survive is asked for again.
  if (peer.state !== undefined) peer.pods.delete(containerId);
}

export function free(world: World, peer: SimPeer, lease: Lease): void {
  world.counters.count('free');
  world.feed(peer, { kind: 'free', ...lease });
}
