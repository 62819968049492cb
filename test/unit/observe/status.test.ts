// The picture of a node: shares, readiness, bounded leases, and each finding with its cause.
import { describe, expect, it } from 'vitest';
import { ipamText } from '#agent/cli/text.ts';
import { buildStatus, readiness } from '#agent/observe/status.ts';
import type { StatusSources } from '#agent/observe/status.ts';
import type { IpamView } from '#agent/runtime/ipam.ts';
import { datapathStatus, lease, peer, sources, startMs, view } from './fixture.ts';

describe('status', () => {
  it('says who has which share', () => {
    const status = buildStatus(sources(), 10);
    expect(status.peers.map(({ nodeName, addresses, sharePercent }) => [nodeName, addresses, sharePercent])).toEqual([
      ['host1', 524_288, 50],
      ['host2', 262_144, 25],
      ['host3', 262_144, 25],
    ]);
    expect(status.findings).toEqual([]);
  });

  it('is JSON although leases carry 64-bit inodes', () => {
    expect(JSON.parse(JSON.stringify(buildStatus(sources(), 10)))).toMatchObject({ leasesTotal: 2 });
  });

  it('bounds the leases, newest first, and counts all', () => {
    const status = buildStatus(sources({ leases: () => [lease(1), lease(3), lease(2)] }), 2);
    expect(status.leases.map(({ pod }) => pod)).toEqual(['default/web-3', 'default/web-2']);
    expect(status.leasesTotal).toBe(3);
  });

  it('answers before any part exists', () => {
    const none = { ipam: () => undefined, datapath: () => undefined, leases: () => [], starting: () => 'the registry' };
    const status = buildStatus(sources(none), 10);
    expect(status).toMatchObject({ ready: false, waitingFor: 'the registry', datapath: null, peers: [] });
  });
});

describe('readiness', () => {
  const cases: readonly (readonly [string, Partial<StatusSources>, string])[] = [
    ['everything runs', {}, ''],
    ['the start is not through', { starting: () => 'the registry' }, 'the registry'],
    ['no address', { ipam: () => ({ ...view, ready: false, waitingFor: 'a block' }) }, 'a block'],
    ['no address and no reason', { ipam: () => ({ ...view, ready: false }) }, 'addresses'],
    ['no overlay', { datapath: () => ({ ...datapathStatus, ready: false, waitingFor: 'weft0' }) }, 'weft0'],
  ];
  it.each(cases)('%s', (_, changes, waitingFor) => {
    expect(readiness(sources(changes))).toEqual({ ready: waitingFor === '', waitingFor });
  });
});

describe('findings', () => {
  const seen = (ipam: Partial<IpamView>, changes: Partial<StatusSources> = {}): readonly string[] =>
    buildStatus(sources({ ipam: () => ({ ...view, ...ipam }), ...changes }), 0).findings.map(({ name }) => name);
  const late = { nowMs: () => startMs + 1_000_000 };
  const answered = { registryAnsweredAtMs: startMs + 999_000 };

  it('not ready only after the start had its time', () => {
    expect(seen({ ready: false }, { nowMs: () => startMs + 10_000 })).toEqual([]);
    expect(seen({ ready: false, ...answered }, late)).toEqual(['notReady']);
  });

  it('a silent registry, also one that never answered', () => {
    expect(seen({ registryAnsweredAtMs: startMs }, late)).toEqual(['registrySilent']);
    expect(seen({ registryAnsweredAtMs: undefined }, late)).toEqual(['registrySilent']);
    expect(seen({ registryAnsweredAtMs: undefined })).toEqual([]);
  });

  it('few addresses', () => {
    expect(seen({ freeAddresses: 3 })).toEqual(['fewAddresses']);
  });

  it('a peer whose pods cannot be reached, but not one without blocks', () => {
    const lost = { underlayAddress: undefined };
    expect(seen({ peers: [peer(1, []), peer(2, ['10.40.0.0/14'], lost), peer(3, [], lost)] })).toEqual([
      'peerWithoutUnderlay',
    ]);
  });

  it('what the datapath found', () => {
    const findings = [{ name: 'podLinkMissing' as const, subject: 'weftp1', message: 'it is gone' }];
    const found = buildStatus(sources({ datapath: () => ({ ...datapathStatus, findings }) }), 0).findings;
    expect(found).toMatchObject([{ name: 'podLinkMissing', message: 'weftp1: it is gone' }]);
  });
});

it('a record that claims what is no pod’s is a finding', () => {
  const peers = view.peers.map((peer) => (peer.self ? peer : { ...peer, outside: ['192.0.2.0/24'] }));
  const [first] = buildStatus(sources({ ipam: () => ({ ...view, peers }) }), 0).findings;
  expect(first).toMatchObject({
    name: 'blockOutsideRange',
    severity: 'error',
    message: expect.stringMatching(/^\S+: its record claims 192\.0\.2\.0\/24, which is none of its pool's space\.$/),
  });
});

it('what became of a pool is a finding with its next step', () => {
  const conflicts = [{ name: 'host9.1', nodeName: 'host9', gone: true, blocks: ['10.44.0.0/15'] }];
  const ended = { name: 'universeReplaced', text: 'the Universe default has other ranges' } as const;
  const troubles = { conflicts, ended, unowned: ['10.46.0.0/15'] };
  const pool = { ...view, name: 'default', namespaces: [], availableAddresses: 1_000_000, ...troubles };
  const status = buildStatus(sources({ ipam: () => ({ ...view, pools: [pool] }) }), 0);
  expect(status.findings.map(({ name, message }) => [name, message])).toEqual([
    ['universeReplaced', 'pool default: the Universe default has other ranges.'],
    ['blocksInTwoRecords', 'host9.1: 10.44.0.0/15 of this node is also in that record, of host9, which is gone.'],
    ['spaceWithoutOwner', "pool default: 10.46.0.0/15 is in no node's record."],
  ]);
  expect(ipamText(status)).toContain(
    "Pool default: the Universe default has other ranges.\nPool default: 10.44.0.0/15 of this node is also in the record host9.1, whose node is gone.\nPool default: 10.46.0.0/15 is in no node's record.\n",
  );
});
