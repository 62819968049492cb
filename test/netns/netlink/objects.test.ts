// Every object made through the codecs, compared with what the kernel's own tools say about it.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { delAddress, dumpAddresses, newAddress } from '#agent/netlink/addr.ts';
import { delLink, dumpLinks, getLink, linkFlag, newLink, setLink, type LinkRequest } from '#agent/netlink/link.ts';
import {
  delFdb,
  delNeighbour,
  dumpFdb,
  dumpNeighbours,
  neighbourState,
  newFdb,
  newNeighbour,
  type Neighbour,
} from '#agent/netlink/neighbour.ts';
import { openNetns, readNetnsFile } from '#agent/netlink/netns.ts';
import { delNexthop, dumpNexthops, getNexthop, newNexthop } from '#agent/netlink/nexthop.ts';
import {
  delRoute,
  dumpRoutes,
  getRoute,
  newRoute,
  prefixOf,
  routeFlag,
  routeTo,
  routeType,
} from '#agent/netlink/route.ts';
import { NetlinkSocket } from '#agent/netlink/socket.ts';
import { TestNetns } from '#test/support/netns.ts';

const up = { ifiFlags: linkFlag.up, ifiChange: linkFlag.up };
const protocol = 121;

let node: TestNetns;
let pod: TestNetns;
let socket: NetlinkSocket;

beforeEach(async () => {
  node = await TestNetns.create();
  pod = await TestNetns.create();
  socket = NetlinkSocket.open({ protocol: 'route', netnsPath: node.path });
});

afterEach(async () => {
  socket[Symbol.dispose]();
  await node[Symbol.asyncDispose]();
  await pod[Symbol.asyncDispose]();
});

/** A vxlan device that is up; returns its ifindex. */
function overlay(): number {
  const data = { id: 77, port: 6784, learning: false, local: '192.0.2.1', udpCsum: true };
  const link = {
    ifname: 'weft0',
    address: '02:aa:00:00:00:01',
    mtu: 1450,
    ...up,
    linkinfo: { kind: 'vxlan', data },
  } as const;
  const [[made]] = socket.batchOrThrow([newLink(link, { echo: true })]);
  if (made === undefined) throw new Error('no echo');
  return made.ifiIndex;
}

describe('links', () => {
  it('one request makes a veth with its peer inside the pod, and the echo tells both ifindexes', async () => {
    using target = openNetns(pod.path) ?? expect.unreachable('no namespace');
    const [reply] = socket.batch([
      newLink(
        {
          ifname: 'weft1a2b3c',
          mtu: 1450,
          address: '02:00:00:00:00:01',
          group: 121,
          ...up,
          linkinfo: {
            kind: 'veth',
            data: { peer: { ifname: 'eth0', address: '02:00:00:00:00:02', mtu: 1400, netNsFd: target.fd } },
          },
        },
        { echo: true },
      ),
    ]);
    if (!reply.ok) throw reply.error;
    const [host] = await node.json(['ip', '-d', '-j', 'link', 'show', 'weft1a2b3c']);
    const [inside] = await pod.json(['ip', '-d', '-j', 'link', 'show', 'eth0']);
    expect(host).toMatchObject({
      mtu: 1450,
      address: '02:00:00:00:00:01',
      linkinfo: { info_kind: 'veth' },
    });
    expect(host?.['group']).toBe('121');
    expect(host?.['flags']).toContain('UP');
    expect(inside).toMatchObject({
      ifname: 'eth0',
      mtu: 1400,
      address: '02:00:00:00:00:02',
      linkinfo: { info_kind: 'veth' },
    });
    expect(reply.answers).toHaveLength(1);
    expect(reply.answers[0]).toMatchObject({
      ifname: 'weft1a2b3c',
      ifiIndex: host?.['ifindex'],
      link: inside?.['ifindex'],
    });
  });

  it('a vxlan device, word for word', async () => {
    overlay();
    const [link] = await node.json(['ip', '-d', '-j', 'link', 'show', 'weft0']);
    expect(link).toMatchObject({
      address: '02:aa:00:00:00:01',
      mtu: 1450,
      linkinfo: {
        info_kind: 'vxlan',
        info_data: { id: 77, port: 6784, learning: false, local: '192.0.2.1', udp_csum: true },
      },
    });
    expect(socket.dump(dumpLinks({ linkinfo: { kind: 'vxlan' } }))).toMatchObject([
      { ifname: 'weft0', linkinfo: { kind: 'vxlan', data: { id: 77, port: 6784, learning: false } } },
    ]);
  });

  it('a bridge and its port, taken in and out again', async () => {
    socket.batchOrThrow([
      newLink({ ifname: 'br0', linkinfo: { kind: 'bridge', data: { ageingTime: 1234, mcastSnooping: false } } }),
      newLink({ ifname: 'p0', linkinfo: { kind: 'veth', data: { peer: { ifname: 'p1' } } } }),
    ]);
    const [bridge] = await node.json(['ip', '-d', '-j', 'link', 'show', 'br0']);
    expect(bridge).toMatchObject({
      linkinfo: { info_kind: 'bridge', info_data: { ageing_time: 1234, mcast_snooping: 0 } },
    });
    socket.batchOrThrow([setLink({ ifname: 'p0', master: Number(bridge?.['ifindex']), mtu: 1300, ...up })]);
    expect((await node.json(['ip', '-j', 'link', 'show', 'p0']))[0]).toMatchObject({ master: 'br0', mtu: 1300 });
    expect(socket.dump(dumpLinks({ master: Number(bridge?.['ifindex']) }))).toMatchObject([{ ifname: 'p0' }]);
    socket.batchOrThrow([setLink({ ifname: 'p0', master: 0 })]);
    expect((await node.json(['ip', '-j', 'link', 'show', 'p0']))[0]).not.toHaveProperty('master');
  });

  it('sets IPv4 devconf and the IPv6 address mode right behind the link', () => {
    const afSpec = { inet: { conf: { rpFilter: 2, forwarding: 1, proxyArp: 1 } }, inet6: { addrGenMode: 1 } };
    socket.batchOrThrow([
      newLink({ ifname: 'v0', linkinfo: { kind: 'veth', data: { peer: { ifname: 'v1' } } } }),
      setLink({ ifname: 'v0', afSpec }),
    ]);
    expect(readNetnsFile(node.path, '/proc/sys/net/ipv4/conf/v0/rp_filter')).toBe('2');
    expect(readNetnsFile(node.path, '/proc/sys/net/ipv4/conf/v0/forwarding')).toBe('1');
    expect(readNetnsFile(node.path, '/proc/sys/net/ipv4/conf/v0/proxy_arp')).toBe('1');
    const [[link]] = socket.batchOrThrow([getLink({ ifname: 'v0' })]);
    expect(link).toMatchObject({
      afSpec: { inet: { conf: { rpFilter: 2, forwarding: 1, proxyArp: 1 } }, inet6: { addrGenMode: 1 } },
    });
  });

  it('an alias needs a second message: the kernel takes it from setLink only', async () => {
    const veth = { kind: 'veth', data: { peer: { ifname: 'v1' } } } as const;
    socket.batchOrThrow([newLink({ ifname: 'v0', ifalias: 'lost', linkinfo: veth })]);
    expect((await node.json(['ip', '-d', '-j', 'link', 'show', 'v0']))[0]).not.toHaveProperty('ifalias');
    socket.batchOrThrow([setLink({ ifname: 'v0', ifalias: 'pod a/b' })]);
    expect((await node.json(['ip', '-d', '-j', 'link', 'show', 'v0']))[0]).toMatchObject({ ifalias: 'pod a/b' });
  });

  it('refuses what cannot go into the one request, and leaves no half veth', async () => {
    const veth = (peer: LinkRequest): LinkRequest => ({
      ifname: 'v0',
      linkinfo: { kind: 'veth', data: { peer: { ifname: 'v1', ...peer } } },
    });
    const replies = socket.batch([
      newLink({ ...veth({}), afSpec: { inet6: { addrGenMode: 1 } } }),
      newLink(veth({ afSpec: { inet6: { addrGenMode: 1 } } })),
      newLink(veth(up)),
      newLink(veth({ ifname: 'lo' })),
    ]);
    expect(replies.map((reply) => (reply.ok ? 'ok' : reply.error.errorName))).toEqual([
      'EAFNOSUPPORT',
      'EAFNOSUPPORT',
      'ENOTCONN',
      'EEXIST',
    ]);
    expect((await node.json(['ip', '-j', 'link'])).map((link) => link['ifname'])).toEqual(['lo']);
  });

  it('deletes a whole group by one request', async () => {
    socket.batchOrThrow(
      Array.from({ length: 8 }, (_, i) =>
        newLink({ ifname: `g${i}`, group: 9, linkinfo: { kind: 'veth', data: { peer: { ifname: `h${i}` } } } }),
      ),
    );
    await socket.batchAsyncOrThrow([delLink({ group: 9 })]);
    expect((await node.json(['ip', '-j', 'link'])).map((link) => link['ifname'])).toEqual(['lo']);
  });

  it('renames and takes down', async () => {
    socket.batchOrThrow([
      newLink({ ifname: 'old', ...up, linkinfo: { kind: 'veth', data: { peer: { ifname: 'p' } } } }),
    ]);
    const [[link]] = socket.batchOrThrow([getLink({ ifname: 'old' })]);
    const ifiIndex = link?.ifiIndex ?? 0;
    socket.batchOrThrow([
      setLink({ ifiIndex, ifiFlags: 0, ifiChange: linkFlag.up }),
      setLink({ ifiIndex, ifname: 'new' }),
    ]);
    const [renamed] = await node.json(['ip', '-j', 'link', 'show', 'new']);
    expect(renamed?.['flags']).not.toContain('UP');
  });
});

describe('addresses', () => {
  it('IPv4 and IPv6, without duplicate address detection', async () => {
    const ifaIndex = overlay();
    socket.batchOrThrow([
      newAddress({ ifaIndex, address: '10.32.0.1', ifaPrefixlen: 32 }),
      newAddress({ ifaIndex, address: 'fd00::1', ifaPrefixlen: 64, ifaFlags: 2 }),
    ]);
    const [link] = await node.json(['ip', '-j', 'addr', 'show', 'dev', 'weft0', 'scope', 'global']);
    // iproute2 prints an empty object for an address that its filter left out.
    const shown = ((link?.['addr_info'] ?? []) as readonly object[]).filter(
      (address) => Object.keys(address).length > 0,
    );
    expect(shown).toMatchObject([
      { family: 'inet', local: '10.32.0.1', prefixlen: 32 },
      { family: 'inet6', local: 'fd00::1', prefixlen: 64, nodad: true },
    ]);
    expect(socket.dump(dumpAddresses({ ifaIndex, ifaFamily: 2 }))).toMatchObject([
      { local: '10.32.0.1', ifaPrefixlen: 32 },
    ]);
    socket.batchOrThrow([delAddress({ ifaIndex, address: '10.32.0.1', ifaPrefixlen: 32 })]);
    expect(socket.dump(dumpAddresses({ ifaIndex, ifaFamily: 2 }))).toEqual([]);
  });
});

describe('routes and nexthops', () => {
  it('one of each kind, word for word', async () => {
    const oif = overlay();
    socket.batchOrThrow([
      newAddress({ ifaIndex: oif, address: '10.32.0.1', ifaPrefixlen: 32 }),
      newNexthop({ id: 7, oif, gateway: 'fe80::7', nhProtocol: protocol }),
      newNexthop({ id: 8, oif, gateway: '10.32.0.9', nhFlags: routeFlag.onlink, nhProtocol: protocol }),
      newRoute({
        ...routeTo('10.33.0.0/16'),
        nhId: 7,
        prefsrc: '10.32.0.1',
        rtmProtocol: protocol,
        metrics: { mtu: 1400 },
      }),
      newRoute({ ...routeTo('10.34.0.0/16'), nhId: 8, rtmProtocol: protocol }),
      newRoute({ ...routeTo('10.32.0.0/12'), rtmType: routeType.unreachable, priority: 4096, rtmProtocol: protocol }),
      newRoute({ ...routeTo('10.50.0.0/16'), rtmType: routeType.blackhole, table: 1000, rtmProtocol: protocol }),
      newRoute({ ...routeTo('10.51.0.1'), oif, rtmProtocol: protocol }),
      newRoute({ ...routeTo('10.52.0.0/16'), oif, via: { family: 10, addr: 'fe80::8' }, rtmProtocol: protocol }),
      newRoute({ ...routeTo('fd01::/48'), nhId: 7, rtmProtocol: protocol }),
      newRoute({ ...routeTo('0.0.0.0/0'), oif, rtmProtocol: protocol }),
    ]);
    const routes = await node.json(['ip', '-d', '-j', 'route', 'show', 'proto', String(protocol)]);
    expect(routes).toMatchObject([
      { type: 'unicast', dst: 'default', dev: 'weft0', scope: 'link' },
      { type: 'unreachable', dst: '10.32.0.0/12', metric: 4096 },
      {
        type: 'unicast',
        dst: '10.33.0.0/16',
        nhid: 7,
        via: { family: 'inet6', host: 'fe80::7' },
        prefsrc: '10.32.0.1',
        metrics: [{ mtu: 1400 }],
      },
      { type: 'unicast', dst: '10.34.0.0/16', nhid: 8, gateway: '10.32.0.9' },
      { type: 'unicast', dst: '10.51.0.1', dev: 'weft0', scope: 'link' },
      { type: 'unicast', dst: '10.52.0.0/16', via: { family: 'inet6', host: 'fe80::8' } },
    ]);
    expect(await node.json(['ip', '-d', '-j', 'route', 'show', 'table', '1000'])).toMatchObject([
      { type: 'blackhole', dst: '10.50.0.0/16' },
    ]);
    expect(await node.json(['ip', '-6', '-j', 'route', 'show', 'proto', String(protocol)])).toMatchObject([
      { dst: 'fd01::/48', gateway: 'fe80::7' },
    ]);
    expect(await node.json(['ip', '-j', 'nexthop'])).toMatchObject([
      { id: 7, gateway: 'fe80::7', dev: 'weft0', protocol: expect.anything() as unknown },
      { id: 8, gateway: '10.32.0.9', flags: ['onlink'] },
    ]);
  });

  it('dumps filter in the kernel; routes are deleted, nexthops replaced', () => {
    const oif = overlay();
    socket.batchOrThrow([
      newNexthop({ id: 7, oif, gateway: 'fe80::7', nhProtocol: protocol }),
      newRoute({ ...routeTo('10.33.0.0/16'), nhId: 7, rtmProtocol: protocol }),
      newRoute({ ...routeTo('fd01::/48'), nhId: 7, rtmProtocol: protocol }),
      newRoute({ ...routeTo('10.99.0.0/16'), oif, rtmProtocol: 4 }),
    ]);
    const ours = (): readonly string[] =>
      socket.dump(dumpRoutes({ rtmProtocol: protocol })).map((route) => `${prefixOf(route)} ${route.nhId}`);
    expect(ours()).toEqual(['10.33.0.0/16 7', 'fd01::/48 7']);
    expect(socket.dump(dumpRoutes({ rtmFamily: 10, rtmProtocol: protocol }))).toHaveLength(1);
    socket.batchOrThrow([newNexthop({ id: 7, oif, gateway: 'fe80::77', nhProtocol: protocol }, { replace: true })]);
    expect(socket.batchOrThrow([getNexthop(7)])[0]).toMatchObject([{ gateway: 'fe80::77', nhProtocol: protocol }]);
    expect(socket.batchOrThrow([getRoute({ ...routeTo('10.33.1.1'), rtmFlags: routeFlag.fibMatch })])[0]).toMatchObject(
      [{ dst: '10.33.0.0', rtmDstLen: 16 }],
    );
    socket.batchOrThrow([delRoute({ ...routeTo('10.33.0.0/16'), rtmProtocol: protocol })]);
    expect(ours()).toEqual(['fd01::/48 7']);
    socket.batchOrThrow([delNexthop(7)]);
    expect(ours()).toEqual([]);
    expect(socket.dump(dumpNexthops())).toEqual([]);
  });

  it('deletes an unreachable route, and the right one of two metrics', () => {
    const unreachable = { ...routeTo('10.32.0.0/12'), rtmType: routeType.unreachable, rtmProtocol: protocol };
    socket.batchOrThrow([newRoute({ ...unreachable, priority: 1 }), newRoute({ ...unreachable, priority: 2 })]);
    socket.batchOrThrow([delRoute({ ...unreachable, priority: 2 })]);
    expect(socket.dump(dumpRoutes({ rtmProtocol: protocol }))).toMatchObject([
      { priority: 1, rtmType: routeType.unreachable },
    ]);
  });
});

describe('neighbours and FDB', () => {
  it('permanent entries, word for word, deleted again', async () => {
    const ndmIfindex = overlay();
    const lladdr = '02:aa:00:00:00:02';
    socket.batchOrThrow([
      newNeighbour({ ndmIfindex, dst: 'fe80::7', lladdr, protocol }),
      newNeighbour({ ndmIfindex, dst: '10.32.0.9', lladdr }),
      newFdb({ ndmIfindex, lladdr, dst: '192.0.2.7' }),
    ]);
    expect(await node.json(['ip', '-j', 'neigh', 'show', 'dev', 'weft0'])).toMatchObject([
      { dst: '10.32.0.9', lladdr, state: ['PERMANENT'] },
      { dst: 'fe80::7', lladdr, state: ['PERMANENT'] },
    ]);
    expect(await node.json(['bridge', '-j', 'fdb', 'show', 'dev', 'weft0'])).toMatchObject([
      { mac: lladdr, dst: '192.0.2.7', flags: ['self'], state: 'permanent' },
    ]);
    expect(socket.dump(dumpFdb({ ndmIfindex }))).toMatchObject([{ lladdr, dst: '192.0.2.7', ndmIfindex }]);
    const isPermanent = (entry: Neighbour): boolean => entry.ndmState === neighbourState.permanent;
    expect(socket.dump(dumpNeighbours({ ifindex: ndmIfindex, ndmFamily: 10 })).filter(isPermanent)).toMatchObject([
      { dst: 'fe80::7', lladdr, protocol },
    ]);
    socket.batchOrThrow([
      newFdb({ ndmIfindex, lladdr, dst: '192.0.2.8' }),
      delNeighbour({ ndmIfindex, dst: '10.32.0.9' }),
    ]);
    expect(await node.json(['bridge', '-j', 'fdb', 'show', 'dev', 'weft0'])).toMatchObject([{ dst: '192.0.2.8' }]);
    socket.batchOrThrow([delFdb({ ndmIfindex, lladdr, dst: '192.0.2.8' })]);
    expect(socket.dump(dumpFdb({ ndmIfindex }))).toEqual([]);
    expect(socket.dump(dumpNeighbours({ ifindex: ndmIfindex, ndmFamily: 2 }))).toEqual([]);
  });
});
