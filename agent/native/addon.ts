// The native addon, typed. Loaded when it is first asked for; WEFT_ADDON in the environment names another file (the bundle
// in the image). errno leaves here as a number; agent/netlink makes it NetlinkError.

import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

import { messageOf, WeftError } from '#agent/errors.ts';

/** An opaque handle of the addon. */
export interface MonitorHandle {
  readonly monitor: never;
}
export interface ListenerHandle {
  readonly listener: never;
}
export interface NftablesHandle {
  readonly nftables: never;
}

/** What a failed call throws: `errno` is positive, `syscall` the C function that failed. */
export interface NativeError extends Error {
  readonly errno: number;
  readonly syscall: string;
}

export interface NetnsInfo {
  readonly dev: number;
  readonly ino: number;
  /** False for whatever else the path is: a file, another kind of namespace. */
  readonly isNetns: boolean;
}

export interface NftablesResult {
  /** 0 when all commands were applied; nothing was otherwise. */
  readonly code: number;
  readonly output: string;
  readonly error: string;
}

export const monitorEvent = { data: 0, overrun: 1, error: 2, generation: 3 } as const;

export interface NativeAddon {
  netlinkOpen(protocol: number, netns: string | number | null, receiveBufferBytes: number): number;
  netlinkClose(fd: number): void;
  /**
   * Receives every datagram until `lastSequence` was answered (or `terminalSequence` refused), into `room`, and returns how many bytes that
   * are; as a Buffer what does not fit there. Negative: the socket's port, where there was nothing but the last one's acknowledgement: the
   * kernel accepted everything.
   */
  netlinkRequest(
    fd: number,
    buffer: Buffer,
    length: number,
    lastSequence: number,
    terminalSequence: number,
    timeoutMs: number,
    room: Buffer,
  ): Buffer | number;
  netlinkRequestAsync(
    fd: number,
    buffer: Buffer,
    length: number,
    lastSequence: number,
    terminalSequence: number,
    timeoutMs: number,
  ): Promise<Buffer>;
  /**
   * Of what the dumps in the buffer (links, addresses, routes, nexthops, neighbours) list: the same number as long as nothing changes but
   * times, counters and what no agent looks at. Rejects with EINTR where a change cut a dump.
   */
  netlinkDigest(fd: number, buffer: Buffer, length: number, timeoutMs: number): Promise<bigint>;
  monitorOpen(
    protocol: number,
    netnsPath: string | null,
    groups: readonly number[],
    receiveBufferBytes: number,
    pendingLimitBytes: number,
    /** How often to ask for the generation of nftables' ruleset, and tell of another; 0: never. */
    generationEveryMs: number,
    callback: (kind: number, value: Buffer | number) => void,
  ): MonitorHandle;
  /** The kernel drops notifications of these types whose request came from one of these ports. Replaces what was ignored before. */
  monitorIgnore(handle: MonitorHandle, types: readonly number[], ports: readonly number[]): void;
  monitorClose(handle: MonitorHandle): void;
  /** Pages that hold nothing, and clean ones of the program's own file, leave the process. About a millisecond. */
  giveBackMemory(): void;
  /**
   * Listens on a Unix stream socket, 0600; above `mostConnections` (4096 at most) others wait in the backlog. The callback gets how many bytes a
   * connection sent, which are in `room` until it returns, or null when its peer is gone; connection -1 with an errno: none can be taken until
   * `listenerResume`. Keeps the process alive.
   */
  listenerOpen(
    path: string,
    backlog: number,
    mostConnections: number,
    callback: (connection: number, value: number | null) => void,
    room: Buffer,
  ): ListenerHandle;
  /** Sends, then closes. False: the peer must read first, and null comes when all has left. True: it is over. */
  listenerAnswer(handle: ListenerHandle, connection: number, text: string): boolean;
  /** Closes a connection; the callback does not hear of it any more. */
  listenerDrop(handle: ListenerHandle, connection: number): void;
  /** Connections that have been there for so many seconds. */
  listenerOld(handle: ListenerHandle, seconds: number): readonly number[];
  listenerResume(handle: ListenerHandle): void;
  /** Takes no more connections. */
  listenerStop(handle: ListenerHandle): void;
  /** Ends everything; the callback is not called any more. */
  listenerClose(handle: ListenerHandle): void;
  netnsInfo(path: string): NetnsInfo;
  /** A descriptor of the network namespace, closed by `netlinkClose`; -1 for whatever else the path is. */
  netnsOpen(path: string): number;
  netnsInode(fd: number): number;
  readFileInNetns(netnsPath: string | null, path: string): string;
  writeFileInNetns(netnsPath: string | null, path: string, value: string): void;
  nftOpen(netnsPath: string | null): NftablesHandle;
  nftRun(handle: NftablesHandle, commands: string, outputFlags: number): NftablesResult;
  nftRunAsync(handle: NftablesHandle, commands: string, outputFlags: number): Promise<NftablesResult>;
  nftClose(handle: NftablesHandle): void;
  /** Family 4 or 6: an ICMP echo socket; 0: a packet socket for `packetSend`. Closed by `netlinkClose`. */
  probeOpen(family: 0 | 4 | 6, netnsPath: string | null): number;
  /** Returns 0, or the errno of the refusal. */
  probeSend(
    fd: number,
    family: 4 | 6,
    to: string,
    source: string,
    id: number,
    sequence: number,
    payload: Buffer,
  ): number;
  packetSend(
    fd: number,
    family: 4 | 6,
    to: string,
    source: string,
    id: number,
    sequence: number,
    payload: Buffer,
    ifindex: number,
    mac: string,
  ): number;
  /** Sends one UDP datagram from a socket of its own; closed by `netlinkClose`. */
  udpAsk(netnsPath: string | null, to: string, source: string, port: number, withChecksum: boolean): number;
  /** True when ICMP "port unreachable" has come. */
  udpAnswered(fd: number): boolean;
  /** Records as probe.c describes them. */
  probeReceive(fd: number, family: 4 | 6, most: number): Buffer;
}

let loaded: NativeAddon | undefined;

/** The addon. Throws WeftError `internal` when its file is missing or does not fit this machine. */
export function nativeAddon(): NativeAddon {
  loaded ??= load();
  return loaded;
}

function load(): NativeAddon {
  const path = process.env['WEFT_ADDON'] ?? fileURLToPath(new URL('build/weft.node', import.meta.url));
  try {
    return createRequire(import.meta.url)(path) as NativeAddon;
  } catch (error) {
    const reason = messageOf(error);
    throw new WeftError(
      'internal',
      `cannot load the native addon ${path}: ${reason} (build it with: npm run build:native)`,
      {
        cause: error,
      },
    );
  }
}
