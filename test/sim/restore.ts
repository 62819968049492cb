// The registry goes back: a backup is restored, or a record with space in it is deleted by hand. Until every living peer has written its
// record back, records do not tell who owns what; that no address is used twice is checked all the same.
import { formatCidrs } from '#ipam-peer/cidr.ts';
import { formatPeer, parsePeer } from '#ipam-peer/records.ts';
import { planReclaim } from '#ipam-peer/unowned.ts';
import { isGone } from './gone.ts';
import type { SimPeer } from './peer.ts';
import type { World } from './world.ts';

/** Disks and records agree, nobody is dead: from here on a restore can be survived without a person. */
function isWhole(world: World): boolean {
  for (const { record } of world.registry.peers.values()) {
    if (record.heir !== undefined || world.registry.goneNodes.has(record.node.uid)) return false;
  }
  // A disk that is not believed any more cannot write its record back.
  if (world.twins.size > 0 || world.nowMs < world.twinsHeardUntilMs) return false;
  return world.peers.every((peer) => {
    const known = world.registry.peers.get(peer.name);
    const disk = peer.disk.peer;
    if (peer.retired) return true;
    if (known === undefined) return disk.uid === undefined && disk.lastKnown === undefined;
    return (
      !isGone(world, peer) &&
      !peer.doubtful &&
      !peer.eclipsed &&
      disk.uid === known.stored.uid &&
      disk.seq === known.record.seq
    );
  });
}

function isSeeded({ registry }: World): boolean {
  const founder = registry.universe?.record.founder;
  return founder !== undefined && registry.peers.get(founder.name)?.record.seeded === true;
}

export function takeBackup(world: World): void {
  if (isSeeded(world) && isWhole(world))
    world.backup = { registry: world.registry.backup(), gone: world.registry.goneNodes.size };
}

export function restoreBackup(world: World): void {
  const { backup, registry } = world;
  // A takeover since then would need a person: the heir's disk is not asked.
  if (backup === undefined || backup.gone !== registry.goneNodes.size || !isWhole(world)) return;
  world.counters.count('registryRestored');
  world.note('the registry is restored from a backup');
  world.restoring = true;
  world.backup = undefined;
  world.backups.clear();
  registry.restore(backup.registry);
}

/** True unless it may be the founder and its disk, which alone would tell, is not the one that it founded with. */
export function mayLoseFounding(world: World, peer: SimPeer): boolean {
  if (world.scenario.mood === 'forsaken') return true;
  const founder = world.registry.counted?.founder;
  if (founder !== undefined && founder.name !== peer.name) return true;
  return !peer.diskChanged && !peer.eclipsed && ![...world.twins].some(({ name }) => name === peer.name);
}

/** A person deletes the record of a peer, perhaps while its founding is on its way. */
export function loseRecord(world: World, peer: SimPeer): void {
  if (world.registry.peers.get(peer.name) === undefined || peer.retired) return;
  if (world.scenario.mood !== 'forsaken' && (!isWhole(world) || !mayLoseFounding(world, peer))) return;
  forsake(world);
  // With the Universe gone too, a peer without a disk cannot know that there ever was a network.
  if (world.registry.isUniverseGone && world.registry.remade?.record.founder === undefined) return;
  world.counters.count('recordLost');
  world.note(`record of ${peer.name} deleted by hand`);
  world.restoring = true;
  world.backup = undefined;
  world.backups.clear();
  world.registry.loseByHand(peer.name);
}

/** From now on space may be nobody's until a person says who takes it. */
export function forsake(world: World): void {
  if (world.scenario.mood === 'forsaken') world.forsaken = true;
}

/** Once the faults have ended that person looks, again and again, and does what `weft ipam reclaim` does on one of the nodes. */
export function reclaim(world: World): void {
  const { registry, peers, random } = world;
  world.agenda.add(world.nowMs + 20_000, { kind: 'reclaim' });
  const alive = peers.filter((peer) => !peer.retired);
  // Whoever had a session and has no record is still to write it back.
  if (world.restoring || alive.some(({ name }) => registry.sessions.has(name) && !registry.peers.has(name))) return;
  const records = [...registry.peers.values()];
  const plan = planReclaim(registry.universe?.record, records, random.pick(alive).name);
  if (plan.kind === 'take') {
    const stored = records.find(({ record }) => record.node.uid === plan.record.node.uid)?.stored;
    if (stored === undefined) return;
    world.note(`${stored.name} reclaims ${formatCidrs(plan.space)}`);
    world.counters.count('reclaim');
    registry.execute({ kind: 'update', request: 0, record: 'peer', stored, value: formatPeer(plan.record) });
  }
  if (plan.kind === 'wait') return;
  registry.closeFounding();
  world.forsaken = false;
}

/** A person deletes the Universe, or the one that was made in its place. Not before its range is in somebody's record. */
export function loseUniverse(world: World): void {
  const { registry, counters } = world;
  const founder = registry.universe?.record.founder;
  if (founder === undefined || registry.peers.get(founder.name)?.record.seeded === false) return;
  if (registry.isUniverseGone && registry.remade === undefined) return;
  counters.count('universeDeleted');
  world.note('the Universe is deleted by hand');
  registry.removeUniverse();
}

/** A record that held nothing is not written back: there is nothing to say. */
function isEmpty({ record }: SimPeer['disk']['peer']): boolean {
  const parsed = parsePeer(record);
  return !parsed.ok || parsed.record.blocks.length + parsed.record.granting.length === 0;
}

/** True once every living peer has written its record back. */
export function isRestored(world: World): boolean {
  if (world.scenario.mood === 'forsaken' && world.twins.size > 0) return false;
  return world.peers.every((peer) => {
    const known = world.registry.peers.get(peer.name);
    const disk = peer.disk.peer;
    if (peer.retired) return true;
    if (known === undefined) return disk.uid === undefined && disk.lastKnown === undefined;
    return (
      disk.back !== true &&
      known.record.suspect !== true &&
      (known.record.seq >= disk.seq || isEmpty(disk)) &&
      known.stored.uid === (disk.uid ?? known.stored.uid)
    );
  });
}
