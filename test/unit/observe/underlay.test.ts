// Which address of a peer the overlay uses: discovery's before the record's, one family on both ends.
import { describe, expect, it } from 'vitest';
import { namedUnderlay, withUnderlay } from '#agent/underlay.ts';
import type { NodeIdentity } from '#agent/discovery/discovery.ts';
import { peer, view } from './fixture.ts';

const node = (nodeName: string, ...underlayAddresses: readonly string[]): NodeIdentity => ({
  nodeName,
  nodeUid: '',
  underlayAddresses,
});
const three = { ...view, peers: [peer(1, []), peer(2, []), peer(3, [], { underlayAddress: undefined })] };
const addresses = (nodes: readonly NodeIdentity[], own = ''): readonly (string | undefined)[] =>
  withUnderlay(three, nodes, own).peers.map(({ underlayAddress }) => underlayAddress);

describe('withUnderlay', () => {
  it('keeps the records where discovery knows nothing', () => {
    expect(addresses([])).toEqual(['192.0.2.1', '192.0.2.2', undefined]);
  });

  it('lets discovery win, and fill in', () => {
    expect(
      addresses([node('host1', '198.51.100.1'), node('host2', '198.51.100.2'), node('host3', '198.51.100.3')]),
    ).toEqual(['198.51.100.1', '198.51.100.2', '198.51.100.3']);
  });

  it('takes the family of the own underlay', () => {
    const nodes = [node('host1', '198.51.100.1', '2001:db8::1'), node('host2', '2001:db8::2', '198.51.100.2')];
    expect(addresses(nodes).slice(0, 2)).toEqual(['198.51.100.1', '198.51.100.2']);
    expect(addresses(nodes, '2001:db8::9').slice(0, 2)).toEqual(['2001:db8::9', '2001:db8::2']);
  });

  it('lets a node choose among its own addresses, and among no others', () => {
    const nodes = [node('host1', '198.51.100.1'), node('host2', '198.51.100.2', '192.0.2.2')];
    expect(addresses(nodes)[1]).toBe('192.0.2.2');
    expect(addresses([node('host1', '198.51.100.1'), node('host2', '198.51.100.2', '203.0.113.2')])[1]).toBe(
      '198.51.100.2',
    );
  });

  it('keeps the record of a node that has no address of that family', () => {
    expect(addresses([node('host1', '198.51.100.1'), node('host2', '2001:db8::2')])[1]).toBe('192.0.2.2');
  });

  it('keeps a node without addresses as it is', () => {
    expect(addresses([node('host2')])[1]).toBe('192.0.2.2');
  });
});

describe('namedUnderlay', () => {
  it('takes the address before the interface, and leaves it to discovery when neither is given', () => {
    expect(namedUnderlay({ underlayAddress: '192.0.2.9', underlayInterface: 'nothere' })).toBe('192.0.2.9');
    expect(namedUnderlay({ underlayAddress: '', underlayInterface: '' })).toBe('');
  });

  it('finds the first IPv4 address of an interface, and names one that has none', () => {
    expect(namedUnderlay({ underlayAddress: '', underlayInterface: 'lo' })).toBe('127.0.0.1');
    expect(() => namedUnderlay({ underlayAddress: '', underlayInterface: 'nothere' })).toThrow(
      /underlayInterface: nothere/,
    );
  });
});
