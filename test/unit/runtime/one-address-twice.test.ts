// Two leases of one address, as a person or a pod can bring them about: the address is nobody else's until both are over.
import { DatabaseSync } from 'node:sqlite';
import { describe, expect, test } from 'vitest';
import { toWeftError } from '#agent/errors.ts';
import type { Lease } from '#agent/runtime/ipam.ts';
import type { RunningIpam } from '#agent/runtime/start.ts';
import { IpamNodes, request, soon, until } from '#test/support/ipam-nodes.ts';

async function why(ipam: RunningIpam, address: string): Promise<string> {
  return await ipam.lease(request('other', [address]), soon()).then(
    () => 'leased',
    (error: unknown) => toWeftError(error).message,
  );
}

describe('one address in two leases', () => {
  test('of a disk that somebody wrote into: it rests with the last of them', async () => {
    await using nodes = await IpamNodes.create();
    const before = await nodes.start('node1');
    await before.whenReady(soon());
    before.activate(await before.lease(request('a'), soon()));
    await nodes.stop(before);
    const disk = new DatabaseSync(nodes.statePath('node1'));
    const { value } = disk.prepare('SELECT value FROM leases').get() as { readonly value: string };
    const copy = JSON.stringify({ ...(JSON.parse(value) as object), containerId: 'b' });
    disk.prepare('INSERT INTO leases VALUES (?, ?, ?)').run('b', 'eth0', copy);
    disk.close();
    const again = await nodes.start('node1', { restMs: 100 });
    await until('it serves', () => again.view().ready);
    again.release(request('b'));
    expect(again.view().restingAddresses).toBe(0);
    expect(await why(again, '10.32.0.2')).toBe('10.32.0.2 is in use by pod default/pod-a');
    again.release(request('a'));
    expect(await why(again, '10.32.0.2')).toMatch(/rests before it is used again/);
  });

  test('found in the kernel after the disk was lost, as of a pod with its address on a dummy link too: the first counts', async () => {
    await using nodes = await IpamNodes.create();
    const before = await nodes.start('node1');
    await before.whenReady(soon());
    const own = await before.lease(request('a'), soon());
    before.activate(own);
    await nodes.stop(before);
    await nodes.wipe('node1');
    const active: Lease = { ...own, state: 'active' };
    const inPod: Lease = { ...active, containerId: 'unknown-1', generation: '1', hostIfname: '' };
    const again = await nodes.start('node1', { recoverLeases: async () => [active, inPod], restMs: 100 });
    await until('the leases are back', () => again.leases().length > 0);
    expect(again.leases()).toMatchObject([{ containerId: 'a', addresses: own.addresses }]);
  });
});
