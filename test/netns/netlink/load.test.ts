// Load: thousands of peers, many deletions at once, and nothing that leaks. Figures are printed; only shapes are asserted.
import { readdirSync } from 'node:fs';

import { describe, expect, it } from 'vitest';

import { delLink, dumpLinks, getLink, newLink } from '#agent/netlink/link.ts';
import { type NetlinkRequest } from '#agent/netlink/message.ts';
import { NetlinkMonitor } from '#agent/netlink/monitor.ts';
import { dumpFdb, newFdb, newNeighbour } from '#agent/netlink/neighbour.ts';
import { readNetnsFile } from '#agent/netlink/netns.ts';
import { delNexthop, dumpNexthops, newNexthop } from '#agent/netlink/nexthop.ts';
import { Nftables } from '#agent/netlink/nftables.ts';
import { dumpRoutes, newRoute, routeTo } from '#agent/netlink/route.ts';
import { NetlinkSocket } from '#agent/netlink/socket.ts';
import { TestNetns } from '#test/support/netns.ts';

const protocol = 121;
const up = { ifiFlags: 1, ifiChange: 1 };

function hex(value: number): string {
  return value.toString(16).padStart(2, '0');
}

function peerRequests(oif: number, i: number): readonly NetlinkRequest<unknown>[] {
  const gateway = `fe80::${(i + 1).toString(16)}`;
  const lladdr = `02:aa:00:00:${hex(i >> 8)}:${hex(i & 255)}`;
  return [
    newNexthop({ id: i + 1, oif, gateway, nhProtocol: protocol }),
    newRoute({ ...routeTo(`10.${32 + (i >> 8)}.${i & 255}.0/24`), nhId: i + 1, rtmProtocol: protocol }),
    newNeighbour({ ndmIfindex: oif, dst: gateway, lladdr }),
    newFdb({ ndmIfindex: oif, lladdr, dst: `172.16.${i >> 8}.${i & 255}` }),
  ];
}

async function withOverlay(body: (socket: NetlinkSocket, oif: number) => void): Promise<void> {
  await using ns = await TestNetns.create();
  using socket = NetlinkSocket.open({ protocol: 'route', netnsPath: ns.path });
  const [[link]] = socket.batchOrThrow([
    newLink({ ifname: 'weft0', ...up, linkinfo: { kind: 'vxlan', data: { id: 1, port: 6784 } } }, { echo: true }),
  ]);
  body(socket, link?.ifiIndex ?? 0);
}

describe('5,000 peers', () => {
  it('nexthop, route, neighbour and FDB entry of each, in one batch', async () => {
    await withOverlay((socket, oif) => {
      const count = 5000;
      const start = performance.now();
      const requests = Array.from({ length: count }, (_, i) => peerRequests(oif, i)).flat();
      const built = performance.now();
      socket.batchOrThrow(requests);
      const sent = performance.now();
      const routes = socket.dump(dumpRoutes({ rtmProtocol: protocol }));
      const dumped = performance.now();
      const fdb = socket.dump(dumpFdb({ ndmIfindex: oif }));
      const nexthops = socket.dump(dumpNexthops());
      const rest = performance.now();
      socket.batchOrThrow(peerRequests(oif, count));
      const more = performance.now();
      console.log(
        `5,000 peers: ${(built - start).toFixed(1)} ms to build, ${(sent - built).toFixed(1)} ms to send ${requests.length} messages; ` +
          `dump of routes ${(dumped - sent).toFixed(1)} ms, of FDB and nexthops ${(rest - dumped).toFixed(1)} ms; one more peer ${(more - rest).toFixed(2)} ms`,
      );
      expect([routes.length, fdb.length, nexthops.length]).toEqual([count, count, count]);
      expect(new Set(routes.map((route) => route.nhId)).size).toBe(count);
    });
  });
});

describe('round trips', () => {
  it('a synchronous request and an asynchronous one', async () => {
    await using ns = await TestNetns.create();
    using socket = NetlinkSocket.open({ protocol: 'route', netnsPath: ns.path });
    const refused = [delLink({ ifname: 'nobody' })];
    const rounds = 2000;
    for (let i = 0; i < rounds; i += 1) socket.batch(refused);
    const start = performance.now();
    for (let i = 0; i < rounds; i += 1) socket.batch([getLink({ ifname: 'lo' })]);
    const sync = ((performance.now() - start) / rounds) * 1000;
    const later = performance.now();
    for (let i = 0; i < rounds; i += 1) await socket.batchAsync([getLink({ ifname: 'lo' })]);
    const async = ((performance.now() - later) / rounds) * 1000;
    console.log(`getLink: ${sync.toFixed(1)} us synchronous, ${async.toFixed(1)} us on a pool thread`);
    expect(sync).toBeLessThan(1000);
  });
});

describe('on pool threads', () => {
  it('sixteen veth deletions at once, while the main thread goes on', async () => {
    await using ns = await TestNetns.create();
    using socket = NetlinkSocket.open({ protocol: 'route', netnsPath: ns.path });
    socket.batchOrThrow(
      Array.from({ length: 16 }, (_, i) =>
        newLink({ ifname: `v${i}`, ...up, linkinfo: { kind: 'veth', data: { peer: { ifname: `w${i}` } } } }),
      ),
    );
    let turns = 0;
    const timer = setInterval(() => {
      turns += 1;
    }, 1);
    const start = performance.now();
    await Promise.all(
      Array.from({ length: 16 }, async (_, i) => socket.batchAsyncOrThrow([delLink({ ifname: `v${i}` })])),
    );
    const took = performance.now() - start;
    clearInterval(timer);
    console.log(`16 veth deletions at once: ${took.toFixed(0)} ms, ${turns} turns of the main thread meanwhile`);
    expect(turns).toBeGreaterThan(3);
    expect(socket.dump(dumpLinks()).map((link) => link.ifname)).toEqual(['lo']);
  });

  it('an aborted signal ends the wait, not the work; a dispose under way closes what is left', async () => {
    await using ns = await TestNetns.create();
    const socket = NetlinkSocket.open({ protocol: 'route', netnsPath: ns.path });
    socket.batchOrThrow([newLink({ ifname: 'v', ...up, linkinfo: { kind: 'veth', data: { peer: { ifname: 'w' } } } })]);
    await expect(
      socket.batchAsync([delLink({ ifname: 'v' })], AbortSignal.abort(new Error('too late'))),
    ).rejects.toThrow('too late');
    const controller = new AbortController();
    const waiting = socket.batchAsync([delLink({ ifname: 'v' })], controller.signal);
    controller.abort(new Error('enough'));
    await expect(waiting).rejects.toThrow('enough');
    socket[Symbol.dispose]();
    using again = NetlinkSocket.open({ protocol: 'route', netnsPath: ns.path });
    await expect
      .poll(() => again.dump(dumpLinks()).map((link) => link.ifname), { timeout: 5000, interval: 5 })
      .toEqual(['lo']);
  });
});

function resources(): { readonly fds: number; readonly threads: number } {
  return { fds: readdirSync('/proc/self/fd').length, threads: readdirSync('/proc/self/task').length };
}

describe('leaks', () => {
  it('no descriptor and no thread is left after a thousand of each', async () => {
    await using ns = await TestNetns.create();
    const netnsPath = ns.path;
    const nothing = (): void => undefined;
    const cycle = (): void => {
      using socket = NetlinkSocket.open({ protocol: 'route', netnsPath });
      socket.batch([getLink({ ifname: 'lo' }), delLink({ ifname: 'nobody' })]);
      readNetnsFile(netnsPath, '/proc/sys/net/ipv4/ip_forward');
      using monitor = NetlinkMonitor.open({
        netnsPath,
        groups: ['link'],
        onMessages: nothing,
        onOverrun: nothing,
        onError: nothing,
      });
      expect(monitor).toBeDefined();
      expect(() => NetlinkSocket.open({ protocol: 'route', netnsPath: '/etc/hostname' })).toThrow('EINVAL');
    };
    cycle();
    await Promise.all(Array.from({ length: 8 }, async () => asyncCycle(netnsPath)));
    const before = resources();
    const memoryBefore = process.memoryUsage().rss;
    for (let i = 0; i < 1000; i += 1) {
      cycle();
      if (i % 50 === 0) await asyncCycle(netnsPath);
    }
    for (let i = 0; i < 20; i += 1) {
      using nft = Nftables.open({ netnsPath });
      nft.run('add table inet weft; delete table inet weft');
    }
    // At most: the test runner itself may have closed something meanwhile.
    const grown = (): boolean => resources().fds > before.fds || resources().threads > before.threads;
    await expect.poll(grown, { timeout: 5000, interval: 10 }).toBe(false);
    console.log(
      `after 1,000 cycles: ${JSON.stringify(before)}, RSS +${((process.memoryUsage().rss - memoryBefore) / 2 ** 20).toFixed(1)} MiB`,
    );
  });
});

async function asyncCycle(netnsPath: string): Promise<void> {
  using socket = NetlinkSocket.open({ protocol: 'route', netnsPath });
  await Promise.all([socket.batchAsync([getLink({ ifname: 'lo' })]), socket.batchAsync([getLink({ ifname: 'lo' })])]);
}

describe('dumps while the kernel changes', () => {
  it('are one state or are tried anew: nothing twice, nothing missing', async () => {
    await using ns = await TestNetns.create();
    using socket = NetlinkSocket.open({ protocol: 'route', netnsPath: ns.path });
    const count = 3000;
    const blackhole = (id: number): NetlinkRequest<unknown> => newNexthop({ id, blackhole: true });
    socket.batchOrThrow(Array.from({ length: count }, (_, i) => blackhole(2 * i + 2)));
    for (let round = 0; round < 50; round += 1) {
      const dumping = socket.dumpAsync(dumpNexthops());
      for (let i = 0; i < 3; i += 1) {
        const id = 2 * ((round * 61 + i * 997) % count) + 1;
        socket.batchOrThrow([blackhole(id)]);
        socket.batchOrThrow([delNexthop(id)]);
      }
      const even = (await dumping).map((nexthop) => nexthop.id ?? 0).filter((id) => id % 2 === 0);
      expect(even).toEqual(Array.from({ length: count }, (_, i) => 2 * i + 2));
    }
  });
});
