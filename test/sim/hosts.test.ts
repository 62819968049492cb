// Which faults the world may inject: one that no node could see, with all that it has to go by, is no fault to survive.
import { expect, test } from 'vitest';
import { formatSession, parseSession } from '#ipam-peer/records.ts';
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
  world.backups.set(peer, [{ identity: peer.name, disk: peer.snapshot() }]);
  return { world, peer, renewals };
}

/** What the registry holds as the peer's session. */
function putSession(world: World, peer: SimPeer, sessionId: string, renewals: number): void {
  const stored = world.registry.sessions.get(peer.name);
  const known = parseSession(stored?.value);
  if (stored === undefined || !known.ok) throw new Error('no session');
  const value = formatSession({ ...known.record, sessionId, renewals });
  world.registry.sessions.set(peer.name, { ...stored, value });
}

// Seed 2051979: of the renewals sent while the registry did not answer an early one arrived; a copy made since then, with the very
// session of the present disk, was put back. The leases that it did not know were leased again.
test('a disk is not set back to a copy that no renewal in the registry is younger than', () => {
  const { world, peer, renewals } = copied();
  rollBackDisk(world, peer);
  putSession(world, peer, 'sent-before-and-late', renewals - 1);
  rollBackDisk(world, peer);
  expect(world.counters.get('diskRolledBack')).toBe(0);
  expect(peer.state).toBeDefined();
});

test('a disk that is set back by a renewal waits for the later session and leases nothing from the old copy', () => {
  const { world, peer, renewals } = copied();
  const held = [...world.inUse.keys()];
  putSession(world, peer, 'sent-after-the-copy', renewals + 1);
  rollBackDisk(world, peer);
  expect(world.counters.get('diskRolledBack')).toBe(1);
  expect(peer.doubtful).toBe(true);
  world.run(60_000);
  expect(world.trace.filter((line) => line.includes('is not known to this disk'))).toHaveLength(1);
  expect(world.trace.filter((line) => line.includes('leases are taken from the kernel'))).toHaveLength(1);
  expect(held.length).toBeGreaterThan(0);
  expect(peer.state?.session.status).toBe('held');
});
