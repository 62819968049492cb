// The search against ways of every width.
import { describe, expect, it } from 'vitest';

import { minPacketBytes } from '#agent/probe/echo-socket.ts';
import { PathSearch } from '#agent/probe/path-search.ts';

/** Asks until the search rests; `answers` says whether a packet of a size arrives. */
function search(goal: number, answers: (bytes: number) => boolean): { result: number | undefined; probes: number } {
  const path = new PathSearch(goal);
  let probes = 0;
  do {
    path.outcome(answers(path.sizeBytes));
    probes++;
  } while (path.searching);
  return { result: path.resultBytes, probes };
}

describe('path MTU search', () => {
  it('is done with one probe where a full packet arrives', () => {
    expect(search(1500, () => true)).toEqual({ result: 1500, probes: 1 });
  });

  it.each([1499, 1400, 1280, 576, 130, 129])('finds %i within 8 bytes, never above', (mtu) => {
    const { result, probes } = search(1500, (bytes) => bytes <= mtu);
    expect(result).toBeLessThanOrEqual(mtu);
    expect(result).toBeGreaterThan(mtu - 9);
    expect(probes).toBeLessThan(30);
  });

  it('does not know where nothing is answered', () => {
    expect(search(1500, () => false).result).toBeUndefined();
  });

  it('does not take one lost packet for a small MTU', () => {
    let count = 0;
    expect(search(1500, () => ++count > 1)).toEqual({ result: 1500, probes: 2 });
  });

  it('recovers when the way gets wider, and begins again when it gets narrower', () => {
    const path = new PathSearch(1500);
    const settle = (mtu: number): number | undefined => {
      do path.outcome(path.sizeBytes <= mtu);
      while (path.searching);
      return path.resultBytes;
    };
    expect(settle(1400)).toBeGreaterThan(1391);
    expect(settle(1500)).toBe(1500);
    expect(settle(minPacketBytes)).toBe(minPacketBytes);
  });
});
