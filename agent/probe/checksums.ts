// Network cards that spoil the checksums of encapsulated packets let ping through and break TCP and UDP. A peer that answers pings
// is asked by two UDP datagrams, with and without a checksum: when only the latter is answered, three times in a row, that is it.
// A peer that answers neither (its firewall drops them) tells nothing. IPv4 only: UDP over IPv6 has no datagrams without checksum.

import { nativeAddon } from '#agent/native/addon.ts';
import type { Condition } from '#agent/findings.ts';

import type { ProbePeer } from './scene.ts';

/** "discard": nobody listens there, as a rule; where somebody does, there is no answer and nothing is told. */
const checksumPort = 9;
const againMs = 600_000;
const suspiciousAgainMs = 1000;
const faultyAgainMs = 10_000;
const faultsInARow = 3;
const waitMs = 900;

interface Asked {
  readonly peer: ProbePeer;
  readonly withChecksum: number;
  readonly without: number;
  readonly atMs: number;
}

interface PeerState {
  nextAtMs: number;
  faults: number;
}

export class ChecksumProbes implements Disposable {
  readonly #netnsPath: string | null;
  readonly #peers = new Map<string, PeerState>();
  #asked: Asked | undefined;
  /** Asked again whether it has just answered or not. */
  #suspect: ProbePeer | undefined;

  constructor(netnsPath: string | undefined) {
    this.#netnsPath = netnsPath ?? null;
  }

  /** One peer at a time: judges the one that was asked, then asks the next that is due. `answering`: peers that have just answered pings. */
  turn(nowMs: number, source: string | undefined, answering: readonly ProbePeer[]): void {
    if (this.#asked && nowMs - this.#asked.atMs < waitMs) return;
    if (this.#asked) this.#judge(this.#asked, nowMs);
    this.#asked = undefined;
    if (source === undefined) return;
    const candidates = this.#suspect ? [this.#suspect, ...answering] : answering;
    const next = candidates.find(({ name }) => (this.#peers.get(name)?.nextAtMs ?? 0) <= nowMs);
    const to = next?.overlayAddresses.find((address) => !address.includes(':'));
    if (!next || to === undefined) return;
    this.#state(next.name).nextAtMs = nowMs + againMs;
    const addon = nativeAddon();
    const ask = (checksum: boolean): number => addon.udpAsk(this.#netnsPath, to, source, checksumPort, checksum);
    try {
      this.#asked = { peer: next, withChecksum: ask(true), without: ask(false), atMs: nowMs };
    } catch {
      // No way there just now: the other probes tell of it.
    }
  }

  /** When it has something to do, whoever begins to answer; Infinity: nothing. */
  get nextAtMs(): number {
    if (this.#asked) return this.#asked.atMs + waitMs;
    return this.#suspect ? this.#state(this.#suspect.name).nextAtMs : Infinity;
  }

  findings(peers: readonly ProbePeer[]): readonly Condition[] {
    return peers.flatMap(({ name, nodeName, underlayAddress }): readonly Condition[] => {
      if ((this.#peers.get(name)?.faults ?? 0) < faultsInARow) return [];
      const message = `${nodeName} (${underlayAddress}) gets datagrams without a checksum, and drops those with one`;
      return [{ name: 'checksumFault', subject: nodeName, message }];
    });
  }

  [Symbol.dispose](): void {
    if (this.#asked) this.#close(this.#asked);
    this.#asked = undefined;
  }

  #judge(asked: Asked, nowMs: number): void {
    const addon = nativeAddon();
    const state = this.#state(asked.peer.name);
    const [good, plain] = [addon.udpAnswered(asked.withChecksum), addon.udpAnswered(asked.without)];
    this.#suspect = undefined;
    if (good) state.faults = 0;
    else if (plain) {
      this.#suspect = asked.peer;
      state.faults++;
      state.nextAtMs = nowMs + (state.faults < faultsInARow ? suspiciousAgainMs : faultyAgainMs);
    }
    this.#close(asked);
  }

  #close({ withChecksum, without }: Asked): void {
    const addon = nativeAddon();
    for (const fd of [withChecksum, without]) addon.netlinkClose(fd);
  }

  #state(name: string): PeerState {
    const known = this.#peers.get(name) ?? { nextAtMs: 0, faults: 0 };
    this.#peers.set(name, known);
    return known;
  }
}
