// Pools as the status, the metrics and `weft ipam` show them.
import { describe, expect, it } from 'vitest';
import { ipamText } from '#agent/cli/text.ts';
import { grouped } from '#agent/observe/counts.ts';
import { createMetrics } from '#agent/observe/metrics.ts';
import { buildStatus } from '#agent/observe/status.ts';
import type { IpamView, PoolView } from '#agent/runtime/ipam.ts';
import { lease, peer, sources, view } from './fixture.ts';

const counts = {
  freeAddresses: 126,
  leasedAddresses: 0,
  restingAddresses: 0,
  availableAddresses: 4096,
  ready: true,
  waitingFor: '',
};

const main: PoolView = { ...view, ...counts, name: 'default', namespaces: [] };
const blue: PoolView = {
  ...counts,
  name: 'blue',
  namespaces: ['team-a', 'team-b'],
  ranges: ['10.64.0.0/20', 'fd00:64::/48'],
  reserved: ['10.64.8.0/21'],
  peers: [peer(1, ['10.64.0.0/22', 'fd00:64::/49']), peer(2, ['10.64.4.0/22', 'fd00:64:0:8000::/49'])],
};

function withPools(...pools: readonly PoolView[]): Partial<Parameters<typeof sources>[0]> {
  const ipam: IpamView = { ...view, pools };
  return { ipam: () => ipam };
}

describe('pools in the status', () => {
  it('count the family of which there is less, without what is reserved', () => {
    const { pools } = buildStatus(sources(withPools(main, blue)), 0);
    expect(pools.map(({ name, addresses }) => [name, addresses])).toEqual([
      ['default', 2 ** 20],
      ['blue', 2048],
    ]);
    expect(pools[1]?.peers.map((one) => [one.addresses, one.sharePercent])).toEqual([
      [1024, 50],
      [1024, 50],
    ]);
  });

  it('an IPv6 pool has powers of two, in JSON too', () => {
    const six: PoolView = { ...blue, ranges: ['fd00:64::/48'], reserved: [] };
    const status = buildStatus(sources(withPools(main, six)), 0);
    expect(JSON.parse(JSON.stringify(status.pools[1]))).toMatchObject({ addresses: 2 ** 80 });
    expect(status.pools[1]?.peers[0]).toMatchObject({ addresses: 2 ** 79, sharePercent: 50 });
    expect(grouped(2 ** 80)).toBe('2^80');
  });

  it('a lease says which pool it is of', () => {
    const leases = () => [lease(1), lease(2, { pool: 'blue' })];
    expect(buildStatus(sources({ leases }), 10).leases.map(({ pool }) => pool)).toEqual(['blue', 'default']);
  });

  it('a pool with less than a tenth left is a finding, but only where pods of the node use it', () => {
    const names = (...pools: readonly PoolView[]): readonly string[] =>
      buildStatus(sources(withPools(...pools)), 0).findings.map(({ name }) => name);
    const scarce = { ...blue, availableAddresses: 200 };
    expect(names({ ...main, availableAddresses: 2 ** 19 }, scarce)).toEqual(['poolNearlyFull']);
    expect(names({ ...main, availableAddresses: 2 ** 19 }, { ...scarce, peers: [peer(2, ['10.64.0.0/22'])] })).toEqual(
      [],
    );
    expect(names({ ...main, availableAddresses: 1000 })).toEqual(['poolNearlyFull']);
  });

  it('have metrics of their own', async () => {
    const text = await createMetrics(sources(withPools(main, blue))).text();
    expect(text).toContain('weft_pool_addresses{pool="default"} 1048576');
    expect(text).toContain('weft_pool_addresses{pool="blue"} 2048');
    expect(text).toContain('weft_pool_available_addresses{pool="blue"} 4096');
    expect(text).toContain('weft_pool_free_addresses{pool="blue"} 126');
  });
});

describe('weft ipam', () => {
  it('shows each pool once there is more than one', () => {
    const plain = ipamText(buildStatus(sources(withPools(main)), 0));
    expect(plain).not.toContain('Pool');
    const text = ipamText(
      buildStatus(sources(withPools(main, { ...blue, ready: false, waitingFor: 'asked host2 for space' })), 0),
    );
    expect(text).toContain('Pool      default\nPods      all that name no other pool\nRange     10.32.0.0/12\n');
    expect(text).toContain(
      'Pool      blue\nPods      namespace team-a, namespace team-b\nWaiting   asked host2 for space\n',
    );
    expect(text).toMatch(/host2\s+10\.64\.4\.0\/22\s+1 024\s+50 %\n\s+fd00:64:0:8000::\/49\n/);
  });
});
