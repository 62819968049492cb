// Everything that may happen to one key within small bounds. WEFT_SIM_DEEP=1 searches further, which takes minutes.
import { expect, test } from 'vitest';
import type { Change } from '#ipam-peer/caspaxos/change.ts';
import { type Bounds, searchCaspaxos } from './caspaxos-search.ts';

function create(index: number): Change {
  return { kind: 'create', uid: `u${index}`, writer: `w${index}`, value: { content: index } };
}

const two = [create(0), create(1)];
const written: readonly Change[] = [create(0), { kind: 'read' }];
const none = { losses: 0, late: 0, restarts: 0, limit: 2_000_000 };

const always: readonly (readonly [string, Bounds])[] = [
  [
    'a create, with a message lost, a reply late and a voter started anew',
    { ...none, voters: 3, changes: [create(0)], rounds: 3, losses: 1, late: 1, restarts: 1 },
  ],
  ['two creates at three voters', { ...none, voters: 3, changes: two, rounds: 2 }],
  ['two creates at two voters, again and again', { ...none, voters: 2, changes: two, rounds: 4 }],
];

const deep: readonly (readonly [string, Bounds])[] = [
  ['a create and a read, with a voter started anew', { ...none, voters: 3, changes: written, rounds: 2, restarts: 1 }],
  [
    'two creates and a read, with a reply late',
    { ...none, voters: 2, changes: [...two, { kind: 'read' }], rounds: 2, late: 1 },
  ],
  ['two creates, with a reply late', { ...none, voters: 3, changes: two, rounds: 2, late: 1 }],
];

test.for(process.env['WEFT_SIM_DEEP'] === '1' ? [...always, ...deep] : always)(
  '%s: searched to the end',
  { timeout: 3_600_000 },
  ([name, bounds]) => {
    const { violation, ...found } = searchCaspaxos(bounds);
    console.log(`${name}: ${JSON.stringify(found)}`);
    expect(violation).toBe('');
    expect(found.states).toBeGreaterThan(4000);
  },
);

test('a voter that forgets its promises when it starts anew is found', { timeout: 300_000 }, () => {
  const bounds = { ...none, voters: 3, changes: written, rounds: 2, restarts: 1, forgetful: true };
  expect(searchCaspaxos(bounds).violation).toMatch(/does not find what 0 made/);
});
