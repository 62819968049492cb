// What IPv6 adds to a pod's link and to the node: no address that waits for duplicate detection, no route taken from what a pod
// advertises, namespaces with IPv6 off, a node that lost IPv6, an underlay too narrow for it.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';

import { checkPodLink } from '#agent/datapath/check.ts';
import { openKernelIo } from '#agent/datapath/kernel-io.ts';
import { defaultDatapathSettings } from '#agent/datapath/settings.ts';
import { TestNetns } from '#test/support/netns.ts';

import { counter, Lab, outsideAddress6, ping, snapshot, until } from './lab.ts';
import type { LabHost, Pod } from './lab.ts';

const soon = (): AbortSignal => AbortSignal.timeout(10_000);

describe('a dual-stack pod', () => {
  let lab: Lab;
  let host: LabHost;
  let pod: Pod;
  const [first, second] = ['10.32.0.10', 'fd42::a'];

  beforeEach(async () => {
    lab = await Lab.create(1, { families: [4, 6] });
    host = lab.host(0);
    pod = await host.addPod('container-1');
  });
  afterEach(async () => lab[Symbol.asyncDispose]());

  it('has both addresses at once, none of them tentative, and a link-local gateway', async () => {
    expect(pod.lease.addresses).toEqual([first, second]);
    expect(await pod.netns.exec(['ip', '-6', 'address', 'show', 'dev', 'eth0', 'scope', 'global'])).toMatch(
      /inet6 fd42::a\/128 scope global nodad/,
    );
    const routes = await pod.netns.json(['ip', '-6', '-j', 'route', 'show', 'default']);
    expect(routes).toMatchObject([{ gateway: 'fe80::457:65ff:fe66:7401', dev: 'eth0' }]);
    const neighbours = await pod.netns.json(['ip', '-6', '-j', 'neigh']);
    expect(neighbours).toMatchObject([
      { dst: 'fe80::457:65ff:fe66:7401', lladdr: pod.link.hostMac, state: ['PERMANENT'] },
    ]);
    expect(pod.link).toMatchObject({
      podMac: '0a:58:0a:20:00:0a',
      gateways: ['169.254.1.1', 'fe80::457:65ff:fe66:7401'],
      routes: [
        { dst: '0.0.0.0/0', gateway: '169.254.1.1' },
        { dst: '::/0', gateway: 'fe80::457:65ff:fe66:7401' },
      ],
    });
    await ping(pod.netns, host.overlayOf(6));
    await ping(pod.netns, '::1');
    expect(await host.datapath.check(pod.request)).toEqual([]);
    expect(await host.datapath.inventory()).toMatchObject([{ addresses: [first, second] }]);
  });

  it('leaves no trace when it goes', async () => {
    await host.removePod(pod);
    await host.datapath.drained();
    const before = await snapshot(host.netns);
    const again = await host.addPod();
    await host.removePod(again);
    await host.datapath.drained();
    expect(await snapshot(host.netns)).toBe(before);
  });

  it('has IPv6 also where the runtime made its namespace without', async () => {
    await using netns = await TestNetns.create('pod');
    await netns.exec(['sysctl', '-qw', 'net.ipv6.conf.all.disable_ipv6=1', 'net.ipv6.conf.default.disable_ipv6=1']);
    const lease = host.lease('without', netns);
    await host.datapath.attach({ lease, netnsPath: netns.path }, soon());
    await ping(netns, host.overlayOf(6));
    await ping(netns, host.overlayOf(4));
    await host.datapath.detach(lease);
  });

  it('a further interface answers through itself, in both families', async () => {
    const lease = host.lease('container-1', pod.netns, 'net1');
    const request = { lease, netnsPath: pod.netns.path };
    const link = await host.datapath.attach(request, soon());
    expect(link.routes.map(({ dst, table }) => [dst, table !== undefined])).toEqual([
      ['0.0.0.0/0', true],
      ['::/0', true],
    ]);
    for (const address of lease.addresses) await ping(host.netns, address);
    for (const address of lease.addresses)
      await ping(pod.netns, host.overlayOf(address.includes(':') ? 6 : 4), ['-I', address]);
    expect(await host.datapath.check(request)).toEqual([]);
    await pod.netns.exec(['ip', '-6', 'rule', 'del', 'oif', 'net1']);
    expect((await host.datapath.check(request)).map(({ what }) => what)).toEqual(['pod rule oif net1']);
    await host.datapath.detach(lease);
    expect(await pod.netns.exec(['ip', '-6', 'rule'])).not.toContain('32000');
  });

  it.each([
    ['host', 'ip -6 route del fd42::a', 'host route fd42::a/128'],
    ['host', 'ip address del fe80::457:65ff:fe66:7401/64 dev HOST', 'gateway fe80::457:65ff:fe66:7401 on HOST'],
    [
      'host',
      'nft delete element inet weft sources6 { "HOST" . fd42::a }',
      'element HOST . fd42::a of nft set sources6',
    ],
    ['pod', 'ip -6 address flush dev eth0 scope global', 'pod address fd42::a'],
    ['pod', 'ip -6 route del default', 'pod default route of IPv6'],
  ])('check names what was altered: %s: %s', async (side, command, what) => {
    const hostIfname = pod.link.hostIfname;
    await host.stop();
    await (side === 'host' ? host.netns : pod.netns).exec(['sh', '-ec', command.replaceAll('HOST', hostIfname)]);
    const settings = { ...defaultDatapathSettings, netnsPath: host.netns.path };
    using io = openKernelIo(settings);
    const overlay = new Map([
      [4, host.overlayOf(4)],
      [6, host.overlayOf(6)],
    ] as const);
    const faults = await checkPodLink({ io, settings }, pod.request, overlay);
    expect(faults.map((fault) => fault.what)).toContain(what.replaceAll('HOST', hostIfname));
  });

  it('cannot send from another address, and is no router to the host', async () => {
    const before = await counter(host.netns, 'pod_spoofed');
    await pod.netns.exec(['ip', 'address', 'add', 'fd42::77/128', 'dev', 'eth0', 'nodad']);
    await expect(ping(pod.netns, host.overlayOf(6), ['-I', 'fd42::77'])).rejects.toThrow();
    expect(await counter(host.netns, 'pod_spoofed')).toBeGreaterThan(before);
    const file = `/proc/sys/net/ipv6/conf/${pod.link.hostIfname}/accept_ra`;
    expect((await host.netns.exec(['cat', file])).trim()).toBe('0');
    await host.netns.exec(['sh', '-c', `echo 2 > ${file}`]);
    await host.reconcile();
    expect((await host.netns.exec(['cat', file])).trim()).toBe('0');
  });

  it('an address that nobody has answers at once', async () => {
    const began = performance.now();
    await expect(ping(pod.netns, 'fd42::3:3', ['-W', '5'])).rejects.toThrow(/failed|Command/);
    await expect(ping(pod.netns, 'fd42:0:0:4000::3', ['-W', '5'])).rejects.toThrow(/failed|Command/);
    expect(performance.now() - began).toBeLessThan(5000);
  });
});

describe('a node', () => {
  it('that learns its default route from advertisements keeps it when it begins to forward', async () => {
    await using lab = await Lab.create(1);
    const { netns } = lab.host(0);
    await netns.exec(['ip', '-6', 'address', 'add', '2001:db8:2::1/64', 'dev', 'eth0', 'nodad']);
    await netns.exec(['ip', '-6', 'route', 'add', 'default', 'via', outsideAddress6, 'proto', 'ra']);
    expect((await netns.exec(['cat', '/proc/sys/net/ipv6/conf/eth0/accept_ra'])).trim()).toBe('1');
    lab.viewPatch = (view) => ({ ...view, ranges: [...view.ranges, 'fd42::/48'] });
    await lab.host(0).reconcile();
    expect((await netns.exec(['cat', '/proc/sys/net/ipv6/conf/all/forwarding'])).trim()).toBe('1');
    expect((await netns.exec(['cat', '/proc/sys/net/ipv6/conf/eth0/accept_ra'])).trim()).toBe('2');
    expect(await netns.exec(['ip', '-6', 'route', 'show', 'default'])).toContain(outsideAddress6);
  });

  it('with IPv6 off serves IPv4, says so, and refuses an IPv6 lease', async () => {
    await using lab = await Lab.create(2, {
      sysctls: ['net.ipv6.conf.all.disable_ipv6=1', 'net.ipv6.conf.default.disable_ipv6=1'],
    });
    lab.viewPatch = (view) => ({ ...view, ranges: [...view.ranges, 'fd42::/48'] });
    for (const host of lab.hosts) await host.reconcile();
    expect(lab.host(0).datapath.status()).toMatchObject({ ready: true, findings: [{ name: 'ipv6Off' }] });
    const [from, to] = [await lab.host(0).addPod(), await lab.host(1).addPod()];
    await ping(from.netns, to.lease.addresses[0] ?? '');
    const lease = { ...lab.host(0).lease('six', from.netns, 'net1'), addresses: ['fd42::a'] };
    const failed = lab.host(0).datapath.attach({ lease, netnsPath: from.netns.path }, soon());
    await expect(failed).rejects.toMatchObject({ kind: 'kernel', message: expect.stringContaining('IPv6 off') });
  });
});

describe('an underlay too narrow for IPv6', () => {
  let lab: Lab;
  let near: Pod;
  let far: Pod;

  beforeAll(async () => {
    lab = await Lab.create(2, { families: [4, 6] });
    [near, far] = [await lab.host(0).addPod(), await lab.host(1).addPod()];
  });
  afterAll(async () => lab[Symbol.asyncDispose]());

  it('is named, and pods still reach each other with full-size packets, in fragments', async () => {
    for (const host of lab.hosts) await host.netns.exec(['ip', 'link', 'set', 'eth0', 'mtu', '1300']);
    for (const host of lab.hosts) {
      await until('the finding', async () =>
        host.datapath.status().findings.some(({ name }) => name === 'mtuTooSmall'),
      );
      expect(host.datapath.status().mtuBytes).toBe(1280);
    }
    await ping(near.netns, far.lease.addresses[1] ?? '', ['-s', `${1280 - 48}`, '-M', 'do']);
    await ping(near.netns, far.lease.addresses[0] ?? '', ['-s', `${1280 - 28}`, '-M', 'do']);
  });
});
