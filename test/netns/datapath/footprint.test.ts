// A node on which nothing changes is known at a glance: no comparison of everything follows. Whatever a comparison would look at is told
// apart, what changes by itself is not.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { Footprints } from '#agent/datapath/footprint.ts';
import type { OwnDevices } from '#agent/datapath/footprint.ts';
import { openKernelIo } from '#agent/datapath/kernel-io.ts';
import type { KernelIo } from '#agent/datapath/kernel-io.ts';
import { defaultDatapathSettings } from '#agent/datapath/settings.ts';
import type { DatapathSettings } from '#agent/datapath/settings.ts';
import { getLink } from '#agent/netlink/link.ts';

import { Lab, ping, until } from './lab.ts';
import type { LabHost, Pod } from './lab.ts';

const comparePeriodMs = 500;

/** What is altered in every kind of node, and what in one kind alone. */
const alterations = [
  'ip link set weft0 mtu 1400',
  'ip link set weft0 address 02:00:00:00:00:07',
  'ip link set HOST mtu 1300',
  'ip link set HOST alias other',
  'ip link set HOST group 7',
  'ip link set HOST down',
  'ip address add 10.9.9.9/32 dev weft0',
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
];

const kinds: readonly (readonly [string, Partial<DatapathSettings>, readonly string[]])[] = [
  ['with routed pods', {}, ['ip -6 address del fd42::1/128 dev weft0', 'sysctl -qw net.ipv6.conf.HOST.accept_ra=2']],
  [
    'with a bridge',
    { podLink: 'bridge' },
    [
      'ip link set weftbr0 mtu 1400',
      'ip link set weftbr0 address 02:00:00:00:00:07',
      'ip link set weftbr0 type bridge mcast_snooping 1',
      'ip link set weftbr0 type bridge stp_state 1',
      'ip link set weftbr0 type bridge nf_call_iptables 0',
      'bridge link set dev HOST hairpin off',
      'bridge link set dev HOST learning on',
      'bridge link set dev HOST isolated on',
      'bridge link set dev HOST mcast_flood off',
      'bridge fdb add 02:00:00:00:00:77 dev HOST master static',
      'sysctl -qw net.ipv4.neigh.weftbr0.proxy_delay=80',
      'sysctl -qw net.ipv6.conf.weftbr0.accept_ra=2',
      'sysctl -qw net.ipv4.conf.weftbr0.proxy_arp=0',
      'ip link set HOST nomaster',
    ],
  ],
  ['with direct routes', { overlayMode: 'direct' }, ['ip nexthop add id 78 via 192.0.2.2 dev eth0 proto 87']],
];

describe.each(kinds)('a host %s', (_, settings, more) => {
  let lab: Lab;
  let host: LabHost;
  let near: Pod;
  let far: Pod;

  beforeAll(async () => {
    lab = await Lab.create(2, { families: [4, 6], settings: { comparePeriodMs, ...settings } });
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

  describe('once its agent is stopped', () => {
    let io: KernelIo;
    let footprints: Footprints;
    let devices: OwnDevices;

    beforeAll(async () => {
      await traffic();
      await host.stop();
      const all = { ...defaultDatapathSettings, ...settings, netnsPath: host.netns.path };
      io = openKernelIo(all);
      footprints = new Footprints(io, all);
      const numberOf = (ifname: string): number | undefined => {
        const [reply] = io.route.batch([getLink({ ifname })]);
        return reply.ok ? reply.answers[0]?.ifiIndex : undefined;
      };
      devices = { overlay: numberOf(all.overlayDevice) ?? 0, bridge: numberOf(all.bridgeDevice) };
    });
    afterAll(() => io[Symbol.dispose]());

    /** Until the kernel has finished what it does by itself after a change. */
    async function settle(): Promise<void> {
      await until('it is known', async () => {
        if (await footprints.isKnown(devices)) return true;
        await footprints.learn(devices);
        return false;
      });
    }

    it('stays the same while packets pass', async () => {
      await settle();
      for (let time = 0; time < 5; time++) {
        await traffic();
        expect(await footprints.isKnown(devices)).toBe(true);
      }
    });

    it('is known for a time only', async () => {
      await settle();
      await until('a comparison is due', async () => !(await footprints.isKnown(devices)));
    });

    it('is not learned where something was touched meanwhile', async () => {
      await settle();
      footprints.forget();
      await footprints.learn(devices);
      expect(await footprints.isKnown(devices)).toBe(false);
    });

    it.each([...more, ...alterations])('another after: %s', async (command) => {
      await settle();
      await host.netns.exec(['sh', '-ec', command.replaceAll('HOST', near.link.hostIfname)]);
      expect(await footprints.isKnown(devices)).toBe(false);
    });
  });
});
