// Input that contradicts itself costs the peer concerned its place, becomes a finding, and nothing else.
import { describe, expect, it } from 'vitest';

import { canonicalCidr, cidrContains, subtractCidrs } from '#agent/datapath/cidr.ts';
import { type DirectInput, noDirect } from '#agent/datapath/direct.ts';
import { desiredState } from '#agent/datapath/desired.ts';
import { aliasOf, linkLocalOf, parseAlias, podMacOf, vtepMac } from '#agent/datapath/identity.ts';
import { renderRuleset } from '#agent/datapath/ruleset.ts';
import type { RulesetInput } from '#agent/datapath/ruleset.ts';
import { defaultDatapathSettings } from '#agent/datapath/settings.ts';
import type { IpamView, PeerView } from '#agent/runtime/ipam.ts';

function peer(name: string, underlayAddress: string | undefined, blocks: readonly string[]): PeerView {
  return { name, nodeName: name, self: name === 'self', underlayAddress, overlayAddresses: [], blocks };
}

function desired(
  peers: readonly PeerView[],
  patch: Partial<IpamView> = {},
  direct: DirectInput = noDirect,
  mtu: { readonly underlayMtuBytes?: number; readonly mtuBytes?: number } = {},
): ReturnType<typeof desiredState> {
  const { underlayMtuBytes = 1500, mtuBytes = 0 } = mtu;
  const view: IpamView = {
    ranges: ['10.32.0.0/12'],
    reserved: [],
    peers,
    overlayAddresses: ['10.32.0.1'],
    freeAddresses: 0,
    leasedAddresses: 0,
    restingAddresses: 0,
    ready: true,
    waitingFor: '',
    registryAnsweredAtMs: undefined,
    ...patch,
  };
  return desiredState({
    view,
    leases: [],
    settings: { ...defaultDatapathSettings, mtuBytes },
    underlayMtuBytes,
    hostRpFilter: 0,
    underlayIfindex: 2,
    ipv6: true,
    ports: new Set(),
    direct,
  });
}

const self = peer('self', '192.0.2.1', ['10.32.0.0/13']);
const peerRoutes = (state: ReturnType<typeof desiredState>): readonly string[] =>
  state.routes.filter(({ target }) => target.kind === 'peer').map(({ dst }) => dst);

describe('desiredState', () => {
  it('of two peers with one underlay address the first by name is served and the other named', () => {
    const state = desired([peer('z', '192.0.2.5', ['10.44.0.0/14']), self, peer('b', '192.0.2.5', ['10.40.0.0/14'])]);
    expect(peerRoutes(state)).toEqual(['10.40.0.0/14']);
    expect(state.fdb).toEqual([{ mac: vtepMac('b'), underlayAddress: '192.0.2.5' }]);
    expect(state.findings).toMatchObject([{ name: 'duplicatePeerAddress', subject: 'z' }]);
  });

  it('of two peers with one underlay address the one whose node is gone gives way', () => {
    const gone = { ...peer('a', '192.0.2.5', ['10.44.0.0/14']), gone: true } as const;
    const state = desired([gone, peer('b', '192.0.2.5', ['10.40.0.0/14']), self]);
    expect(peerRoutes(state)).toEqual(['10.40.0.0/14']);
    expect(state.findings).toMatchObject([{ name: 'duplicatePeerAddress', subject: 'a' }]);
    expect(peerRoutes(desired([gone, self]))).toEqual(['10.44.0.0/14']);
  });

  it.each([
    ['a narrow link', { underlayMtuBytes: 600 }, 576, 'raise the MTU of the underlay link to 626 or more'],
    ['one that the kernel would refuse', { underlayMtuBytes: 100 }, 576, 'the underlay link to 626 or more'],
    ['one that is wide enough', { underlayMtuBytes: 626 }, 576, undefined],
  ])('of %s pods get what IP needs, and the finding says what to raise', (_what, mtu, mtuBytes, told) => {
    const state = desired([self], {}, noDirect, mtu);
    expect(state.overlay?.mtuBytes).toBe(mtuBytes);
    expect(state.findings.map(({ message }) => message)).toEqual(
      told === undefined ? [] : [expect.stringContaining(told)],
    );
  });

  it('names the setting where that is what leaves too little for IPv6', () => {
    const state = desired([self], { ranges: ['10.32.0.0/12', 'fd42::/48'] }, noDirect, { mtuBytes: 1200 });
    expect(state.overlay?.mtuBytes).toBe(1280);
    expect(state.findings).toMatchObject([
      { name: 'mtuTooSmall', message: expect.stringContaining('mtuBytes is 1200') as string },
    ]);
  });

  it("a peer with this node's own underlay address gets nothing", () => {
    const state = desired([self, peer('a', '192.0.2.1', ['10.40.0.0/14'])]);
    expect(peerRoutes(state)).toEqual([]);
    expect([...state.firewall.elements.peers4]).toEqual([]);
    expect(state.findings).toMatchObject([{ name: 'duplicatePeerAddress', subject: 'a' }]);
  });

  it('a peer without an underlay address gets nothing and is no finding', () => {
    const state = desired([self, peer('a', undefined, ['10.40.0.0/14'])]);
    expect([state.nexthops, state.fdb, state.neighbours, state.findings]).toEqual([[], [], [], []]);
  });

  const machineless = ['0.0.0.0', '127.0.0.1', '224.0.0.1', '255.255.255.255', '::', '::1', 'ff02::1', 'fe80::1'];
  const unreadable = ['', 'node-7', '192.0.2.300', '192.0.2.7/24', '192.0.2', 'fe80::1%eth0', '2001:db8::zz'];
  it.each([...machineless, ...unreadable])(
    "a peer whose underlay is %j, which is no machine's address, gets nothing and is named; the others are served",
    (address) => {
      for (const mode of ['vxlan', 'direct'] as const) {
        const link = { ifname: 'eth0', up: true, cidrs: ['192.0.2.1/24'], macs: new Map(), refused: new Set<string>() };
        const peers = [self, peer('a', address, ['10.40.0.0/14']), peer('b', '192.0.2.3', ['10.44.0.0/14'])];
        const state = desired(peers, {}, { mode, underlay: link, proven: new Set() });
        expect(peerRoutes(state)).toEqual(['10.44.0.0/14']);
        expect([...state.firewall.elements.peers4]).toEqual(['192.0.2.3']);
        expect(state.findings).toMatchObject([{ name: 'peerWithoutUnderlay', subject: 'a' }]);
      }
    },
  );

  it('a block that two peers claim, or that is none, is named and routed at most once', () => {
    const state = desired([
      self,
      peer('a', '192.0.2.2', ['10.40.0.0/14', '10.32.0.0/13', '10.400.0.0/14']),
      peer('b', '192.0.2.3', ['10.40.0.0/14', '10.44.0.0/14']),
    ]);
    expect(peerRoutes(state)).toEqual(['10.40.0.0/14', '10.44.0.0/14']);
    expect(state.findings.map(({ name }) => name).toSorted()).toEqual(['badBlock', 'duplicateBlock', 'duplicateBlock']);
  });

  it('the founder that owns the whole range has both unreachable routes beside each other', () => {
    const state = desired([peer('self', '192.0.2.1', ['10.32.0.0/12'])]);
    expect(state.routes.map(({ dst, metric }) => [dst, metric])).toEqual([
      ['10.32.0.0/12', 0],
      ['10.32.0.0/12', 4_294_967_295],
    ]);
  });

  it('without its own record or an overlay address it says what it waits for', () => {
    expect(desired([]).waitingFor).toContain('record');
    expect(desired([self], { overlayAddresses: [] }).waitingFor).toContain('overlay address');
    expect(desired([self]).waitingFor).toBe('');
  });

  it('an IPv6 underlay costs 20 bytes more', () => {
    expect(desired([peer('self', 'fd00::1', [])]).overlay?.mtuBytes).toBe(1430);
    expect(desired([self]).overlay?.mtuBytes).toBe(1450);
  });
});

describe('cidr', () => {
  it.each([
    [['10.32.0.0/12'], ['10.47.0.0/16'], ['10.32.0.0/13', '10.40.0.0/14', '10.44.0.0/15', '10.46.0.0/16']],
    [['10.32.0.0/12'], ['10.0.0.0/8'], []],
    [['10.32.0.0/12'], [], ['10.32.0.0/12']],
    [['10.32.0.0/12', '10.33.0.0/16', '10.32.0.0/12'], [], ['10.32.0.0/12']],
    [['10.0.0.0/30'], ['10.0.0.1/32', '10.0.0.2'], ['10.0.0.0/32', '10.0.0.3/32']],
    [['0.0.0.0/0'], ['128.0.0.0/1'], ['0.0.0.0/1']],
    [['fd00::/126'], ['fd00::1'], ['fd00::/128', 'fd00::2/127']],
    [['fd00::/16', '10.0.0.0/8'], ['10.0.0.0/9'], ['10.128.0.0/9', 'fd00::/16']],
  ])('%j without %j is %j', (ranges, holes, rest) => {
    expect(subtractCidrs(ranges, holes)).toEqual(rest);
  });

  it.each([
    ['10.1.2.3/8', '10.0.0.0/8'],
    ['255.255.255.255/32', '255.255.255.255/32'],
    ['128.0.0.0/1', '128.0.0.0/1'],
    ['255.255.255.254/30', '255.255.255.252/30'],
    ['1.2.3.4/0', '0.0.0.0/0'],
    ['FD00:0:0:1:0:0:0:1/64', 'fd00:0:0:1::/64'],
    ['::1', '::1/128'],
    ['1:0:0:2:0:0:0:3', '1:0:0:2::3/128'],
  ])('%s is written %s', (text, canonical) => {
    expect(canonicalCidr(text)).toBe(canonical);
  });

  it.each(['10.0.0/8', '10.0.0.256/32', '10.0.0.1/33', '10.0.0.01/32', 'x', '', '1::2::3', '10.0.0.0/', 'fe80::g'])(
    '"%s" is refused',
    (text) => {
      expect(() => canonicalCidr(text)).toThrow(RangeError);
    },
  );

  it('contains', () => {
    expect(cidrContains('10.32.0.0/12', '10.47.255.255')).toBe(true);
    expect(cidrContains('10.32.0.0/12', '10.48.0.0')).toBe(false);
    expect(cidrContains('10.32.0.0/16', '10.32.0.0/12')).toBe(false);
  });
});

describe('identity', () => {
  it('MACs are unicast and locally administered, and the gateway follows from them', () => {
    for (const name of ['a', 'node-1.0123abcd', 'é'.repeat(100)]) {
      expect(Number.parseInt(vtepMac(name).slice(0, 2), 16) & 3).toBe(2);
    }
    expect(linkLocalOf('02:00:00:00:00:01')).toBe('fe80::ff:fe00:1');
    expect(linkLocalOf('92:ac:ac:e1:00:00')).toBe('fe80::90ac:acff:fee1:0');
    expect(linkLocalOf('92:ac:ac:e1:66:00')).toBe('fe80::90ac:acff:fee1:6600');
    expect(podMacOf('10.32.0.10')).toBe('0a:58:0a:20:00:0a');
  });

  it('a lease survives the alias, a container id that is too long loses only its name', () => {
    const lease = {
      containerId: 'c'.repeat(64),
      ifname: 'eth0',
      generation: '0123456789abcdef',
      addresses: ['10.32.0.9'],
    };
    expect(parseAlias(aliasOf(lease))).toEqual({ ...lease, podLink: 'routed' });
    expect(parseAlias(aliasOf(lease, 'bridge'))).toEqual({ ...lease, podLink: 'bridge' });
    const long = { ...lease, containerId: 'c'.repeat(300) };
    expect(aliasOf(long).length).toBeLessThan(256);
    expect(parseAlias(aliasOf(long))).toEqual({ ...lease, containerId: undefined, podLink: 'routed' });
    for (const alias of ['', 'weft:1', 'weft:2 a b c d', 'somebody else', 'weft:1 a b c d e']) {
      expect(parseAlias(alias)).toBeUndefined();
    }
  });
});

describe('ruleset', () => {
  const input: RulesetInput = {
    table: 'weft',
    overlayDevice: 'weft0',
    overlayIfindex: 7,
    underlayIfindex: 2,
    podLinkPrefix: 'weftp',
    bridgeDevice: undefined,
    vxlanPort: 6784,
    vni: 6784,
    overlayAddresses: ['10.32.0.1'],
    overlayRanges: ['10.32.0.0/12'],
    nonMasqueradeCidrs: [],
    masquerade: true,
    directLink: undefined,
  };

  it.each([
    ['port', { vxlanPort: 4789 }],
    ['VNI', { vni: 4096 }],
    ['overlay device', { overlayIfindex: 8 }],
    ['underlay link', { underlayIfindex: undefined }],
    ['overlay address', { overlayAddresses: ['10.32.0.2'] }],
    ['content of a constant set', { overlayRanges: ['10.32.0.0/13'] }],
    ['exceptions', { nonMasqueradeCidrs: ['192.168.0.0/16'] }],
    ['masquerade', { masquerade: false }],
  ] as const)('another %s is another fingerprint', (_what, patch) => {
    const changed = renderRuleset({ ...input, ...patch });
    expect(changed.fingerprint).not.toEqual(renderRuleset(input).fingerprint);
    expect(renderRuleset(input)).toEqual(renderRuleset({ ...input }));
  });
});
