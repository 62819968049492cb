// Limits as buckets, and when a bucket in the kernel counts as the wanted one.

import { describe, expect, test } from 'vitest';

import { desiredShaping, shapingFaults } from '#agent/datapath/shaping.ts';
import type { DesiredShaping } from '#agent/datapath/shaping.ts';
import { tbfTicks } from '#agent/netlink/traffic-control.ts';
import type { BandwidthLimit } from '#agent/runtime/ipam.ts';

const names = { podLinkPrefix: 'weftp', shaperPrefix: 'weftb' };
const limit: BandwidthLimit = { bitsPerSecond: 8_000_000, burstBits: 800_000 };

function shapingOf(bandwidth: { readonly ingress?: BandwidthLimit; readonly egress?: BandwidthLimit }): DesiredShaping {
  const shaping = desiredShaping({ hostIfname: 'weftp0123456789', link: { bandwidth } }, names);
  if (!shaping) throw new Error('no shaping');
  return shaping;
}

test('rates and bursts are bytes; what may wait is the burst and 25 ms', () => {
  expect(shapingOf({ ingress: limit })).toEqual({
    ifname: 'weftp0123456789',
    shaper: 'weftb0123456789',
    ingress: { bytesPerSecond: 1_000_000, burstBytes: 100_000, limitBytes: 125_000 },
  });
});

test('a lease without limits has no shaping', () => {
  expect(desiredShaping({ hostIfname: 'weftp1', link: {} }, names)).toBe(undefined);
  expect(desiredShaping({ hostIfname: 'weftp1' }, names)).toBe(undefined);
});

describe('what is in the kernel', () => {
  const shaping = shapingOf({ ingress: limit, egress: limit });
  const right = { bytesPerSecond: 1_000_000, bufferTicks: tbfTicks(100_000, 1_000_000), limitBytes: 125_000 };

  test('is right when rate, burst and queue are, as the kernel rounds them', () => {
    const found = { ifname: shaping.ifname, ingress: right, egress: { ...right, bufferTicks: right.bufferTicks + 15 } };
    expect(shapingFaults(shaping, found, tbfTicks)).toEqual([]);
  });

  test.each([
    ['rate', { ...right, bytesPerSecond: 999_999 }],
    ['burst', { ...right, bufferTicks: right.bufferTicks * 2 }],
    ['queue', { ...right, limitBytes: 1 }],
    ['bucket at all', undefined],
  ])('is wrong with another %s', (_name, egress) => {
    expect(shapingFaults(shaping, { ifname: shaping.ifname, ingress: right, egress }, tbfTicks)).toEqual(['egress']);
  });

  test('a limit that nobody asked for is none of ours', () => {
    const found = { ifname: shaping.ifname, ingress: right, egress: undefined };
    expect(shapingFaults(shapingOf({ ingress: limit }), found, tbfTicks)).toEqual([]);
    expect(shapingFaults(shaping, undefined, tbfTicks)).toEqual(['ingress', 'egress']);
  });
});

test('ticks are the kernel’s: 64 ns each, 32 bits', () => {
  expect(tbfTicks(1_000_000, 1_000_000)).toBe(15_625_000);
  expect(tbfTicks(65_536, 1)).toBe(Number(BigInt.asUintN(32, (65_536n * 1_000_000_000n) / 64n)));
});
