// Faults of the world: processes that die, hosts that lose power, peers cut off from the registry, a record deleted by hand.
import { deleteNode, reRegister, rollBackDisk, saveDisks, tellNodes } from './hosts.ts';
import { crash } from './crash.ts';
import { isGone } from './gone.ts';
import { hintAll } from './network.ts';
import type { SimPeer } from './peer.ts';
import { forsake, loseRecord, loseUniverse, mayLoseFounding, restoreBackup, takeBackup } from './restore.ts';
import { noFaults } from './scenario.ts';
import { changeAddress, copyMachine, nameTwice, unplug } from './twins.ts';
import type { World } from './world.ts';

export function scheduleFault(world: World): void {
  world.agenda.add(world.nowMs + world.random.between(0, 2 * world.faults.faultEveryMs), { kind: 'fault' });
}

export function fault(world: World): void {
  if (world.calm) return;
  scheduleFault(world);
  const peer = world.random.pick(world.peers);
  const choice = world.random.next();
  const { crashes, cutOffs } = moods[world.scenario.mood];
  if (choice < crashes) {
    if (peer.state !== undefined && !peer.retired)
      crash(
        world,
        peer,
        world.random.pick([mayLoseDisk(world, peer) ? 'diskLost' : 'crash', 'powerLoss', 'crash', 'crash']),
      );
  } else if (choice < crashes + cutOffs) {
    cutOff(world, peer);
  } else if (!world.restoring) {
    world.random.pick(moods[world.scenario.mood].grave)(world, peer);
  }
}

/** Without its disk a peer cannot write its record back. */
function mayLoseDisk(world: World, { name }: SimPeer): boolean {
  if (world.scenario.mood === 'forsaken') return true;
  return !world.restoring && world.scenario.mood !== 'registry' && !world.registry.isLostFounding(name);
}

type Fault = (world: World, peer: SimPeer) => void;

interface Mood {
  /** Of all faults: processes that die, and peers that are cut off for a while. */
  readonly crashes: number;
  readonly cutOffs: number;
  /** The others; a world that is being restored is spared them, it would need a person then. */
  readonly grave: readonly Fault[];
}

const moods: Readonly<Record<World['scenario']['mood'], Mood>> = {
  any: {
    crashes: 0.35,
    cutOffs: 0.15,
    grave: [
      deleteNode,
      deleteNode,
      rollBackDisk,
      deleteIdle,
      restoreBackup,
      loseRecord,
      copyMachine,
      nameTwice,
      changeAddress,
    ],
  },
  nodes: { crashes: 0.1, cutOffs: 0.15, grave: [deleteNode, deleteNode, deleteIdle, changeAddress] },
  twins: {
    crashes: 0.1,
    cutOffs: 0.05,
    grave: [copyMachine, copyMachine, copyMachine, nameTwice, changeAddress, deleteNode],
  },
  registry: { crashes: 0.02, cutOffs: 0.01, grave: [restoreBackup, restoreBackup, restoreBackup, loseRecord] },
  disks: { crashes: 0.1, cutOffs: 0.15, grave: [rollBackDisk] },
  records: { crashes: 0.5, cutOffs: 0.15, grave: [deleteIdle] },
  /** Records are deleted by hand whatever becomes of the disks: a person has to say that what is nobody's then may be used. */
  forsaken: {
    crashes: 0.3,
    cutOffs: 0.1,
    grave: [loseRecord, loseRecord, loseRecord, deleteIdle, rollBackDisk, copyMachine, nameTwice, deleteNode],
  },
  universe: {
    crashes: 0.25,
    cutOffs: 0.1,
    grave: [loseUniverse, loseUniverse, loseUniverse, deleteNode, rollBackDisk, loseRecord],
  },
};

/** Where disks are set back or machines copied. */
const goesBack: ReadonlySet<World['scenario']['mood']> = new Set(['any', 'twins', 'disks', 'forsaken']);

/** Now and then the disks and the registry are copied. */
export function save(world: World): void {
  if (world.calm) return;
  const everyMs = world.scenario.mood === 'registry' ? 100 : 1250;
  world.agenda.add(world.nowMs + everyMs * world.random.between(0.4, 1.6), { kind: 'save' });
  if (goesBack.has(world.scenario.mood)) saveDisks(world);
  takeBackup(world);
}

function cutOff(world: World, peer: SimPeer): void {
  if (!peer.reachable) return;
  peer.reachable = false;
  world.counters.count('partition');
  world.agenda.add(world.nowMs + world.random.between(10, 10_000), { kind: 'heal', peer });
}

/** Somebody deletes the record of a peer that holds nothing: grants on their way to it become void. */
export function deleteIdle(world: World, peer: SimPeer): void {
  const record = world.registry.peers.get(peer.name)?.record;
  if (record === undefined || record.seeded || record.blocks.length + record.granting.length > 0) return;
  if (peer.disk.peer.blocks.length > 0 || record.heir !== undefined || isGone(world, peer)) return;
  if (!mayLoseFounding(world, peer)) return;
  forsake(world);
  world.counters.count('recordDeleted');
  world.note(`record of ${peer.name} deleted`);
  world.registry.loseByHand(peer.name);
}

export function heal(world: World, peer: SimPeer): void {
  if (peer.reachable) return;
  peer.reachable = true;
  world.counters.count('heal');
  world.note(`${peer.label} is back on the network`);
  hintAll(world, peer);
  tellNodes(world, peer);
}

export function switchHalves(world: World, side: number): void {
  if (world.calm) return;
  for (const peer of world.peers) {
    if (peer.index % 2 === side) heal(world, peer);
    else if (peer.reachable) {
      peer.reachable = false;
      world.counters.count('partition');
    }
  }
  world.agenda.add(world.nowMs + world.random.between(500, 8000), { kind: 'halves', side: 1 - side });
}

export function calmDown(world: World): void {
  world.note('faults end');
  world.calm = true;
  world.faults = noFaults;
  for (const twin of world.twins) unplug(world, twin);
  for (const peer of world.peers) {
    if (isGone(world, peer)) reRegister(world, peer);
    heal(world, peer);
    world.agenda.add(world.nowMs, { kind: 'start', peer });
  }
  if (world.forsaken) world.agenda.add(world.nowMs + 30_000, { kind: 'reclaim' });
}
