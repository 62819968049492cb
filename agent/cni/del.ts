// DEL: any order, any number of times, without namespace and without prevResult. Link before address, so that no address is given
// out while a pod may still answer for it.

import { type AttachmentKey, type Delegate, isOfNetwork, isOnSegment, type Lease } from '#agent/runtime/ipam.ts';
import { findPlugin, isSamePlugin } from './delegate.ts';
import { delegateDel, tellOrOwe } from './owed-dels.ts';
import type { CniParts } from './parts.ts';

type DelParts = Pick<CniParts, 'ipam' | 'datapath' | 'bridged' | 'segment' | 'owed' | 'log'>;

export interface DelOptions {
  /** Whether the DEL was meant for this attachment and not for an earlier one of the same key; absent: it was. */
  readonly applies?: (lease: Lease) => boolean;
  /** Of the call's configuration; absent: whichever the attachment is of. */
  readonly network?: string | undefined;
  /** The plugin that the configuration names for addresses. */
  readonly delegate?: Delegate | undefined;
}

/**
 * Takes the attachment down and releases its address; undefined when there was none. A plugin that gave the address and cannot be told is
 * owed the DEL: nobody waits for it. The caller serializes per key. Throws what Datapath.detach throws, and WeftError('store'); the
 * lease then stays. Throws WeftError('delegateFailed') where the key is another network's attachment: nothing can be owed beside that.
 */
export async function del(
  key: AttachmentKey,
  parts: DelParts,
  { applies = () => true, network, delegate }: DelOptions = {},
): Promise<Lease | undefined> {
  const lease = parts.ipam.find(key);
  if (lease === undefined) {
    await delWithoutLease(key, delegate, parts);
    return undefined;
  }
  if (network !== undefined && !isOfNetwork(lease, network)) {
    if (delegate !== undefined && (await findPlugin(delegate)) !== undefined) await delegateDel(delegate);
    return undefined;
  }
  if (!applies(lease)) return undefined;
  // The daemon of the plugin `dhcp` gives the address back through the link, which until then says nothing else.
  if (isOnSegment(lease)) parts.segment?.mute(lease);
  else if (lease.owner.linkedBy === undefined) await parts.datapath.detach(lease);
  let isOwed = false;
  if (lease.delegate !== undefined) {
    const { type } = lease.delegate;
    const told = delegate !== undefined && (type === '' || type === delegate.type) ? delegate : lease.delegate;
    // One that was found on a link alone does not say what to call it with.
    if (told.stdin !== '') isOwed = !(await tellOrOwe(key, told, lease.addresses, parts));
  }
  if (isOnSegment(lease)) await parts.segment?.detach(lease);
  const released = isOwed ? lease : parts.ipam.release(key, lease.generation);
  if (lease.owner.onBridge !== undefined) parts.bridged?.sync(parts.ipam.leases());
  return released;
}

/** An ADD that a crash cut short may have its address without a lease, and an earlier DEL may be owed. */
async function delWithoutLease(key: AttachmentKey, delegate: Delegate | undefined, parts: DelParts): Promise<void> {
  const owed = parts.owed.find(key);
  if (owed !== undefined) {
    // Told by the agent (owed-dels.ts), as this configuration says.
    if (delegate !== undefined && isSamePlugin(delegate, owed.delegate)) parts.owed.owe({ ...owed, delegate });
  } else if (delegate !== undefined && (await findPlugin(delegate)) !== undefined) {
    // A plugin that is not there has given none.
    await tellOrOwe(key, delegate, [], parts);
  }
}

/** Takes back what a failed ADD has made; what stays is DEL's to finish. */
export async function undo(lease: Lease, parts: DelParts): Promise<void> {
  try {
    await del(lease, parts, { applies: ({ generation }) => generation === lease.generation });
  } catch (error) {
    parts.log.error(
      { err: error, containerId: lease.containerId, ifname: lease.ifname, addresses: lease.addresses },
      'a failed ADD could not be undone; its address stays leased until DEL',
    );
  }
}
