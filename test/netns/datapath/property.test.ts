// Random sequences of desired states on the real kernel, written one operation after the other: the end is what was desired, a second
// difference is empty, and no state between takes the way to a peer's block that is wanted before and after. fast-check prints the seed.
import * as fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { readKernel } from '#agent/datapath/actual.ts';
import { applyOperations } from '#agent/datapath/apply.ts';
import { diff } from '#agent/datapath/diff.ts';
import { openKernelIo } from '#agent/datapath/kernel-io.ts';
import type { KernelIo } from '#agent/datapath/kernel-io.ts';
import type { ActualState, DesiredState } from '#agent/datapath/objects.ts';
import { defaultDatapathSettings } from '#agent/datapath/settings.ts';
import { TestNetns } from '#test/support/netns.ts';
import { macTo, wayTo } from '#test/unit/datapath/model.ts';
import { wanted, worlds } from '#test/unit/datapath/worlds.ts';
import type { World } from '#test/unit/datapath/worlds.ts';

/**
 * Another family of the underlay is another overlay device, and an MTU below IPv6's takes IPv6 off it: both interrupt, by the kernel's
 * nature. Pods are made by attach, not by rounds.
 */
const sequences = fc
  .tuple(fc.boolean(), fc.array(worlds, { minLength: 2, maxLength: 3 }))
  .map(([underlay6, sequence]): readonly World[] =>
    sequence.map((world) => ({
      ...world,
      underlay6,
      ipv6: world.ipv6 || underlay6,
      mtu: world.mtu === 1300 ? 1500 : world.mtu,
      pods: [],
    })),
  );

describe('the kernel', () => {
  let netns: TestNetns;
  let io: KernelIo;
  const settings = (): typeof defaultDatapathSettings => ({ ...defaultDatapathSettings, netnsPath: netns.path });

  beforeAll(async () => {
    netns = await TestNetns.create('host');
    await netns.exec([
      'sh',
      '-ec',
      `ip link add eth0 type veth peer name wire; ip link set wire up
       ip address add 192.0.2.1/24 dev eth0; ip address add 2001:db8::1/64 dev eth0 nodad; ip link set eth0 up
       sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
       ip nexthop add id 1463091201 blackhole`,
    ]);
    io = openKernelIo(settings());
  });
  afterAll(async () => {
    io[Symbol.dispose]();
    await netns[Symbol.asyncDispose]();
  });

  const read = async (): ReturnType<typeof readKernel> => readKernel(io, settings(), '192.0.2.1');

  /** Writes one operation after the other and looks at the kernel after each. */
  async function settle(desired: DesiredState, look: (state: ActualState) => void): Promise<ActualState> {
    let reading = await read();
    for (const operation of diff(desired, reading.state)) {
      expect(await applyOperations(io, settings(), [operation], reading.ifindexes)).toEqual([]);
      reading = await read();
      look(reading.state);
    }
    expect(diff(desired, reading.state)).toEqual([]);
    return reading.state;
  }

  it('comes to every desired state, and never loses a way that stays', { timeout: 120_000 }, async () => {
    let steps = 0;
    await fc.assert(
      fc.asyncProperty(sequences, async (sequence) => {
        let before: DesiredState | undefined;
        for (const desired of sequence.map(wanted)) {
          const start = (await read()).state;
          const kept = (before?.routes ?? [])
            .filter(({ target }) => target.kind === 'peer')
            .map(({ dst }) => ({ dst, owner: macTo(start, dst), way: wayTo(start, dst) }))
            .filter(({ way }) => way !== undefined);
          const seen = kept.map(() => new Set<string>());
          const end = await settle(desired, (state) => {
            steps++;
            for (const [index, { dst }] of kept.entries()) seen[index]?.add(wayTo(state, dst) ?? 'nowhere');
          });
          for (const [index, { dst, owner, way }] of kept.entries()) {
            const last = wayTo(end, dst);
            if (last === undefined) continue;
            // By the old owner, at its old or new address, or by the new one: never by nobody, never by a third.
            const moved = end.fdb.find(({ mac }) => mac === owner)?.underlayAddress;
            for (const found of seen[index] ?? []) expect([way, moved, last]).toContain(found);
          }
          before = desired;
        }
      }),
      { numRuns: 8, interruptAfterTimeLimit: 20_000, endOnFailure: true },
    );
    expect(steps).toBeGreaterThan(50);
  });
});
