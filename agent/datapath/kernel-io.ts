// The handles on one network namespace that actual, apply and pod-link share. Opened once: a netlink socket keeps the
// namespace it was born in, and opening libnftables' context costs as much as ten element updates.
import { NetlinkSocket } from '#agent/netlink/socket.ts';
import { Nftables } from '#agent/netlink/nftables.ts';
import { readNetnsFile, writeNetnsFile } from '#agent/netlink/netns.ts';

import type { DatapathSettings } from './settings.ts';

export interface KernelIo extends Disposable {
  readonly route: NetlinkSocket;
  readonly netfilter: NetlinkSocket;
  readonly nft: Nftables;
  /** How many transactions of nftables went through these handles. */
  nftWrites(): number;
  /** The code of our table's rules as they were loaded or first read, by handles (firewall.ts). */
  readonly knownRules: Map<string, Uint8Array>;
  /** A file below the sysctl tree, `net/ipv4/ip_forward`; undefined when it is not there. */
  readSysctl(name: string): string | undefined;
  /** A small file as the namespace sees it, such as below /proc/net; undefined when it cannot be read. */
  readFile(path: string): string | undefined;
  /** Throws NetlinkError when the file cannot be written. */
  writeSysctl(name: string, value: string): void;
}

/** Throws NetlinkError when a socket cannot be opened or libnftables is not installed. */
export function openKernelIo(settings: Pick<DatapathSettings, 'netnsPath' | 'sysctlRoot'>): KernelIo {
  const { netnsPath, sysctlRoot } = settings;
  const where = netnsPath === undefined ? {} : { netnsPath };
  using opened = new DisposableStack();
  const route = opened.use(NetlinkSocket.open({ protocol: 'route', ...where }));
  const netfilter = opened.use(NetlinkSocket.open({ protocol: 'netfilter', ...where }));
  const nft = opened.use(Nftables.open(where));
  const kept = opened.move();
  return {
    route,
    netfilter,
    nft,
    knownRules: new Map(),
    nftWrites: () => netfilter.transactions + nft.runs,
    readSysctl: (name) => {
      try {
        return readNetnsFile(netnsPath, `${sysctlRoot}/${name}`);
      } catch {
        return undefined;
      }
    },
    readFile: (path) => {
      try {
        return readNetnsFile(netnsPath, path);
      } catch {
        return undefined;
      }
    },
    writeSysctl: (name, value) => writeNetnsFile(netnsPath, `${sysctlRoot}/${name}`, value),
    [Symbol.dispose]: () => kept.dispose(),
  };
}
