// ICMP echo sockets of one network namespace: the addon's records as values. Every datagram is somebody's input: what does not have
// this agent's family mark in its payload is left out.

import { nativeAddon } from '#agent/native/addon.ts';
import type { NativeAddon } from '#agent/native/addon.ts';
import { readIp } from '#agent/netlink/ip-text.ts';
import { fromNative } from '#agent/netlink/netlink-error.ts';
import { remembered } from '#ipam-peer/remembered.ts';
import { type Family, familyOf } from '#ipam-peer/address.ts';

export interface Echo {
  readonly to: string;
  readonly source: string;
  /** 16 bits: which process asks. */
  readonly id: number;
  /** 16 bits. */
  readonly sequence: number;
  /** Size of the whole IP packet; at least `minPacketBytes`. */
  readonly packetBytes: number;
}

export interface Arrival {
  readonly reply: boolean;
  readonly source: string;
  readonly id: number;
  readonly sequence: number;
  readonly ifindex: number;
  /** From the sender's clock to this one's: a round trip only where both are this host (replies). Milliseconds. */
  readonly tookMs: number;
}

/** First bytes of a probe's payload: other programs' echoes are none of ours. */
const mark = Buffer.from('weft probe 1');
const headerBytes = { 4: 20 + 8 + 8, 6: 40 + 8 + 8 } as const;

export const minPacketBytes = 128;

/** By its length: twenty visits a second would leave a megabyte of buffers in ten seconds. The addon copies it. */
const payloads = remembered(64, (length: number): Buffer => {
  const payload = Buffer.alloc(length);
  mark.copy(payload);
  return payload;
});

function payloadOf(family: Family, packetBytes: number): Buffer {
  return payloads(Math.max(packetBytes, minPacketBytes) - headerBytes[family]);
}

const recordHeaderBytes = 48;

/** The records of one `probeReceive` that carry the mark. */
function readArrivals(bytes: Buffer, family: Family): readonly Arrival[] {
  const arrivals: Arrival[] = [];
  for (let at = 0; at + recordHeaderBytes <= bytes.length;) {
    const length = bytes.readUInt32LE(at);
    if (length < recordHeaderBytes || at + length > bytes.length) break;
    const payload = bytes.subarray(at + recordHeaderBytes, at + length);
    if (payload.subarray(0, mark.length).equals(mark)) {
      const arrivedNs = bytes.readBigUInt64LE(at + 8);
      arrivals.push({
        ifindex: bytes.readUInt32LE(at + 4),
        tookMs: Number(arrivedNs - bytes.readBigUInt64LE(at + 16)) / 1e6,
        source: readIp(bytes, at + 24, at + 24 + (family === 4 ? 4 : 16)) ?? '',
        id: bytes.readUInt16LE(at + 40),
        sequence: bytes.readUInt16LE(at + 42),
        reply: bytes.readUInt32LE(at + 44) === 1,
      });
    }
    at += (length + 7) & ~7;
  }
  return arrivals;
}

export class EchoSocket implements Disposable {
  readonly #addon: NativeAddon;
  readonly #fds: Readonly<Record<0 | Family, number | undefined>>;

  private constructor(addon: NativeAddon, fds: Readonly<Record<0 | Family, number | undefined>>) {
    this.#addon = addon;
    this.#fds = fds;
  }

  /** Throws NetlinkError (EPERM without CAP_NET_RAW). A kernel without IPv6 serves IPv4 only. */
  static open(netnsPath: string | undefined): EchoSocket {
    const addon = nativeAddon();
    const open = (family: 0 | Family): number => addon.probeOpen(family, netnsPath ?? null);
    const four = guarded(() => open(4));
    let six: number | undefined;
    try {
      six = open(6);
    } catch {
      six = undefined;
    }
    try {
      return new EchoSocket(addon, { 0: guarded(() => open(0)), 4: four, 6: six });
    } catch (error) {
      for (const fd of [four, six]) if (fd !== undefined) addon.netlinkClose(fd);
      throw error;
    }
  }

  /** Sends by the routing table, never in fragments. Returns 0, or the kernel's errno (EMSGSIZE: longer than the link's MTU). */
  send(echo: Echo): number {
    const family = familyOf(echo.to);
    const fd = this.#fds[family];
    if (fd === undefined || familyOf(echo.source) !== family) return errnoOfFamily;
    const payload = payloadOf(family, echo.packetBytes);
    return this.#addon.probeSend(fd, family, echo.to, echo.source, echo.id, echo.sequence, payload);
  }

  /** Sends on one link to one link address, past the routing table. */
  sendOnLink(echo: Echo, ifindex: number, mac: string): number {
    const family = familyOf(echo.to);
    const fd = this.#fds[0];
    if (fd === undefined || familyOf(echo.source) !== family) return errnoOfFamily;
    const payload = payloadOf(family, echo.packetBytes);
    const { to, source, id, sequence } = echo;
    return this.#addon.packetSend(fd, family, to, source, id, sequence, payload, ifindex, mac);
  }

  /** What has come since the last call, at most `most` datagrams of each family. Throws NetlinkError. */
  receive(most: number): readonly Arrival[] {
    return ([4, 6] as const).flatMap((family) => {
      const fd = this.#fds[family];
      return fd === undefined
        ? []
        : readArrivals(
            guarded(() => this.#addon.probeReceive(fd, family, most)),
            family,
          );
    });
  }

  [Symbol.dispose](): void {
    for (const fd of Object.values(this.#fds)) if (fd !== undefined) this.#addon.netlinkClose(fd);
  }
}

/** EAFNOSUPPORT. */
const errnoOfFamily = 97;

function guarded<Result>(call: () => Result): Result {
  try {
    return call();
  } catch (error) {
    throw fromNative(error, 'probe socket');
  }
}
