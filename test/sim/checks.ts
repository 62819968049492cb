// What must hold after every step, and what must hold once the faults have ended for a while. A breach throws `Violation`.
import { type Address, families, type Family } from '#ipam-peer/address.ts';
import { type Cidr, containsAddress, formatCidrs, lastAddress } from '#ipam-peer/cidr.ts';
import type { DurablePeer, Lease } from '#ipam-peer/events.ts';
import { enoughToGive, publishedFreeNow } from '#ipam-peer/grant.ts';
import { durableViolations, type Owned, ownershipViolations } from '#ipam-peer/invariants.ts';
import { freeAddresses } from '#ipam-peer/space.ts';
import type { State } from '#ipam-peer/state.ts';
import { Ownership } from './ownership.ts';
import { isRestored } from './restore.ts';
import { isGone } from './gone.ts';
import { addressOf } from './parsed.ts';
import type { SimPeer } from './peer.ts';
import type { World } from './world.ts';

export class Violation extends Error {}

export interface Checks {
  revision: number;
  readonly ownership: Ownership;
  readonly disks: Map<SimPeer, DurablePeer>;
}

export function makeChecks(): Checks {
  return { revision: 0, ownership: new Ownership(), disks: new Map() };
}

function require(problems: readonly string[]): void {
  if (problems.length > 0) throw new Violation(problems.join('; '));
}

/** Invariants 1 to 3 on what this step changed. */
export function checkWorld(world: World): void {
  const { checks, registry, touched } = world;
  const moved = registry.revision !== checks.revision;
  if (world.restoring && isRestored(world)) {
    world.restoring = false;
    world.note('every record is written back');
    checkAll(world);
  } else if (moved) {
    checks.revision = registry.revision;
    require(registry.breaches);
    const names = checks.ownership.update(registry.counted, registry.peers, registry.changedPeers);
    registry.changedPeers.clear();
    if (!world.restoring) {
      require(spared(world, checks.ownership.violations(names)));
      for (const name of names) {
        const peer = world.peerNamed(name);
        if (peer === undefined) continue;
        checks.disks.delete(peer);
        checkPods(world, peer);
        touched.add(peer);
      }
    }
  }
  for (const peer of touched) checkDisk(world, peer);
  touched.clear();
}

/** Without that space is nobody's, while a person is needed for it. */
function spared(world: World, problems: readonly string[]): readonly string[] {
  return world.forsaken ? problems.filter((problem) => !problem.startsWith('nobody owns')) : problems;
}

/** Everything, whether or not it changed. */
export function checkAll(world: World): void {
  const { checks, registry } = world;
  const all = [...registry.peers.keys(), ...registry.changedPeers];
  const names = checks.ownership.update(registry.counted, registry.peers, all);
  registry.changedPeers.clear();
  checks.revision = registry.revision;
  if (world.restoring) return;
  require(registry.breaches);
  require(spared(world, checks.ownership.violations(names)));
  require(spared(world, ownershipViolations(registry.counted, checks.ownership.owned)));
  if (!checks.ownership.matches(registry.peers)) throw new Violation('the simulator lost track of who owns what');
  checks.disks.clear();
  for (const [address, peer] of world.inUse) checkOwned(world, peer, address, 'has a pod on');
  for (const peer of world.machines()) checkDisk(world, peer);
}

function checkDisk(world: World, peer: SimPeer): void {
  const { checks } = world;
  // A node that is gone, or comes back under another name, is fenced by the others; a doubtful disk is not leased from.
  if (isGone(world, peer) || peer.doubtful || peer.eclipsed || (peer.disk.peer.self ?? peer.name) !== peer.name) return;
  if (peer.tag !== '' && peer.state?.confirmed === undefined) return;
  const disk = peer.disk.peer;
  if (checks.disks.get(peer) === disk) return;
  checks.disks.set(peer, disk);
  if (world.restoring) return;
  const own = checks.ownership.of(peer.name);
  require(durableViolations(`the disk of ${peer.name}`, disk.uid, disk.blocks, own));
  const usable = families.flatMap((family) => peer.state?.spaces[family].usable ?? []);
  require(durableViolations(peer.name, disk.uid, usable, own));
  for (const text of disk.overlay) checkOwned(world, peer, text, 'has its own address');
}

function checkPods(world: World, peer: SimPeer): void {
  for (const { lease } of peer.pods.values()) {
    for (const address of lease.addresses)
      if (world.inUse.get(address) === peer) checkOwned(world, peer, address, 'has a pod on');
  }
}

function checkOwned(world: World, peer: SimPeer, text: string, what: string): void {
  if (world.restoring) return;
  const address = addressOf(text);
  const owner = address && ownerOf(world.checks.ownership.owned, address);
  // A disk that was lost does not know its incarnation until it has read it.
  if (owner?.owner.name === peer.name && (peer.doubtful || owner.owner.uid === (peer.disk.peer.uid ?? owner.owner.uid)))
    return;
  if (owner === undefined && world.forsaken) return;
  throw new Violation(`${peer.name} ${what} ${text}, which ${owner?.owner.name ?? 'nobody'} owns`);
}

function ownerOf(owned: readonly Owned[], address: Address): Owned | undefined {
  let [low, high] = [0, owned.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    const { family, base } = owned[middle]?.cidr ?? { family: 4, base: 0n };
    if (family < address.family || (family === address.family && base <= address.value)) low = middle + 1;
    else high = middle;
  }
  const found = owned[low - 1];
  return found !== undefined && containsAddress(found.cidr, address) ? found : undefined;
}

/** Whether the others send packets to its pods: it is not the double of another machine, nor eclipsed by one. */
export function isCounted(peer: SimPeer): boolean {
  return peer.tag === '' && !peer.eclipsed;
}

/** An address that was just given to a pod. */
export function checkLeased(world: World, peer: SimPeer, lease: Lease): void {
  const told = lease.addresses.map((text) => addressOf(text)?.family).join();
  const wanted = familiesIn(world.scenario.ranges).join();
  if (told !== wanted) throw new Violation(`${peer.name} leased families ${told} in a universe of ${wanted}`);
  if (isGone(world, peer) || !isCounted(peer)) return;
  for (const text of lease.addresses) {
    const other = world.inUse.get(text);
    if (other !== undefined) throw new Violation(`${text} leased by ${peer.name} while ${other.name} has a pod on it`);
    const overlayOf = world.peers.find(
      (one) =>
        one.disk.peer.self === one.name && !isGone(world, one) && !one.eclipsed && one.disk.peer.overlay.includes(text),
    );
    if (overlayOf !== undefined)
      throw new Violation(`${text} leased by ${peer.name} is ${overlayOf.name}'s own address`);
    const restedMs = world.nowMs - (world.freedAtMs.get(text) ?? -Infinity);
    if (restedMs < world.scenario.restMs / (1 + world.scenario.faults.clockSkew) - 0.01)
      throw new Violation(`${text} leased again after ${restedMs} ms`);
    const address = addressOf(text);
    const { ranges, inUse } = world.scenario;
    const reserved = [...world.scenario.reserved, ...inUse.map((one) => one.cidr)];
    const edge = ranges.some(
      (range) =>
        range.family === address?.family && (address.value === range.base || address.value === lastAddress(range)),
    );
    if (edge) throw new Violation(`${text} is a network or broadcast address`);
    if (address !== undefined && reserved.some((block) => containsAddress(block, address))) {
      throw new Violation(`${text} is reserved`);
    }
    if (!peer.disk.leases.has(`${lease.containerId}\0${lease.ifname}`)) {
      throw new Violation(`${text} was answered before its lease was durable`);
    }
    checkOwned(world, peer, text, 'leased');
  }
}

function familiesIn(ranges: readonly Cidr[]): readonly Family[] {
  return families.filter((family) => ranges.some((range) => range.family === family));
}

/** Invariant 4 and that nothing hangs: asked once the world has been quiet for long. */
export function checkSettled(world: World): void {
  checkAll(world);
  const problems: string[] = [];
  if (world.restoring) problems.push('not every record was written back');
  if (world.forsaken) problems.push('nobody has said what becomes of space without an owner');
  if (world.registry.counted?.founder === undefined) problems.push('nobody founded the universe');
  if (world.registry.isUniverseGone && world.registry.remade?.record.founder === undefined)
    problems.push('nobody made the universe again');
  for (const peer of world.peers) if (!peer.retired) problems.push(...unsettled(world, peer));
  for (const { stored, record } of world.registry.peers.values()) {
    if (!world.registry.goneNodes.has(record.node.uid)) continue;
    problems.push(
      `${stored.name} is gone, its record with ${formatCidrs(record.blocks.map(({ cidr }) => cidr))} is not (heir ${record.heir?.name ?? 'none'})`,
    );
  }
  require(problems);
}

function unsettled(world: World, peer: SimPeer): readonly string[] {
  const { state, name } = peer;
  const known = world.registry.peers.get(name);
  if (state === undefined || known === undefined) return [`${name} is not running or has no record`];
  const problems: string[] = [];
  const { record } = known;
  if (state.fenced !== '') problems.push(`${name} is fenced: ${state.fenced}`);
  if (state.durable.doubt === known.stored.version) problems.push(`${name} is still in doubt`);
  if (record.underlay.join() !== peer.underlay.join()) problems.push(`${name} shows an address that it had before`);
  if (record.granting.length > 0) problems.push(`${name} still has ${record.granting.length} grants under way`);
  if (record.blocks.some((block) => block.quarantine === true)) problems.push(`${name} still has a quarantine`);
  if (record.blocks.some((block) => block.via !== undefined)) problems.push(`${name} still has a via`);
  if (record.trail !== undefined) problems.push(`${name} still has a trail`);
  for (const family of familiesIn(world.scenario.ranges)) problems.push(...wanting(world, peer, state, family));
  return problems;
}

function wanting(world: World, peer: SimPeer, state: State, family: Family): readonly string[] {
  const problems: string[] = [];
  const record = world.registry.peers.get(peer.name)?.record;
  const blocks = record?.blocks.filter((block) => block.cidr.family === family) ?? [];
  const space = state.spaces[family];
  if (space.total === 0 && blocks.length > 0) problems.push(`${peer.name} does not use its blocks`);
  const short = blocks.length === 0 || freeAddresses(space) < world.scenario.lowWater;
  const able = world.peers.filter(
    (other) =>
      other !== peer && other.state !== undefined && publishedFreeNow(other.state, family) >= enoughToGive(other.state),
  );
  if (short && able.length > 0) {
    const from = able.map((other) => `${other.name} (${formatCidrs(other.disk.peer.blocks)})`);
    problems.push(
      `${peer.name} has ${freeAddresses(space)} free IPv${family} addresses, though space is with ${from.join(', ')}`,
    );
  }
  return problems;
}
