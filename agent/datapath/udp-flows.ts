// UDP has no end that conntrack sees: a flow that began before a host port led somewhere keeps going nowhere, and one that began
// when it led to a pod that is gone keeps going to that pod's address, as long as packets come. So the entries are removed on ADD
// and on DEL (kubernetes#59033 is what happens otherwise). Listing is on a pool thread and filtered in the kernel.
import { delConntrack, dumpConntrack } from '#agent/netlink/conntrack.ts';
import type { ConntrackEntry, ConntrackTuple, TuplePattern } from '#agent/netlink/conntrack.ts';
import { addressFamily } from '#agent/netlink/ip-text.ts';
import { errno } from '#agent/netlink/netlink-error.ts';
import { toWeftError } from '#agent/errors.ts';
import type { Lease } from '#agent/runtime/ipam.ts';

import { familyOf } from './cidr.ts';
import type { KernelIo } from './kernel-io.ts';
import { serves } from './pod-elements.ts';

const udp = 17;

type Ported = Pick<Lease, 'addresses' | 'link'>;

interface Log {
  warn(fields: object, message: string): void;
}

/**
 * Forgets flows to the lease's host ports: `stale` ones, which lead elsewhere than to the pod, or those that came to the `pod`. Never
 * fails: a kernel without ctnetlink costs old flows their way, not the pod its start or end.
 */
export async function forgetFlows(which: 'stale' | 'pod', io: KernelIo, lease: Lease, log: Log): Promise<void> {
  if (!lease.link?.portMappings?.some(({ protocol }) => protocol === 'udp')) return;
  try {
    await (which === 'stale' ? forgetStaleFlows(io, lease) : forgetPodFlows(io, lease));
  } catch (error) {
    const { containerId } = lease;
    log.warn({ containerId, error: toWeftError(error).message }, 'old UDP flows to host ports may stay');
  }
}

async function forgetStaleFlows(io: KernelIo, lease: Ported): Promise<void> {
  await forEachAddress(lease, async (address, family, hostPorts) => {
    const isStale = ({ tupleOrig, tupleReply }: ConntrackEntry): boolean =>
      hostPorts.has(tupleOrig?.proto?.dstPort ?? 0) && sourceOf(tupleReply) !== address;
    // A pod may have a range of a thousand ports: then one listing of all UDP is less.
    const patterns = hostPorts.size > 4 ? [{}] : [...hostPorts].map((dstPort) => ({ dstPort }));
    for (const pattern of patterns) await forget(io, family, 'orig', { protocol: udp, ...pattern }, isStale);
  });
}

async function forgetPodFlows(io: KernelIo, lease: Ported): Promise<void> {
  await forEachAddress(lease, async (address, family, hostPorts) => {
    await forget(io, family, 'reply', { src: address, protocol: udp }, ({ tupleOrig }) =>
      hostPorts.has(tupleOrig?.proto?.dstPort ?? 0),
    );
  });
}

async function forEachAddress(
  lease: Ported,
  work: (address: string, family: number, hostPorts: ReadonlySet<number>) => Promise<void>,
): Promise<void> {
  for (const address of lease.addresses) {
    const mappings = lease.link?.portMappings ?? [];
    const served = mappings.filter((one) => one.protocol === 'udp' && serves(one, familyOf(address)));
    if (served.length === 0) continue;
    const family = familyOf(address) === 4 ? addressFamily.inet : addressFamily.inet6;
    await work(address, family, new Set(served.map(({ hostPort }) => hostPort)));
  }
}

async function forget(
  io: KernelIo,
  family: number,
  direction: 'orig' | 'reply',
  pattern: TuplePattern,
  isMeant: (entry: ConntrackEntry) => boolean,
): Promise<void> {
  const listed = await io.netfilter.dumpAsync(dumpConntrack(family, direction, pattern));
  const doomed = listed.filter((entry) => matches(entry, direction, pattern) && isMeant(entry));
  for (const reply of await io.netfilter.batchAsync(doomed.map(delConntrack))) {
    if (!reply.ok && reply.error.errno !== errno.ENOENT) throw reply.error;
  }
}

/** The kernel's filter once more: an old one lists everything. */
function matches(entry: ConntrackEntry, direction: 'orig' | 'reply', pattern: TuplePattern): boolean {
  const tuple = direction === 'orig' ? entry.tupleOrig : entry.tupleReply;
  const { proto } = tuple ?? {};
  return (
    proto?.num === pattern.protocol &&
    (pattern.src === undefined || sourceOf(tuple) === pattern.src) &&
    (pattern.dstPort === undefined || proto?.dstPort === pattern.dstPort)
  );
}

function sourceOf(tuple: ConntrackTuple | undefined): string | undefined {
  return tuple?.ip?.v4Src ?? tuple?.ip?.v6Src;
}
