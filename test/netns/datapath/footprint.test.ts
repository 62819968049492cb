// A node on which nothing changes is known at a glance: no comparison of everything follows. Whatever a comparison would look at is told
// apart, what changes by itself is not.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { Footprints } from '#agent/datapath/footprint.ts';
import { openKernelIo } from '#agent/datapath/kernel-io.ts';
import type { KernelIo } from '#agent/datapath/kernel-io.ts';
import { defaultDatapathSettings } from '#agent/datapath/settings.ts';
import { getLink } from '#agent/netlink/link.ts';

import { Lab, ping, until } from './lab.ts';
import type { LabHost, Pod } from './lab.ts';

const comparePeriodMs = 500;

let lab: Lab;
let host: LabHost;
let near: Pod;
let far: Pod;

beforeAll(async () => {
  lab = await Lab.create(2, { families: [4, 6], settings: { comparePeriodMs } });
  host = lab.host(0);
  near = await host.addPod();
  far = await lab.host(1).addPod();
});
afterAll(async () => lab[Symbol.asyncDispose]());

async function traffic(): Promise<void> {
  for (const address of far.lease.addresses) await ping(near.netns, address);
}

it('the clock compares next to nothing while packets pass', async () => {
  const rounds = (): number => host.datapath.status().reconciles;
  await until('a glance is enough', async () => {
    const before = rounds();
    await new Promise((resolve) => setTimeout(resolve, 4 * comparePeriodMs));
    return rounds() === before;
  });
  const before = rounds();
  const began = performance.now();
  while (performance.now() - began < 12 * comparePeriodMs) {
    await traffic();
    await new Promise((resolve) => setTimeout(resolve, comparePeriodMs));
  }
  // Now and then one comes whatever the glances say.
  expect(rounds() - before).toBeLessThanOrEqual(1);
});

describe('of a host without an agent', () => {
  let io: KernelIo;
  let footprints: Footprints;
  let overlay: number;

  beforeAll(async () => {
    await traffic();
    await host.stop();
    const settings = { ...defaultDatapathSettings, netnsPath: host.netns.path };
    io = openKernelIo(settings);
    footprints = new Footprints(io, settings);
    const [[link]] = io.route.batchOrThrow([getLink({ ifname: settings.overlayDevice })]);
    overlay = link?.ifiIndex ?? 0;
  });
  afterAll(() => io[Symbol.dispose]());

  /** Until the kernel has finished what it does by itself after a change. */
  async function settle(): Promise<void> {
    await until('it is known', async () => {
      if (await footprints.isKnown(overlay)) return true;
      await footprints.learn(overlay);
      return false;
    });
  }

  it('stays the same while packets pass', async () => {
    await settle();
    for (let time = 0; time < 5; time++) {
      await traffic();
      expect(await footprints.isKnown(overlay)).toBe(true);
    }
  });

  it('is known for a time only', async () => {
    await settle();
    await until('a comparison is due', async () => !(await footprints.isKnown(overlay)));
  });

  it('is not learned where something was touched meanwhile', async () => {
    await settle();
    footprints.forget();
    await footprints.learn(overlay);
    expect(await footprints.isKnown(overlay)).toBe(false);
  });

  it.each([
    'ip link set weft0 mtu 1400',
    'ip link set weft0 address 02:00:00:00:00:07',
    'ip link set HOST mtu 1300',
    'ip link set HOST alias other',
    'ip link set HOST group 7',
    'ip link set HOST down',
    'ip address add 10.9.9.9/32 dev weft0',
    'ip -6 address del fd42::1/128 dev weft0',
    'ip route del 10.40.0.0/14 proto 87',
    'ip route add unreachable 10.9.9.0/24 proto 87',
    'ip -6 route del unreachable fd42::/49 metric 4294967295',
    'ip nexthop add id 77 via 10.32.0.77 dev weft0 onlink proto 87',
    'ip neighbour replace 10.32.0.77 lladdr 02:00:00:00:00:77 nud permanent dev weft0',
    'bridge fdb append 02:00:00:00:00:77 dev weft0 dst 192.0.2.77',
    'nft add chain inet weft more',
    'nft add table ip foreign',
    'sysctl -qw net.ipv4.ip_forward=0',
    'sysctl -qw net.ipv6.conf.all.forwarding=0',
    'sysctl -qw net.ipv4.conf.weft0.rp_filter=1',
    'sysctl -qw net.ipv4.conf.HOST.route_localnet=1',
    'sysctl -qw net.ipv6.conf.HOST.accept_ra=2',
  ])('another after: %s', async (command) => {
    await settle();
    await host.netns.exec(['sh', '-ec', command.replaceAll('HOST', near.link.hostIfname)]);
    expect(await footprints.isKnown(overlay)).toBe(false);
  });
});
