// What is expected of the kernel follows from the last reading and the operations since: the cases where their order, or a refusal, matters.
import { expect, test } from 'vitest';

import { Expected } from '#agent/datapath/expected.ts';

import { emptyKernel } from './model.ts';

const mac = '0a:58:0a:20:00:0a';

test('a pod whose MAC was at another port is known at its own, though the other entry goes last', () => {
  const astray = { mac, ifname: 'weftp2' };
  const expected = new Expected({ ...emptyKernel, portEntries: [astray] });
  expected.note([
    { kind: 'putPortEntry', portEntry: { mac, ifname: 'weftp1' } },
    { kind: 'delPortEntry', portEntry: astray },
  ]);
  expect(expected.ports.get(mac)).toBe('weftp1');
  expected.note([{ kind: 'delPortEntry', portEntry: { mac, ifname: 'weftp1' } }]);
  expect(expected.ports.has(mac)).toBe(false);
});

test('a route that the kernel has refused is not taken for ours', () => {
  const route = { dst: '10.40.0.0/14', metric: 0, target: { kind: 'unreachable' } } as const;
  const operation = { kind: 'putRoute', route, nexthopId: undefined, replaces: false } as const;
  const expected = new Expected(emptyKernel);
  expected.note([operation]);
  expect(expected.routes.size).toBe(1);
  expected.refused([operation]);
  expect(expected.routes.size).toBe(0);
});
