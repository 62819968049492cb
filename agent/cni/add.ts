// ADD: lease (durable, pending), link, activate (durable), answer. Whatever fails, everything before it is undone, so that the
// call leaves either a whole attachment or nothing.

import { toWeftError, WeftError } from '#agent/errors.ts';
import type { Lease } from '#agent/runtime/ipam.ts';
import { unsupported } from './json.ts';
import { type AddParts, type CniParts, errnoOf, ownNetnsPath } from './parts.ts';
import type { AddCall } from './request.ts';
import { type AddResult, buildResult } from './result.ts';

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
  const netnsInode = podNetns(call.netnsPath, parts);
  await clearReplaced(call, netnsInode, parts);
  const owner = { ...call.pod, network: call.netConf.name, netnsPath: call.netnsPath, netnsInode };
  const { addresses, link: wanted, ipRanges } = call.netConf.wish;
  if (ipRanges.length > 0) throw unsupported('"runtimeConfig.ipRanges"', 'runtimeConfig.ipRanges');
  using _ports = parts.ports.claim(call.key, wanted.portMappings ?? [], () => ipam.leases());
  const lease = await ipam.lease(
    { ...call.key, owner, addresses, ...(Object.keys(wanted).length > 0 && { link: wanted }) },
    signal,
  );
  try {
    signal.throwIfAborted();
    const link = await datapath.attach({ lease, netnsPath: call.netnsPath }, signal);
    const result = buildResult(lease, link, call.netnsPath, call.netConf.dns);
    ipam.activate(lease);
    return result;
  } catch (error) {
    await undo(lease, parts);
    throw error;
  }
}

/** The inode of the pod's namespace. Throws WeftError('invalidNetns'). */
export function podNetns(path: string, parts: Pick<CniParts, 'inspectNetns'>): bigint {
  let seen: ReturnType<CniParts['inspectNetns']>;
  try {
    seen = parts.inspectNetns(path);
  } catch (error) {
    throw new WeftError('invalidNetns', `cannot open CNI_NETNS ${path}: ${toWeftError(error).message}`, {
      details: path,
      cause: error,
    });
  }
  if (!seen.isNetns) {
    throw new WeftError('invalidNetns', `CNI_NETNS ${path} is not a network namespace`, { details: path });
  }
  if (parts.inspectNetns(ownNetnsPath).inode === seen.inode) {
    throw new WeftError('invalidNetns', `CNI_NETNS ${path} is the host's own network namespace`, { details: path });
  }
  return seen.inode;
}

/**
 * An attachment of this key whose namespace was replaced by another is a leftover (its DEL was lost, or the host was restarted and
 * the container id used again): it is taken down. One whose namespace is there makes ADD fail and stays as it is.
 */
async function clearReplaced(call: AddCall, netnsInode: bigint, parts: CniParts): Promise<void> {
  const lease = parts.ipam.find(call.key);
  if (lease === undefined) return;
  const { owner } = lease;
  if (owner.netnsInode === netnsInode || isNamespace(owner.netnsPath, owner.netnsInode, parts)) {
    throw new WeftError(
      'attachmentExists',
      `container ${lease.containerId} already has ${lease.ifname} with ${lease.addresses.join(' and ')}`,
      { details: owner.netnsPath },
    );
  }
  parts.log.warn(
    { ...call.key, addresses: lease.addresses },
    'ADD finds an attachment whose namespace is gone; clearing it',
  );
  await parts.datapath.detach(lease);
  parts.ipam.release(call.key, lease.generation);
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

/** Link before address: while the link may be there, the address must not go to another pod. What stays is DEL's to finish. */
async function undo(lease: Lease, parts: CniParts): Promise<void> {
  try {
    await parts.datapath.detach(lease);
    parts.ipam.release(lease, lease.generation);
  } catch (error) {
    parts.log.error(
      { err: error, containerId: lease.containerId, ifname: lease.ifname, addresses: lease.addresses },
      'a failed ADD could not be undone; its address stays leased until DEL',
    );
  }
}
