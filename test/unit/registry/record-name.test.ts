// Names of records: made of a node and a pool, and taken apart again, also where a node's own name looks like a pool's.

import { describe, expect, it } from 'vitest';
import { isOfNode, nameInPool, nodeRecordOf, peerName, uidInName } from '#agent/registry/record-name.ts';

const underlayAddresses = ['192.0.2.1'];

describe.each([
  ['n1', 'n1.c0ffee00'],
  ['Host.Example', 'host.example.c0ffee00'],
  // `weft peers remove` did not find it: it took its record for one of a further pool.
  ['host.pool-1', 'host.pool-1.c0ffee00'],
])('the record of the node %s', (nodeName, record) => {
  const node = { nodeName, nodeUid: 'C0FFEE00-0000-4000-8000-000000000001', underlayAddresses };

  it('is named by it and its uid in the default pool, by that and the pool in a further one', () => {
    expect(peerName(node)).toBe(record);
    expect(peerName(node, 'blue')).toBe(`${record}.pool-blue`);
    expect(nameInPool(record, 'blue')).toBe(`${record}.pool-blue`);
  });

  it('is told from any of its names', () => {
    for (const name of [record, `${record}.pool-blue`, `${record}.pool-1`]) {
      expect(nodeRecordOf(name)).toBe(record);
      expect(uidInName(name)).toBe('c0ffee00');
      expect(isOfNode(nodeName.toLowerCase(), name)).toBe(true);
      expect(isOfNode('host', name)).toBe(false);
      expect(isOfNode('c0ffee00', name)).toBe(false);
    }
  });
});

it.each(['n1', 'n1.c0ffee0', 'n1.c0ffee00.pool-', 'n1.c0ffee00.pool-a.pool-b', 'n1.c0ffee00.x', 'n10.c0ffee00'])(
  '%s is no record of n1',
  (name) => expect(isOfNode('n1', name)).toBe(false),
);
