// Acknowledgements: which request an error belongs to, the kernel's words, and replies of a kernel that does not behave.
import { constants } from 'node:os';

import { describe, expect, it } from 'vitest';

import { toWeftError } from '#agent/errors.ts';
import { getLink } from '#agent/netlink/link.ts';
import { messageFlag } from '#agent/netlink/message.ts';
import { NetlinkError } from '#agent/netlink/netlink-error.ts';
import { brokenReplies, ReplyCollector } from '#agent/netlink/reply.ts';

interface Message {
  readonly type: number;
  readonly flags?: number;
  readonly sequence: number;
  readonly payload: string;
}

function message({ type, flags = 0, sequence, payload }: Message): Buffer {
  const body = Buffer.from(payload, 'hex');
  const bytes = Buffer.alloc(16 + ((body.length + 3) & ~3));
  bytes.writeUInt32LE(16 + body.length, 0);
  bytes.writeUInt16LE(type, 4);
  bytes.writeUInt16LE(flags, 6);
  bytes.writeUInt32LE(sequence, 8);
  body.copy(bytes, 16);
  return bytes;
}

const quoted = '00'.repeat(16);
const enodev = 'edffffff';
const requests = [getLink({ ifname: 'a' }), getLink({ ifname: 'b' }), getLink({ ifname: 'c' })];

describe('ReplyCollector', () => {
  it('sorts errors and answers by sequence number', () => {
    const collector = new ReplyCollector(requests, 10);
    collector.take(message({ type: 16, sequence: 12, payload: `${'00'.repeat(16)}0600030063000000` }));
    const text = Buffer.from('no such thing\0\0\0').toString('hex');
    const tlvs = `12000100${text}` + '0800020020000000';
    collector.take(
      message({
        type: 2,
        flags: messageFlag.capped | messageFlag.ackTlvs,
        sequence: 11,
        payload: enodev + quoted + tlvs,
      }),
    );
    collector.take(message({ type: 2, flags: messageFlag.capped, sequence: 12, payload: `00000000${quoted}` }));
    const [first, second, third] = collector.replies();
    expect(first).toEqual({ ok: true, answers: [] });
    expect(third).toMatchObject({ ok: true, answers: [{ ifname: 'c' }] });
    if (second?.ok !== false) throw new Error('an error was expected');
    expect(second.error).toBeInstanceOf(NetlinkError);
    expect(second.error).toMatchObject({
      errno: constants.errno.ENODEV,
      errorName: 'ENODEV',
      extendedAck: 'no such thing',
      offset: 32,
    });
    expect(second.error.message).toBe('getLink b: ENODEV (no such thing)');
    expect(toWeftError(second.error)).toMatchObject({
      cniCode: 102,
      details: 'errno=19 ENODEV extack="no such thing" offset=32',
    });
  });

  it('finds the extended ACK behind a quoted request that is not capped', () => {
    const quotedRequest = `14000000${'00'.repeat(12)}deadbeef`;
    const collector = new ReplyCollector(requests, 1);
    collector.take(
      message({
        type: 2,
        flags: messageFlag.ackTlvs,
        sequence: 1,
        payload: `${enodev}${quotedRequest}0700010068690000`,
      }),
    );
    expect(collector.replies()[0]).toMatchObject({ ok: false, error: { extendedAck: 'hi' } });
  });

  it('ignores what is left of an earlier exchange', () => {
    const collector = new ReplyCollector(requests, 10);
    collector.take(message({ type: 2, sequence: 9, payload: enodev + quoted }));
    collector.take(message({ type: 2, sequence: 13, payload: enodev + quoted }));
    expect(collector.replies().every((reply) => reply.ok)).toBe(true);
  });

  it('sees an interrupted dump, and a dump that ends in an error', () => {
    const collector = new ReplyCollector(requests, 1);
    collector.take(
      message({ type: 3, flags: messageFlag.multi | messageFlag.dumpInterrupted, sequence: 1, payload: '00000000' }),
    );
    collector.take(message({ type: 3, flags: messageFlag.multi, sequence: 2, payload: 'fcffffff' }));
    expect(collector.interrupted).toBe(true);
    expect(collector.replies()[1]).toMatchObject({ ok: false, error: { errorName: 'EINTR' } });
  });

  it.each([
    ['an acknowledgement of two bytes', { type: 2, sequence: 1, payload: 'edff' }],
    ['one that quotes nothing', { type: 2, flags: messageFlag.ackTlvs, sequence: 1, payload: enodev }],
    [
      'one that quotes more than is there',
      { type: 2, flags: messageFlag.ackTlvs, sequence: 1, payload: `${enodev}ffff0000${'00'.repeat(12)}` },
    ],
  ])('refuses %s', (_name, bad) => {
    expect(() => new ReplyCollector(requests, 1).take(message(bad))).toThrow('malformed');
  });

  it('knows the errno that have no name in user space', () => {
    expect(new NetlinkError({ request: 'x', errno: 524 }).errorName).toBe('ENOTSUPP');
    expect(new NetlinkError({ request: 'x', errno: constants.errno.EAGAIN }).errorName).toBe('EAGAIN');
    expect(new NetlinkError({ request: 'x', errno: 4000 }).errorName).toBe('errno 4000');
  });

  it('an exchange that broke off leaves no request for done', () => {
    const replies = brokenReplies(requests, new NetlinkError({ request: 'recvmsg', errno: constants.errno.ENOBUFS }));
    expect(replies.map((reply) => (reply.ok ? 'ok' : reply.error.errorName))).toEqual([
      'ENOBUFS',
      'ENOBUFS',
      'ENOBUFS',
    ]);
  });
});
