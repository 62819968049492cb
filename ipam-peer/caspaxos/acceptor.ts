// One register of a CASPaxos acceptor (Rystsov 2018). Pure: whoever runs it must have the returned register on disk before the
// reply leaves the machine; an acceptor that forgets a promise or an accepted cell breaks the register for everybody.

import { compareBallots, zeroBallot, type Ballot } from './ballot.ts';
import type { Cell } from './change.ts';
import type { Sessions } from './session.ts';

export interface Register {
  /** No prepare at or below and no accept below this ballot is answered with yes. */
  readonly promised: Ballot;
  /** Ballot of the accepted cell; zero when none was. */
  readonly accepted: Ballot;
  /** null: nothing was ever accepted, or that the key has no content was. */
  readonly cell: Cell | null;
}

export const emptyRegister: Register = { promised: zeroBallot, accepted: zeroBallot, cell: null };

export type AcceptorRequest =
  | { readonly kind: 'read' }
  | { readonly kind: 'prepare'; readonly ballot: Ballot }
  | {
      readonly kind: 'accept';
      readonly ballot: Ballot;
      /** The voter id that answered the prepare: a voter that has started anew in between must not accept. */
      readonly voterId: string;
      readonly cell: Cell | null;
    };

/** What a voter says about itself and the others beside its registers (join.ts). */
export interface AcceptorSelf {
  /** Its session. */
  readonly voterId: string;
  /** No ballot with this counter or a lower one is answered with yes. */
  readonly floor: number;
  /** The latest sessions that it knows of. */
  readonly sessions: Sessions;
}

interface Content {
  readonly voterId: string;
  readonly accepted: Ballot;
  readonly cell: Cell | null;
  readonly sessions: Sessions;
}

export type AcceptorReply =
  | ({ readonly kind: 'current' } & Content)
  | ({ readonly kind: 'promised' } & Content)
  | { readonly kind: 'accepted'; readonly voterId: string }
  | { readonly kind: 'outdated'; readonly voterId: string; readonly promised: Ballot }
  | { readonly kind: 'otherVoter'; readonly voterId: string }
  /** Whoever asks may not write that. */
  | { readonly kind: 'refused'; readonly voterId: string; readonly reason: string };

export interface AcceptorStep {
  /** The same object as given when nothing changed: then there is nothing to make durable. */
  readonly register: Register;
  readonly reply: AcceptorReply;
}

export function acceptorStep(self: AcceptorSelf, register: Register, request: AcceptorRequest): AcceptorStep {
  const { voterId, sessions } = self;
  switch (request.kind) {
    case 'read': {
      const { accepted, cell } = register;
      return { register, reply: { kind: 'current', voterId, accepted, cell, sessions } };
    }
    case 'prepare': {
      const refusal = outdated(self, register, request.ballot);
      if (refusal !== undefined) return refusal;
      if (compareBallots(request.ballot, register.promised) === 0) return refuse(self, register, register.promised);
      const { accepted, cell } = register;
      return {
        register: { promised: request.ballot, accepted, cell },
        reply: { kind: 'promised', voterId, accepted, cell, sessions },
      };
    }
    case 'accept': {
      if (request.voterId !== voterId) return { register, reply: { kind: 'otherVoter', voterId } };
      return (
        outdated(self, register, request.ballot) ?? {
          register: { promised: request.ballot, accepted: request.ballot, cell: request.cell },
          reply: { kind: 'accepted', voterId },
        }
      );
    }
  }
}

function outdated(self: AcceptorSelf, register: Register, ballot: Ballot): AcceptorStep | undefined {
  if (compareBallots(ballot, register.promised) < 0) return refuse(self, register, register.promised);
  // The lowest ballot that is above the floor: whoever is refused begins there.
  if (ballot.counter <= self.floor) return refuse(self, register, { counter: self.floor + 1, proposer: '' });
  return undefined;
}

function refuse(self: AcceptorSelf, register: Register, promised: Ballot): AcceptorStep {
  return { register, reply: { kind: 'outdated', voterId: self.voterId, promised } };
}
