// Which of what a scan of the namespaces found a disk that was set back still knows by name.
import { describe, expect, test } from 'vitest';
import { namedByDisk } from '#agent/recovery.ts';
import type { Lease } from '#agent/runtime/ipam.ts';

function lease(containerId: string, address: string, netnsInode: bigint, linkedBy?: string): Lease {
  return {
    containerId,
    ifname: 'eth0',
    generation: containerId,
    addresses: [address],
    owner: { network: 'n', netnsPath: '/run/netns/p', netnsInode, ...(linkedBy !== undefined && { linkedBy }) },
    state: 'active',
    sinceMs: 1,
    hostIfname: '',
  };
}

describe('a lease found in a namespace', () => {
  const found = lease('unknown-1', '10.32.0.5', 7n, 'ptp');
  test('is the one of the disk that has its address there', () => {
    const known = lease('c1', '10.32.0.5', 7n, 'ptp');
    expect(namedByDisk([found], [known, lease('c2', '10.32.0.6', 8n, 'ptp')])).toEqual([known]);
  });
  test.for([
    ['another address', lease('c1', '10.32.0.6', 7n, 'ptp')],
    ['another namespace: the address was given anew after the copy was made', lease('c1', '10.32.0.5', 8n, 'ptp')],
    ['a link of Weft’s own', lease('c1', '10.32.0.5', 7n)],
  ] as const)('is none of the disk’s: %s', ([, known]) => {
    expect(namedByDisk([found], [known])).toEqual([found]);
  });
  test('on a link of Weft’s own is named by that link', () => {
    const own = lease('c1', '10.32.0.5', 7n);
    expect(namedByDisk([own], [lease('c2', '10.32.0.5', 7n, 'ptp')])).toEqual([own]);
  });
});
