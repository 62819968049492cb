// The probes' books, driven by hand: rates, losses, findings.
import { describe, expect, it } from 'vitest';

import { answerWithinMs, ProbeBook } from '#agent/probe/book.ts';
import type { Outgoing } from '#agent/probe/book.ts';
import type { ProbePeer, ProbeScene } from '#agent/probe/scene.ts';

function peer(index: number): ProbePeer {
  const address = (net: string): string => `${net}.${index >> 8}.${index & 255}`;
  const [underlayAddress, overlay] = [address('198.18'), address('10.40')];
  const name = `node${index}`;
  return { name, nodeName: name, underlayAddress, overlayAddresses: [overlay], direct: false, mac: undefined };
}

function scene(count: number): ProbeScene {
  return {
    overlayAddresses: ['10.32.0.1'],
    underlayAddress: '192.0.2.1',
    underlayIfindex: 2,
    mtuBytes: 1450,
    encapsulatedBytes: 1500,
    auto: false,
    peers: Array.from({ length: count }, (_, index) => peer(index + 1)),
  };
}

/** Runs seconds of probing; `answers` says which packets come back. Returns what was sent. */
function run(book: ProbeBook, from: number, seconds: number, answers: (out: Outgoing) => boolean): readonly Outgoing[] {
  const sent: Outgoing[] = [];
  for (let turn = 0; turn < seconds; turn++) {
    const now = (from + turn) * 1000;
    book.expire(now);
    for (const out of book.due(now, 1000)) {
      sent.push(out);
      if (answers(out)) book.answered(out.sequence, 0.5, now + 1);
    }
  }
  book.expire((from + seconds) * 1000 + answerWithinMs);
  return sent;
}

const rates = { intervalMs: 10_000, visitsPerSecond: 20 };
const names = (book: ProbeBook, at: number): readonly string[] => book.findings(at * 1000).map(({ name }) => name);

describe('probe book', () => {
  it('asks a peer three things and knows its round trip, loss and path MTU', () => {
    const book = new ProbeBook(rates);
    book.setScene(scene(1), 0);
    const sent = run(book, 0, 1, () => true);
    expect(sent.map(({ to, packetBytes }) => [to, packetBytes])).toEqual([
      ['10.40.0.1', 128],
      ['10.40.0.1', 1450],
      ['198.18.0.1', 1500],
    ]);
    expect(book.paths().get('node1')).toMatchObject({
      rttMs: 0.5,
      lossPercent: 0,
      fullSize: true,
      pathMtuBytes: 1500,
      via: 'vxlan',
    });
    expect(names(book, 1)).toEqual([]);
  });

  it('visits 5,000 peers one after the other, never more than the rate', () => {
    const book = new ProbeBook(rates);
    book.setScene(scene(5000), 0);
    const sent = run(book, 0, 250, () => true);
    expect(sent).toHaveLength(250 * 20 * 3);
    expect(new Set(sent.map(({ to }) => to)).size).toBe(10_000);
    expect([...book.paths().values()].every(({ lossPercent }) => lossPercent === 0)).toBe(true);
  });

  it('names a peer that is away, one whose overlay is blocked, and one that loses full packets', () => {
    const book = new ProbeBook(rates);
    book.setScene(scene(3), 0);
    run(book, 0, 12, ({ to, packetBytes }) => {
      if (to.endsWith('.1')) return false;
      if (to.endsWith('.2')) return to.startsWith('198');
      return packetBytes !== 1450;
    });
    expect(book.findings(12_000).map(({ name, subject }) => [name, subject])).toEqual([
      ['peerUnreachable', 'node1'],
      ['overlayBlocked', 'node2'],
      ['fullSizeLost', 'node3'],
    ]);
    expect(book.paths().get('node3')?.fullSize).toBe(false);
    run(book, 12, 12, () => true);
    expect(names(book, 24)).toEqual([]);
  });

  it('names a small path MTU with the MTU that would fit', () => {
    const book = new ProbeBook(rates);
    book.setScene(scene(1), 0);
    run(book, 0, 60, ({ packetBytes }) => packetBytes <= 1400);
    const [finding] = book.findings(60_000);
    expect(finding?.name).toBe('pathMtuTooSmall');
    const [, found = '', fits = ''] = /more than (\d+) bytes.* MTU of (\d+)/.exec(finding?.message ?? '') ?? [];
    expect(Number(found)).toBeGreaterThan(1391);
    expect(Number(fits)).toBe(Number(found) - 50);
  });

  it('says no more of a whole rack that is down than of its first twenty nodes', () => {
    const book = new ProbeBook(rates);
    book.setScene(scene(60), 0);
    run(book, 0, 60, () => false);
    expect(names(book, 60)).toHaveLength(20);
  });

  it('forgets peers that go, and answers for them', () => {
    const book = new ProbeBook(rates);
    book.setScene(scene(2), 0);
    const [first] = book.due(0, 1000);
    book.setScene(scene(0), 10);
    book.answered(first?.sequence ?? 0, 1, 20);
    expect(book.paths().size).toBe(0);
    expect(book.due(20_000, 1000)).toEqual([]);
  });

  it('does not probe an overlay of another family', () => {
    const book = new ProbeBook(rates);
    book.setScene({ ...scene(1), overlayAddresses: ['fd00::1'] }, 0);
    expect(book.due(0, 1000).map(({ to }) => to)).toEqual(['198.18.0.1']);
  });
});
