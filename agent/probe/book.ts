// Which peer is asked when, and what the answers say. Pure: time comes in with every call.
//
// A visit sends three echoes: a small one and one of the overlay's full size to the peer's overlay address, and one of the size that
// the latter has on the wire to its underlay address. Visits are bounded per second, so that with thousands of peers each is a sample.

import type { Condition } from '#agent/findings.ts';

import { Agenda } from './agenda.ts';
import { minPacketBytes } from './echo-socket.ts';
import { PathSearch } from './path-search.ts';
import { commonPair } from './scene.ts';
import type { PeerPath, ProbePeer, ProbeScene } from './scene.ts';

export type ProbeKind = 'small' | 'full' | 'path';

export interface Outgoing {
  readonly sequence: number;
  readonly to: string;
  readonly source: string;
  readonly packetBytes: number;
}

interface Waiting {
  readonly peer: string;
  readonly kind: ProbeKind;
  readonly sentAtMs: number;
  readonly answerWithinMs: number;
}

interface PeerState {
  peer: ProbePeer;
  nextAtMs: number;
  /** Outcomes of the last small probes, oldest first. */
  recent: boolean[];
  smallLost: number;
  fullLost: number;
  fullAnswered: boolean | undefined;
  rttMs: number | undefined;
  probedAtMs: number | undefined;
  underlayAnsweredAtMs: number | undefined;
  path: PathSearch;
  /** A probe of the path MTU is under way. */
  pathWaits: boolean;
}

export interface ProbeRates {
  readonly intervalMs: number;
  readonly visitsPerSecond: number;
}

const keptOutcomes = 20;
/** Unanswered for so long: lost. */
export const answerWithinMs = 900;
/** A peer of which something got lost is asked again so soon. */
const againMs = 1500;
/** While a path MTU is being searched no answer means that a size is too large: no need to wait long, the round trip is known. */
const searchStepMs = 250;
/** So many in a row are a finding. */
const lostInARow = 3;
/** With a whole rack down, the first of its nodes say enough. */
const mostFindings = 20;

export class ProbeBook {
  readonly #rates: ProbeRates;
  readonly #peers = new Map<string, PeerState>();
  readonly #agenda = new Agenda<PeerState>((state) => this.#peers.get(state.peer.name) === state);
  readonly #waiting = new Map<number, Waiting>();
  readonly #answering: ProbePeer[] = [];
  #scene: ProbeScene | undefined;
  #sequence = 0;

  constructor(rates: ProbeRates) {
    this.#rates = rates;
  }

  /** Peers that go are forgotten; those that stay keep what is known, but for a path MTU of another size. */
  setScene(scene: ProbeScene, nowMs: number): void {
    this.#scene = scene;
    const names = new Set(scene.peers.map(({ name }) => name));
    for (const name of this.#peers.keys()) if (!names.has(name)) this.#peers.delete(name);
    for (const peer of scene.peers) {
      const known = this.#peers.get(peer.name);
      if (known) {
        known.peer = peer;
        if (known.path.goalBytes !== scene.encapsulatedBytes) known.path = new PathSearch(scene.encapsulatedBytes);
      } else {
        const state = newState(peer, scene);
        this.#peers.set(peer.name, state);
        this.#agenda.put(state, nowMs);
      }
    }
    // With fewer peers each is visited more often.
    for (const state of this.#peers.values()) {
      const atMs = (state.probedAtMs ?? nowMs) + this.#intervalMs();
      if (state.nextAtMs > atMs) this.#agenda.put(state, atMs);
    }
  }

  /** Probes to send now; `elapsedMs` since the last call bounds their number. */
  due(nowMs: number, elapsedMs: number): readonly Outgoing[] {
    const scene = this.#scene;
    if (!scene) return [];
    const most = Math.max(1, Math.ceil((this.#rates.visitsPerSecond * elapsedMs) / 1000));
    return this.#agenda.take(nowMs, most).flatMap((state) => this.#visit(state, scene, nowMs));
  }

  /** When something is to be done next, should no answer come before; Infinity: nothing. */
  get nextAtMs(): number {
    let nextAtMs = this.#agenda.nextAtMs;
    for (const { sentAtMs, answerWithinMs: withinMs } of this.#waiting.values()) {
      nextAtMs = Math.min(nextAtMs, sentAtMs + withinMs);
    }
    return nextAtMs;
  }

  /** An answer to `sequence`. */
  answered(sequence: number, tookMs: number, nowMs: number): void {
    const state = this.#take(sequence);
    if (!state) return;
    if (state.kind === 'small') {
      state.of.rttMs = tookMs;
      state.of.smallLost = 0;
      this.#note(state.of, true);
      this.#answering.push(state.of.peer);
    } else if (state.kind === 'full') {
      state.of.fullLost = 0;
      state.of.fullAnswered = true;
    } else {
      state.of.underlayAnsweredAtMs = nowMs;
      state.of.path.outcome(true);
    }
  }

  /** The kernel would not send it. */
  refused(sequence: number): void {
    this.#lost(sequence);
  }

  /** Call after everything that has come was taken in: what is still waiting for long is lost. */
  expire(nowMs: number): void {
    for (const [sequence, waiting] of this.#waiting) {
      if (nowMs - waiting.sentAtMs < waiting.answerWithinMs) {
        if (waiting.answerWithinMs === answerWithinMs) break;
        continue;
      }
      const state = this.#lost(sequence);
      const soonMs = state?.path.searching ? 0 : againMs;
      if (state && state.nextAtMs > nowMs + soonMs) this.#agenda.put(state, nowMs + soonMs);
    }
  }

  /** By record name. */
  paths(): ReadonlyMap<string, PeerPath> {
    return new Map([...this.#peers].map(([name, state]) => [name, pathOf(state)]));
  }

  /** Peers that have answered a small probe since the last call. */
  takeAnswering(): readonly ProbePeer[] {
    return this.#answering.splice(0);
  }

  findings(nowMs: number): readonly Condition[] {
    const findings: Condition[] = [];
    for (const state of this.#peers.values()) {
      if (findings.length >= mostFindings) break;
      const finding = this.#finding(state, nowMs);
      if (finding) findings.push(finding);
    }
    return findings;
  }

  #finding(state: PeerState, nowMs: number): Condition | undefined {
    const { peer, path } = state;
    const subject = peer.nodeName;
    const where = `${peer.nodeName} (${peer.underlayAddress})`;
    if (state.smallLost >= lostInARow) {
      const heard = state.underlayAnsweredAtMs;
      const alive = heard !== undefined && nowMs - heard < 2 * (this.#intervalMs() + answerWithinMs);
      return alive
        ? { name: 'overlayBlocked', subject, message: `${where} answers, but not through the overlay` }
        : { name: 'peerUnreachable', subject, message: `${where} answers neither on the underlay nor in the overlay` };
    }
    const { resultBytes, goalBytes } = path;
    if (resultBytes !== undefined && resultBytes < goalBytes) {
      const fits = (this.#scene?.mtuBytes ?? goalBytes) - (goalBytes - resultBytes);
      const message = `packets of more than ${resultBytes} bytes do not reach ${where}; the overlay needs ${goalBytes}, or an MTU of ${fits}`;
      return { name: 'pathMtuTooSmall', subject, message };
    }
    if (state.fullLost < lostInARow) return undefined;
    const message = `small packets reach ${where} through the overlay, those of ${this.#scene?.mtuBytes} bytes do not`;
    return { name: 'fullSizeLost', subject, message };
  }

  #visit(state: PeerState, scene: ProbeScene, nowMs: number): readonly Outgoing[] {
    const { peer, path } = state;
    this.#agenda.put(state, nowMs + (path.searching ? searchStepMs : this.#intervalMs()));
    state.probedAtMs = nowMs;
    const out: Outgoing[] = [];
    // In the middle of a search only the size on the wire is asked.
    const pair = path.searching ? undefined : commonPair(scene.overlayAddresses, peer.overlayAddresses);
    if (pair) {
      const [source, to] = pair;
      out.push({ sequence: this.#wait(peer.name, 'small', nowMs), to, source, packetBytes: minPacketBytes });
      out.push({ sequence: this.#wait(peer.name, 'full', nowMs), to, source, packetBytes: scene.mtuBytes });
    }
    if (state.pathWaits) return out;
    state.pathWaits = true;
    const withinMs = path.searching
      ? Math.min(answerWithinMs, Math.max(searchStepMs, 4 * (state.rttMs ?? answerWithinMs)))
      : answerWithinMs;
    const sequence = this.#wait(peer.name, 'path', nowMs, withinMs);
    out.push({ sequence, to: peer.underlayAddress, source: scene.underlayAddress, packetBytes: path.sizeBytes });
    return out;
  }

  /** With many peers the rate rules, so that findings know how old an answer may be. */
  #intervalMs(): number {
    return Math.max(this.#rates.intervalMs, (this.#peers.size * 1000) / this.#rates.visitsPerSecond);
  }

  #wait(peer: string, kind: ProbeKind, sentAtMs: number, withinMs = answerWithinMs): number {
    this.#sequence = (this.#sequence + 1) & 0xffff;
    this.#waiting.delete(this.#sequence);
    this.#waiting.set(this.#sequence, { peer, kind, sentAtMs, answerWithinMs: withinMs });
    return this.#sequence;
  }

  #take(sequence: number): { readonly of: PeerState; readonly kind: ProbeKind } | undefined {
    const waiting = this.#waiting.get(sequence);
    this.#waiting.delete(sequence);
    const of = waiting && this.#peers.get(waiting.peer);
    if (of && waiting?.kind === 'path') of.pathWaits = false;
    return waiting && of && { of, kind: waiting.kind };
  }

  #lost(sequence: number): PeerState | undefined {
    const found = this.#take(sequence);
    if (!found) return undefined;
    const { of, kind } = found;
    if (kind === 'small') {
      of.smallLost++;
      this.#note(of, false);
    } else if (kind === 'full') {
      of.fullLost++;
      if (of.fullLost >= lostInARow) of.fullAnswered = false;
    } else {
      of.path.outcome(false);
    }
    return of;
  }

  #note(state: PeerState, answered: boolean): void {
    state.recent.push(answered);
    if (state.recent.length > keptOutcomes) state.recent.shift();
  }
}

function newState(peer: ProbePeer, scene: ProbeScene): PeerState {
  return {
    peer,
    nextAtMs: Infinity,
    recent: [],
    smallLost: 0,
    fullLost: 0,
    fullAnswered: undefined,
    rttMs: undefined,
    probedAtMs: undefined,
    underlayAnsweredAtMs: undefined,
    path: new PathSearch(scene.encapsulatedBytes),
    pathWaits: false,
  };
}

function pathOf(state: PeerState): PeerPath {
  const { recent } = state;
  const lost = recent.filter((answered) => !answered).length;
  return {
    via: state.peer.direct ? 'direct' : 'vxlan',
    rttMs: state.rttMs,
    lossPercent: recent.length === 0 ? undefined : Math.round((lost / recent.length) * 100),
    fullSize: state.fullAnswered,
    pathMtuBytes: state.path.resultBytes,
    probedAtMs: state.probedAtMs,
  };
}
