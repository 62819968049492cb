// Which addresses of another plugin are refused, and why.

import { expect, test } from 'vitest';

import { requireForeign, requireUnused } from '#agent/runtime/foreign-address.ts';
import type { Delegate, IpamView, Lease } from '#agent/runtime/ipam.ts';

const delegate: Delegate = { type: 'host-local', env: {}, stdin: '{}' };
const ranges = ['10.32.0.0/12', 'fd32::/48'];

test.each([
  ['0.0.0.0', /no address of a host/],
  ['127.0.0.53', /loopback/],
  ['169.254.1.1', /link-local/],
  ['224.0.0.5', /multicast/],
  ['255.255.255.255', /broadcast/],
  ['::', /no address of a link/],
  ['::1', /no address of a link/],
  ['::ffff:10.1.2.3', /IPv4 address in IPv6/],
  ['fe80::5', /link-local/],
  ['ff02::1', /multicast/],
  ['10.40.1.2', /lies in 10\.32\.0\.0\/12/],
  ['fd32:0:0:7::1', /lies in fd32::\/48/],
])('%s', (address, why) => {
  expect(() => requireForeign({ addresses: [address], delegate }, ranges)).toThrow(why);
});

test.each(['192.168.50.2', '10.99.0.2', '240.0.0.1', '2001:db8::5', 'fd99::1'])('%s may be a pod’s', (address) => {
  expect(() => requireForeign({ addresses: [address], delegate }, ranges)).not.toThrow();
});

test('an address that is in use is refused by the name of who has it', () => {
  const peers = [{ nodeName: 'n2', underlayAddress: '192.168.50.2' }] as unknown as IpamView['peers'];
  const owner = { network: 'a', netnsPath: '/x', netnsInode: 1n, podNamespace: 'shop', podName: 'web-0' };
  const lease = (address: string, more: object): Lease =>
    ({ containerId: 'c1', ifname: 'eth0', addresses: [address], owner, delegate, ...more }) as unknown as Lease;
  const leases = [
    lease('10.99.0.2', {}),
    lease('10.99.0.3', { owner: { network: 'a', netnsPath: '/x', netnsInode: 1n } }),
    // In an Ethernet segment of its own, to which the node has no route.
    lease('10.99.0.4', { delegate: { ...delegate, type: 'dhcp' } }),
  ];
  const ask = (address: string): (() => void) => {
    const hosts = ['192.168.50.1', '2001:0db8::0001'];
    return () => requireUnused({ addresses: [address], delegate }, leases, { peers }, hosts);
  };
  expect(ask('192.168.50.1')).toThrow('host-local gave 192.168.50.1, which the node itself has');
  expect(ask('2001:db8::1')).toThrow('the node itself');
  expect(ask('192.168.50.2')).toThrow('the node n2');
  expect(ask('10.99.0.2')).toThrow('pod shop/web-0');
  expect(ask('10.99.0.3')).toThrow('container c1');
  for (const free of ['10.99.0.4', '10.99.0.5']) expect(ask(free)).not.toThrow();
});
