// Runs the probes: one timer, one set of sockets, two books. Every turn takes in what has come before anything is judged, so that an
// agent that was held up takes nobody for lost who has answered.

import { randomInt } from 'node:crypto';

import type { Condition } from '#agent/findings.ts';
import { toWeftError } from '#agent/errors.ts';

import { ProbeBook } from './book.ts';
import { ChecksumProbes } from './checksums.ts';
import { EchoSocket, minPacketBytes } from './echo-socket.ts';
import type { Arrival } from './echo-socket.ts';
import { HelloBook } from './hello.ts';
import type { PeerPath, ProbeScene } from './scene.ts';

export interface ProberLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

export interface ProberOptions {
  /** What the datapath has now; undefined while it is not ready. */
  readonly scene: () => ProbeScene | undefined;
  /** Tells the datapath which peers (record names) to reach directly. */
  readonly setDirect: (peers: ReadonlySet<string>) => Promise<void>;
  readonly log: ProberLog;
  /** Between two visits of one peer; 0: no visits (overlay mode `auto` still asks its candidates). */
  readonly intervalMs: number;
  readonly netnsPath?: string;
}

export interface Prober {
  /** By record name. */
  paths(): ReadonlyMap<string, PeerPath>;
  findings(): readonly Condition[];
  /** There may be other peers: the next turn comes soon. */
  look(): void;
  stop(): void;
}

/** Between two turns at least, and at most. */
const turnMs = 1000;
const longestPauseMs = 10_000;
const visitsPerSecond = 20;
/** Between two hellos to one candidate; more with many candidates, so that hellos stay below `hellosPerSecond`. */
const helloMs = 300;
const hellosPerSecond = 250;
const mostArrivals = 2000;

/** Starts. Without CAP_NET_RAW there are no probes, which is a finding. */
export function startProber(options: ProberOptions): Prober {
  try {
    return new RunningProber(options, EchoSocket.open(options.netnsPath));
  } catch (error) {
    const message = `no echo socket: ${toWeftError(error).message}`;
    options.log.warn({ error: message }, 'there will be no probes');
    return {
      paths: () => new Map(),
      findings: () => [{ name: 'probesOff', subject: 'probes', message }],
      look: () => {},
      stop: () => {},
    };
  }
}

class RunningProber implements Prober {
  readonly #options: ProberOptions;
  readonly #socket: EchoSocket;
  readonly #book: ProbeBook;
  readonly #hellos = new HelloBook();
  readonly #checksums: ChecksumProbes;
  /** Identifiers of this process' echoes: visits have the even one, hellos the odd one. */
  readonly #id = randomInt(0, 0x7fff) * 2;
  #scene: ProbeScene | undefined;
  #timer: NodeJS.Timeout | undefined;
  #turnAtMs = 0;
  #visitedAtMs = 0;
  #helloAtMs = 0;
  #stopped = false;
  #complained = '';

  constructor(options: ProberOptions, socket: EchoSocket) {
    this.#options = options;
    this.#socket = socket;
    this.#checksums = new ChecksumProbes(options.netnsPath);
    this.#book = new ProbeBook({ intervalMs: options.intervalMs, visitsPerSecond });
    this.#schedule(0);
  }

  paths(): ReadonlyMap<string, PeerPath> {
    return this.#book.paths();
  }

  findings(): readonly Condition[] {
    return [...this.#book.findings(performance.now()), ...this.#checksums.findings(this.#scene?.peers ?? [])];
  }

  look(): void {
    if (this.#turnAtMs > performance.now() + turnMs) this.#schedule(turnMs);
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#checksums[Symbol.dispose]();
    this.#socket[Symbol.dispose]();
  }

  #schedule(delayMs: number): void {
    if (this.#stopped) return;
    clearTimeout(this.#timer);
    this.#turnAtMs = performance.now() + delayMs;
    this.#timer = setTimeout(() => {
      try {
        this.#turn();
        this.#complained = '';
      } catch (error) {
        this.#complain(toWeftError(error).message);
      }
      this.#schedule(this.#pauseMs());
    }, delayMs);
    this.#timer.unref();
  }

  /** Until there is something to do; a look for nothing costs as much as the rest of a turn. */
  #pauseMs(): number {
    if (this.#scene?.auto) return helloMs;
    const { intervalMs } = this.#options;
    const leastMs = Math.min(turnMs, intervalMs || turnMs);
    if (!this.#scene) return leastMs;
    const nextAtMs = intervalMs > 0 ? Math.min(this.#book.nextAtMs, this.#checksums.nextAtMs) : Infinity;
    return Math.max(leastMs, Math.min(longestPauseMs, nextAtMs - performance.now()));
  }

  #turn(): void {
    const nowMs = performance.now();
    const scene = this.#options.scene();
    if (scene && scene !== this.#scene) {
      this.#scene = scene;
      this.#book.setScene(scene, nowMs);
      this.#hellos.setScene(scene);
    }
    if (!this.#scene) return;
    for (const arrival of this.#socket.receive(mostArrivals)) this.#take(arrival, nowMs, this.#scene);
    this.#book.expire(nowMs);
    if (this.#options.intervalMs > 0) this.#visit(nowMs, this.#scene);
    if (this.#scene.auto) this.#greet(nowMs, this.#scene);
  }

  #take(arrival: Arrival, nowMs: number, scene: ProbeScene): void {
    if (arrival.ifindex === scene.underlayIfindex) this.#hellos.heard(arrival.source);
    if (!arrival.reply) return;
    if (arrival.id === this.#id) this.#book.answered(arrival.sequence, Math.max(0, arrival.tookMs), nowMs);
    else if (arrival.id === this.#id + 1) this.#hellos.answered(arrival.sequence);
  }

  #visit(nowMs: number, scene: ProbeScene): void {
    const elapsedMs = Math.min(nowMs - this.#visitedAtMs, turnMs);
    this.#visitedAtMs = nowMs;
    for (const outgoing of this.#book.due(nowMs, elapsedMs)) {
      if (this.#socket.send({ ...outgoing, id: this.#id }) !== 0) this.#book.refused(outgoing.sequence);
    }
    const own = scene.overlayAddresses.find((address) => !address.includes(':'));
    this.#checksums.turn(nowMs, own, this.#book.takeAnswering());
  }

  #greet(nowMs: number, scene: ProbeScene): void {
    const everyMs = Math.max(helloMs, (this.#hellos.size * 1000) / hellosPerSecond);
    // A little early is in time: the turn's timer is as long as the interval.
    if (nowMs - this.#helloAtMs < everyMs * 0.9) return;
    this.#helloAtMs = nowMs;
    for (const { mac, ...hello } of this.#hellos.round()) {
      this.#socket.sendOnLink({ ...hello, id: this.#id + 1, packetBytes: minPacketBytes }, scene.underlayIfindex, mac);
    }
    this.#options.setDirect(this.#hellos.direct()).catch((error: unknown) => {
      this.#complain(toWeftError(error).message);
    });
  }

  #complain(message: string): void {
    if (message !== this.#complained) this.#options.log.warn({ error: message }, 'a turn of the probes failed');
    this.#complained = message;
  }
}
