// What the checks look at, read once from the host: links, routes, neighbours, sockets, files. Reading changes nothing. What cannot
// be read is left out: a check without facts finds nothing.

import { readdir, readFile, readlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

import type { KernelIo } from '#agent/datapath/kernel-io.ts';
import { dumpChains } from '#agent/datapath/nft-objects.ts';
import type { DatapathSettings } from '#agent/datapath/settings.ts';
import { dumpAddresses } from '#agent/netlink/addr.ts';
import { dumpLinks, linkFlag } from '#agent/netlink/link.ts';
import { dumpNeighbours } from '#agent/netlink/neighbour.ts';
import { dumpRoutes, prefixOf, routeTable } from '#agent/netlink/route.ts';

export interface LinkFact {
  readonly ifname: string;
  readonly ifindex: number;
  readonly mac: string;
  readonly mtuBytes: number;
  readonly up: boolean;
  /** Of a VXLAN device. */
  readonly vxlan: { readonly port: number; readonly vni: number } | undefined;
  /** With prefix length. */
  readonly cidrs: readonly string[];
}

export interface RouteFact {
  readonly dst: string;
  readonly ifname: string;
  readonly protocol: number;
}

/** A UDP socket of a program on the overlay's port. */
export interface PortUser {
  readonly program: string;
  readonly pid: number | undefined;
}

export interface CniFile {
  readonly name: string;
  /** Why it cannot be used; '' when it can. */
  readonly fault: string;
  /** The plugins that it names. */
  readonly types: readonly string[];
}

export interface HostFacts {
  readonly links: readonly LinkFact[];
  /** Of table main. */
  readonly routes: readonly RouteFact[];
  /** Link address by address, per ifindex. */
  readonly neighbours: readonly { readonly ifindex: number; readonly address: string; readonly mac: string }[];
  readonly portUsers: readonly PortUser[];
  readonly cniFiles: readonly CniFile[];
  /** Names of nftables' chains, iptables-nft's included; legacy iptables' cannot be read without its program. */
  readonly chains: readonly string[];
  /** Effective reverse path filter by link name: the maximum of `all` and the link's. */
  readonly rpFilter: ReadonlyMap<string, number>;
}

export interface FactSources {
  readonly io: KernelIo;
  readonly settings: Pick<DatapathSettings, 'vxlanPort'>;
  readonly conflistPath: string;
}

/** Throws NetlinkError when the kernel cannot be asked. */
export async function gatherFacts({ io, settings, conflistPath }: FactSources): Promise<HostFacts> {
  const links = await io.route.dumpAsync(dumpLinks());
  const addresses = await io.route.dumpAsync(dumpAddresses());
  const routes = await io.route.dumpAsync(dumpRoutes({ table: routeTable.main }));
  const neighbours = await io.route.dumpAsync(dumpNeighbours());
  const names = new Map(links.map((link) => [link.ifiIndex, link.ifname ?? '']));
  const all = Number(io.readSysctl('net/ipv4/conf/all/rp_filter') ?? 0);
  return {
    links: links.map((link) => ({
      ifname: link.ifname ?? '',
      ifindex: link.ifiIndex,
      mac: link.address ?? '',
      mtuBytes: link.mtu ?? 0,
      up: (link.ifiFlags & linkFlag.up) !== 0,
      vxlan:
        link.linkinfo?.kind === 'vxlan'
          ? { port: link.linkinfo.data?.port ?? 0, vni: link.linkinfo.data?.id ?? 0 }
          : undefined,
      cidrs: addresses
        .filter(({ ifaIndex }) => ifaIndex === link.ifiIndex)
        .map((address) => `${address.local ?? address.address}/${address.ifaPrefixlen}`),
    })),
    routes: routes
      .filter((route) => (route.table ?? route.rtmTable) === routeTable.main)
      .map((route) => ({
        dst: prefixOf(route),
        ifname: names.get(route.oif ?? 0) ?? '',
        protocol: route.rtmProtocol,
      })),
    neighbours: neighbours.flatMap(({ ndmIfindex, dst, lladdr }) =>
      dst === undefined || lladdr === undefined ? [] : [{ ifindex: ndmIfindex, address: dst, mac: lladdr }],
    ),
    portUsers: await portUsers(io, settings.vxlanPort),
    cniFiles: await cniFiles(conflistPath),
    chains: (await io.netfilter.dumpAsync(dumpChains())).map(({ name }) => name ?? ''),
    rpFilter: new Map(
      [...names.values()].map((ifname) => {
        const own = Number(io.readSysctl(`net/ipv4/conf/${ifname}/rp_filter`) ?? 0);
        return [ifname, Math.max(all, own)];
      }),
    ),
  };
}

/** UDP sockets on `port`, each with the program that holds it where that can be seen. */
async function portUsers(io: KernelIo, port: number): Promise<readonly PortUser[]> {
  const hex = port.toString(16).toUpperCase().padStart(4, '0');
  const inodes = ['/proc/net/udp', '/proc/net/udp6'].flatMap((path) =>
    (io.readFile(path) ?? '').split('\n').flatMap((line) => {
      const [, local = '', , , , , , , , inode = '0'] = line.trim().split(/\s+/);
      return local.endsWith(`:${hex}`) && inode !== '0' ? [inode] : [];
    }),
  );
  return await Promise.all([...new Set(inodes)].map((inode) => programOf(inode)));
}

async function programOf(inode: string): Promise<PortUser> {
  for (const pid of await readdir('/proc').catch(() => [])) {
    if (!/^\d+$/.test(pid)) continue;
    for (const fd of await readdir(`/proc/${pid}/fd`).catch(() => [])) {
      const target = await readlink(`/proc/${pid}/fd/${fd}`).catch(() => '');
      if (target !== `socket:[${inode}]`) continue;
      const program = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => 'unknown');
      return { program: program.trim(), pid: Number(pid) };
    }
  }
  return { program: 'a program outside this container', pid: undefined };
}

/** Files that a runtime may load, in its order (by name); Weft's own left out. */
async function cniFiles(conflistPath: string): Promise<readonly CniFile[]> {
  const directory = dirname(conflistPath);
  const names = (await readdir(directory).catch(() => []))
    .filter((name) => /\.(?:conf|conflist|json)$/.test(name) && name !== basename(conflistPath))
    .toSorted();
  return await Promise.all(
    names.map(async (name) => {
      const text = await readFile(join(directory, name), 'utf8').catch(() => undefined);
      return text === undefined ? { name, fault: 'it cannot be read', types: [] } : { name, ...readConf(text) };
    }),
  );
}

function readConf(text: string): Pick<CniFile, 'fault' | 'types'> {
  const none = { types: [] };
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return { fault: 'it is no JSON', ...none };
  }
  const conf = value as { readonly plugins?: unknown; readonly type?: unknown } | null;
  if (typeof conf !== 'object' || conf === null) return { fault: 'it is no network configuration', ...none };
  const plugins: readonly unknown[] = Array.isArray(conf.plugins) ? conf.plugins : [conf];
  const types = plugins.flatMap((plugin) => {
    const type = (plugin as { readonly type?: unknown } | null)?.type;
    return typeof type === 'string' ? [type] : [];
  });
  const usable = Array.isArray(conf.plugins) ? plugins.length > 0 : types.length > 0;
  return { fault: usable ? '' : 'it names no plugin', types };
}
