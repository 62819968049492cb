// UDP has no end that conntrack sees: a flow that began before a host port led somewhere keeps going nowhere, and one that began
// when it led to a pod that is gone keeps going to that pod's address, as long as packets come. So the entries are removed after ADD
// and on DEL (kubernetes#59033 is what happens otherwise), and at a start, which may follow a death between an ADD's answer and that.
// Listing is on a pool thread and filtered in the kernel.
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

/** Never fails: a kernel without ctnetlink costs old flows their way, not the pod its start or end. */
export class UdpFlows {
  readonly #io: KernelIo;
  readonly #log: Log;
  /** Leases whose stale flows no listing covers yet. */
  #waiting: Lease[] = [];
  #work: Promise<void> = Promise.resolve();

  constructor(io: KernelIo, log: Log) {
    this.#io = io;
    this.#log = log;
  }

  /**
   * Forgets flows to the leases' host ports that lead elsewhere than to the pods. Nobody waits: the kernel takes 5 ms to walk its table, and no
   * program of a pod runs before its ADD is answered. Those that come while a listing runs share the next one.
   */
  forgetStale(leases: readonly Lease[]): void {
    const ported = leases.filter(hasUdp);
    if (ported.length === 0) return;
    this.#waiting.push(...ported);
    this.#work = this.#work.then(() => this.#forgetWaiting());
  }

  /** Forgets flows that came to the pod, behind what was begun before: that must not touch those to the port's next pod. */
  async forgetPod(lease: Lease): Promise<void> {
    if (!hasUdp(lease)) return;
    await this.#work;
    await this.#quietly([lease], () => forgetPodFlows(this.#io, lease));
  }

  /** Resolves when nothing that was asked for by now is left to forget. */
  async idle(): Promise<void> {
    await this.#work;
  }

  async #forgetWaiting(): Promise<void> {
    const leases = this.#waiting;
    if (leases.length === 0) return;
    this.#waiting = [];
    await this.#quietly(leases, () => forgetStaleFlows(this.#io, leases));
  }

  async #quietly(leases: readonly Lease[], work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      const containerIds = leases.map(({ containerId }) => containerId);
      this.#log.warn({ containerIds, error: toWeftError(error).message }, 'old UDP flows to host ports may stay');
    }
  }
}

function hasUdp({ link }: Ported): boolean {
  return link?.portMappings?.some(({ protocol }) => protocol === 'udp') ?? false;
}

async function forgetStaleFlows(io: KernelIo, leases: readonly Ported[]): Promise<void> {
  for (const [family, addressesOf] of addressesByPort(leases)) {
    const isStale = ({ tupleOrig, tupleReply }: ConntrackEntry): boolean => {
      const addresses = addressesOf.get(tupleOrig?.proto?.dstPort ?? 0);
      return addresses !== undefined && !addresses.has(sourceOf(tupleReply) ?? '');
    };
    // A pod may have a range of a thousand ports: then one listing of all UDP is less.
    const patterns = addressesOf.size > 4 ? [{}] : [...addressesOf.keys()].map((dstPort) => ({ dstPort }));
    for (const pattern of patterns) await forget(io, family, 'orig', { protocol: udp, ...pattern }, isStale);
  }
}

/** By family and host port: the addresses of the pods that it leads to. */
function addressesByPort(leases: readonly Ported[]): ReadonlyMap<number, ReadonlyMap<number, ReadonlySet<string>>> {
  const families = new Map<number, Map<number, Set<string>>>();
  for (const [address, family, hostPorts] of leases.flatMap(portedAddresses)) {
    const ports = families.get(family) ?? new Map<number, Set<string>>();
    families.set(family, ports);
    for (const port of hostPorts) ports.set(port, (ports.get(port) ?? new Set<string>()).add(address));
  }
  return families;
}

async function forgetPodFlows(io: KernelIo, lease: Ported): Promise<void> {
  for (const [address, family, hostPorts] of portedAddresses(lease)) {
    await forget(io, family, 'reply', { src: address, protocol: udp }, ({ tupleOrig }) =>
      hostPorts.has(tupleOrig?.proto?.dstPort ?? 0),
    );
  }
}

/** Each address of the lease that UDP ports of the host lead to, with its family and the ports. */
function portedAddresses(lease: Ported): readonly (readonly [string, number, ReadonlySet<number>])[] {
  return lease.addresses.flatMap((address) => {
    const mappings = lease.link?.portMappings ?? [];
    const served = mappings.filter((one) => one.protocol === 'udp' && serves(one, familyOf(address)));
    if (served.length === 0) return [];
    const family = familyOf(address) === 4 ? addressFamily.inet : addressFamily.inet6;
    return [[address, family, new Set(served.map(({ hostPort }) => hostPort))] as const];
  });
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
