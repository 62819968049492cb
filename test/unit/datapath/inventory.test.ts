// Leases as the kernel tells them: port mappings out of the elements that were made of them, MACs out of the bridge's entries.

import { expect, test } from 'vitest';

import { hostMac, podMacOf } from '#agent/datapath/identity.ts';
import { leasesOf, portMappingsOf } from '#agent/datapath/inventory.ts';
import type { KernelIo } from '#agent/datapath/kernel-io.ts';
import type { ActualPodLink, ActualState } from '#agent/datapath/objects.ts';
import { portElements } from '#agent/datapath/pod-elements.ts';
import { noElements, type SetElements } from '#agent/datapath/set-shapes.ts';
import { defaultDatapathSettings } from '#agent/datapath/settings.ts';
import type { PortMapping } from '#agent/runtime/ipam.ts';

function elementsOf(
  ...leases: readonly { addresses: readonly string[]; portMappings: readonly PortMapping[] }[]
): SetElements {
  const sets: Record<string, Set<string>> = {};
  for (const { addresses, portMappings } of leases) {
    for (const { set, key } of portElements({ addresses, link: { portMappings } })) (sets[set] ??= new Set()).add(key);
  }
  return { ...noElements(), ...sets };
}

const web: PortMapping = { protocol: 'tcp', hostPort: 8080, containerPort: 80 };
const at4: PortMapping = { protocol: 'udp', hostPort: 53, containerPort: 5353, hostIp: '192.0.2.1' };
const at6: PortMapping = { protocol: 'sctp', hostPort: 99, containerPort: 99, hostIp: '2001:db8::1' };
const only4: PortMapping = { protocol: 'tcp', hostPort: 81, containerPort: 80, hostIp: '0.0.0.0' };
const only6: PortMapping = { protocol: 'tcp', hostPort: 82, containerPort: 80, hostIp: '::' };

test.each<[string, readonly string[], readonly PortMapping[]]>([
  ['one family', ['10.32.0.5'], [web, at4]],
  ['IPv6 alone', ['fd00::5'], [web, at6]],
  ['both families', ['10.32.0.5', 'fd00::5'], [web, at4, at6, only4, only6]],
  ['none', ['10.32.0.5'], []],
])('%s', (_name, addresses, portMappings) => {
  const other = { addresses: ['10.32.0.6', 'fd00::6'], portMappings: [{ ...web, hostPort: 9090 }] };
  const sets = elementsOf({ addresses, portMappings }, other);
  const found = portMappingsOf(addresses, sets);
  expect(found).toHaveLength(portMappings.length);
  expect(found).toEqual(expect.arrayContaining([...portMappings]));
  expect(portMappingsOf(other.addresses, sets)).toEqual(other.portMappings);
});

test('what does the same comes back as the simpler: every address, for a pod of one family', () => {
  expect(portMappingsOf(['10.32.0.5'], elementsOf({ addresses: ['10.32.0.5'], portMappings: [only4] }))).toEqual([
    { protocol: 'tcp', hostPort: 81, containerPort: 80 },
  ]);
});

test('what a hand has put there is no mapping', () => {
  const sets = { ...noElements(), ports4: new Set(['89 . 8080 : 10.32.0.5 . 80', 'nonsense']) };
  expect(portMappingsOf(['10.32.0.5'], sets)).toEqual([]);
});

test('the MAC of a port comes back from the bridge’s entry where it was asked for, and links without an alias are nobody’s', async () => {
  const link = {
    mac: hostMac,
    mtuBytes: 1450,
    up: true,
    routeLocalnet: false,
    doomed: false,
    ignoresAdvertisements: true,
    ipv6Off: false,
    quietIpv6: true,
    settled: true,
  };
  const podLinks: readonly ActualPodLink[] = [
    { ...link, ifname: 'weftp1', alias: 'weft:1:bridge c1 eth0 g1 10.32.0.5', bridge: 'weftbr0' },
    { ...link, ifname: 'weftp2', alias: 'weft:1:bridge c2 eth0 g2 10.32.0.6', bridge: 'weftbr0' },
    { ...link, ifname: 'weftp3', alias: 'somebody’s', bridge: undefined },
    { ...link, ifname: 'weftp4', alias: 'weft:1 c4 eth0 g4 10.32.0.8', bridge: undefined, doomed: true },
  ];
  const portEntries = [
    { ifname: 'weftp1', mac: '02:00:5e:00:00:01' },
    { ifname: 'weftp2', mac: podMacOf('10.32.0.6') },
  ];
  const state = {
    podLinks,
    portEntries,
    firewall: { fingerprint: [], elements: noElements() },
  } as unknown as ActualState;
  const io = { route: { dumpAsync: () => Promise.resolve([]) } } as unknown as KernelIo;
  const { signal } = new AbortController();
  const found = await leasesOf(io, defaultDatapathSettings, { state, links: [] }, signal);
  expect(found.map(({ containerId, link: options }) => [containerId, options])).toEqual([
    ['c1', { mac: '02:00:5e:00:00:01' }],
    ['c2', undefined],
  ]);
});
