// Input that no kernel should send: it must end in a catalogue error, never in a crash, a hang or a read beyond the buffer.
import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';

import { WeftError } from '#agent/errors.ts';
import { linkFormat } from '#agent/netlink/link.ts';
import { readMessages } from '#agent/netlink/message.ts';
import { routeFormat } from '#agent/netlink/route.ts';

import { fixtures, formatOf, formats } from './formats.ts';
import { seed } from './seed.ts';

function readOrWeftError(read: () => unknown): void {
  try {
    read();
  } catch (error) {
    expect(error).toBeInstanceOf(WeftError);
  }
}

describe('malformed input', () => {
  test.each(fixtures)('$name, cut at every length', ({ format, hex }) => {
    const bytes = Buffer.from(hex, 'hex');
    for (let end = 0; end < bytes.length; end += 1) {
      const cut = Buffer.from(bytes.subarray(0, end));
      readOrWeftError(() => formatOf(format).read(cut, 0, cut.length));
    }
  });

  test.each(fixtures)('$name, every byte set to 0 and 255', ({ format, hex }) => {
    const bytes = Buffer.from(hex, 'hex');
    for (let at = 0; at < bytes.length; at += 1) {
      for (const value of [0, 255]) {
        const changed = Buffer.from(bytes);
        changed[at] = value;
        readOrWeftError(() => formatOf(format).read(changed, 0, changed.length));
      }
    }
  });

  test.each(Object.keys(formats))('%s from arbitrary bytes', (name) => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 256 }), (bytes) => {
        readOrWeftError(() => formatOf(name).read(Buffer.from(bytes), 0, bytes.length));
      }),
      { seed, numRuns: 500 },
    );
  });

  it('names what is wrong', () => {
    expect(() => routeFormat.read(Buffer.alloc(11), 0, 11)).toThrow('route header of 11 bytes');
    const short = Buffer.concat([Buffer.alloc(12), Buffer.from('0300010000000000', 'hex')]);
    expect(() => routeFormat.read(short, 0, short.length)).toThrow('attribute of length 3 in 8 bytes');
    const long = Buffer.concat([Buffer.alloc(12), Buffer.from('0c00010000000000', 'hex')]);
    expect(() => routeFormat.read(long, 0, long.length)).toThrow('attribute of length 12 in 8 bytes');
    const mtu = Buffer.concat([Buffer.alloc(16), Buffer.from('0600040000050000', 'hex')]);
    expect(() => linkFormat.read(mtu, 0, mtu.length)).toThrow('payload of 2 bytes where 4 are needed');
  });

  it('an attribute may not reach beyond its enclosure, though the buffer goes on', () => {
    const bytes = Buffer.concat([Buffer.alloc(12), Buffer.from('08000100', 'hex'), Buffer.from([10, 0, 0, 1])]);
    expect(() => routeFormat.read(bytes, 0, 16)).toThrow('attribute of length 8 in 4 bytes');
    expect(routeFormat.read(bytes, 0, 20).dst).toBe('10.0.0.1');
  });

  it('messages: zero length, too long, cut header', () => {
    expect(() => [...readMessages(Buffer.alloc(16))]).toThrow('message of length 0');
    const header = Buffer.alloc(20);
    header.writeUInt32LE(24, 0);
    expect(() => [...readMessages(header)]).toThrow('message of length 24 in 20 bytes');
    expect(() => [...readMessages(Buffer.alloc(7))]).toThrow('7 bytes where a message should begin');
    expect([...readMessages(Buffer.alloc(0))]).toEqual([]);
  });
});
