// ADD: lease (durable, pending), link, activate (durable), answer. Whatever fails, everything before it is undone, so that the
// call leaves either a whole attachment or nothing.

import { unservedMapping } from '#agent/datapath/pod-elements.ts';
import { toWeftError, WeftError } from '#agent/errors.ts';
import { type Delegate, dhcpPlugin, type Lease } from '#agent/runtime/ipam.ts';
import { addToSegment } from './add-to-segment.ts';
import { del, undo } from './del.ts';
import { type Delegated, delegateAdd } from './delegate.ts';
import { leaseInRanges } from './ip-ranges.ts';
import { invalid } from './json.ts';
import { delegateDel } from './owed-dels.ts';
import { type AddParts, type CniParts, errnoOf, type HeldNetns, ownNetnsPath } from './parts.ts';
import type { AddCall } from './request.ts';
import { type AddResult, buildAddressResult, buildResult } from './result.ts';

/** Throws WeftError: `invalidNetns`, `attachmentExists`, those of Ipam.lease and Datapath.attach. The caller serializes per key. */
export async function add(call: AddCall, parts: AddParts, signal: AbortSignal): Promise<AddResult> {
  try {
    return await addOrUndo(call, parts, signal);
  } catch (error) {
    if (!signal.aborted) throw error;
    throw new WeftError('interrupted', 'ADD was cut short: the caller went away or the agent is stopping', {
      cause: error,
    });
  }
}

async function addOrUndo(call: AddCall, parts: AddParts, signal: AbortSignal): Promise<AddResult> {
  const { ipam, datapath } = parts;
  using netns = openPodNetns(call.netnsPath, parts);
  const netnsInode = netns.inode;
  if (call.netnsInode !== undefined && call.netnsInode !== netnsInode) throw anotherNetns(call.netnsPath);
  const known = ipam.find(call.key);
  if (known !== undefined) await clearReplaced(known, netnsInode, parts);
  const { linkedBy, onBridge, routes } = call.netConf.ipam;
  const owner = {
    ...call.pod,
    network: call.netConf.name,
    netnsPath: call.netnsPath,
    netnsInode,
    ...(linkedBy === undefined ? {} : { linkedBy }),
    ...(onBridge === undefined ? {} : { onBridge }),
  };
  if (call.delegate !== undefined) await payOwed(call, parts);
  if (call.delegate?.type === dhcpPlugin) return await addToSegment(call, owner, call.delegate, parts, signal);
  const { link: wanted } = call.netConf.wish;
  using _ports = parts.ports.claim(call.key, wanted.portMappings ?? [], () => ipam.leases());
  const delegated = call.delegate && (await askDelegate(call, call.delegate, parts, signal));
  const lease = await leaseOrUndo(call, owner, delegated, parts, signal);
  try {
    signal.throwIfAborted();
    if (linkedBy !== undefined) {
      const result = buildAddressResult(lease, ipam.view(), routes, call.netConf.dns);
      if (onBridge !== undefined) parts.bridged?.sync(ipam.leases());
      ipam.activate(lease);
      return result;
    }
    requireServable(lease);
    const link = await datapath.attach({ lease, netnsPath: call.netnsPath, netns }, signal);
    const result = buildResult(lease, link, call.netnsPath, call.netConf.dns ?? delegated?.dns);
    ipam.activate(lease);
    return result;
  } catch (error) {
    await undo(lease, parts);
    throw error;
  }
}

/** What a plugin is owed of an earlier use of this key must not come after what it is asked for now. Throws WeftError('delegateFailed'). */
async function payOwed({ key }: AddCall, { owed }: CniParts): Promise<void> {
  const earlier = owed.find(key);
  if (earlier === undefined) return;
  await delegateDel(earlier.delegate);
  owed.settle(key);
}

/** The addresses of the plugin that the configuration names. After a failure it is told DEL (CNI spec 1.1.0, "Section 4"). */
async function askDelegate(
  call: AddCall,
  delegate: Delegate,
  parts: CniParts,
  signal: AbortSignal,
): Promise<Delegated> {
  try {
    const delegated = await delegateAdd(delegate, signal);
    parts.log.info(
      { ...call.key, addresses: delegated.addresses, ipam: delegate.type },
      'addresses of another plugin: known on this node only, masqueraded beyond it',
    );
    return delegated;
  } catch (error) {
    await quietly(call, parts, () => delegateDel(delegate));
    throw error;
  }
}

async function leaseOrUndo(
  call: AddCall,
  owner: Lease['owner'],
  delegated: Delegated | undefined,
  parts: CniParts,
  signal: AbortSignal,
): Promise<Lease> {
  const { delegate } = call;
  const { addresses, ipRanges, link, annotations } = call.netConf.wish;
  const isOwnLink = owner.linkedBy === undefined && Object.keys(link).length > 0;
  const pool = annotations.get('pool');
  const request = { ...call.key, owner, addresses, ...(pool !== undefined && { pool }), ...(isOwnLink && { link }) };
  if (delegate === undefined || delegated === undefined) {
    // An address by name says more than a range.
    const isRanged = ipRanges.length > 0 && addresses.length === 0;
    return await (isRanged ? leaseInRanges(parts.ipam, request, ipRanges, signal) : parts.ipam.lease(request, signal));
  }
  try {
    return await parts.ipam.lease({ ...request, addresses: delegated.addresses, delegate }, signal);
  } catch (error) {
    await quietly(call, parts, () => delegateDel(delegate));
    throw error;
  }
}

async function quietly(call: AddCall, parts: CniParts, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    parts.log.warn({ err: error, ...call.key }, 'the IPAM plugin could not undo its ADD; DEL will try again');
  }
}

/** A mapping for an address of a family that the pod does not have would lead nowhere. Throws WeftError('invalidConfig'). */
function requireServable(lease: Lease): void {
  const mapping = unservedMapping(lease);
  if (mapping === undefined) return;
  const has = lease.addresses.join(' and ');
  throw invalid(
    'runtimeConfig.portMappings.hostIP',
    `host port ${mapping.hostPort}/${mapping.protocol} on ${mapping.hostIp} cannot lead to a pod that has only ${has}`,
  );
}

/** The pod's namespace. Throws WeftError('invalidNetns'). */
export function openPodNetns(path: string, parts: Pick<CniParts, 'inspectNetns' | 'openNetns'>): HeldNetns {
  let held: HeldNetns | undefined;
  try {
    held = parts.openNetns(path);
  } catch (error) {
    throw new WeftError('invalidNetns', `cannot open CNI_NETNS ${path}: ${toWeftError(error).message}`, {
      details: path,
      cause: error,
    });
  }
  if (held === undefined) {
    throw new WeftError('invalidNetns', `CNI_NETNS ${path} is not a network namespace`, { details: path });
  }
  if (parts.inspectNetns(ownNetnsPath).inode !== held.inode) return held;
  held[Symbol.dispose]();
  throw new WeftError('invalidNetns', `CNI_NETNS ${path} is the host's own network namespace`, { details: path });
}

/** As where the agent is in a pid or mount namespace of its own: the link would get into a stranger's namespace. */
function anotherNetns(path: string): WeftError {
  return new WeftError(
    'invalidNetns',
    `CNI_NETNS ${path} leads the agent to another network namespace than the runtime: it must be a path that both see, as below /run/netns`,
    { details: path },
  );
}

/**
 * An attachment of the call's key whose namespace was replaced by another is a leftover (its DEL was lost, or the host was restarted and
 * the container id used again): it is taken down. One whose namespace is there makes ADD fail and stays as it is.
 */
async function clearReplaced(lease: Lease, netnsInode: bigint, parts: CniParts): Promise<void> {
  const { owner, containerId, ifname } = lease;
  if (owner.netnsInode === netnsInode || isNamespace(owner.netnsPath, owner.netnsInode, parts)) {
    throw new WeftError(
      'attachmentExists',
      `container ${containerId} already has ${ifname} with ${lease.addresses.join(' and ')}`,
      { details: owner.netnsPath },
    );
  }
  parts.log.warn(
    { containerId, ifname, addresses: lease.addresses },
    'ADD finds an attachment whose namespace is gone; clearing it',
  );
  await del({ containerId, ifname }, parts);
}

/** A path that cannot be read counts as a living namespace. */
function isNamespace(path: string, inode: bigint, parts: CniParts): boolean {
  try {
    const seen = parts.inspectNetns(path);
    return seen.isNetns && seen.inode === inode;
  } catch (error) {
    return errnoOf(error) !== 'ENOENT';
  }
}
