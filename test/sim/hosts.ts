// What befalls whole nodes: deleted while alive or dead, registered anew on the same machine, disks put back to an earlier copy.
import type { Lease } from '#ipam-peer/events.ts';
import type { StoredRecord } from '#ipam-peer/events.ts';
import { type PeerRecord, sameRef } from '#ipam-peer/records.ts';
import { parseSession } from '#ipam-peer/session-record.ts';
import { Violation } from './checks.ts';
import type { SimPeer } from './peer.ts';
import { crash } from './crash.ts';
import { isBound, isGone } from './gone.ts';
import type { World } from './world.ts';

/** The node is deleted; its machine is off, or goes on for a while, perhaps cut off from the registry. */
export function deleteNode(world: World, peer: SimPeer, deadly = 0.4): void {
  const { random, counters, registry } = world;
  if (isGone(world, peer) || peer.retired || isBound(world, peer)) return;
  // Somebody must be left to take over.
  if (world.peers.filter((other) => other !== peer && !other.retired && !isGone(world, other)).length === 0) return;
  counters.count('nodeDeleted');
  world.note(`node of ${peer.name} deleted`);
  registry.deleteNode(peer.name, peer.config.node.uid, random.chance(0.5));
  for (const other of world.machines()) tellNodes(world, other);
  if (random.chance(deadly)) {
    retire(world, peer);
    return;
  }
  counters.count('nodeDeletedAlive');
  // Its pods are cut off by the others: they count no more.
  for (const pod of peer.pods.values()) forgetPod(world, peer, pod.lease);
  if (random.chance(0.5) && peer.reachable) {
    peer.reachable = false;
    counters.count('partition');
    world.agenda.add(world.nowMs + random.between(10, 10_000), { kind: 'heal', peer });
  }
  world.agenda.add(world.nowMs + random.between(100, 15_000), {
    kind: random.chance(0.7) ? 'reRegister' : 'retire',
    peer,
  });
}

/** Nodes and records are deleted when it hurts most: in the middle of a transfer or of taking over. */
export function ambush(world: World, stored: StoredRecord, before: PeerRecord | undefined, after: PeerRecord): void {
  const { random, faults } = world;
  if (world.calm || world.restoring) return;
  const given = after.granting.filter((grant) => before?.granting.some((one) => one.id === grant.id) !== true);
  const carried = after.blocks.filter((block) => block.via !== undefined && block.via.id === undefined);
  const heir = after.heir !== undefined && !sameRef(after.heir, before?.heir) ? after.heir.name : undefined;
  const carries = carried.some((block) => before?.blocks.some((one) => sameRef(one.via, block.via)) !== true);
  const targets = given.map((grant) => grant.to.name);
  for (const name of targets) if (random.chance(faults.snatch)) soon(world, name, 'snatch');
  const names = targets.map((target) => (random.chance(0.5) ? target : stored.name));
  if (heir !== undefined) names.push(heir);
  if (carries) names.push(stored.name);
  if (random.chance(faults.ambush)) soon(world, names[0], 'doom');
  else if (given.length > 0 && random.chance(faults.donorsDie)) soon(world, stored.name, 'doom');
  else if (carries && random.chance(faults.heirsDie)) soon(world, stored.name, 'doom');
}

function soon(world: World, name: string | undefined, kind: 'doom' | 'snatch'): void {
  const peer = world.peerNamed(name ?? '');
  if (peer !== undefined) world.agenda.add(world.nowMs + world.random.between(0, 5), { kind, peer });
}

/** Power off, for good; its pods end. */
export function retire(world: World, peer: SimPeer): void {
  if (peer.retired) return;
  world.note(`${peer.name} is off for good`);
  if (!isGone(world, peer)) return;
  peer.retired = true;
  peer.crash();
  for (const pod of peer.pods.values()) endPod(world, peer, pod.lease);
  peer.pods.clear();
  if (!world.calm) world.agenda.add(world.nowMs + world.random.between(500, 6000), { kind: 'reinstall', peer });
}

/** The machine is set up anew: an empty disk, another node. */
export function reinstall(world: World, peer: SimPeer): void {
  if (!peer.retired || world.calm) return;
  world.counters.count('reinstalled');
  peer.retired = false;
  peer.loseDisk();
  peer.eclipsed = false;
  peer.reidentify(`i${world.steps}`);
  world.note(`${peer.name} is set up anew`);
  world.agenda.add(world.nowMs, { kind: 'start', peer });
}

function endPod(world: World, peer: SimPeer, lease: Lease): void {
  for (const address of lease.addresses) {
    if (world.inUse.get(address) !== peer) continue;
    world.inUse.delete(address);
    world.freedAtMs.set(address, world.nowMs);
  }
}

export function forgetPod(world: World, peer: SimPeer, lease: Lease): void {
  for (const address of lease.addresses) if (world.inUse.get(address) === peer) world.inUse.delete(address);
}

/** The machine joins again under a new uid; its agent starts anew, its pods live on until they are cut. */
export function reRegister(world: World, peer: SimPeer): void {
  if (peer.retired || !isGone(world, peer)) return;
  world.counters.count('reRegistered');
  world.note(`${peer.name} is registered anew`);
  peer.crash();
  peer.eclipsed = false;
  peer.reidentify(`r${world.steps}`);
  world.agenda.add(world.nowMs + world.random.between(1, 2000), { kind: 'start', peer });
}

/** Event `cut`: the pods of the earlier identity have lost their network. */
export function wereCut(world: World, peer: SimPeer, leases: readonly Lease[]): void {
  world.counters.count('cut', leases.length);
  for (const lease of leases) {
    endPod(world, peer, lease);
    peer.pods.delete(lease.containerId);
  }
  world.feed(peer, { kind: 'cut', leases });
}

/** A record may be made only when no pod of an earlier identity is on the network any more; one that is being deleted has none. */
export function checkPublished(peer: SimPeer): void {
  for (const pod of peer.pods.values()) {
    if (pod.identity !== peer.name && !pod.ending)
      throw new Violation(`${peer.name} shows itself while a pod of ${pod.identity} runs`);
  }
}

export function saveDisks(world: World): void {
  if (world.restoring) return;
  for (const peer of world.peers) {
    const copy = { identity: peer.name, disk: peer.snapshot() };
    world.backups.set(peer, [...(world.backups.get(peer) ?? []), copy].slice(-3));
  }
}

/** The disk as it was some renewals ago; a copy that has the session of the registry cannot be told from the present one. */
export function rollBackDisk(world: World, peer: SimPeer): void {
  const saved = world.backups.get(peer)?.[0];
  const session = saved?.disk.peer.session;
  if (isBound(world, peer)) return;
  if (saved === undefined || session === undefined || saved.identity !== peer.name || peer.retired) return;
  const now = parseSession(world.registry.sessions.get(peer.name)?.value);
  if (!now.ok || now.record.sessionId === session.id || now.record.sessionId === session.next) return;
  // After a restore of the registry its session may be older than the copy, until it is renewed.
  if (now.record.renewals <= (session.held ?? session.renewals ?? 0)) return;
  peer.rollBack(saved.disk);
  crash(world, peer, 'diskRolledBack');
}

/** Tells of the nodes that exist, soon or late; what is told is how they were when it was sent. */
export function tellNodes(world: World, peer: SimPeer): void {
  const { random, faults, counters } = world;
  let delayMs = random.between(1, 200);
  if (random.chance(faults.hintLate)) {
    counters.count('nodesLate');
    delayMs = random.between(200, 8000);
  }
  world.agenda.add(world.nowMs + delayMs, { kind: 'nodes', peer, gone: new Set(world.registry.goneNodes) });
}

/** After a change of what is known of the peers. */
export function tellNodesSoon(world: World, peer: SimPeer): void {
  if (world.registry.goneNodes.size === 0 || peer.nodesPending) return;
  peer.nodesPending = true;
  world.agenda.add(world.nowMs + 50, { kind: 'nodes', peer, gone: new Set(world.registry.goneNodes) });
}

export function feedNodes(world: World, peer: SimPeer, told: ReadonlySet<string>): void {
  peer.nodesPending = false;
  const { state } = peer;
  if (state === undefined || !peer.reachable || told.size < peer.toldCount) return;
  peer.toldCount = told.size;
  const gone = [...state.peers].filter(([, { record }]) => told.has(record.node.uid)).map(([name]) => name);
  if (told.has(peer.config.node.uid)) gone.push(peer.name);
  const text = gone.join(' ');
  if (peer.toldGone === `${peer.epoch} ${text}`) return;
  peer.toldGone = `${peer.epoch} ${text}`;
  world.feed(peer, { kind: 'nodes', gone });
}
