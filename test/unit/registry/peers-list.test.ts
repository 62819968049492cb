// Lists over voters of which some are silent: scripted voters with several pages.

import { expect, it } from 'vitest';
import type { VoterLink } from '#agent/registry/peers/link.ts';
import { listKeys } from '#agent/registry/peers/list.ts';
import type { ChangesAnswer, ChangesCall } from '#agent/registry/peers/wire.ts';

const pages = 3;

class PagedVoter implements VoterLink {
  readonly name: string;
  calls = 0;
  #isDown: boolean;

  constructor(name: string, isDown: boolean) {
    this.name = name;
    this.#isDown = isDown;
  }

  async changes({ after }: ChangesCall): Promise<ChangesAnswer> {
    this.calls++;
    if (this.#isDown) throw new Error('down');
    const change = after + 1;
    const cell = { uid: 'u', version: `${change}.p`, writer: 'w', lineage: [], value: { change } };
    const entries = [{ name: `peer${change}`, accepted: { counter: change, proposer: 'p' }, cell }];
    return { diskId: `id-${this.name}`, voterId: '1.s', sessions: {}, change, entries, more: change < pages };
  }

  acceptor(): never {
    throw new Error('nothing is in doubt');
  }

  close(): void {}
}

const list = (voters: readonly VoterLink[]): ReturnType<typeof listKeys> =>
  listKeys(voters, 'peer', () => expect.unreachable('nothing is in doubt'), new AbortController().signal);

it('reads all pages of a majority', async () => {
  const voters = [new PagedVoter('a', false), new PagedVoter('b', true), new PagedVoter('c', false)];
  expect((await list(voters)).map(({ name }) => name)).toEqual(['peer1', 'peer2', 'peer3']);
});

it('reads one page of a voter that is alone, not thousands of records for nothing', async () => {
  const voters = [new PagedVoter('a', false), new PagedVoter('b', true), new PagedVoter('c', true)];
  await expect(list(voters)).rejects.toThrow('no majority of the voters answers: down');
  expect(voters.map(({ calls }) => calls)).toEqual([1, 1, 1]);
});

it('reads all pages of an only voter', async () => {
  expect(await list([new PagedVoter('a', false)])).toHaveLength(pages);
});
