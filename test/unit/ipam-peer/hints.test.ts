// What is known of the others follows what was heard last: an answer that was on its way meanwhile is older.
import { expect, test } from 'vitest';

import type { Answer } from '#ipam-peer/events.ts';

import { Bench, type Hand } from './harness.ts';

/** A peer whose first list is answered by the registry at once, and the way to let the answer arrive. */
function listing(bench: Bench, name: string): { readonly hand: Hand; readonly arrive: () => void } {
  const hand = bench.peer(name);
  hand.holding = ({ kind }) => kind === 'list';
  hand.start();
  const [request] = hand.held;
  if (request === undefined) throw new Error('nothing was listed');
  const answer: Answer = bench.registry.execute(request);
  hand.holding = () => false;
  return { hand, arrive: () => hand.feed({ kind: 'answer', request: request.request, answer }) };
}

const heard = ({ sim }: Hand): Readonly<Record<string, number>> =>
  Object.fromEntries([...(sim.state?.peers ?? [])].map(([name, { record }]) => [name, record.seq]));

test('a record that was made, and one that was changed, while a list was under way stay as they were heard', () => {
  const bench = new Bench();
  bench.peer('n1').start();
  bench.settle();
  const { hand, arrive } = listing(bench, 'n3');
  const two = bench.peer('n2').start();
  bench.settle(5000);
  expect(two.blocks()).toEqual(['10.40.0.0/13']);
  arrive();
  expect(heard(hand)).toEqual({ 'n1.x': bench.record('n1').seq, 'n2.x': bench.record('n2').seq });
});

test('a record that was deleted while a list was under way does not come back', () => {
  const bench = new Bench();
  bench.peer('n1').start();
  bench.settle();
  const two = bench.peer('n2').start();
  bench.settle(5000);
  const { hand, arrive } = listing(bench, 'n3');
  two.sim.loseDisk();
  bench.registry.remove('n2.x');
  hand.deliver();
  arrive();
  expect(Object.keys(heard(hand))).toEqual(['n1.x']);
});

test('a record that is gone by the list, and was not heard of since, is gone', () => {
  const bench = new Bench();
  bench.peer('n1').start();
  bench.settle();
  bench.peer('n2').start();
  bench.settle(5000);
  const { hand, arrive } = listing(bench, 'n3');
  hand.feed({ kind: 'hint', name: 'n4.x', record: { ...bench.registry.peers.get('n2.x')!.stored, name: 'n4.x' } });
  arrive();
  expect(hand.sim.state?.peers.has('n4.x')).toBe(true);
  bench.settle(700_000);
  expect(hand.sim.state?.peers.has('n4.x')).toBe(false);
});
