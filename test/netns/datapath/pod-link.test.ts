// ADD, DEL and CHECK of one pod against the kernel: what fails half-way leaves nothing, what is done twice is done once.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { checkPodLink } from '#agent/datapath/check.ts';
import { openKernelIo } from '#agent/datapath/kernel-io.ts';
import { defaultDatapathSettings } from '#agent/datapath/settings.ts';
import { WeftError } from '#agent/errors.ts';
import { dumpLinks } from '#agent/netlink/link.ts';
import { NetlinkSocket } from '#agent/netlink/socket.ts';
import type { Lease } from '#agent/runtime/ipam.ts';
import { TestNetns } from '#test/support/netns.ts';

import { Lab, ping, snapshot, until } from './lab.ts';
import type { LabHost } from './lab.ts';

const soon = (): AbortSignal => AbortSignal.timeout(10_000);

async function podLinks(host: LabHost): Promise<readonly string[]> {
  const links = await host.netns.json<readonly { ifname: string }[]>(['ip', '-j', 'link']);
  return links.map((link) => link.ifname).filter((ifname) => ifname.startsWith('weftp'));
}

describe('attach, detach and check', () => {
  let lab: Lab;
  let host: LabHost;
  let failAt: string | undefined;
  let atStep: (step: string, lease: Lease) => void;

  beforeEach(async () => {
    failAt = undefined;
    atStep = () => undefined;
    lab = await Lab.create(1, {
      beforeAttachStep: (step, lease) => {
        atStep(step, lease);
        if (step === failAt) throw new WeftError('kernel', `made to fail at ${step}`);
      },
    });
    host = lab.host(0);
  });
  afterEach(async () => lab[Symbol.asyncDispose]());

  it('builds what ADD promises', async () => {
    const pod = await host.addPod('container-1');
    const [link] = await pod.netns.json(['ip', '-d', '-j', 'link', 'show', 'eth0']);
    expect(link).toMatchObject({ address: '0a:58:0a:20:00:0a', mtu: 1450, flags: expect.arrayContaining(['UP']) });
    const routes = await pod.netns.json(['ip', '-j', 'route']);
    expect(routes).toMatchObject([
      { dst: 'default', gateway: '169.254.1.1', dev: 'eth0' },
      { dst: '169.254.1.1', dev: 'eth0', scope: 'link' },
    ]);
    const [gateway] = await pod.netns.json(['ip', '-j', 'neigh']);
    expect(gateway).toMatchObject({ dst: '169.254.1.1', lladdr: pod.link.hostMac, state: ['PERMANENT'] });
    const [hostLink] = await host.netns.json(['ip', '-d', '-j', 'link', 'show', pod.link.hostIfname]);
    expect(hostLink).toMatchObject({
      address: pod.link.hostMac,
      ifalias: `weft:1 container-1 eth0 ${pod.lease.generation} 10.32.0.10`,
    });
    await ping(pod.netns, '127.0.0.1');
    expect(pod.link).toEqual({
      hostIfname: pod.lease.hostIfname,
      hostMac: '06:57:65:66:74:01',
      podMac: '0a:58:0a:20:00:0a',
      mtuBytes: 1450,
      gateways: ['169.254.1.1'],
      routes: [{ dst: '0.0.0.0/0', gateway: '169.254.1.1' }],
    });
    expect(await host.datapath.check(pod.request)).toEqual([]);
    expect(await host.datapath.inventory()).toEqual([
      {
        containerId: 'container-1',
        ifname: 'eth0',
        generation: pod.lease.generation,
        addresses: ['10.32.0.10'],
        podLink: 'routed',
        hostIfname: pod.lease.hostIfname,
      },
    ]);
  });

  it.each(['veth', 'firewall', 'host', 'pod', 'done'])('a failure at step "%s" leaves nothing', async (step) => {
    await using netns = await TestNetns.create('pod');
    const lease = host.lease('failing', netns);
    const before = [await snapshot(host.netns), await snapshot(netns)];
    failAt = step;
    await expect(host.datapath.attach({ lease, netnsPath: netns.path }, soon())).rejects.toThrow(step);
    expect([await snapshot(host.netns), await snapshot(netns)]).toEqual(before);
    failAt = undefined;
    await host.datapath.attach({ lease, netnsPath: netns.path }, soon());
    await ping(netns, host.underlay);
  });

  it('a link in the way of a limit fails the attach, which leaves nothing', async () => {
    await using netns = await TestNetns.create('pod');
    const limit = { bitsPerSecond: 8_000_000, burstBits: 800_000 };
    const lease = { ...host.lease('limited', netns), link: { bandwidth: { ingress: limit, egress: limit } } };
    const shaper = lease.hostIfname.replace(/^weftp/, 'weftb');
    await host.netns.exec(['ip', 'link', 'add', shaper, 'type', 'bridge']);
    const before = [await snapshot(host.netns), await snapshot(netns)];
    const failed = host.datapath.attach({ lease, netnsPath: netns.path }, soon());
    await expect(failed).rejects.toThrow(`${shaper} is there, but it is no ifb of ours`);
    expect([await snapshot(host.netns), await snapshot(netns)]).toEqual(before);
    await host.netns.exec(['ip', 'link', 'delete', shaper]);
    await host.datapath.attach({ lease, netnsPath: netns.path }, soon());
    await ping(netns, host.underlay);
  });

  it('can carry a packet in both directions before ADD answers', async () => {
    // A link that came up without a carrier drops what is sent (qdisc noop) until the kernel's link watch has run.
    const qdiscs = new Set<string>();
    atStep = (step, lease) => {
      if (step !== 'done') return;
      for (const [netnsPath, ifname] of [
        [host.netns.path, lease.hostIfname],
        [lease.owner.netnsPath, lease.ifname],
      ] as const) {
        using socket = NetlinkSocket.open({ protocol: 'route', netnsPath });
        const link = socket.dump(dumpLinks()).find((found) => found.ifname === ifname);
        qdiscs.add(`${ifname === 'eth0' ? 'pod' : 'host'} ${link?.qdisc}`);
      }
    };
    for (let at = 0; at < 40; at++) await host.addPod();
    expect([...qdiscs].toSorted()).toEqual(['host noqueue', 'pod noqueue']);
  });

  it.each([
    ['of the same metric', '0.0.0.0/0'],
    ['of another metric', '0.0.0.0/0 metric 100'],
  ])('a pod whose eth0 comes second keeps its default route %s', async (_which, route) => {
    await using netns = await TestNetns.create('pod');
    await netns.exec([
      'sh',
      '-ec',
      `ip link add net0 type bridge; ip address add 198.51.100.2/24 dev net0; ip link set net0 up
       ip route add ${route} via 198.51.100.1`,
    ]);
    const before = await netns.exec(['ip', 'route']);
    const lease = host.lease('second', netns);
    const link = await host.datapath.attach({ lease, netnsPath: netns.path }, soon());
    const address = lease.addresses[0] ?? '';
    expect(await netns.exec(['ip', 'route'])).toBe(before);
    expect(link.routes).toEqual([{ dst: '0.0.0.0/0', gateway: '169.254.1.1', table: expect.any(Number) }]);
    expect(await netns.exec(['ip', 'rule'])).toContain(`from ${address} lookup ${link.routes[0]?.table}`);
    await netns.exec(['ping', '-c', '1', '-w', '5', '-I', address, host.underlay]);
    expect(await host.datapath.check({ lease, netnsPath: netns.path })).toEqual([]);
  });

  it('an interface of that name in the pod is an error and stays as it was', async () => {
    await using netns = await TestNetns.create('pod');
    await netns.exec(['ip', 'link', 'add', 'eth0', 'type', 'bridge']);
    const before = [await snapshot(host.netns), await snapshot(netns)];
    const lease = host.lease('second', netns);
    const failed = host.datapath.attach({ lease, netnsPath: netns.path }, soon());
    await expect(failed).rejects.toMatchObject({ kind: 'interfaceExists' });
    expect([await snapshot(host.netns), await snapshot(netns)]).toEqual(before);
  });

  it('a second attach of one key is an error and the first stays alive', async () => {
    const pod = await host.addPod();
    const again = host.datapath.attach(pod.request, soon());
    await expect(again).rejects.toMatchObject({ kind: 'attachmentExists' });
    await ping(pod.netns, host.underlay);
  });

  it('a path that is no namespace, or nothing, is refused', async () => {
    await using netns = await TestNetns.create('pod');
    const lease = host.lease('nowhere', netns);
    for (const netnsPath of ['/etc/hostname', '/run/netns/absent', '/proc/self/ns/mnt']) {
      const failed = host.datapath.attach({ lease, netnsPath }, soon());
      await expect(failed).rejects.toMatchObject({ kind: 'invalidNetns' });
    }
  });

  it('detach leaves no trace, twice, and without a namespace', async () => {
    const before = await snapshot(host.netns);
    const pod = await host.addPod();
    await host.removePod(pod);
    await host.removePod(pod);
    await host.datapath.drained();
    expect(await snapshot(host.netns)).toEqual(before);
    const netns = await TestNetns.create('pod');
    const lease = host.lease('orphan', netns);
    await host.datapath.attach({ lease, netnsPath: netns.path }, soon());
    await netns[Symbol.asyncDispose]();
    await until('the kernel took the link', async () => (await podLinks(host)).length === 0);
    await host.datapath.detach(lease);
    expect(await snapshot(host.netns)).toEqual(before);
  });

  it('detach of an old generation does not touch a newer attachment', async () => {
    const pod = await host.addPod();
    await host.datapath.detach({ ...pod.lease, generation: 'ffffffffffffffff' });
    await ping(pod.netns, host.underlay);
    expect(await host.datapath.check(pod.request)).toEqual([]);
  });

  it('an ADD right after a DEL gets the same namespace and name', async () => {
    const pod = await host.addPod('restarted');
    for (let round = 0; round < 5; round++) {
      await host.datapath.detach(pod.lease);
      await host.datapath.attach(pod.request, soon());
      await ping(pod.netns, host.underlay);
    }
    // Another container in the namespace that the first one leaves.
    const next = host.lease('next', pod.netns);
    await host.datapath.detach(pod.lease);
    await host.datapath.attach({ lease: next, netnsPath: pod.netns.path }, soon());
    await ping(pod.netns, host.underlay);
  });

  it('sixteen at once, with rounds in between, end in sixteen pods that answer', async () => {
    const rounds = Array.from({ length: 20 }, () => host.reconcile());
    const pods = await Promise.all(Array.from({ length: 16 }, (_, index) => host.addPod(`burst-${index}`)));
    await Promise.all(rounds);
    await host.reconcile();
    for (const pod of pods) {
      expect(await host.datapath.check(pod.request)).toEqual([]);
      await ping(pod.netns, host.underlay);
    }
    const half = pods.slice(0, 8);
    await Promise.all(half.flatMap((pod) => [host.removePod(pod), host.reconcile()]));
    await host.reconcile();
    await host.datapath.drained();
    expect(await podLinks(host)).toHaveLength(8);
    for (const pod of pods.slice(8)) await ping(pod.netns, host.underlay);
    expect(host.datapath.status().findings).toEqual([]);
  });

  it.each([
    ['host', 'ip link set HOST down', 'link HOST'],
    ['host', 'ip link set HOST alias other', 'alias of HOST'],
    ['host', 'ip route del 10.32.0.10', 'host route 10.32.0.10/32'],
    ['host', 'ip address del 169.254.1.1/32 dev HOST', 'gateway 169.254.1.1 on HOST'],
    [
      'host',
      'nft delete element inet weft sources4 { "HOST" . 10.32.0.10 }',
      'element HOST . 10.32.0.10 of nft set sources4',
    ],
    ['pod', 'ip link set eth0 mtu 9000', 'MTU of eth0'],
    ['pod', 'ip address flush dev eth0', 'pod address 10.32.0.10'],
    ['pod', 'ip route del default', 'pod default route'],
    ['pod', 'ip link set lo down', 'pod link lo'],
  ])('check names what was altered: %s: %s', async (side, command, what) => {
    const pod = await host.addPod();
    const hostIfname = pod.link.hostIfname;
    // Before the datapath heals it.
    await host.stop();
    await (side === 'host' ? host.netns : pod.netns).exec(['sh', '-ec', command.replaceAll('HOST', hostIfname)]);
    const settings = { ...defaultDatapathSettings, netnsPath: host.netns.path };
    using io = openKernelIo(settings);
    const faults = await checkPodLink({ io, settings }, pod.request, new Map([[4, host.overlay]]));
    expect(faults.map((fault) => fault.what)).toContain(what.replaceAll('HOST', hostIfname));
  });

  it('a DEL after the link is gone leaves nothing of it in the firewall', async () => {
    const pod = await host.addPod();
    await host.netns.exec(['ip', 'link', 'delete', pod.link.hostIfname]);
    await host.removePod(pod);
    const sources = await host.netns.exec(['nft', 'list', 'set', 'inet', 'weft', 'sources4']);
    expect(sources).not.toContain(pod.lease.addresses[0]);
  });

  it('check tolerates what tuning changes', async () => {
    const pod = await host.addPod();
    await pod.netns.exec([
      'sh',
      '-ec',
      'ip link set eth0 promisc on mtu 1400; ip address add 198.51.100.1/24 dev eth0',
    ]);
    expect(await host.datapath.check(pod.request)).toEqual([]);
  });
});
