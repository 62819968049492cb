// Random sequences of desired states on the real kernel, written one operation after the other: the end is what was desired, a second
// difference is empty, and no state between takes the way to a peer's block that is wanted before and after. The same of changes of peers
// alone, which are planned without reading the kernel. fast-check prints the seed.
import * as fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { readKernel } from '#agent/datapath/actual.ts';
import { applyOperations } from '#agent/datapath/apply.ts';
import { diff } from '#agent/datapath/diff.ts';
import { openKernelIo } from '#agent/datapath/kernel-io.ts';
import type { KernelIo } from '#agent/datapath/kernel-io.ts';
import { desiredState } from '#agent/datapath/desired.ts';
import { Expected } from '#agent/datapath/expected.ts';
import type { ActualState, DesiredState, Operation } from '#agent/datapath/objects.ts';
import { planPeerChange } from '#agent/datapath/peer-changes.ts';
import type { PeerChange } from '#agent/datapath/peer-changes.ts';
import { defaultDatapathSettings } from '#agent/datapath/settings.ts';
import { TestNetns } from '#test/support/netns.ts';
import { macTo, wayTo } from '#test/unit/datapath/model.ts';
import { directions, directOf, givenOf, viewOf, wanted, worlds } from '#test/unit/datapath/worlds.ts';
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

/** One node and its link; peers, and in the modes with direct routes link addresses and proofs, are others from step to step. */
const changes = fc
  .tuple(
    sequences,
    fc.constantFrom('vxlan' as const, 'direct' as const, 'auto' as const),
    fc.array(directions, { minLength: 3, maxLength: 3 }),
    fc.array(fc.uniqueArray(fc.integer({ min: 2, max: 8 }), { minLength: 5, maxLength: 5 }), {
      minLength: 3,
      maxLength: 3,
    }),
  )
  .map(([[first, ...later], mode, moving, underlays]): readonly World[] =>
    [first as World, ...later].map((world, step) => ({
      ...(first as World),
      // This node's own blocks stay.
      owners: world.owners.map((owner, index) => (first?.owners[index] === 0 ? 0 : owner || undefined)),
      underlays: underlays[step] ?? [],
      ...(mode === 'vxlan' ? {} : { direct: { mode, ...(moving[step] as (typeof moving)[number]), refused: [] } }),
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
  async function settle(
    desired: DesiredState,
    look: (state: ActualState) => void,
    operations?: readonly Operation[],
  ): Promise<ActualState> {
    let reading = await read();
    for (const operation of operations ?? diff(desired, reading.state)) {
      expect(await applyOperations(io, settings(), [operation], reading.ifindexes)).toEqual([]);
      reading = await read();
      look(reading.state);
    }
    expect(diff(desired, reading.state)).toEqual([]);
    return reading.state;
  }

  /** From one state to the next, held to what every step on the way must keep. */
  async function step(
    before: DesiredState | undefined,
    desired: DesiredState,
    plan?: readonly Operation[],
  ): Promise<number> {
    let steps = 0;
    const start = (await read()).state;
    const kept = (before?.routes ?? [])
      .filter(({ target }) => target.kind === 'peer')
      .map(({ dst }) => ({ dst, owner: macTo(start, dst), way: wayTo(start, dst) }))
      .filter(({ way }) => way !== undefined);
    const seen = kept.map(() => new Set<string>());
    const admitted = (['direct4', 'direct6'] as const).map(
      (set) => [set, start.firewall.elements[set].intersection(desired.firewall.elements[set])] as const,
    );
    const look = (state: ActualState): void => {
      steps++;
      for (const [index, { dst }] of kept.entries()) seen[index]?.add(wayTo(state, dst) ?? 'nowhere');
      for (const [set, keys] of admitted) expect([...keys.difference(state.firewall.elements[set])]).toEqual([]);
    };
    const end = await settle(desired, look, plan);
    for (const [index, { dst, owner, way }] of kept.entries()) {
      const last = wayTo(end, dst);
      if (last === undefined) continue;
      // By the old owner, at its old or new address, or by the new one: never by nobody, never by a third.
      const moved = end.fdb.find(({ mac }) => mac === owner)?.underlayAddress;
      for (const found of seen[index] ?? []) expect([way, moved, last]).toContain(found);
    }
    return steps;
  }

  it('comes to every desired state, and never loses a way that stays', { timeout: 120_000 }, async () => {
    let steps = 0;
    await fc.assert(
      fc.asyncProperty(sequences, async (sequence) => {
        let before: DesiredState | undefined;
        for (const desired of sequence.map(wanted)) {
          steps += await step(before, desired);
          before = desired;
        }
      }),
      { numRuns: 8, interruptAfterTimeLimit: 20_000, endOnFailure: true },
    );
    expect(steps).toBeGreaterThan(50);
  });

  it('comes to every change of peers, link addresses and proofs without being read', { timeout: 120_000 }, async () => {
    let [steps, planned] = [0, 0];
    await fc.assert(
      fc.asyncProperty(changes, async (sequence) => {
        let before: World | undefined;
        for (const world of sequence) {
          const change = before && planOf(before, world, (await read()).state);
          if (change) planned++;
          steps += await step(before && wanted(before), wanted(world), change && diff(change.desired, change.actual));
          before = world;
        }
      }),
      { numRuns: 12, interruptAfterTimeLimit: 30_000, endOnFailure: true },
    );
    expect(planned).toBeGreaterThan(3);
    expect(steps).toBeGreaterThan(50);
  });
});

function planOf(before: World, after: World, state: ActualState): PeerChange | undefined {
  const [from, to] = [before, after].map((world) => ({ view: viewOf(world), direct: directOf(world) }));
  if (!from || !to) return undefined;
  return planPeerChange({
    before: from,
    after: to,
    findings: wanted(before).findings,
    expected: new Expected(state),
    desiredOf: (told) => desiredState({ ...givenOf(before), ...told, leases: [] }),
  });
}
