// Port mappings out of the elements that were made of them.

import { expect, test } from 'vitest';

import { portMappingsOf } from '#agent/datapath/inventory.ts';
import { portElements } from '#agent/datapath/pod-elements.ts';
import { noElements, type SetElements } from '#agent/datapath/set-shapes.ts';
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
