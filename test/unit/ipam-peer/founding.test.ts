// Founding on ground that others use: what can be carved out is reserved for good and told; what cannot is refused with its reason,
// and nothing is written.
import { describe, expect, test } from 'vitest';
import { formatCidr, parseCidr } from '#ipam-peer/cidr.ts';
import type { InUse } from '#ipam-peer/events.ts';
import { parseAddress } from '#ipam-peer/address.ts';
import { effectiveOwners, ownershipViolations } from '#ipam-peer/invariants.ts';
import { summary } from '#ipam-peer/view.ts';
import type { RegistryRequest } from '#test/sim/registry-model.ts';
import { Bench, cidr, cidrs, type Hand } from './harness.ts';

function used(text: string, by = 'a route of this host'): InUse {
  return { cidr: cidr(text), by };
}

function found(
  inUse: readonly InUse[],
  change: Parameters<Bench['peer']>[1] = {},
): { readonly bench: Bench; readonly one: Hand } {
  const bench = new Bench();
  const one = bench.peer('n1', change);
  one.inUse = inUse;
  one.start();
  bench.settle();
  return { bench, one };
}

const reservedIn = (bench: Bench): readonly string[] | undefined =>
  bench.registry.universe?.record.reserved.map(formatCidr);

describe('what is in use is carved out', () => {
  test("k3s' service range lies inside the default range", () => {
    const { bench, one } = found([used('10.43.0.0/16', 'the service range of ServiceCIDR kubernetes')]);
    expect(reservedIn(bench)).toEqual(['10.43.0.0/16']);
    expect(one.blocks()).toEqual(['10.32.0.0/13', '10.40.0.0/15', '10.42.0.0/16', '10.44.0.0/14']);
    expect(one.log).toContain(
      '10.43.0.0/16 is the service range of ServiceCIDR kubernetes: its part of the range is reserved',
    );
    expect(one.allocate('pod', '10.43.0.1').refusal?.text).toBe('10.43.0.1 is reserved in this pool');
  });

  test('only the part inside the ranges, what overlaps once, what is reserved already not again', () => {
    const inUse = ['10.32.0.0/15', '10.32.0.0/24', '10.40.1.0/24', '172.16.0.0/12', 'fd00::/8'].map((text) =>
      used(text),
    );
    const { bench } = found(inUse, { reserved: cidrs('10.40.0.0/16') });
    expect(reservedIn(bench)).toEqual(['10.40.0.0/16', '10.32.0.0/15']);
  });

  test('the node’s own first address is never in it', () => {
    const { bench } = found([used('10.32.0.0/24')]);
    expect(bench.record('n1').overlay).toEqual(['10.32.1.0']);
  });

  test('a guessed range is dropped where a person has reserved the real one', () => {
    const guess: InUse = {
      ...used('10.32.0.0/12', 'a guess'),
      toldBy: parseAddress('10.32.0.1') ?? expect.unreachable(),
    };
    const { bench } = found([guess], { reserved: cidrs('10.32.0.0/16') });
    expect(reservedIn(bench)).toEqual(['10.32.0.0/16']);
    expect(found([guess]).one.sim.state?.trouble).toMatch(/is not free: 10\.32\.0\.0\/12 is a guess/);
  });
});

describe('what cannot be carved out is refused', () => {
  test.for<[string, readonly InUse[], RegExp]>([
    [
      'a route over the whole range',
      [used('10.0.0.0/8', 'a route of this host dev tun0')],
      /10\.32\.0\.0\/12 is not free: 10\.0\.0\.0\/8 is a route of this host dev tun0/,
    ],
    [
      'routes that leave nothing',
      [used('10.32.0.0/13'), used('10.40.0.0/13')],
      /nothing of the range 10\.32\.0\.0\/12 is free/,
    ],
    [
      'another pool',
      [{ ...used('10.40.0.0/16', 'in the pool blue'), apart: true }],
      /10\.40\.0\.0\/16 is in the pool blue/,
    ],
    [
      'too many pieces',
      Array.from({ length: 70 }, (_, index) => used(`10.33.${index * 2}.0/24`)),
      /70 parts of the range are reserved, more than 64/,
    ],
  ])('%s', ([, inUse, reason]) => {
    const { bench, one } = found(inUse);
    expect(bench.registry.universe?.record.founder).toBeUndefined();
    expect(one.sim.state?.trouble).toMatch(reason);
    expect(one.log.filter((line) => reason.test(line))).toHaveLength(1);
    expect(one.blocks()).toEqual([]);
    const ticket = one.ask('pod');
    bench.settle(11_000);
    expect(one.outcomes.get(ticket)?.refusal).toMatchObject({
      reason: 'notReady',
      text: expect.stringMatching(reason) as string,
    });
  });

  test('once the obstacle is gone the next survey founds', () => {
    const { bench, one } = found([used('10.0.0.0/8')]);
    one.inUse = [];
    bench.settle(12_000);
    expect(bench.registry.universe?.record.founder?.name).toBe('n1.x');
    expect(one.sim.state?.trouble).toBe('');
  });

  test('a node without the obstacle founds instead', () => {
    const { bench, one } = found([used('10.0.0.0/8')]);
    bench.peer('n2').start();
    bench.settle(20_000);
    expect(bench.registry.universe?.record.founder?.name).toBe('n2.x');
    expect(one.blocks()).toEqual(['10.40.0.0/13']);
  });
});

test('until it is founded it says so: the way to the registry may lead through what is reserved then', () => {
  const bench = new Bench();
  const [one, two] = [bench.peer('n1'), bench.peer('n2')];
  one.answersSurveys = false;
  two.answersSurveys = false;
  one.inUse = [used('10.43.0.0/16', 'the service range')];
  one.start();
  two.start();
  bench.settle(4000);
  expect(bench.registry.universe?.record.founder).toBeUndefined();
  for (const hand of [one, two]) {
    expect(hand.sim.state && summary(hand.sim.state)).toMatchObject({ founded: false, reserved: [] });
  }
  one.answersSurveys = true;
  bench.settle(15_000);
  for (const hand of [one, two]) {
    const shown = hand.sim.state && summary(hand.sim.state);
    expect(shown).toMatchObject({ founded: true, ranges: ['10.32.0.0/12'], reserved: ['10.43.0.0/16'] });
  }
});

test('a survey that is never answered is asked for again', () => {
  const bench = new Bench();
  const one = bench.peer('n1');
  one.answersSurveys = false;
  one.start();
  bench.settle(25_000);
  const asked = one.effects.filter((effect) => effect.kind === 'survey');
  expect(asked.length).toBeGreaterThanOrEqual(2);
  expect(asked[0]).toEqual({ kind: 'survey', ranges: [parseCidr('10.32.0.0/12')] });
  one.answersSurveys = true;
  bench.settle(15_000);
  expect(bench.registry.universe?.record.founder).toBeDefined();
});

test('a founder takes its range although its record was deleted and made again by a late duplicate of its own request', () => {
  const bench = new Bench();
  const one = bench.peer('n1');
  one.holding = (request) => request.kind === 'update' && request.record === 'peer';
  one.start();
  bench.settle();
  const made = bench.registry.peers.get('n1.x')?.stored;
  expect(bench.registry.universe?.record.founder?.uid).toBe(made?.uid);
  one.sim.crash();
  bench.registry.remove('n1.x');
  const value = made?.value as Readonly<Record<string, unknown>>;
  bench.registry.execute({ kind: 'create', request: 0, record: 'peer', name: 'n1.x', value });
  expect(bench.registry.peers.get('n1.x')?.stored.uid).not.toBe(made?.uid);
  one.holding = () => false;
  one.start();
  bench.settle(400_000);
  expect(one.blocks()).toEqual(['10.32.0.0/12']);
  expect(one.allocate('pod').lease?.addresses).toEqual(['10.32.0.2']);
});

describe('a founder whose record is deleted by hand while its founding is on its way', () => {
  /** The write that makes it the founder arrives when its record was deleted and made again already. */
  function lost(): { readonly bench: Bench; readonly one: Hand } {
    const bench = new Bench();
    const one = bench.peer('n1');
    one.holding = (request) => request.kind === 'update' && request.record === 'universe';
    one.start();
    bench.settle();
    bench.registry.remove('n1.x');
    bench.settle(60_000);
    const [late] = one.held;
    if (late === undefined) throw new Error('no write of the founder');
    bench.registry.execute(late);
    const uid = bench.registry.peers.get('n1.x')?.stored.uid;
    expect(bench.registry.universe?.record.founder).toMatchObject({ name: 'n1.x' });
    expect(bench.registry.universe?.record.founder?.uid).not.toBe(uid);
    return { bench, one };
  }

  test('takes the range all the same', () => {
    const { bench, one } = lost();
    one.holding = () => false;
    const two = bench.peer('n2').start();
    bench.settle(60_000);
    expect([one.blocks(), two.blocks()]).toEqual([['10.32.0.0/13'], ['10.40.0.0/13']]);
    expect(bench.record('n1').was).toEqual([bench.registry.universe?.record.founder?.uid]);
    const universe = bench.registry.universe?.record;
    expect(ownershipViolations(universe, effectiveOwners(universe, [...bench.registry.peers.values()]))).toEqual([]);
    expect(one.sim.disk.peer.founding).toEqual([]);
  });

  test('takes nothing where anybody has space', () => {
    const { bench, one } = lost();
    one.sim.crash();
    bench.peer('n2').start();
    bench.settle(20_000);
    bench.edit('n2', { blocks: [{ cidr: cidr('10.40.0.0/14') }] });
    one.holding = () => false;
    one.start();
    bench.settle(60_000);
    expect(bench.record('n1')).toMatchObject({ seeded: false });
    expect(one.blocks().includes('10.32.0.0/13')).toBe(false);
  });

  test('takes nothing when its disk does not tell that it was the founder', () => {
    const { bench, one } = lost();
    one.holding = () => false;
    one.sim.loseDisk();
    one.start();
    bench.settle(600_000);
    expect(one.blocks()).toEqual([]);
  });

  // Seeds 3525990 and 3027984: its own renewal came late, so its disk was not believed, and with that it forgot its founding.
  test('takes the range although it waited for a late renewal of its own', () => {
    const bench = new Bench();
    const one = bench.peer('n1');
    const held = (record: string): RegistryRequest =>
      one.held.find((request) => 'record' in request && request.record === record) ?? expect.unreachable();
    one.holding = (request) => request.kind === 'update' && request.record !== 'peer';
    one.start();
    bench.settle(100_000);
    const [founding, renewal] = [held('universe'), held('session')];
    one.sim.crash();
    bench.registry.execute(renewal);
    bench.registry.remove('n1.x');
    one.holding = (request) => request.kind === 'update' && request.record === 'universe';
    one.start();
    bench.settle(250_000);
    one.feed({ kind: 'recovered', leases: [] });
    bench.settle(10_000);
    bench.registry.execute(founding);
    expect(bench.registry.universe?.record.founder?.uid).not.toBe(bench.registry.peers.get('n1.x')?.stored.uid);
    one.holding = () => false;
    bench.settle(400_000);
    expect(one.blocks()).toEqual(['10.32.0.0/12']);
  });
});
