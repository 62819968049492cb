// Notifications: all of them in order, losses reported as an overrun, nothing after dispose, no process kept alive or crashed.
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

import { describe, expect, it, vi } from 'vitest';

import { newAddress } from '#agent/netlink/addr.ts';
import { delLink, newLink, setLink } from '#agent/netlink/link.ts';
import { NetlinkMonitor, type NetlinkMonitorOptions, type Notification } from '#agent/netlink/monitor.ts';
import { newFdb, newNeighbour } from '#agent/netlink/neighbour.ts';
import { newNexthop } from '#agent/netlink/nexthop.ts';
import { delRoute, newRoute, prefixOf, routeTo, routeType } from '#agent/netlink/route.ts';
import { NetlinkSocket } from '#agent/netlink/socket.ts';
import { TestNetns } from '#test/support/netns.ts';

interface Heard {
  readonly notifications: Notification[];
  readonly errors: Error[];
  overruns: number;
  calls: number;
}

function listen(options: Pick<NetlinkMonitorOptions, 'groups'> & Partial<NetlinkMonitorOptions>): Heard & Disposable {
  const heard: Heard = { notifications: [], errors: [], overruns: 0, calls: 0 };
  const monitor = NetlinkMonitor.open({
    onMessages: (notifications) => {
      heard.calls += 1;
      heard.notifications.push(...notifications);
    },
    onOverrun: () => {
      heard.overruns += 1;
    },
    onError: (error) => heard.errors.push(error),
    ...options,
  });
  return Object.assign(heard, { [Symbol.dispose]: () => monitor[Symbol.dispose]() });
}

const within = { timeout: 5000, interval: 5 };
const unreachable = (i: number): ReturnType<typeof routeTo> & { readonly rtmType: number } => ({
  ...routeTo(`10.${i >> 8}.${i & 255}.0/24`),
  rtmType: routeType.unreachable,
});

describe('NetlinkMonitor', () => {
  it('hears of each kind of object, made and removed', async () => {
    await using ns = await TestNetns.create();
    using socket = NetlinkSocket.open({ protocol: 'route', netnsPath: ns.path });
    using heard = listen({ netnsPath: ns.path, groups: ['link', 'neigh', 'ipv4Ifaddr', 'ipv4Route', 'nexthop'] });
    const up = { ifiFlags: 1, ifiChange: 1 };
    const [[link]] = socket.batchOrThrow([
      newLink({ ifname: 'weft0', ...up, linkinfo: { kind: 'vxlan', data: { id: 1, port: 6784 } } }, { echo: true }),
    ]);
    const ifindex = link?.ifiIndex ?? 0;
    socket.batchOrThrow([
      newAddress({ ifaIndex: ifindex, address: '10.32.0.1', ifaPrefixlen: 32 }),
      newNexthop({ id: 5, oif: ifindex, gateway: 'fe80::5' }),
      newRoute({ ...routeTo('10.33.0.0/16'), nhId: 5 }),
      newNeighbour({ ndmIfindex: ifindex, dst: 'fe80::5', lladdr: '02:aa:00:00:00:05' }),
      newFdb({ ndmIfindex: ifindex, lladdr: '02:aa:00:00:00:05', dst: '192.0.2.5' }),
      delRoute(routeTo('10.33.0.0/16')),
      delLink({ ifiIndex: ifindex }),
    ]);
    const has = (expected: object): void =>
      expect(heard.notifications).toContainEqual(expect.objectContaining(expected));
    const containing = (fields: object): unknown => expect.objectContaining(fields) as unknown;
    await vi.waitFor(() => has({ kind: 'delLink', link: containing({ ifname: 'weft0' }) }), within);
    has({ kind: 'newLink', link: containing({ ifname: 'weft0', ifiIndex: ifindex }) });
    has({ kind: 'newAddress', address: containing({ local: '10.32.0.1' }) });
    has({ kind: 'newNexthop', nexthop: containing({ id: 5, gateway: 'fe80::5' }) });
    has({ kind: 'newRoute', route: containing({ dst: '10.33.0.0', nhId: 5 }) });
    has({ kind: 'delRoute', route: containing({ dst: '10.33.0.0' }) });
    has({ kind: 'newNeighbour', neighbour: containing({ dst: 'fe80::5' }) });
    has({ kind: 'newNeighbour', neighbour: containing({ ndmFamily: 7, dst: '192.0.2.5' }) });
    expect(heard.errors).toEqual([]);
    expect(heard.overruns).toBe(0);
  });

  it('reads what bridges say of their ports', async () => {
    await using ns = await TestNetns.create();
    using heard = listen({ netnsPath: ns.path, groups: ['link', 'neigh'] });
    await ns.exec([
      'sh',
      '-c',
      'ip link add br0 type bridge; ip link add p0 type veth peer p1; ip link set p0 master br0 up; ip link set p1 up; ip link set br0 up; ip link set p0 nomaster; ip link del br0',
    ]);
    await vi.waitFor(
      () => expect(heard.notifications.at(-1)).toMatchObject({ kind: 'delLink', link: { ifname: 'br0' } }),
      within,
    );
    expect(heard.notifications.some((one) => one.kind === 'newLink' && one.link.ifiFamily === 7)).toBe(true);
    expect(heard.errors).toEqual([]);
  });

  it('loses nothing while JavaScript is busy: the thread drains, in order', async () => {
    await using ns = await TestNetns.create();
    using socket = NetlinkSocket.open({ protocol: 'route', netnsPath: ns.path });
    // Less than the storm needs, but enough for a thread that a busy machine keeps waiting.
    using heard = listen({ netnsPath: ns.path, groups: ['ipv4Route'], receiveBufferBytes: 8 << 20 });
    const count = 20_000;
    for (let from = 0; from < count; from += 500) {
      socket.batchOrThrow(Array.from({ length: 500 }, (_, i) => newRoute({ ...unreachable(from + i) })));
    }
    expect(heard.calls).toBe(0);
    await vi.waitFor(() => expect(heard.notifications.length + heard.overruns).toBeGreaterThanOrEqual(count), within);
    expect(heard.overruns).toBe(0);
    const prefixes = heard.notifications.map((one) => (one.kind === 'newRoute' ? prefixOf(one.route) : one.kind));
    expect(prefixes).toEqual(
      Array.from({ length: count }, (_, i) =>
        `10.${i >> 8}.${i & 255}.0/24`.replace(/^10\.(\d+)/u, (_all, high: string) => `10.${Number(high) & 255}`),
      ),
    );
  });

  it('says that notifications were lost when too many wait for JavaScript, and goes on', async () => {
    await using ns = await TestNetns.create();
    using socket = NetlinkSocket.open({ protocol: 'route', netnsPath: ns.path });
    using heard = listen({ netnsPath: ns.path, groups: ['ipv4Route'], pendingLimitBytes: 16 << 10 });
    for (let from = 0; from < 5000; from += 500) {
      socket.batchOrThrow(Array.from({ length: 500 }, (_, i) => newRoute(unreachable(from + i))));
    }
    await vi.waitFor(() => expect(heard.overruns).toBeGreaterThan(0), within);
    expect(heard.notifications.length).toBeLessThan(5000);
    socket.batchOrThrow([newRoute({ ...routeTo('172.16.0.0/12'), rtmType: routeType.unreachable })]);
    await vi.waitFor(() => expect(heard.notifications.at(-1)).toMatchObject({ route: { dst: '172.16.0.0' } }), within);
  });

  it("reports the kernel's own ENOBUFS as an overrun", async () => {
    await using ns = await TestNetns.create();
    using socket = NetlinkSocket.open({ protocol: 'route', netnsPath: ns.path });
    // The smallest buffer there is: one sendmsg makes a thousand notifications before the thread gets a turn.
    using heard = listen({ netnsPath: ns.path, groups: ['ipv4Route'], receiveBufferBytes: 1 });
    await vi.waitFor(() => {
      const batch = Array.from({ length: 500 }, (_, i) => unreachable(i));
      socket.batchOrThrow([...batch.map((route) => newRoute(route)), ...batch.map((route) => delRoute(route))]);
      expect(heard.overruns).toBeGreaterThan(0);
    }, within);
    expect(heard.errors).toEqual([]);
  });

  it("has the kernel drop what its own sockets' requests cause, and nothing else", async () => {
    await using ns = await TestNetns.create();
    using own = NetlinkSocket.open({ protocol: 'route', netnsPath: ns.path });
    using foreign = NetlinkSocket.open({ protocol: 'route', netnsPath: ns.path });
    const ignored = { kinds: new Set(['newRoute'] as const), ports: own.ports };
    using heard = listen({ netnsPath: ns.path, groups: ['link', 'ipv4Route'], receiveBufferBytes: 32 << 10, ignored });
    own.batch([newRoute(unreachable(0))]);
    await own.batchAsyncOrThrow([newRoute(unreachable(1))]);
    // Far more than the buffer holds, from both sockets that work for `own`.
    const many = Array.from({ length: 2000 }, (_, i) => newRoute(unreachable(i + 2)));
    own.batchOrThrow(many.slice(0, 1000));
    await own.batchAsyncOrThrow(many.slice(1000));
    own.batchOrThrow([delRoute(unreachable(5)), setLink({ ifname: 'lo', mtu: 1400 })]);
    foreign.batchOrThrow([newRoute(unreachable(5))]);
    await vi.waitFor(
      () => expect(heard.notifications.at(-1)).toMatchObject({ kind: 'newRoute', route: { dst: '10.0.5.0' } }),
      within,
    );
    // The first answer of each socket tells its port: that one notification was on its way already.
    const early = ['10.0.0.0', '10.0.1.0'];
    const told = heard.notifications.flatMap((one) => ('route' in one ? [`${one.kind} ${one.route.dst}`] : [one.kind]));
    expect(told.filter((text) => !early.some((dst) => text === `newRoute ${dst}`))).toEqual([
      'delRoute 10.0.5.0',
      'newLink',
      'newRoute 10.0.5.0',
    ]);
    expect(heard.overruns).toBe(0);
  });

  it('calls nothing after it was disposed, though something was under way', async () => {
    await using ns = await TestNetns.create();
    using socket = NetlinkSocket.open({ protocol: 'route', netnsPath: ns.path });
    const heard = listen({ netnsPath: ns.path, groups: ['link', 'ipv4Route'] });
    socket.batchOrThrow([newRoute(unreachable(1)), setLink({ ifname: 'lo', mtu: 1400 })]);
    heard[Symbol.dispose]();
    heard[Symbol.dispose]();
    using after = listen({ netnsPath: ns.path, groups: ['link'] });
    socket.batchOrThrow([setLink({ ifname: 'lo', mtu: 1500 })]);
    await vi.waitFor(() => expect(after.notifications).not.toEqual([]), within);
    expect(heard.calls).toBe(0);
  });

  it('refuses a namespace that is none', () => {
    expect(() => listen({ netnsPath: '/etc/hostname', groups: ['link'] })).toThrow('EINVAL');
  });

  const child = async (body: string): Promise<{ readonly stdout: string; readonly stderr: string }> => {
    const source = `
      import { NetlinkMonitor } from ${JSON.stringify(import.meta.resolve('#agent/netlink/monitor.ts'))};
      import { NetlinkSocket } from ${JSON.stringify(import.meta.resolve('#agent/netlink/socket.ts'))};
      import { setLink } from ${JSON.stringify(import.meta.resolve('#agent/netlink/link.ts'))};
      const open = (onMessages) => NetlinkMonitor.open({ groups: ['link'], onMessages, onOverrun() {}, onError(error) { throw error; } });
      ${body}`;
    return promisify(execFile)('unshare', ['--net', process.execPath, '--input-type=module', '-e', source]);
  };

  it('an open monitor neither keeps the process alive nor crashes its end', async () => {
    const { stdout } = await child(`open(() => {}); open(() => {}); console.log('end');`);
    expect(stdout).toBe('end\n');
  });

  it('survives process.exit in the middle of a storm', async () => {
    const { stdout } = await child(`
      const socket = NetlinkSocket.open({ protocol: 'route' });
      open(() => { console.log('heard'); process.exit(0); });
      setInterval(() => { for (let i = 0; i < 200; i++) socket.batch([setLink({ ifname: 'lo', mtu: 1300 + i })]); }, 1);`);
    expect(stdout).toBe('heard\n');
  });

  it('a listener that throws is an uncaught exception, not a warning', async () => {
    const failure = await child(`
      open(() => { throw new Error('listener broke'); });
      NetlinkSocket.open({ protocol: 'route' }).batch([setLink({ ifname: 'lo', mtu: 1300 })]);
      setInterval(() => {}, 1000);`).catch(
      (error: unknown) => error as { readonly code: number; readonly stderr: string },
    );
    expect(failure).toMatchObject({ code: 1 });
    expect(failure.stderr).toContain('listener broke');
  });
});
