// CHECK: what ADD promised (prevResult) against the lease and the kernel. Only Weft's own share is looked at: plugins chained
// behind it may have added interfaces, addresses and qdiscs.

import type { LinkFault } from '#agent/datapath/datapath.ts';
import { WeftError } from '#agent/errors.ts';
import { isOfNetwork, isOnSegment, type Lease } from '#agent/runtime/ipam.ts';
import { openPodNetns } from './add.ts';
import { callDelegate } from './delegate.ts';
import type { PrevResult } from './netconf.ts';
import type { CniParts } from './parts.ts';
import type { CheckCall } from './request.ts';
import { bare } from './result.ts';

/** Throws WeftError: `checkFailed` with every fault named, `invalidNetns`, `delegateFailed`. The caller serializes per key. */
export async function check(call: CheckCall, parts: CniParts, signal: AbortSignal): Promise<void> {
  const lease = parts.ipam.find(call.key);
  const name = `${call.key.containerId}/${call.key.ifname}`;
  if (lease === undefined || !isOfNetwork(lease, call.netConf.name))
    throw failed(`no address is leased for ${name} in the network ${call.netConf.name}`, 'lease');
  if (lease.state !== 'active') throw failed(`the ADD of ${name} has not finished`, 'lease');
  using netns = openPodNetns(call.netnsPath, parts);
  // The CHECK of the plugin `dhcp` asks for an address, or hangs while its daemon renews one (docs/decisions/436).
  if (call.delegate !== undefined && !isOnSegment(lease)) await callDelegate(call.delegate, 'CHECK', signal);
  const faults: readonly LinkFault[] = [
    ...promised(lease, netns.inode, call.netConf.prevResult),
    ...(await linkFaults(lease, call.netnsPath, parts)),
  ];
  if (faults.length === 0) return;
  const lines = faults.map((fault) => `${fault.what}: expected ${fault.expected}, found ${fault.actual}`);
  throw failed(`${name} is not as ADD left it: ${lines.join('; ')}`, faults.map((fault) => fault.what).join(', '));
}

async function linkFaults(lease: Lease, netnsPath: string, parts: CniParts): Promise<readonly LinkFault[]> {
  if (isOnSegment(lease)) return parts.segment?.faults(lease, netnsPath) ?? [];
  return lease.owner.linkedBy === undefined ? await parts.datapath.check({ lease, netnsPath }) : [];
}

function promised(lease: Lease, netnsInode: bigint, prevResult: PrevResult | undefined): readonly LinkFault[] {
  const faults: LinkFault[] = [];
  if (lease.owner.netnsInode !== netnsInode) {
    faults.push({ what: 'netns', expected: `inode ${lease.owner.netnsInode}`, actual: `inode ${netnsInode}` });
  }
  if (prevResult === undefined) return faults;
  const at = prevResult.interfaces.findIndex(({ name, sandbox }) => name === lease.ifname && sandbox !== '');
  if (at === -1 && lease.owner.linkedBy === undefined) {
    faults.push({ what: 'prevResult.interfaces', expected: `${lease.ifname} in the pod`, actual: 'none' });
    return faults;
  }
  const given = prevResult.ips
    .filter((ip) => at === -1 || ip.interface === undefined || ip.interface === at)
    .map((ip) => bare(ip.address));
  for (const address of lease.addresses.filter((own) => !given.includes(own))) {
    faults.push({ what: 'prevResult.ips', expected: address, actual: given.join(' ') || 'none' });
  }
  return faults;
}

function failed(message: string, details: string): WeftError {
  return new WeftError('checkFailed', message, { details });
}
