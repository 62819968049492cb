// The runtime against a registry in memory: what a node does from its first start to its restart from disk.
import { describe, expect, test } from 'vitest';
import { IpamNodes, request, soon, until } from '#test/support/ipam-nodes.ts';

describe('a new cluster', () => {
  test('the founder owns the range, the next two get halves', async () => {
    await using nodes = await IpamNodes.create();
    const one = await nodes.start('node1');
    await one.whenReady(soon());
    const two = await nodes.start('node2');
    await two.whenReady(soon());
    const three = await nodes.start('node3');
    await three.whenReady(soon());
    await until('all three agree', () =>
      [one, two, three].every((ipam) => {
        const blocks = ipam.view().peers.map((peer) => peer.blocks.join(' '));
        return blocks.join(', ') === '10.32.0.0/13, 10.40.0.0/14, 10.44.0.0/14';
      }),
    );
    expect(one.view()).toMatchObject({ overlayAddresses: ['10.32.0.1'], ready: true, waitingFor: '' });
    expect(three.view().peers.map((peer) => peer.underlayAddress)).toEqual(['192.0.2.1', '192.0.2.2', '192.0.2.3']);
  });
});
