// Two machines that go by one name: a copy of a machine with its disk, or a second one that was given the same name. Whose session
// stands in the registry is the node; the others send no packets to the pods of any other and take none from them. What is on the
// registry must be right all the while, and so must be the machine that is left in the end: its pods on what its double gave away are
// cut. A copy of the very present disk cannot be told from the machine itself: while it holds the session that it found on its disk,
// nothing is asked of its own copy of the records.
import { containsAddress } from '#ipam-peer/cidr.ts';
import { leaseKey, type State } from '#ipam-peer/state.ts';
import { Violation } from './checks.ts';
import { forgetPod } from './hosts.ts';
import { isBound, isGone } from './gone.ts';
import { addressOf } from './parsed.ts';
import { SimPeer } from './peer.ts';
import type { World } from './world.ts';

/** A second machine starts from a copy of the first one's disk, of now or of a while ago. */
export function copyMachine(world: World, peer: SimPeer): void {
  if (!mayHaveTwin(world, peer) || peer.disk.peer.uid === undefined) return;
  const saved = world.backups.get(peer)?.findLast((backup) => backup.identity === peer.name)?.disk;
  const twin = makeTwin(world, peer);
  twin.disk = saved !== undefined && world.random.chance(0.5) ? copyOf(saved) : peer.snapshot();
  world.counters.count('cloned');
  plugIn(world, peer, twin);
}

/** A second machine is given the name of the first. */
export function nameTwice(world: World, peer: SimPeer): void {
  if (!mayHaveTwin(world, peer)) return;
  world.counters.count('namesake');
  plugIn(world, peer, makeTwin(world, peer));
}

function copyOf(disk: SimPeer['disk']): SimPeer['disk'] {
  return { peer: disk.peer, leases: new Map(disk.leases), resting: new Set(disk.resting) };
}

function mayHaveTwin(world: World, peer: SimPeer): boolean {
  if (world.restoring || world.calm || peer.retired || isGone(world, peer)) return false;
  if (isBound(world, peer)) return false;
  return world.twins.size < 3 && ![...world.twins].some((twin) => twin.name === peer.name);
}

function makeTwin(world: World, peer: SimPeer): SimPeer {
  const twin = new SimPeer(peer.index, peer.config, `t${world.steps}x`);
  twin.doubtful = true;
  return twin;
}

function plugIn(world: World, peer: SimPeer, twin: SimPeer): void {
  const { random } = world;
  world.note(`${twin.label} is a second machine of that name`);
  world.twins.add(twin);
  world.agenda.add(world.nowMs + random.between(1, 300), { kind: 'start', peer: twin });
  world.agenda.add(world.nowMs + random.between(100, 1000), { kind: 'work', peer: twin });
  world.agenda.add(world.nowMs + random.between(200, 6000), { kind: 'unplug', twin });
  if (!peer.reachable || !random.chance(0.5)) return;
  // Long enough for its double to take it for dead.
  peer.reachable = false;
  world.counters.count('partition');
  world.agenda.add(world.nowMs + random.between(10, 8000), { kind: 'heal', peer });
}

/** No request is on its way for longer (network.ts). */
const latestMs = 10_000;

/** The second machine is found and stopped for good; its disk and its pods are thrown away. */
export function unplug(world: World, twin: SimPeer): void {
  if (!world.twins.delete(twin)) return;
  world.twinsHeardUntilMs = world.nowMs + latestMs;
  world.note(`${twin.label} is stopped`);
  twin.crash();
  twin.retired = true;
}

/** Somebody took or renewed the session of this name. */
export function sessionWritten(world: World, name: string, sessionId: string, before: string): void {
  const tag = /^t\d+x/.exec(sessionId.slice(name.length + 1))?.[0] ?? '';
  const peer = world.peerNamed(name);
  const twin = [...world.twins].find((one) => one.name === name && one.tag === tag);
  // It found on its disk what stood there: as the machine itself would, it goes on at once.
  const atOnce = twin !== undefined && before !== '' && twin.disk.peer.session?.id === before;
  if (tag !== '' && peer !== undefined && !peer.eclipsed) {
    world.note(`${name} is eclipsed by ${tag}`);
    peer.eclipsed = true;
    for (const pod of peer.pods.values()) forgetPod(world, peer, pod.lease);
    if (atOnce) forgetRests(world, name);
  }
  for (const one of world.twins) {
    // One that had to wait goes by what it reads from then on.
    if (one.name === name) one.doubtful = one !== twin || (one.doubtful && atOnce);
  }
}

/** A copy that is a little older than the disk does not know what was freed since. */
function forgetRests(world: World, name: string): void {
  const owned = world.checks.ownership.of(name);
  for (const text of world.freedAtMs.keys()) {
    const address = addressOf(text);
    if (address !== undefined && owned.some(({ cidr }) => containsAddress(cidr, address))) world.freedAtMs.delete(text);
  }
}

/** The first machine has its name to itself again: what its agent knows as its pods is on the network again. */
export function returnToLight(world: World, peer: SimPeer, { session, durable, leases }: State): void {
  if (session.status !== 'held' || durable.uid === undefined || durable.cutting === true) return;
  if (peer.state === undefined || world.registry.sessions.get(peer.name)?.version !== session.stored?.version) return;
  peer.eclipsed = false;
  world.note(`${peer.name} is itself again`);
  for (const { lease, ending } of peer.pods.values()) {
    if (ending || !leases.has(leaseKey(lease))) continue;
    for (const address of lease.addresses) {
      const other = world.inUse.get(address);
      if (other !== undefined)
        throw new Violation(`${peer.name} goes on with a pod on ${address}, where ${other.name} has one`);
      world.inUse.set(address, peer);
    }
  }
}

/** The node's address in the underlay changes. */
export function changeAddress(world: World, peer: SimPeer): void {
  world.counters.count('addressChanged');
  peer.underlay = [`192.169.${world.random.below(256)}.${world.random.below(256)}`];
  world.note(`${peer.name} has the address ${peer.underlay.join()}`);
  world.feed(peer, { kind: 'underlay', addresses: peer.underlay });
}
