// What the probes need to know of the datapath: who the peers are and by which addresses they are asked.

export interface ProbePeer {
  /** Record name. */
  readonly name: string;
  readonly nodeName: string;
  readonly underlayAddress: string;
  readonly overlayAddresses: readonly string[];
  /** Packets go there without the overlay now. */
  readonly direct: boolean;
  /** Of its underlay link, where it is on the same link as this node and overlay mode is `auto`; otherwise undefined. */
  readonly mac: string | undefined;
}

export interface ProbeScene {
  readonly overlayAddresses: readonly string[];
  readonly underlayAddress: string;
  readonly underlayIfindex: number;
  /** MTU of the overlay. */
  readonly mtuBytes: number;
  /** A full packet of the overlay as an IP packet on the wire. */
  readonly encapsulatedBytes: number;
  readonly auto: boolean;
  readonly peers: readonly ProbePeer[];
}

/** How a peer is reached, as the probes have found it. */
export interface PeerPath {
  readonly via: 'vxlan' | 'direct';
  /** Of the last answered probe through the overlay; undefined before the first. */
  readonly rttMs: number | undefined;
  /** Of the last probes through the overlay (20 at most), 0 to 100; undefined before the first. */
  readonly lossPercent: number | undefined;
  /** Whether packets of the overlay's full size arrive; undefined before the first. */
  readonly fullSize: boolean | undefined;
  /** Largest IP packet that reaches the peer's underlay address whole; undefined: unknown. */
  readonly pathMtuBytes: number | undefined;
  /** Milliseconds since the epoch of the last probe. */
  readonly probedAtMs: number | undefined;
}

/** The first pair of addresses of one family; undefined when there is none. */
export function commonPair(own: readonly string[], theirs: readonly string[]): readonly [string, string] | undefined {
  return commonPairs(own, theirs)[0];
}

/** A pair of addresses of each family that both have, own first. */
export function commonPairs(
  own: readonly string[],
  theirs: readonly string[],
): readonly (readonly [source: string, to: string])[] {
  const pairs = new Map<boolean, readonly [string, string]>();
  for (const to of theirs) {
    const isIpv6 = to.includes(':');
    const source = own.find((candidate) => candidate.includes(':') === isIpv6);
    if (source !== undefined && !pairs.has(isIpv6)) pairs.set(isIpv6, [source, to]);
  }
  return [...pairs.values()];
}
