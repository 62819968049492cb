// Network namespaces by path: what a path is, a descriptor to hand to the kernel, and sysctl files inside.

import { nativeAddon, type NetnsInfo } from '#agent/native/addon.ts';

import { fromNative } from './netlink-error.ts';

function guarded<Result>(what: string, call: () => Result): Result {
  try {
    return call();
  } catch (error) {
    throw fromNative(error, what);
  }
}

/** Identity of a path and whether it is a network namespace (statfs and NS_GET_NSTYPE). Throws NetlinkError, ENOENT and so on. */
export function netnsInfo(path: string): NetnsInfo {
  return guarded(`netns ${path}`, () => nativeAddon().netnsInfo(path));
}

/** The namespace this process runs in. */
export function ownNetns(): NetnsInfo {
  return netnsInfo('/proc/thread-self/ns/net');
}

export class OpenNetns implements Disposable {
  /** For `netNsFd` and sockets; closed on dispose. */
  readonly fd: number;
  /** What tells namespaces apart. */
  readonly inode: bigint;

  constructor(fd: number, inode: bigint) {
    this.fd = fd;
    this.inode = inode;
  }

  [Symbol.dispose](): void {
    nativeAddon().netlinkClose(this.fd);
  }
}

/** A descriptor of a network namespace; undefined for whatever else the path is. Throws NetlinkError, ENOENT and so on. */
export function openNetns(path: string): OpenNetns | undefined {
  const addon = nativeAddon();
  const fd = guarded(`netns ${path}`, () => addon.netnsOpen(path));
  return fd === -1 ? undefined : new OpenNetns(fd, BigInt(guarded(`netns ${path}`, () => addon.netnsInode(fd))));
}

/** A small file (4 KiB at most) under /proc/sys/net as the namespace sees it, without its closing newline. Throws NetlinkError. */
export function readNetnsFile(netnsPath: string | undefined, path: string): string {
  return guarded(`read ${path}`, () => nativeAddon().readFileInNetns(netnsPath ?? null, path)).replace(/\n$/u, '');
}

/** Writes one under /proc/sys/net inside the namespace; undefined is the caller's own. Throws NetlinkError. */
export function writeNetnsFile(netnsPath: string | undefined, path: string, value: string): void {
  guarded(`write ${path}`, () => nativeAddon().writeFileInNetns(netnsPath ?? null, path, value));
}
