// Direct routes between hosts on one link: what goes where, who is admitted, and that switching loses nothing.
import { afterEach, describe, expect, it } from 'vitest';

import type { TestNetns } from '#test/support/netns.ts';

import { counter, Lab, ping, until } from './lab.ts';
import type { HostOptions, LabHost, Pod } from './lab.ts';
import { udpStream } from './stream.ts';

const names = (lab: Lab): readonly string[] => lab.hosts.map((_, index) => lab.viewOf(index).peers[index]?.name ?? '');

/** Packets of UDP 6784 that leave the host from now on. */
async function countVxlan(netns: TestNetns): Promise<() => Promise<number>> {
  await netns.exec([
    'sh',
    '-ec',
    `nft add table inet seen; nft add chain inet seen out '{ type filter hook output priority 0; }'
     nft add counter inet seen vxlan; nft add rule inet seen out udp dport 6784 counter name vxlan`,
  ]);
  return async () =>
    Number(/packets (\d+)/.exec(await netns.exec(['nft', 'list', 'counter', 'inet', 'seen', 'vxlan']))?.[1]);
}

const goesVia = async (host: LabHost, address: string): Promise<string> =>
  /dev (\S+)/.exec(await host.netns.exec(['ip', 'route', 'get', address]))?.[1] ?? '';

async function bothPing(near: Pod, far: Pod): Promise<void> {
  await ping(near.netns, far.lease.addresses[0] ?? '');
  await ping(far.netns, near.lease.addresses[0] ?? '');
}

describe('direct routes', () => {
  let lab: Lab | undefined;
  afterEach(async () => {
    await lab?.[Symbol.asyncDispose]();
    lab = undefined;
  });

  async function twoPods(settings: HostOptions['settings'], sysctls: readonly string[] = []): Promise<[Lab, Pod, Pod]> {
    lab = await Lab.create(2, { settings: { comparePeriodMs: 300, ...settings }, sysctls });
    return [lab, await lab.host(0).addPod(), await lab.host(1).addPod()];
  }

  it('mode direct: no packet is encapsulated, sources stay, hosts reach pods by their overlay address', async () => {
    const [{ hosts }, near, far] = await twoPods({ overlayMode: 'direct' });
    const [a, b] = [hosts[0] as LabHost, hosts[1] as LabHost];
    for (const host of hosts)
      await until('admitted', async () =>
        (await host.netns.exec(['nft', 'list', 'set', 'inet', 'weft', 'direct4'])).includes('10.'),
      );
    const sent = await countVxlan(a.netns);
    await far.netns.exec([
      'sh',
      '-ec',
      `nft add table inet seen; nft add chain inet seen in '{ type filter hook input priority 0; }'
       for source in ${near.lease.addresses[0]} ${a.overlay}; do nft add rule inet seen in ip saddr $source icmp type echo-request counter; done`,
    ]);
    await bothPing(near, far);
    await ping(a.netns, far.lease.addresses[0] ?? '');
    await ping(b.netns, near.lease.addresses[0] ?? '');
    await ping(near.netns, '192.0.2.200');
    expect(await sent()).toBe(0);
    expect(await goesVia(a, far.lease.addresses[0] ?? '')).toBe('eth0');
    const listed = await far.netns.exec(['nft', 'list', 'chain', 'inet', 'seen', 'in']);
    expect([...listed.matchAll(/packets (\d+)/g)].map((match) => Number(match[1]))).toEqual([1, 1]);
    for (const host of hosts) expect(host.datapath.status()).toMatchObject({ ready: true, findings: [] });
  });

  it("admits a pod's source only from the link address of the peer that owns it", async () => {
    const [{ hosts, outside }, near, far] = await twoPods({ overlayMode: 'direct' });
    const a = hosts[0] as LabHost;
    await until('admitted', async () =>
      ping(near.netns, far.lease.addresses[0] ?? '').then(
        () => true,
        () => false,
      ),
    );
    await outside.exec(['ip', 'address', 'add', `${far.lease.addresses[0]}/32`, 'dev', 'lo']);
    await outside.exec(['ip', 'route', 'add', '10.32.0.0/13', 'via', a.underlay]);
    const before = await counter(a.netns, 'direct_stranger');
    await expect(ping(outside, near.lease.addresses[0] ?? '', ['-I', far.lease.addresses[0] ?? ''])).rejects.toThrow();
    expect(await counter(a.netns, 'direct_stranger')).toBeGreaterThan(before);
  });

  it('a peer behind a router stays on VXLAN', async () => {
    const [made, near, far] = await twoPods({ overlayMode: 'direct' });
    const [a, b] = [made.host(0), made.host(1)];
    // Each host alone in its prefix now: the outside machine is the router between them.
    for (const [host, other] of [
      [a, b],
      [b, a],
    ] as const) {
      await host.netns.exec(['ip', 'address', 'add', `${host.underlay}/32`, 'dev', 'eth0']);
      await host.netns.exec(['ip', 'address', 'del', `${host.underlay}/24`, 'dev', 'eth0']);
      await host.netns.exec(['ip', 'route', 'replace', '192.0.2.200', 'dev', 'eth0']);
      await host.netns.exec(['ip', 'route', 'replace', other.underlay, 'via', '192.0.2.200']);
    }
    await made.outside.exec(['sysctl', '-qw', 'net.ipv4.ip_forward=1']);
    await until('VXLAN is used', async () => (await goesVia(a, far.lease.addresses[0] ?? '')) === 'weft0');
    await until('pods reach each other', async () =>
      bothPing(near, far).then(
        () => true,
        () => false,
      ),
    );
  });

  it(
    'mode auto: switches there and back, one side after the other, and loses no packet',
    { timeout: 60_000 },
    async () => {
      const [made, near, far] = await twoPods({ overlayMode: 'auto' });
      const [a, b] = [made.host(0), made.host(1)];
      for (const host of made.hosts)
        await until('admitted', async () =>
          (await host.netns.exec(['nft', 'list', 'set', 'inet', 'weft', 'direct4'])).includes('10.'),
        );
      expect(await goesVia(a, far.lease.addresses[0] ?? '')).toBe('weft0');
      const [nameA = '', nameB = ''] = names(made);
      const streams = [await udpStream(near, far), await udpStream(far, near)];
      for (let round = 0; round < 10; round++) {
        const on = round % 2 === 0;
        await a.datapath.setDirect(new Set(on ? [nameB] : []));
        expect(await goesVia(a, far.lease.addresses[0] ?? '')).toBe(on ? 'eth0' : 'weft0');
        await b.datapath.setDirect(new Set(on ? [nameA] : []));
      }
      for (const stream of streams) expect(await stream.stop()).toMatchObject({ lost: 0 });
    },
  );

  it('mode auto: a new agent goes on with what its predecessor had found', async () => {
    const [made, near, far] = await twoPods({ overlayMode: 'auto' });
    const [a, b] = [made.host(0), made.host(1)];
    const [nameA = '', nameB = ''] = names(made);
    for (const host of made.hosts)
      await until('admitted', async () =>
        (await host.netns.exec(['nft', 'list', 'set', 'inet', 'weft', 'direct4'])).includes('10.'),
      );
    await a.datapath.setDirect(new Set([nameB]));
    await b.datapath.setDirect(new Set([nameA]));
    await bothPing(near, far);
    await a.stop();
    await a.netns.exec(['ip', 'neigh', 'flush', 'dev', 'eth0']);
    await a.start();
    expect(await goesVia(a, far.lease.addresses[0] ?? '')).toBe('eth0');
    expect(await a.netns.exec(['nft', 'list', 'set', 'inet', 'weft', 'direct4'])).toContain('10.40.0.0/14');
    await bothPing(near, far);
    // The overlay device made anew takes its address away, and with it the routes that have it as source.
    await a.netns.exec(['ip', 'link', 'del', 'weft0']);
    await until('healed', async () =>
      bothPing(near, far).then(
        () => true,
        () => false,
      ),
    );
  });
});
