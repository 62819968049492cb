// Takes everything of Weft's out of one network namespace, and nothing else: what carries our names, our route protocol number or
// our tag. Forwarding stays as it is, because others may have come to rely on it.
import { checkNames } from '#agent/doctor/kernel-features.ts';
import { delLink } from '#agent/netlink/link.ts';
import type { Link } from '#agent/netlink/link.ts';
import { errno } from '#agent/netlink/netlink-error.ts';
import { toWeftError } from '#agent/errors.ts';

import { readKernel } from './actual.ts';
import { applyOperations } from './apply.ts';
import { readBridgeFingerprint } from './firewall.ts';
import { hasBridgeTable } from './ruleset.ts';
import { segmentDevice, segmentPrefix, segmentTable } from './segment-plan.ts';
import { ForeignFirewalls } from './foreign-firewall.ts';
import { openKernelIo } from './kernel-io.ts';
import type { Operation } from './objects.ts';
import type { DatapathSettings } from './settings.ts';

/** What was removed (or, with `dryRun`, would be), a line for each kind; throws NetlinkError when the kernel cannot be read. */
export async function cleanKernel(settings: DatapathSettings, dryRun: boolean): Promise<readonly string[]> {
  using io = openKernelIo(settings);
  const { state, ifindexes, foreignChains, hasTable, links: every } = await readKernel(io, settings, undefined);
  const foreign = new ForeignFirewalls(io, settings);
  const lines: string[] = [];
  const say = (count: number, what: string): void => {
    if (count > 0) lines.push(`${count} ${what}${count === 1 ? '' : 's'}`);
  };
  const operations: Operation[] = [
    ...state.routes.map((route): Operation => ({ kind: 'delRoute', route })),
    ...state.nexthops.map(({ id, gateway }): Operation => ({ kind: 'delNexthop', id, gateway })),
  ];
  const devices = [...(state.overlay ? [state.overlay] : []), ...(state.bridge?.isBridge ? [state.bridge] : [])];
  const others = every.filter((link) => isOfSegment(link) || isShaper(link, settings) || isCheck(link));
  const links = [...devices, ...state.podLinks, ...others].map(({ ifname = '' }) => ifname);
  const tables = [
    ...(hasTable ? [`inet ${settings.nftTable}`] : []),
    ...(hasBridgeTable(state.firewall) ? [`bridge ${settings.nftTable}`] : []),
    ...(readBridgeFingerprint(io, segmentTable).length > 0 ? [`bridge ${segmentTable}`] : []),
    // What a check of the kernel leaves that is killed half-way.
    ...(foreignChains.some(({ table }) => table === checkNames.table) ? [`inet ${checkNames.table}`] : []),
  ];
  say(state.routes.length, 'route');
  say(state.nexthops.length, 'nexthop');
  for (const ifname of links) lines.push(`link ${ifname}`);
  for (const table of tables) lines.push(`nftables table ${table}`);
  const failed: string[] = [];
  const close = async (): Promise<number> => foreign.close(foreignChains, dryRun);
  // A rule that went meanwhile refuses all: the second look does not see it.
  const closed = close()
    .catch(close)
    .catch((error: unknown) => {
      failed.push(`accept rules in firewalls of the host: ${toWeftError(error).message}`);
      return 0;
    });
  say(await closed, 'accept rule in firewalls of the host');
  if (dryRun) return lines;
  const refusals = await applyOperations(io, settings, operations, ifindexes);
  const replies = io.route.batch(links.map((ifname) => delLink({ ifname })));
  failed.push(...refusals.map(({ operation, reason }) => `${operation.kind}: ${reason}`));
  replies.forEach((reply, index) => {
    // Both ends of a veth go with one, and whoever cleans beside us may have been first.
    if (!reply.ok && reply.error.errno !== errno.ENODEV) failed.push(`link ${links[index]}: ${reply.error.message}`);
  });
  try {
    for (const table of tables) io.nft.run(`table ${table}\ndelete table ${table}`);
  } catch (error) {
    failed.push(`nftables table: ${toWeftError(error).message}`);
  }
  return [...lines, ...failed.map((reason) => `not removed: ${reason}`)];
}

function isOfSegment({ ifname = '' }: Link): boolean {
  return ifname === segmentDevice || ifname.startsWith(segmentPrefix);
}

/** What a pod with a limit sends goes through one, which does not go with the pod's link. */
function isShaper({ ifname = '', linkinfo }: Link, { shaperPrefix }: DatapathSettings): boolean {
  return ifname.startsWith(shaperPrefix) && linkinfo?.kind === 'other' && linkinfo.kindName === 'ifb';
}

function isCheck({ ifname }: Link): boolean {
  return ifname === checkNames.overlay || ifname === checkNames.veth;
}
