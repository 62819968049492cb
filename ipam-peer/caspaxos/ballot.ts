// Ballots order the rounds of CASPaxos. One round uses one ballot, ever: the proposer part is unique to one operation of one
// process start, the counter grows within it. (A cloned proposer id would let one ballot carry two values.)

export interface Ballot {
  readonly counter: number;
  /** Unique to one operation of one process start; '' only in the zero ballot. */
  readonly proposer: string;
}

/** Below every ballot that a proposer uses: nothing promised, nothing accepted. */
export const zeroBallot: Ballot = { counter: 0, proposer: '' };

/** Counters stay far below 2^53, so that adding one is always exact. */
export const maxCounter: number = 2 ** 50;

/** Negative, zero or positive, as for Array.prototype.sort. Total: by counter, then by proposer. */
export function compareBallots(a: Ballot, b: Ballot): number {
  if (a.counter !== b.counter) return a.counter < b.counter ? -1 : 1;
  if (a.proposer === b.proposer) return 0;
  return a.proposer < b.proposer ? -1 : 1;
}

export function sameBallot(a: Ballot, b: Ballot): boolean {
  return a.counter === b.counter && a.proposer === b.proposer;
}

/** The text form; the version of a cell is that of the ballot that first proposed it. */
export function ballotText(ballot: Ballot): string {
  return `${ballot.counter}.${ballot.proposer}`;
}
