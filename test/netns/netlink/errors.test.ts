// Refusals: the kernel's errno and words arrive whole, a batch goes on behind them, and nothing half-open is left.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { newAddress } from '#agent/netlink/addr.ts';
import { delLink, dumpLinks, getLink, newLink } from '#agent/netlink/link.ts';
import { NetlinkError } from '#agent/netlink/netlink-error.ts';
import { netnsInfo, openNetns, ownNetns, readNetnsFile, writeNetnsFile } from '#agent/netlink/netns.ts';
import { newNexthop } from '#agent/netlink/nexthop.ts';
import { newRoute, routeTo } from '#agent/netlink/route.ts';
import { NetlinkSocket } from '#agent/netlink/socket.ts';
import { run, TestNetns } from '#test/support/netns.ts';

function caught(call: () => unknown): NetlinkError {
  try {
    call();
  } catch (error) {
    if (error instanceof NetlinkError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

describe('refusals', () => {
  it('carry errno, extended ACK and offset; what is behind them is done all the same', async () => {
    await using ns = await TestNetns.create();
    using socket = NetlinkSocket.open({ protocol: 'route', netnsPath: ns.path });
    const replies = socket.batch([
      newLink({ ifname: 'x0', linkinfo: { kind: 'vxlan', data: { id: 1 << 24 } } }),
      delLink({ ifname: 'nobody' }),
      newNexthop({ id: 1, blackhole: true }),
      newNexthop({ id: 1, blackhole: true }),
      newRoute({ ...routeTo('10.0.0.0/8'), nhId: 99 }),
      newLink({ ifname: 'v0', linkinfo: { kind: 'veth', data: { peer: { ifname: 'v1' } } } }),
      newLink({ ifname: 'u0', linkinfo: { kind: 'other', kindName: 'no-such-kind' } }),
    ]);
    const outcome = replies.map((reply) => (reply.ok ? 'ok' : `${reply.error.errorName}: ${reply.error.extendedAck}`));
    expect(outcome).toEqual([
      'ERANGE: VXLAN ID must be lower than 16777216',
      'ENODEV: ',
      'ok',
      'EEXIST: ',
      'EINVAL: Nexthop id does not exist',
      'ok',
      'EOPNOTSUPP: Unknown device type',
    ]);
    const [first] = replies;
    if (first.ok) throw new Error('a refusal was expected');
    expect(first.error.offset).toBeGreaterThan(16);
    expect(first.error.details).toMatch(/^errno=34 ERANGE extack="VXLAN ID .*" offset=\d+$/u);
    expect((await ns.json(['ip', '-j', 'link', 'show', 'v0']))[0]).toMatchObject({ ifname: 'v0' });
  });

  it('batchOrThrow throws the first, naming the request', async () => {
    await using ns = await TestNetns.create();
    using socket = NetlinkSocket.open({ protocol: 'route', netnsPath: ns.path });
    const error = caught(() =>
      socket.batchOrThrow([
        getLink({ ifname: 'gone' }),
        newAddress({ ifaIndex: 4711, address: '10.0.0.1', ifaPrefixlen: 32 }),
      ]),
    );
    expect(error).toMatchObject({ errorName: 'ENODEV', kind: 'kernel', message: 'getLink gone: ENODEV' });
  });

  it('an invalid address never reaches the kernel, and the socket goes on', () => {
    using socket = NetlinkSocket.open({ protocol: 'route' });
    expect(() => socket.batch([newAddress({ ifaIndex: 1, address: '10.0.0.256', ifaPrefixlen: 32 })])).toThrow(
      '10.0.0.256',
    );
    expect(socket.batchOrThrow([getLink({ ifname: 'lo' })])[0]).toMatchObject([{ ifname: 'lo' }]);
  });

  it('a link of a batch that leaves the chunk bounds behind: hundreds of requests, hundreds of errors', async () => {
    await using ns = await TestNetns.create();
    using socket = NetlinkSocket.open({ protocol: 'route', netnsPath: ns.path, receiveBufferBytes: 256 << 10 });
    const requests = Array.from({ length: 5000 }, (_, i) =>
      i % 2 === 0 ? delLink({ ifname: `no${i}` }) : getLink({ ifname: 'lo' }),
    );
    const replies = socket.batch(requests);
    expect(replies).toHaveLength(5000);
    for (const [i, reply] of replies.entries()) {
      expect(reply.ok ? reply.answers[0]?.ifname : reply.error.errorName).toBe(i % 2 === 0 ? 'ENODEV' : 'lo');
    }
  });
});

describe('opening', () => {
  it.each([
    ['nothing there', '/run/netns/no-such-namespace', 'ENOENT'],
    ['a file', '/etc/hostname', 'EINVAL'],
    ['another kind of namespace', '/proc/self/ns/uts', 'EINVAL'],
    ['a directory', '/tmp', 'EINVAL'],
  ])('refuses a path that is no network namespace: %s', (_name, netnsPath, errorName) => {
    expect(caught(() => NetlinkSocket.open({ protocol: 'route', netnsPath }))).toMatchObject({ errorName });
  });

  it('a closed socket refuses, and closing twice is nothing', async () => {
    const socket = NetlinkSocket.open({ protocol: 'route' });
    socket[Symbol.dispose]();
    socket[Symbol.dispose]();
    expect(socket.batch([getLink({ ifname: 'lo' })])[0]).toMatchObject({ ok: false, error: { errorName: 'EBADF' } });
    expect(caught(() => socket.dump(dumpLinks()))).toMatchObject({ errorName: 'EBADF' });
    await expect(socket.batchAsyncOrThrow([getLink({ ifname: 'lo' })])).rejects.toMatchObject({ errorName: 'EBADF' });
  });

  it('a socket stays in its namespace, even when the name is gone, and this process never leaves its own', async () => {
    const before = ownNetns();
    const ns = await TestNetns.create();
    using socket = NetlinkSocket.open({ protocol: 'route', netnsPath: ns.path });
    await ns.exec(['ip', 'link', 'add', 'only-here', 'type', 'veth', 'peer', 'p']);
    await ns[Symbol.asyncDispose]();
    expect(socket.dump(dumpLinks()).map((link) => link.ifname)).toContain('only-here');
    expect(ownNetns()).toEqual(before);
  });
});

describe('netnsInfo', () => {
  it('knows a network namespace from everything else, a fifo included', async () => {
    await using ns = await TestNetns.create();
    const directory = await mkdtemp(join(tmpdir(), 'weft-netns-'));
    await writeFile(join(directory, 'file'), '');
    await run(['mkfifo', join(directory, 'fifo')]);
    const [inode] = (await run(['stat', '-Lc', '%i', ns.path])).split('\n');
    expect(netnsInfo(ns.path)).toMatchObject({ isNetns: true, ino: Number(inode) });
    expect(ownNetns().isNetns).toBe(true);
    for (const path of [
      directory,
      join(directory, 'file'),
      join(directory, 'fifo'),
      '/proc/self/ns/pid',
      '/dev/null',
    ]) {
      expect(netnsInfo(path)).toMatchObject({ isNetns: false });
      expect(openNetns(path)).toBeUndefined();
    }
    using open = openNetns(ns.path);
    using inside = NetlinkSocket.open({ protocol: 'route', netnsFd: open?.fd ?? -1 });
    expect(inside.dump(dumpLinks()).map(({ ifname }) => ifname)).toEqual(['lo']);
    expect(caught(() => openNetns(join(directory, 'nothing')))).toMatchObject({ errorName: 'ENOENT' });
    expect(caught(() => netnsInfo(join(directory, 'nothing')))).toMatchObject({ errorName: 'ENOENT' });
    expect(caught(() => NetlinkSocket.open({ protocol: 'route', netnsPath: join(directory, 'fifo') }))).toMatchObject({
      errorName: 'EINVAL',
    });
    await rm(directory, { recursive: true });
  });
});

describe('sysctl files', () => {
  it('are those of the namespace, not of this process', async () => {
    await using ns = await TestNetns.create();
    const path = '/proc/sys/net/ipv6/conf/all/disable_ipv6';
    const own = readNetnsFile(undefined, path);
    writeNetnsFile(ns.path, path, '1');
    expect(readNetnsFile(ns.path, path)).toBe('1');
    expect((await ns.exec(['cat', path])).trim()).toBe('1');
    expect(readNetnsFile(undefined, path)).toBe(own);
  });

  it('refuse with errno', async () => {
    await using ns = await TestNetns.create();
    expect(caught(() => readNetnsFile(ns.path, '/proc/sys/net/ipv4/conf/nobody/forwarding'))).toMatchObject({
      errorName: 'ENOENT',
    });
    expect(caught(() => writeNetnsFile(ns.path, '/proc/sys/net/ipv4/conf/lo/forwarding', 'x'))).toMatchObject({
      errorName: 'EINVAL',
    });
  });
});
