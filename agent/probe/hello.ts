// Overlay mode `auto`: which peers can be reached directly, in both directions, with addresses of the overlay. Pure.
//
// Each round sends every candidate an echo request from the own overlay address to the peer's, on the underlay link to its link
// address, past the routes. A round is good when that request was answered (by whatever way: our packets arrive there) and something
// of the peer's arrived on the underlay link since the round before (theirs arrive here: its own requests, or answers once it routes
// directly). So both ends see the same, and switch within a round of each other. An agent that is away does not count: the answers
// come from the peer's kernel.
//
//   overlay ──(so many good rounds)──▶ direct        direct ──(three bad rounds)──▶ overlay
//
// A path that comes and goes is trusted later each time. Each family that would go directly is a candidate of its own, and a peer is
// reached directly while all of them are: a fabric may filter one and not the other. Over an IPv4 underlay that is IPv4 alone.

import { commonPairs } from './scene.ts';
import type { ProbeScene } from './scene.ts';

export interface Hello {
  readonly sequence: number;
  readonly to: string;
  readonly source: string;
  readonly mac: string;
}

interface Candidate {
  readonly name: string;
  to: string;
  source: string;
  mac: string;
  direct: boolean;
  sequence: number | undefined;
  answered: boolean;
  heard: boolean;
  good: number;
  bad: number;
  /** Good rounds that it takes to switch. */
  patience: number;
}

const badRounds = 3;
const firstPatience = 3;
const mostPatience = 200;
/** So many good rounds while direct, and an old fault is forgiven. */
const forgivenAfter = 2000;

export class HelloBook {
  /** By record name and family. */
  readonly #candidates = new Map<string, Candidate>();
  readonly #bySequence = new Map<number, string>();
  readonly #byAddress = new Map<string, string>();
  #sequence = 0;

  /** Candidates are the families of peers on this link in which both have an overlay address. */
  setScene(scene: ProbeScene): void {
    this.#byAddress.clear();
    const keys = new Set<string>();
    for (const { name, mac, underlayAddress, overlayAddresses, direct } of scene.auto ? scene.peers : []) {
      if (mac === undefined) continue;
      for (const [source, to] of commonPairs(scene.overlayAddresses, overlayAddresses)) {
        const isIpv6 = to.includes(':');
        // An IPv6 route cannot have an IPv4 gateway: that family stays on the overlay.
        if (isIpv6 && !underlayAddress.includes(':')) continue;
        const key = `${name} ${isIpv6 ? 6 : 4}`;
        keys.add(key);
        this.#byAddress.set(to, key);
        const known = this.#candidates.get(key);
        if (known) Object.assign(known, { to, source, mac });
        else this.#candidates.set(key, newCandidate(name, { to, source, mac }, direct));
      }
    }
    for (const key of this.#candidates.keys()) if (!keys.has(key)) this.#candidates.delete(key);
  }

  get size(): number {
    return this.#candidates.size;
  }

  answered(sequence: number): void {
    const candidate = this.#candidates.get(this.#bySequence.get(sequence) ?? '');
    if (candidate?.sequence === sequence) candidate.answered = true;
  }

  /** Something of `source`, an overlay address, arrived on the underlay link. */
  heard(source: string): void {
    const candidate = this.#candidates.get(this.#byAddress.get(source) ?? '');
    if (candidate) candidate.heard = true;
  }

  /** Ends a round (everything that came has been taken in) and begins the next: what to send. */
  round(): readonly Hello[] {
    this.#bySequence.clear();
    return [...this.#candidates].map(([key, candidate]) => {
      if (candidate.sequence !== undefined) judge(candidate);
      this.#sequence = (this.#sequence + 1) & 0xffff;
      candidate.sequence = this.#sequence;
      candidate.answered = false;
      candidate.heard = false;
      this.#bySequence.set(this.#sequence, key);
      const { sequence, to, source, mac } = candidate;
      return { sequence, to, source, mac };
    });
  }

  /** Record names of the peers to reach directly. */
  direct(): ReadonlySet<string> {
    const names = new Set<string>();
    const unproven = new Set<string>();
    for (const { name, direct } of this.#candidates.values()) (direct ? names : unproven).add(name);
    return names.difference(unproven);
  }
}

function newCandidate(name: string, way: Pick<Candidate, 'to' | 'source' | 'mac'>, direct: boolean): Candidate {
  const nothing = { sequence: undefined, answered: false, heard: false, good: 0, bad: 0 };
  return { name, ...way, direct, ...nothing, patience: firstPatience };
}

function judge(candidate: Candidate): void {
  if (candidate.answered && candidate.heard) {
    candidate.bad = 0;
    candidate.good++;
    if (candidate.good >= candidate.patience) candidate.direct = true;
    if (candidate.good >= forgivenAfter) candidate.patience = firstPatience;
    return;
  }
  candidate.good = 0;
  candidate.bad++;
  if (!candidate.direct || candidate.bad < badRounds) return;
  candidate.direct = false;
  candidate.patience = Math.min(candidate.patience * 2, mostPatience);
}
