// Two ends with a wire between them that may carry either direction or not.
import { describe, expect, it } from 'vitest';

import { HelloBook } from '#agent/probe/hello.ts';
import type { ProbeScene } from '#agent/probe/scene.ts';

function end(own: string, other: string, direct = false, mac: string | undefined = '02:00:00:00:00:01'): HelloBook {
  const book = new HelloBook();
  const peer = { name: other, nodeName: other, underlayAddress: '192.0.2.9', overlayAddresses: [other], direct, mac };
  const scene: ProbeScene = {
    overlayAddresses: [own],
    underlayAddress: '192.0.2.1',
    underlayIfindex: 2,
    mtuBytes: 1450,
    encapsulatedBytes: 1500,
    auto: true,
    peers: [peer],
  };
  book.setScene(scene);
  return book;
}

interface Wire {
  readonly forth: boolean;
  readonly back: boolean;
}

const [a, b] = ['10.32.0.1', '10.40.0.1'];

/** Rounds of both agents; an agent that is away sends nothing, but its kernel answers by the route it was left with. */
function rounds(left: HelloBook, right: HelloBook, count: number, wire: Wire, rightAway = false): void {
  for (let round = 0; round < count; round++) {
    for (const hello of left.round()) {
      if (!wire.forth) continue;
      if (!rightAway) right.heard(a);
      const answersDirectly = right.direct().has(a);
      if (answersDirectly && wire.back) left.heard(b);
      if (!answersDirectly || wire.back) left.answered(hello.sequence);
    }
    if (rightAway) continue;
    for (const hello of right.round()) {
      if (!wire.back) continue;
      left.heard(b);
      const answersDirectly = left.direct().has(b);
      if (answersDirectly && wire.forth) right.heard(a);
      if (!answersDirectly || wire.forth) right.answered(hello.sequence);
    }
  }
}

const state = (left: HelloBook, right: HelloBook): readonly boolean[] => [left.direct().has(b), right.direct().has(a)];

describe('hellos', () => {
  it('both ends switch once both directions are proven, and back when either fails', () => {
    const [left, right] = [end(a, b), end(b, a)];
    rounds(left, right, 10, { forth: true, back: false });
    expect(state(left, right)).toEqual([false, false]);
    rounds(left, right, 10, { forth: false, back: true });
    expect(state(left, right)).toEqual([false, false]);
    rounds(left, right, 5, { forth: true, back: true });
    expect(state(left, right)).toEqual([true, true]);
    rounds(left, right, 5, { forth: false, back: true });
    expect(state(left, right)).toEqual([false, false]);
  });

  it('an agent that is away costs nothing', () => {
    const [left, right] = [end(a, b), end(b, a)];
    rounds(left, right, 5, { forth: true, back: true });
    rounds(left, right, 100, { forth: true, back: true }, true);
    expect(state(left, right)).toEqual([true, true]);
  });

  it('a new agent goes on where its predecessor was', () => {
    const [left, right] = [end(a, b, true), end(b, a, true)];
    expect(state(left, right)).toEqual([true, true]);
    rounds(left, right, 2, { forth: true, back: true });
    expect(state(left, right)).toEqual([true, true]);
  });

  it('a way that comes and goes is trusted later each time', () => {
    const [left, right] = [end(a, b), end(b, a)];
    const roundsUntilDirect = (): number => {
      for (let count = 1; ; count++) {
        rounds(left, right, 1, { forth: true, back: true });
        if (left.direct().size > 0) return count;
      }
    };
    const took = [0, 1, 2].map(() => {
      const count = roundsUntilDirect();
      rounds(left, right, 10, { forth: true, back: true });
      rounds(left, right, 6, { forth: false, back: false });
      return count;
    });
    expect(took).toEqual(took.toSorted((x, y) => x - y));
    expect(took[2]).toBeGreaterThan(took[0] ?? 0);
  });

  it('a peer without a link address on this link is no candidate', () => {
    expect(end(a, b, true, '').direct().size).toBe(1);
    const book = new HelloBook();
    book.setScene({
      overlayAddresses: [a],
      underlayAddress: '192.0.2.1',
      underlayIfindex: 2,
      mtuBytes: 1450,
      encapsulatedBytes: 1500,
      auto: true,
      peers: [
        { name: b, nodeName: b, underlayAddress: '192.0.2.9', overlayAddresses: [b], direct: true, mac: undefined },
      ],
    });
    expect(book.size).toBe(0);
  });

  it('a peer of both families is reached directly while both are proven, where both would go directly', () => {
    const [own, theirs] = [
      [a, 'fd42::1'],
      [b, 'fd42:0:0:4000::1'],
    ];
    const book = (underlayAddress: string): HelloBook => {
      const made = new HelloBook();
      const mac = '02:00:00:00:00:01';
      made.setScene({
        overlayAddresses: own,
        underlayAddress,
        underlayIfindex: 2,
        mtuBytes: 1430,
        encapsulatedBytes: 1500,
        auto: true,
        peers: [{ name: 'peer', nodeName: 'peer', underlayAddress, overlayAddresses: theirs, direct: false, mac }],
      });
      return made;
    };
    const run = (hellos: HelloBook, count: number, passes: (to: string) => boolean): void => {
      for (let round = 0; round < count; round++) {
        for (const { sequence, to } of hellos.round()) {
          if (!passes(to)) continue;
          hellos.heard(to);
          hellos.answered(sequence);
        }
      }
    };
    const isIpv4 = (to: string): boolean => !to.includes(':');
    const onIpv6 = book('2001:db8::9');
    run(onIpv6, 20, isIpv4);
    expect([...onIpv6.direct()]).toEqual([]);
    run(onIpv6, 5, () => true);
    expect([...onIpv6.direct()]).toEqual(['peer']);
    run(onIpv6, 5, (to) => !isIpv4(to));
    expect([...onIpv6.direct()]).toEqual([]);
    const onIpv4 = book('192.0.2.9');
    run(onIpv4, 5, isIpv4);
    expect([...onIpv4.direct()]).toEqual(['peer']);
  });
});
