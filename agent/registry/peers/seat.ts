// A voter's seat: runs the pure join (ipam-peer/caspaxos/join.ts) over the links to the other voters, keeps what it says on disk,
// and says what this voter goes by when it answers, or that it must not answer yet.

import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import { WeftError, toWeftError } from '#agent/errors.ts';
import type { FellowLink } from '#agent/registry/peers/link.ts';
import type { VoterStore } from '#agent/registry/peers/store.ts';
import { pageLimit, type CopyAnswer, type CopyCall, type HelloCall } from '#agent/registry/peers/wire.ts';
import { emptyRegister, type AcceptorSelf, type Register } from '#ipam-peer/caspaxos/acceptor.ts';
import {
  answerHello,
  joinStep,
  newestRegister,
  newJoin,
  raiseFloor,
  vouchersNeeded,
  type HelloReply,
  type Join,
  type JoinEffect,
  type JoinEvent,
  type Membership,
} from '#ipam-peer/caspaxos/join.ts';
import { mergeSessions, retiredSession } from '#ipam-peer/caspaxos/session.ts';

export interface Seat {
  /** What to answer requests by. Throws WeftError('registry') while this voter must not answer. */
  self(): AcceptorSelf;
  /** Throws WeftError('registry') when the caller is no voter. */
  hello(voter: string, call: HelloCall): HelloReply;
  copy(voter: string, call: CopyCall): CopyAnswer;
  readonly state: SeatState;
  /** Ends when the signal aborts. */
  start(signal: AbortSignal): void;
}

/** What an operator sees of a voter. */
export interface SeatState {
  /** `joined`: with enough others; `alone`: by its own disk, for want of others. */
  readonly kind: 'voting' | 'alone' | 'joining';
  readonly session: string;
  /** Why it does not vote; ''. */
  readonly reason: string;
}

export interface SeatOptions {
  readonly self: string;
  /** All voters by name, this one included. */
  readonly voters: readonly string[];
  readonly fellows: readonly FellowLink[];
  readonly store: VoterStore;
  readonly log: Pick<Logger, 'info' | 'warn'>;
  /** How long a start waits for the others before a known disk is trusted. */
  readonly trustAfterMs: number;
}

const retryMs = 250;
/** Short: until it votes a voter is missed, and a hello is small. */
const retryLimitMs = 1500;
/** How often a voter that has joined asks whether another process has come with its name. */
const lookEveryMs = 10_000;

/** Throws WeftError('store'): the disk, or that of a single voter is new. */
export function createSeat(options: SeatOptions): Seat {
  const { self, voters, store } = options;
  let membership = store.membership();
  if (voters.length === 1 && !membership.member) {
    throw new WeftError(
      'store',
      `${store.path}: the only voter has no disk of a voter. At first, \`weft init\` makes it; if it was lost, so are the records: \`weft voters restore\` brings them back from a copy`,
      { details: store.path },
    );
  }
  const retired = retiredOf(membership, voters);
  if (retired !== undefined) {
    membership = retired;
    store.keepMembership(membership);
  }
  const others = voters.filter((name) => name !== self);
  return new LiveSeat(options, newJoin(self, others, membership));
}

/** Voters of an earlier list whose place another has taken never count again; undefined: there are none. */
function retiredOf(membership: Membership, voters: readonly string[]): Membership | undefined {
  const gone = Object.entries(membership.sessions)
    .filter(([name, session]) => !voters.includes(name) && session !== retiredSession)
    .map(([name]) => [name, retiredSession] as const);
  if (gone.length === 0) return undefined;
  return { ...membership, sessions: mergeSessions(membership.sessions, Object.fromEntries(gone)) };
}

class LiveSeat implements Seat {
  readonly #options: SeatOptions;
  readonly #fellows: ReadonlyMap<string, FellowLink>;
  #join: Join;
  #signal: AbortSignal = AbortSignal.abort();
  #timer: NodeJS.Timeout | undefined;
  #told = '';
  /** What was handed over in the join's current round. */
  readonly #copied = new Map<string, Register>();

  constructor(options: SeatOptions, join: Join) {
    this.#options = options;
    this.#join = join;
    this.#fellows = new Map(options.fellows.map((link) => [link.name, link]));
  }

  start(signal: AbortSignal): void {
    this.#signal = signal;
    const trust = setTimeout(() => this.#feed({ kind: 'waited' }), this.#options.trustAfterMs);
    signal.addEventListener('abort', () => {
      clearTimeout(trust);
      clearTimeout(this.#timer);
    });
    this.#begin();
  }

  get state(): SeatState {
    const { voting, alone, membership } = this.#join;
    const kind = !voting ? 'joining' : alone ? 'alone' : 'voting';
    return { kind, session: membership.session, reason: voting ? '' : this.#why() };
  }

  #why(): string {
    const { membership, others } = this.#join;
    const needed = vouchersNeeded(others.length);
    const ground = membership.member
      ? 'it has just started'
      : 'its disk is new or not the newest, so what it has promised is lost';
    return `${ground}; it votes once ${needed} of ${others.join(', ')} have answered`;
  }

  self(): AcceptorSelf {
    const { voting, membership } = this.#join;
    if (!voting) throw new WeftError('registry', `voter ${this.#options.self} does not vote yet: ${this.#why()}`);
    return { voterId: membership.session, floor: membership.floor, sessions: membership.sessions };
  }

  hello(voter: string, { session }: HelloCall): HelloReply {
    this.#admit(voter);
    const { membership } = this.#join;
    const answer = answerHello(membership, this.#options.store.highestCounter(), voter, session);
    this.#keep(answer.membership);
    return answer.reply;
  }

  copy(voter: string, { floor, after }: CopyCall): CopyAnswer {
    this.#admit(voter);
    if (!this.#join.membership.member) throw new WeftError('registry', 'the disk of this voter is new');
    this.#keep(raiseFloor(this.#join.membership, floor));
    const registers = this.#options.store.registersAfter(after, pageLimit);
    return { registers, more: registers.length === pageLimit };
  }

  #admit(voter: string): void {
    if (this.#join.others.includes(voter)) return;
    throw new WeftError('registry', `${voter} is no voter here: setting voters has ${this.#options.voters.join(', ')}`);
  }

  #keep(membership: Membership): void {
    if (membership === this.#join.membership) return;
    this.#options.store.keepMembership(membership);
    this.#join = { ...this.#join, membership };
  }

  #begin(): void {
    if (this.#signal.aborted) return;
    this.#copied.clear();
    const random = randomBytes(9).toString('base64url');
    this.#feed({ kind: 'begin', random, highest: this.#options.store.highestCounter() });
  }

  #feed(event: JoinEvent): void {
    if (this.#signal.aborted) return;
    const before = this.#join;
    const { join, effects } = joinStep(before, event);
    try {
      for (const effect of effects) this.#makeDurable(effect);
    } catch (error) {
      // Nothing of this step counts; it is tried again from what is on disk.
      this.#options.log.warn({ reason: toWeftError(error).message }, 'this voter cannot write its disk');
      this.#join = { ...before, round: before.round === 0 ? 0 : before.round + 1 };
      return this.#later(retryMs * 4);
    }
    this.#join = join;
    this.#tell(before);
    for (const effect of effects) this.#perform(effect);
  }

  #makeDurable(effect: JoinEffect): void {
    const { store } = this.#options;
    if (effect.kind === 'persist') store.keepMembership(effect.membership);
    if (effect.kind !== 'install') return;
    store.keepMembership(effect.membership, () => {
      for (const [key, register] of this.#copied) {
        const own = store.read(key);
        const newest = newestRegister(own, register);
        if (newest !== own) store.write(key, newest);
      }
    });
    this.#copied.clear();
  }

  #perform(effect: JoinEffect): void {
    switch (effect.kind) {
      case 'persist':
      case 'install':
        return;
      case 'hello': {
        const { round, voter, session } = effect;
        const asked = this.#fellow(voter).hello({ session }, this.#signal);
        asked.then(
          (reply) => this.#feed({ kind: 'hello', round, voter, reply }),
          () => this.#feed({ kind: 'failed', round, voter }),
        );
        return;
      }
      case 'copy': {
        const { round, voter, floor } = effect;
        this.#copyFrom(voter, floor, round).then(
          () => this.#feed({ kind: 'copied', round, voter }),
          () => this.#feed({ kind: 'failed', round, voter }),
        );
        return;
      }
      case 'pause':
        this.#later(effect.failures === 0 ? lookEveryMs : Math.min(retryLimitMs, retryMs * 2 ** (effect.failures - 1)));
    }
  }

  #later(ms: number): void {
    clearTimeout(this.#timer);
    // With jitter, so that two that disturb each other part.
    if (!this.#signal.aborted) this.#timer = setTimeout(() => this.#begin(), ms * (0.5 + Math.random()));
  }

  #fellow(voter: string): FellowLink {
    const link = this.#fellows.get(voter);
    if (link === undefined) throw new Error(`no link to voter ${voter}`);
    return link;
  }

  async #copyFrom(voter: string, floor: number, round: number): Promise<void> {
    for (let after = '', more = true; more;) {
      const page = await this.#fellow(voter).copy({ floor, after }, this.#signal);
      if (this.#join.round !== round) throw new Error('another round has begun');
      for (const { key, register } of page.registers) {
        this.#copied.set(key, newestRegister(this.#copied.get(key) ?? emptyRegister, register));
      }
      ({ more } = page);
      after = page.registers.at(-1)?.key ?? after;
    }
  }

  /** What an operator should know, once. */
  #tell(before: Join): void {
    const { log, self } = this.#options;
    const { superseded, voting, alone, membership } = this.#join;
    if (superseded !== undefined && before.superseded === undefined && before.membership.member) {
      const text =
        'another process has voted with the name and certificate of this node: its disk was set back, or the machine was copied';
      log.warn({ session: membership.session, by: superseded.by }, text);
    }
    const told = !voting ? 'joining' : alone ? 'alone' : 'voting';
    if (told === this.#told) return;
    this.#told = told;
    if (told === 'voting') log.info({ voter: self, session: membership.session }, 'this voter has joined');
    if (told === 'alone') log.warn({ voter: self }, 'too few other voters answer: this one goes by its own disk');
    if (told === 'joining' && (before.round > 0 || !membership.member))
      log.warn({ voter: self, reason: this.#why() }, 'this voter does not vote');
  }
}
