// What the checks look at, read once from the host: links, routes, neighbours, sockets, files. Reading changes nothing. What cannot
// be read is left out: a check without facts finds nothing.

import { readdir, readFile, readlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

import { readHostRpFilter } from '#agent/datapath/actual.ts';
import type { KernelIo } from '#agent/datapath/kernel-io.ts';
import { addressOf } from '#agent/datapath/cidr.ts';
import { dumpChains, getGeneration } from '#agent/datapath/nft-objects.ts';
import type { DatapathSettings } from '#agent/datapath/settings.ts';
import { dumpAddresses } from '#agent/netlink/addr.ts';
import { dumpLinks } from '#agent/netlink/link.ts';
import type { VxlanData } from '#agent/netlink/link-kinds.ts';
import { dumpNeighbours } from '#agent/netlink/neighbour.ts';
import { dumpRoutes, prefixOf, routeTable } from '#agent/netlink/route.ts';

export interface LinkFact {
  readonly ifname: string;
  readonly ifindex: number;
  readonly mac: string;
  readonly mtuBytes: number;
  /** Of a VXLAN device. */
  /** `vni` is 'every' where routes or Open vSwitch choose it for each packet (`external`). */
  readonly vxlan: { readonly port: number; readonly vni: number | 'every' } | undefined;
  /** With prefix length. */
  readonly cidrs: readonly string[];
}

export interface RouteFact {
  readonly dst: string;
  /** Through another machine: no link of this host has these addresses. */
  readonly isVia: boolean;
  readonly ifname: string;
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
  /** Of table main, without our own. */
  readonly routes: readonly RouteFact[];
  /** Link address by address, of the underlay link. */
  readonly neighbours: readonly { readonly ifindex: number; readonly address: string; readonly mac: string }[];
  readonly portUsers: readonly PortUser[];
  readonly cniFiles: readonly CniFile[];
  /** Names of nftables' chains and of the tables that have them, iptables-nft's included; legacy iptables' cannot be read without its program. */
  readonly chains: readonly string[];
  /** Effective reverse path filter by link name: the maximum of `all` and the link's. */
  readonly rpFilter: ReadonlyMap<string, number>;
}

export interface FactSources {
  readonly io: KernelIo;
  readonly settings: Pick<DatapathSettings, 'vxlanPort' | 'routeProtocol'>;
  readonly conflistPath: string;
  /** Whose link's neighbours are asked for; without it there are none in the facts. */
  readonly underlayAddress?: string | undefined;
  /** Of whoever asks again and again: what has not changed is not read anew. */
  readonly memory?: FactsMemory;
}

/** What one footprint of the kernel stands for. Begins empty. */
export interface FactsMemory {
  footprint?: string;
  facts?: KernelFacts;
  /** Who holds a socket, by its inode: looking for that takes a look at every descriptor of the host. */
  programs?: ReadonlyMap<string, PortUser>;
}

type KernelFacts = Pick<HostFacts, 'links' | 'routes' | 'chains' | 'rpFilter'>;

/** Throws NetlinkError when the kernel cannot be asked. */
export async function gatherFacts(sources: FactSources): Promise<HostFacts> {
  const { io, settings, conflistPath, underlayAddress, memory = {} } = sources;
  const footprint = await footprintOf(io);
  if (memory.facts === undefined || footprint === undefined || footprint !== memory.footprint) {
    memory.facts = await kernelFacts(io, settings);
    if (footprint === undefined) delete memory.footprint;
    else memory.footprint = footprint;
  }
  return {
    ...memory.facts,
    neighbours: await neighboursOn(io, memory.facts.links, underlayAddress),
    portUsers: await portUsers(io, settings.vxlanPort, memory),
    cniFiles: await cniFiles(conflistPath),
  };
}

/** One value until something of `kernelFacts` changes; undefined where it cannot be had. */
async function footprintOf(io: KernelIo): Promise<string | undefined> {
  try {
    const [[generation]] = io.netfilter.batchOrThrow([getGeneration()]);
    const dumps = [dumpLinks(), dumpAddresses(), dumpRoutes({ table: routeTable.main })];
    return [await io.route.digest(dumps), generation?.id, readHostRpFilter(io)].join(' ');
  } catch {
    return undefined;
  }
}

async function kernelFacts(io: KernelIo, settings: FactSources['settings']): Promise<KernelFacts> {
  const links = await io.route.dumpAsync(dumpLinks());
  const addresses = await io.route.dumpAsync(dumpAddresses());
  const routes = await io.route.dumpAsync(dumpRoutes({ table: routeTable.main }));
  const names = new Map(links.map((link) => [link.ifiIndex, link.ifname ?? '']));
  const all = readHostRpFilter(io);
  return {
    links: links.map((link) => ({
      ifname: link.ifname ?? '',
      ifindex: link.ifiIndex,
      mac: link.address ?? '',
      mtuBytes: link.mtu ?? 0,
      vxlan: link.linkinfo?.kind === 'vxlan' ? vxlanOf(link.linkinfo.data) : undefined,
      cidrs: addresses
        .filter(({ ifaIndex }) => ifaIndex === link.ifiIndex)
        .map((address) => `${address.local ?? address.address}/${address.ifaPrefixlen}`),
    })),
    routes: routes
      .filter(({ table, rtmTable }) => (table ?? rtmTable) === routeTable.main)
      .filter(({ rtmProtocol }) => rtmProtocol !== settings.routeProtocol)
      .map((route) => ({
        dst: prefixOf(route),
        isVia: [route.gateway, route.nhId, route.multipath].some((value) => value !== undefined),
        ifname: names.get(route.oif ?? 0) ?? '',
      })),
    chains: (await io.netfilter.dumpAsync(dumpChains())).flatMap(({ name = '', table = '' }) => [name, table]),
    rpFilter: new Map(
      links.map(({ ifname = '', afSpec }) => [ifname, Math.max(all, afSpec?.inet?.conf?.rpFilter ?? 0)]),
    ),
  };
}

function vxlanOf({ port = 0, id = 0, collectMetadata = false }: VxlanData = {}): LinkFact['vxlan'] {
  return { port, vni: collectMetadata ? 'every' : id };
}

/** The link that has the address. */
export function linkWith(links: readonly LinkFact[], address: string | undefined): LinkFact | undefined {
  return links.find(({ cidrs }) => cidrs.some((cidr) => addressOf(cidr) === address));
}

/** Of the link that has the address: the overlay's are thousands, and our own. */
async function neighboursOn(
  io: KernelIo,
  links: readonly LinkFact[],
  address: string | undefined,
): Promise<HostFacts['neighbours']> {
  const link = linkWith(links, address);
  if (link === undefined) return [];
  const found = await io.route.dumpAsync(dumpNeighbours({ ifindex: link.ifindex }));
  return found.flatMap(({ ndmIfindex, dst, lladdr }) =>
    dst === undefined || lladdr === undefined ? [] : [{ ifindex: ndmIfindex, address: dst, mac: lladdr }],
  );
}

/** UDP sockets on `port`, each with the program that holds it where that can be seen. */
async function portUsers(io: KernelIo, port: number, memory: FactsMemory): Promise<readonly PortUser[]> {
  const hex = port.toString(16).toUpperCase().padStart(4, '0');
  const inodes = ['/proc/net/udp', '/proc/net/udp6'].flatMap((path) =>
    (io.readFile(path) ?? '').split('\n').flatMap((line) => {
      const [, local = '', , , , , , , , inode = '0'] = line.trim().split(/\s+/);
      return local.endsWith(`:${hex}`) && inode !== '0' ? [inode] : [];
    }),
  );
  const programs = new Map<string, PortUser>();
  for (const inode of new Set(inodes)) programs.set(inode, memory.programs?.get(inode) ?? (await programOf(inode)));
  memory.programs = programs;
  return [...programs.values()];
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
