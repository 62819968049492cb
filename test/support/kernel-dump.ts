// What a network namespace holds, in the kernel's own words, without what changes by itself (counters, handles, neighbours, which
// are hints and go with their link, addresses under duplicate detection): two dumps are equal when nothing was left behind.

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

export interface KernelDump {
  readonly links: readonly string[];
  readonly routes: readonly string[];
  /** Routing rules of both families. */
  readonly rules: readonly string[];
  /** Forwarding entries, without the multicast ones that the kernel makes. */
  readonly fdb: readonly string[];
  /** Queueing disciplines without their handles. */
  readonly qdiscs: readonly string[];
  /** One line for each table, chain, rule, set. */
  readonly nft: readonly string[];
}

/** Few processes ask for everything, since each costs more than its answer: what is told apart by these lines. */
const commands = {
  /** A line for each. */
  linksAndRoutes: "printf 'address\nroute show table all\n' | ip -j -batch -",
  fdb: 'bridge fdb show',
  qdiscs: 'tc qdisc show',
  rules: 'ip rule; ip -6 rule',
  ruleset: 'nft -j list ruleset',
} as const;
const mark = '=====';

interface Route {
  readonly flags?: readonly string[];
}

/** Links with their addresses, routes of every table, rules, FDB, qdiscs, the whole nft ruleset. */
export async function kernelDump(netns: TestNetns): Promise<KernelDump> {
  const script = Object.values(commands).join(`; echo ${mark}; `);
  const texts = (await netns.exec(['sh', '-ec', script])).split(`${mark}\n`);
  const said = Object.fromEntries(Object.keys(commands).map((key, at) => [key, texts[at] ?? ''])) as {
    readonly [key in keyof typeof commands]: string;
  };
  const { fdb, qdiscs, rules } = said;
  const [links, routes] = said.linksAndRoutes.split('\n').map((line) => JSON.parse(line === '' ? '[]' : line)) as [
    readonly Link[],
    readonly Route[],
  ];
  const ruleset = JSON.parse(said.ruleset) as { readonly nftables: readonly object[] };
  return {
    links: links.map(({ ifname, mtu, flags, addr_info }) => {
      const addresses = addr_info
        .filter(({ family }) => family === 'inet')
        .map(({ local, prefixlen }) => `${local}/${prefixlen}`);
      return `${ifname} mtu ${mtu} ${flags.includes('UP') ? 'up' : 'down'} ${addresses.join(' ')}`;
    }),
    // Whether a route's link has a carrier is told late: of a bridge that lost its last port, after up to a second.
    routes: routes
      .map((route) =>
        JSON.stringify({ ...route, flags: route.flags?.filter((flag) => !/^(linkdown|dead)$/.test(flag)) }),
      )
      .filter((route) => !/fe80|ff00|multicast/.test(route))
      .toSorted(),
    rules: linesOf(rules),
    fdb: linesOf(fdb).filter((line) => !/^(33:33|01:00:5e)/.test(line)),
    qdiscs: linesOf(qdiscs.replaceAll(/ [0-9a-f]+: /g, ' ').replaceAll(/ refcnt \d+/g, '')),
    nft: ruleset.nftables.map((item) =>
      JSON.stringify(item, (key, value: unknown) =>
        ['handle', 'packets', 'bytes', 'metainfo'].includes(key) ? undefined : value,
      ),
    ),
  };
}

function linesOf(text: string): readonly string[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
    .toSorted();
}
