// `ipRanges` against an IPAM that refuses as the real one does.

import { expect, test } from 'vitest';

import { leaseInRanges } from '#agent/cni/ip-ranges.ts';
import { WeftError } from '#agent/errors.ts';
import type { Ipam, IpamView, Lease, LeaseRequest } from '#agent/runtime/ipam.ts';

const { signal } = new AbortController();
const owner = { network: 'weft', netnsPath: '/ns', netnsInode: 1n };
const request: LeaseRequest = { containerId: 'c1', ifname: 'eth0', owner, addresses: [] };

interface World {
  readonly blocks: readonly string[];
  readonly leased?: readonly string[];
  readonly resting?: readonly string[];
  readonly never?: readonly string[];
}

function ipamOf({ blocks, leased = [], resting = [], never = [] }: World): {
  readonly ipam: Pick<Ipam, 'lease' | 'leases' | 'view'>;
  readonly tried: string[];
} {
  const tried: string[] = [];
  const peer = { name: 'n1', nodeName: 'n1', self: true, underlayAddress: undefined, overlayAddresses: [], blocks };
  const other = { ...peer, name: 'n2', self: false, blocks: ['10.32.128.0/17'] };
  const view = { ranges: ['10.32.0.0/16', 'fd00::/64'], peers: [peer, other], overlayAddresses: ['10.32.0.1'] };
  const lease = (asked: LeaseRequest): Promise<Lease> => {
    tried.push(asked.addresses.join(' '));
    const bad = asked.addresses.find((address) => resting.includes(address));
    if (bad !== undefined) return Promise.reject(new WeftError('noAddress', `${bad} rests`, { address: bad }));
    const odd = asked.addresses.find((address) => never.includes(address));
    if (odd !== undefined)
      return Promise.reject(new WeftError('invalidConfig', `${odd} is the network address`, { address: odd }));
    return Promise.resolve({ ...asked, generation: 'g', state: 'pending', sinceMs: 0, hostIfname: 'weftp1' });
  };
  const leases = (): readonly Lease[] => leased.map((address) => ({ addresses: [address] }) as unknown as Lease);
  return { ipam: { lease, leases, view: () => view as unknown as IpamView }, tried };
}

test('the first that is neither leased nor the node’s nor refused, and an address of each family', async () => {
  const { ipam, tried } = ipamOf({
    blocks: ['10.32.0.0/24', 'fd00::/96'],
    leased: ['10.32.0.2'],
    resting: ['10.32.0.3', 'fd00::1'],
    never: ['10.32.0.0', 'fd00::'],
  });
  const sets = [[{ subnet: '10.32.0.0/16' }], [{ subnet: 'fd00::/64' }]];
  expect((await leaseInRanges(ipam, request, sets, signal)).addresses).toEqual(['10.32.0.4', 'fd00::2']);
  expect(tried.length).toBeLessThan(8);
});

test('several ranges of one set are tried in their order, each as far as the node owns it', async () => {
  const { ipam } = ipamOf({ blocks: ['10.32.0.0/24'], leased: ['10.32.0.9'] });
  const set = [
    { subnet: '10.32.200.0/24' },
    { subnet: '10.32.0.0/24', rangeStart: '10.32.0.9', rangeEnd: '10.32.0.9' },
    { subnet: '10.32.0.0/16', rangeStart: '10.32.0.200' },
  ];
  expect((await leaseInRanges(ipam, request, [set], signal)).addresses).toEqual(['10.32.0.200']);
});

test.each<[string, World, readonly (readonly { subnet: string }[])[], string, RegExp]>([
  ['no pool has it', { blocks: ['10.32.0.0/24'] }, [[{ subnet: '192.0.2.0/24' }]], 'invalidConfig', /is in no pool/],
  ['another node has it', { blocks: ['10.32.0.0/24'] }, [[{ subnet: '10.32.200.0/24' }]], 'noAddress', /owns nothing/],
  [
    'two sets of one family',
    { blocks: ['10.32.0.0/24'] },
    [[{ subnet: '10.32.0.0/25' }], [{ subnet: '10.32.0.128/25' }]],
    'invalidConfig',
    /one set for each family/,
  ],
  [
    'all of it rests',
    { blocks: ['10.32.0.0/30'], resting: ['10.32.0.0', '10.32.0.2', '10.32.0.3'] },
    [[{ subnet: '10.32.0.0/30' }]],
    'noAddress',
    /no address of 10\.32\.0\.0\/30 is free/,
  ],
])('%s', async (_name, world, sets, kind, words) => {
  const failed = await leaseInRanges(ipamOf(world).ipam, request, sets, signal).catch((error: unknown) => error);
  expect(failed).toMatchObject({ kind });
  expect(String(failed)).toMatch(words);
});

test('what has nothing to do with the addresses ends the search', async () => {
  const { ipam } = ipamOf({ blocks: ['10.32.0.0/24'] });
  const failing = { ...ipam, lease: () => Promise.reject(new WeftError('noAddress', 'no address is free')) };
  await expect(leaseInRanges(failing, request, [[{ subnet: '10.32.0.0/24' }]], signal)).rejects.toThrow('no address');
});
