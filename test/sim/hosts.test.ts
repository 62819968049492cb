// Which faults the world may inject: one that no node could see, with all that it has to go by, is no fault to survive.
import { expect, test } from 'vitest';
import { formatSession, parseSession } from '#ipam-peer/session-record.ts';
import { rollBackDisk } from './hosts.ts';
import type { SimPeer } from './peer.ts';
import { Random } from './random.ts';
import { drawScenario, noFaults } from './scenario.ts';
import { World } from './world.ts';

/** A founder that has renewed its session and runs; what it has on disk was copied. */
function copied(): { readonly world: World; readonly peer: SimPeer; readonly renewals: number } {
  const random = new Random(1);
  const drawn = drawScenario(random, 1);
  const world = new World({ ...drawn, joinOnUse: false, halves: false, busyMs: 5000, faults: noFaults }, random);
  world.run(20_000);
  const [peer] = world.peers;
  const renewals = peer?.disk.peer.session?.renewals ?? 0;
  if (peer === undefined || renewals < 3 || peer.state?.session.status !== 'held') throw new Error('no session');
  copy(world, peer);
  return { world, peer, renewals };
}

function copy(world: World, peer: SimPeer): void {
  world.backups.set(peer, [{ identity: peer.name, disk: peer.snapshot() }]);
}

/** By its disk the peer has sent three renewals more and has heard of none; it is copied then. */
function sendMore(world: World, peer: SimPeer): void {
  const { session } = peer.disk.peer;
  const renewals = (session?.renewals ?? 0) + 3;
  peer.disk.peer = { ...peer.disk.peer, session: { id: '', ...session, next: 'last-sent', renewals } };
  copy(world, peer);
}

/** What the registry holds as the peer's session. */
function putSession(world: World, peer: SimPeer, sessionId: string, renewals: number): void {
  const stored = world.registry.sessions.get(peer.name);
  const known = parseSession(stored?.value);
  if (stored === undefined || !known.ok) throw new Error('no session');
  const value = formatSession({ ...known.record, sessionId, renewals });
  world.registry.sessions.set(peer.name, { ...stored, value });
}

test('a disk is not set back to a copy whose session is that of the registry', () => {
  const { world, peer } = copied();
  rollBackDisk(world, peer);
  expect(world.counters.get('diskRolledBack')).toBe(0);
  expect(peer.state).toBeDefined();
});

// One renewal later; and, as in seed 2051979, a renewal that was sent before others of which nothing is known, and came late.
test.each(['later', 'late'])(
  'a disk set back beside a renewal that came %s waits, and leases nothing from the old copy',
  (when) => {
    const { world, peer, renewals } = copied();
    const held = [...world.inUse.keys()];
    if (when === 'late') sendMore(world, peer);
    putSession(world, peer, `came-${when}`, renewals + 1);
    rollBackDisk(world, peer);
    expect(world.counters.get('diskRolledBack')).toBe(1);
    expect(peer.doubtful).toBe(true);
    world.run(60_000);
    expect(world.trace.filter((line) => line.includes('is not known to this disk'))).toHaveLength(1);
    expect(world.trace.filter((line) => line.includes('leases are taken from the kernel'))).toHaveLength(1);
    expect(held.length).toBeGreaterThan(0);
    expect(peer.state?.session.status).toBe('held');
  },
);
