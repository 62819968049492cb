// Pod links `bridge`: what a port has, what pods of one node hear of each other, what they may not say, and blocks that change while
// pods run.
import { afterEach, describe, expect, it } from 'vitest';

import type { IpamView } from '#agent/runtime/ipam.ts';
import { TestNetns } from '#test/support/netns.ts';

import { Lab, ping, snapshot, until } from './lab.ts';
import type { HostOptions, Pod } from './lab.ts';

const spoofed = async (netns: TestNetns): Promise<number> =>
  Number(/packets (\d+)/.exec(await netns.exec(['nft', 'list', 'counter', 'bridge', 'weft', 'pod_spoofed']))?.[1]);

/** Without what a bridge says of itself, which comes with its first port and goes with its last. */
const still = async (netns: TestNetns): Promise<string> => (await snapshot(netns)).replaceAll(/^ +bridge .*$/gm, '');

const soon = (): AbortSignal => AbortSignal.timeout(10_000);

async function reaches(from: TestNetns, to: string): Promise<boolean> {
  return ping(from, to).then(
    () => true,
    () => false,
  );
}

describe('pods on a bridge', () => {
  let lab: Lab | undefined;
  afterEach(async () => {
    await lab?.[Symbol.asyncDispose]();
    lab = undefined;
  });

  async function make(count: number, options: HostOptions = {}): Promise<Lab> {
    lab = await Lab.create(count, { ...options, settings: { podLink: 'bridge', ...options.settings } });
    return lab;
  }

  it('has ports that do not learn, with the prefix of the block and the bridge as gateway', async () => {
    const { hosts } = await make(1, { families: [4, 6] });
    const host = hosts[0] ?? expect.unreachable();
    const pod = await host.addPod('container-1');
    const [port] = await host.netns.json(['ip', '-d', '-j', 'link', 'show', pod.link.hostIfname]);
    expect(port).toMatchObject({
      master: 'weftbr0',
      ifalias: `weft:1:bridge container-1 eth0 ${pod.lease.generation} 10.32.0.10,fd42::a`,
      linkinfo: { info_slave_data: { hairpin: true, learning: false } },
    });
    const fdb = await host.netns.exec(['bridge', 'fdb', 'show', 'dev', pod.link.hostIfname]);
    expect(fdb).toContain('0a:58:0a:20:00:0a master weftbr0 static');
    expect(await pod.netns.json(['ip', '-j', 'route'])).toMatchObject([
      { dst: 'default', gateway: '10.32.0.1', dev: 'eth0' },
      { dst: '10.32.0.0/13', dev: 'eth0', prefsrc: '10.32.0.10' },
    ]);
    expect(pod.link).toMatchObject({
      addresses: ['10.32.0.10/13', 'fd42::a/128'],
      gateways: ['10.32.0.1', 'fe80::457:65ff:fe66:7401'],
    });
    expect(await host.datapath.check(pod.request)).toEqual([]);
    expect(await host.datapath.inventory()).toMatchObject([{ containerId: 'container-1', podLink: 'bridge' }]);
    expect(host.datapath.status()).toMatchObject({ ready: true, findings: [] });
  });

  it('rounds without a change write nothing; a new agent adopts what is there; a pod that goes leaves no trace', async () => {
    const { hosts } = await make(2, { families: [4, 6], settings: { comparePeriodMs: 300 } });
    const host = hosts[0] ?? expect.unreachable();
    const empty = await still(host.netns);
    const pod = await host.addPod();
    const before = await still(host.netns);
    for (let round = 0; round < 3; round++) await host.reconcile();
    expect(host.datapath.status().repairs).toBe(0);
    await host.stop();
    await host.start();
    expect(await still(host.netns)).toBe(before);
    await host.removePod(pod);
    await host.datapath.drained();
    expect(await still(host.netns)).toBe(empty);
  });

  it("pods of one node hear each other's broadcasts and multicasts, those of another node do not", async () => {
    const { hosts } = await make(2);
    const [here, there] = [hosts[0] ?? (undefined as never), hosts[1] ?? (undefined as never)];
    const [speaker, near, far] = [await here.addPod(), await here.addPod(), await there.addPod()];
    const heard = async ({ netns }: Pod): Promise<readonly number[]> =>
      [...(await netns.exec(['nft', 'list', 'table', 'inet', 'heard'])).matchAll(/packets (\d+)/g)].map((match) =>
        Number(match[1]),
      );
    for (const { netns } of [near, far]) {
      await netns.exec([
        'nft',
        `table inet heard { chain in {
           type filter hook prerouting priority -400;
           ip daddr 10.39.255.255 udp dport 9 counter;
           ip daddr 239.1.2.3 udp dport 9 counter;
         } ; }`,
      ]);
    }
    const send = `import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s.sendto(b'x', ('10.39.255.255', 9))
s.sendto(b'x', ('239.1.2.3', 9))`;
    await speaker.netns.exec(['ip', 'route', 'add', '224.0.0.0/4', 'dev', 'eth0']);
    await speaker.netns.exec(['python3', '-c', send]);
    await until('the near pod hears both', async () => (await heard(near)).join() === '1,1');
    expect(await heard(far)).toEqual([0, 0]);
  });

  it("may not send from another's address, in ARP or IP, also to a pod of the same node; nor play router", async () => {
    const { hosts } = await make(1, { families: [4, 6] });
    const host = hosts[0] ?? expect.unreachable();
    const [liar, other] = [await host.addPod(), await host.addPod()];
    for (const [stolen, to] of [
      ['10.32.0.77', other.lease.addresses[0]],
      ['fd42::77', other.lease.addresses[1]],
      ['10.32.0.77', host.underlay],
    ] as const) {
      const before = await spoofed(host.netns);
      await liar.netns.exec([
        'ip',
        'address',
        'add',
        stolen,
        'dev',
        'eth0',
        ...(stolen.includes(':') ? ['nodad'] : []),
      ]);
      await expect(ping(liar.netns, to ?? '', ['-I', stolen])).rejects.toThrow();
      expect(await spoofed(host.netns)).toBeGreaterThan(before);
      await liar.netns.exec(['ip', 'address', 'del', `${stolen}/${stolen.includes(':') ? 128 : 32}`, 'dev', 'eth0']);
    }
    expect(await reaches(liar.netns, other.lease.addresses[0] ?? '')).toBe(true);
    const advertise = `import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)
s.setsockopt(41, 18, 255)
s.sendto(bytes([134, 0, 0, 0, 64, 0, 0, 30]) + bytes(8), ('ff02::1', 0, 0, socket.if_nametoindex('eth0')))`;
    await until(
      'past duplicate detection',
      async () => !(await liar.netns.exec(['ip', '-6', 'address'])).includes('tentative'),
    );
    await liar.netns.exec(['python3', '-c', advertise]);
    expect(await reaches(liar.netns, other.lease.addresses[1] ?? '')).toBe(true);
    expect(await other.netns.exec(['ip', '-6', 'route', 'show', 'proto', 'ra'])).toBe('');
    expect(await host.netns.exec(['ip', '-6', 'route', 'show', 'proto', 'ra'])).toBe('');
  });

  it('a block that goes to another node, and one that comes, cost running pods nothing', async () => {
    const made = await make(2);
    const [here, there] = [made.host(0), made.host(1)];
    const old = await here.addPod();
    // 10.36.0.0/14, in the prefix that the old pod has on its link, is the other node's now; 10.48.0.0/14 came to this one.
    made.viewPatch = (view): IpamView => ({
      ...view,
      ranges: [...view.ranges, '10.48.0.0/14'],
      peers: view.peers.map((peer) => ({
        ...peer,
        blocks: peer.nodeName === 'a' ? ['10.32.0.0/14', '10.48.0.0/14'] : [...peer.blocks, '10.36.0.0/14'],
      })),
    });
    for (const host of made.hosts) await host.reconcile();
    const add = async (host: typeof here, containerId: string, address: string): Promise<Pod> => {
      const netns = await made.own(await TestNetns.create('pod'));
      const lease = { ...host.lease(containerId, netns), addresses: [address] };
      const request = { lease, netnsPath: netns.path };
      const link = await host.datapath.attach(request, soon());
      host.leases.push({ ...lease, state: 'active' });
      return { netns, lease, request, link };
    };
    const moved = await add(there, 'moved', '10.36.0.5');
    const second = await add(here, 'second', '10.48.0.5');
    expect(second.link.addresses).toEqual(['10.48.0.5/14']);
    expect(await here.datapath.check(second.request)).toEqual([]);
    for (const [from, to] of [
      [old, moved],
      [moved, old],
      [old, second],
      [second, old],
      [second, moved],
    ] as const) {
      await until(`${from.lease.addresses[0]} reaches ${to.lease.addresses[0]}`, async () =>
        reaches(from.netns, to.lease.addresses[0] ?? ''),
      );
    }
  });

  it("another address of the node becomes running pods' gateway", async () => {
    const made = await make(2);
    const [here, there] = [made.host(0), made.host(1)];
    const [pod, far] = [await here.addPod(), await there.addPod()];
    made.viewPatch = (view): IpamView => ({
      ...view,
      overlayAddresses: view.overlayAddresses.map((address) => (address === '10.32.0.1' ? '10.32.0.2' : address)),
    });
    await here.reconcile();
    expect(await pod.netns.exec(['ip', 'route', 'show', 'default'])).toContain('via 10.32.0.2');
    expect(await reaches(pod.netns, far.lease.addresses[0] ?? '')).toBe(true);
    expect(await here.datapath.check(pod.request)).toEqual([]);
  });

  it('switched on and off again: running pods keep their links, the bridge goes with its last pod', async () => {
    const made = await make(1, { settings: { podLink: 'routed' } });
    const host = made.host(0);
    const routed = await host.addPod();
    await host.restart({ podLink: 'bridge' });
    const port = await host.addPod();
    const all = async (): Promise<void> => {
      expect(await reaches(routed.netns, port.lease.addresses[0] ?? '')).toBe(true);
      expect(await reaches(port.netns, routed.lease.addresses[0] ?? '')).toBe(true);
      expect(await reaches(host.netns, port.lease.addresses[0] ?? '')).toBe(true);
      for (const pod of [routed, port]) expect(await host.datapath.check(pod.request)).toEqual([]);
    };
    await all();
    await host.restart({ podLink: 'routed' });
    await all();
    const later = await host.addPod();
    expect(await reaches(later.netns, port.lease.addresses[0] ?? '')).toBe(true);
    await host.removePod(port);
    await host.reconcile();
    expect(await host.netns.exec(['ip', 'link'])).not.toContain('weftbr0');
    expect(await host.netns.exec(['nft', 'list', 'tables'])).not.toContain('bridge');
    expect(await reaches(later.netns, routed.lease.addresses[0] ?? '')).toBe(true);
  });
});
