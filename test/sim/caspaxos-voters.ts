// The voters of the CASPaxos world: pure acceptors that crash, lose their disks, are set back to an older copy of them, or are
// copied to a second machine that goes on under the same name, which some of the clients then reach. Each start joins (join.ts).
// One disk at a time is tampered with, as the engine's promise says: with 2F+1 voters F may be down, and a disk that is not what
// it was needs F+1 of the others. `plant` breaks one rule on purpose.

import {
  acceptorStep,
  emptyRegister,
  type AcceptorReply,
  type AcceptorRequest,
  type Register,
} from '#ipam-peer/caspaxos/acceptor.ts';
import { sameBallot, zeroBallot } from '#ipam-peer/caspaxos/ballot.ts';
import {
  answerHello,
  joinStep,
  newestRegister,
  newJoin,
  raiseFloor,
  type Join,
  type JoinEffect,
  type JoinEvent,
  type Membership,
} from '#ipam-peer/caspaxos/join.ts';

export type Plant =
  | 'none'
  | 'promisesNotDurable'
  | 'acceptsNotDurable'
  | 'ballotReuse'
  | 'newDiskTrusted'
  | 'joinWithoutFloor'
  | 'joinWithoutCopy'
  | 'sessionsUnsaid';

export interface Network {
  readonly random: () => number;
  readonly now: () => number;
  readonly later: (delayMs: number, act: () => void) => void;
  /** Loses, delays, doubles. */
  readonly transmit: (deliver: () => void) => void;
  /** False: nobody asks any more, and voters may rest. */
  readonly busy: () => boolean;
}

interface Disk {
  readonly register: Register;
  readonly membership: Membership;
}

interface Machine {
  readonly name: string;
  durable: Disk;
  /** What the process goes by. */
  register: Register;
  join: Join;
  /** What was handed over in the join's current round. */
  copied: Register;
  /** Counts starts: what an earlier process waited for is not for this one. */
  process: number;
  downUntil: number;
  /** An older state of the disk. */
  snapshot: Disk;
  /** The disk is not what it was: it may not be trusted before the voter has joined with it. */
  tampered: boolean;
}

export interface VoterCounters {
  readonly crashes: number;
  readonly wiped: number;
  readonly rolledBack: number;
  readonly cloned: number;
  readonly joined: number;
}

const newDisk: Disk = {
  register: emptyRegister,
  membership: { session: '0.new', floor: 0, sessions: {}, member: false },
};

export class Voters {
  readonly counters = { crashes: 0, wiped: 0, rolledBack: 0, cloned: 0, joined: 0 };
  readonly #network: Network;
  readonly #crashRate: number;
  readonly #tamperRate: number;
  readonly #plant: Plant;
  readonly #alone: boolean;
  readonly #machines = new Map<string, Machine>();
  /** Which machine a client reaches under a name, where it is not the first. */
  readonly #detours = new Map<string, Machine>();
  readonly #clients: number;
  readonly #names: readonly string[];
  #sessions = 0;

  constructor(
    names: readonly string[],
    options: {
      readonly network: Network;
      readonly crashRate: number;
      readonly clients: number;
      readonly plant: Plant;
    },
  ) {
    this.#network = options.network;
    this.#crashRate = options.crashRate;
    this.#tamperRate = 0.3 + options.network.random() * 0.7;
    this.#plant = options.plant;
    this.#alone = ['promisesNotDurable', 'acceptsNotDurable'].includes(options.plant);
    this.#clients = options.clients;
    this.#names = names;
    const disk: Disk = { ...newDisk, membership: { ...newDisk.membership, member: true } };
    for (const name of names) this.#machines.set(name, this.#machine(name, disk));
    for (const machine of this.#machines.values()) this.#start(machine);
  }

  #machine(name: string, disk: Disk): Machine {
    const others = this.#names.filter((other) => other !== name);
    return {
      name,
      durable: disk,
      register: disk.register,
      join: newJoin(name, others, disk.membership),
      copied: emptyRegister,
      process: 0,
      downUntil: 0,
      snapshot: disk,
      tampered: false,
    };
  }

  /** What a client's request to a voter comes to; undefined: no answer. */
  receive(name: string, client: number, request: AcceptorRequest): AcceptorReply | undefined {
    const machine = this.#detours.get(`${client} ${name}`) ?? this.#machines.get(name);
    if (machine === undefined || this.#isDown(machine) || !machine.join.voting) return undefined;
    const { session, floor, sessions } = machine.join.membership;
    const self = { voterId: session, floor, sessions: this.#plant === 'sessionsUnsaid' ? {} : sessions };
    const { register, reply } = acceptorStep(self, this.#before(machine.register, request), request);
    machine.register = register;
    const forgetful =
      (this.#plant === 'promisesNotDurable' && request.kind === 'prepare') ||
      (this.#plant === 'acceptsNotDurable' && request.kind === 'accept');
    if (!forgetful) machine.durable = { ...machine.durable, register };
    if (this.#network.random() < 0.2) machine.snapshot = machine.durable;
    // A crash before the answer leaves, or after.
    if (this.#network.random() >= this.#crashRate) return reply;
    this.#crash(machine);
    return this.#network.random() < 0.5 ? reply : undefined;
  }

  #isDown(machine: Machine): boolean {
    return this.#network.now() < machine.downUntil;
  }

  /** Acceptors promise a ballot once, which alone defuses reused ballots: planting their reuse takes that away, too. */
  #before(register: Register, request: AcceptorRequest): Register {
    const again = request.kind === 'prepare' && sameBallot(request.ballot, register.promised);
    if (this.#plant !== 'ballotReuse' || !again) return register;
    return { ...register, promised: zeroBallot };
  }

  #crash(machine: Machine): void {
    const { random, now } = this.#network;
    this.counters.crashes += 1;
    machine.process += 1;
    const downMs = random() < 0.5 ? 0 : random() * 60;
    machine.downUntil = now() + downMs;
    const all = [...this.#machines.values(), ...this.#detours.values()];
    const sound = !this.#alone && all.every((other) => !other.tampered) && this.#detours.size === 0;
    if (sound && this.#names.length > 1 && random() < this.#tamperRate) this.#tamper(machine);
    const { process } = machine;
    this.#network.later(downMs, () => {
      if (machine.process === process) this.#start(machine);
    });
  }

  #tamper(machine: Machine): void {
    const { random } = this.#network;
    const how = random();
    if (how < 0.35) {
      this.counters.wiped += 1;
      const { membership } = newDisk;
      const trusted = this.#plant === 'newDiskTrusted';
      machine.durable = trusted ? { ...newDisk, membership: { ...membership, member: true } } : newDisk;
      machine.tampered = !trusted;
    } else if (how < 0.65) {
      this.counters.rolledBack += 1;
      machine.durable = machine.snapshot;
      machine.tampered = true;
    } else {
      this.counters.cloned += 1;
      const clone = this.#machine(machine.name, random() < 0.5 ? machine.durable : machine.snapshot);
      clone.tampered = true;
      machine.tampered = true;
      for (let client = 0; client < this.#clients; client += 1) {
        if (random() < 0.5) this.#detours.set(`${client} ${machine.name}`, clone);
      }
      this.#start(clone);
    }
  }

  #start(machine: Machine): void {
    const { durable } = machine;
    machine.process += 1;
    machine.register = durable.register;
    machine.join = newJoin(machine.name, machine.join.others, durable.membership);
    this.#begin(machine);
    // A join makes good what a disk forgets, so these can only be found where every voter goes by its own disk.
    if (this.#alone) return this.#feed(machine, { kind: 'waited' });
    const { process } = machine;
    this.#network.later(50, () => {
      // A disk that is not what it was and too few others at the same time are two faults.
      if (machine.process === process && !machine.tampered) this.#feed(machine, { kind: 'waited' });
    });
  }

  #begin(machine: Machine): void {
    this.#sessions += 1;
    machine.copied = emptyRegister;
    const highest = machine.register.promised.counter;
    this.#feed(machine, { kind: 'begin', random: `s${this.#sessions}`, highest });
  }

  #feed(machine: Machine, event: JoinEvent): void {
    const wasVoting = machine.join.voting;
    const { join, effects } = joinStep(machine.join, event);
    machine.join = join;
    for (const effect of effects) this.#perform(machine, effect);
    if (join.phase === 'joined' && !wasVoting && join.voting) {
      this.counters.joined += 1;
      // A copy of the machine may still run.
      if (this.#detours.size === 0) machine.tampered = false;
    }
  }

  #perform(machine: Machine, effect: JoinEffect): void {
    if (this.#alone && effect.kind !== 'persist') return;
    switch (effect.kind) {
      case 'persist':
        machine.durable = { ...machine.durable, membership: effect.membership };
        return;
      case 'install':
        machine.register = newestRegister(machine.register, machine.copied);
        machine.durable = { register: machine.register, membership: effect.membership };
        return;
      case 'hello':
        return this.#ask(machine, effect, (other) => {
          const { register } = other.durable;
          const { membership, reply } = answerHello(
            other.join.membership,
            register.promised.counter,
            machine.name,
            effect.session,
          );
          this.#keep(other, membership);
          return { kind: 'hello', round: effect.round, voter: effect.voter, reply };
        });
      case 'copy':
        return this.#ask(
          machine,
          effect,
          (other) => {
            if (this.#plant !== 'joinWithoutFloor') this.#keep(other, raiseFloor(other.join.membership, effect.floor));
            return { kind: 'copied', round: effect.round, voter: effect.voter };
          },
          (other) => {
            if (this.#plant === 'joinWithoutCopy') return;
            if (machine.join.round === effect.round) machine.copied = newestRegister(machine.copied, other);
          },
        );
      case 'pause': {
        if (!this.#network.busy()) return;
        const { process } = machine;
        this.#network.later(10 + this.#network.random() * 20 * (effect.failures + 1), () => {
          if (machine.process === process) this.#begin(machine);
        });
      }
    }
  }

  #keep(machine: Machine, membership: Membership): void {
    machine.join = { ...machine.join, membership };
    machine.durable = { ...machine.durable, membership };
  }

  /** A request between voters and its answer, over the same bad network; without an answer it has failed after a while. */
  #ask(
    machine: Machine,
    { round, voter }: { readonly round: number; readonly voter: string },
    serve: (other: Machine) => JoinEvent,
    take: (register: Register) => void = () => undefined,
  ): void {
    const { process } = machine;
    let settled = false;
    const settle = (event: JoinEvent): void => {
      if (settled || machine.process !== process || this.#isDown(machine)) return;
      settled = true;
      this.#feed(machine, event);
    };
    this.#network.transmit(() => {
      const other = this.#machines.get(voter);
      // A voter whose disk is new vouches for nothing, nor does it hand anything over.
      if (other === undefined || this.#isDown(other) || !other.join.membership.member) return;
      const event = serve(other);
      const { register } = other.durable;
      this.#network.transmit(() => {
        if (settled || machine.process !== process || this.#isDown(machine)) return;
        take(register);
        settle(event);
      });
    });
    this.#network.later(40, () => settle({ kind: 'failed', round, voter }));
  }
}
