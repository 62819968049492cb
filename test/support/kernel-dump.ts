// What a network namespace holds, in the kernel's own words, without what changes by itself (counters, handles, neighbour states,
// addresses under duplicate detection): two dumps are equal when nothing was left behind.

import type { TestNetns } from '#test/support/netns.ts';

interface Address {
  readonly family: string;
  readonly local: string;
  readonly prefixlen: number;
}

interface Link {
  readonly ifname: string;
  readonly mtu: number;
  readonly flags: readonly string[];
  readonly addr_info: readonly Address[];
}

interface Neighbour {
  readonly dst: string;
  readonly dev: string;
  readonly lladdr?: string;
}

export interface KernelDump {
  readonly links: readonly string[];
  readonly routes: readonly string[];
  readonly podNeighbours: readonly string[];
  /** One line for each table, chain, rule, set. */
  readonly nft: readonly string[];
}

/** Links with their addresses, routes of every table, neighbours on pod links, the whole nft ruleset. */
export async function kernelDump(netns: TestNetns): Promise<KernelDump> {
  const links = await netns.json<readonly Link[]>(['ip', '-d', '-j', 'address']);
  const routes4 = await netns.exec(['ip', '-4', 'route', 'show', 'table', 'all']);
  const routes6 = await netns.exec(['ip', '-6', 'route', 'show', 'table', 'all']);
  const neighbours = await netns.json<readonly Neighbour[]>(['ip', '-j', 'neighbour']);
  const ruleset = await netns.json<{ readonly nftables: readonly object[] }>(['nft', '-j', 'list', 'ruleset']);
  return {
    links: links.map(({ ifname, mtu, flags, addr_info }) => {
      const addresses = addr_info
        .filter(({ family }) => family === 'inet')
        .map(({ local, prefixlen }) => `${local}/${prefixlen}`);
      return `${ifname} mtu ${mtu} ${flags.includes('UP') ? 'up' : 'down'} ${addresses.join(' ')}`;
    }),
    routes: [...routes4.split('\n'), ...routes6.split('\n').filter((line) => !/fe80|ff00|multicast/.test(line))]
      .map((line) => line.trim())
      .filter((line) => line !== '')
      .toSorted(),
    podNeighbours: neighbours
      .filter(({ dev }) => dev.startsWith('weftp'))
      .map(({ dst, dev, lladdr }) => `${dst} ${dev} ${lladdr ?? ''}`)
      .toSorted(),
    nft: ruleset.nftables.map((item) =>
      JSON.stringify(item, (key, value: unknown) =>
        ['handle', 'packets', 'bytes', 'metainfo'].includes(key) ? undefined : value,
      ),
    ),
  };
}
