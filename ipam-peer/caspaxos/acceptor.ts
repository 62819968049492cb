// One register of a CASPaxos acceptor (Rystsov 2018). Pure: whoever runs it must have the returned register on disk before the
// reply leaves the machine; an acceptor that forgets a promise or an accepted cell breaks the register for everybody.

import { compareBallots, zeroBallot, type Ballot } from './ballot.ts';
import type { Cell } from './change.ts';

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
      /** The voter id that answered the prepare: a voter whose disk was replaced in between must not accept. */
      readonly voterId: string;
      readonly cell: Cell | null;
    };

export type AcceptorReply =
  | { readonly kind: 'current'; readonly voterId: string; readonly accepted: Ballot; readonly cell: Cell | null }
  | { readonly kind: 'promised'; readonly voterId: string; readonly accepted: Ballot; readonly cell: Cell | null }
  | { readonly kind: 'accepted'; readonly voterId: string }
  | { readonly kind: 'outdated'; readonly voterId: string; readonly promised: Ballot }
  | { readonly kind: 'otherVoter'; readonly voterId: string };

export interface AcceptorStep {
  /** The same object as given when nothing changed: then there is nothing to make durable. */
  readonly register: Register;
  readonly reply: AcceptorReply;
}

export function acceptorStep(voterId: string, register: Register, request: AcceptorRequest): AcceptorStep {
  switch (request.kind) {
    case 'read':
      return { register, reply: { kind: 'current', voterId, accepted: register.accepted, cell: register.cell } };
    case 'prepare': {
      if (compareBallots(request.ballot, register.promised) <= 0) return outdated(voterId, register);
      const { accepted, cell } = register;
      return {
        register: { promised: request.ballot, accepted, cell },
        reply: { kind: 'promised', voterId, accepted, cell },
      };
    }
    case 'accept': {
      if (request.voterId !== voterId) return { register, reply: { kind: 'otherVoter', voterId } };
      if (compareBallots(request.ballot, register.promised) < 0) return outdated(voterId, register);
      return {
        register: { promised: request.ballot, accepted: request.ballot, cell: request.cell },
        reply: { kind: 'accepted', voterId },
      };
    }
  }
}

function outdated(voterId: string, register: Register): AcceptorStep {
  return { register, reply: { kind: 'outdated', voterId, promised: register.promised } };
}
