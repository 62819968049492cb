// DEL: any order, any number of times, without namespace and without prevResult. Link before address, so that no address is given
// out while a pod may still answer for it.

import { type AttachmentKey, type Delegate, isOnSegment, type Lease } from '#agent/runtime/ipam.ts';
import { callDelegate, findPlugin } from './delegate.ts';
import type { CniParts } from './parts.ts';

type DelParts = Pick<CniParts, 'ipam' | 'datapath' | 'bridged' | 'segment'>;

export interface DelOptions {
  /** Whether the DEL was meant for this attachment and not for an earlier one of the same key; absent: it was. */
  readonly applies?: (lease: Lease) => boolean;
  /** The plugin that the configuration names for addresses. */
  readonly delegate?: Delegate | undefined;
}

/**
 * Takes the attachment down and releases its address; undefined when there was none. The caller serializes per key. Throws what
 * Datapath.detach throws, and `delegateFailed`; the lease then stays.
 */
export async function del(
  key: AttachmentKey,
  parts: DelParts,
  { applies = () => true, delegate }: DelOptions = {},
): Promise<Lease | undefined> {
  const lease = parts.ipam.find(key);
  if (lease === undefined) {
    // An ADD that a crash cut short may have its address without a lease. A plugin that is not there has given none.
    if (delegate !== undefined && (await findPlugin(delegate)) !== undefined) await delegateDel(delegate);
    return undefined;
  }
  if (!applies(lease)) return undefined;
  // The daemon of the plugin `dhcp` gives the address back through the link, which until then says nothing else.
  if (isOnSegment(lease)) parts.segment?.mute(lease);
  else if (lease.owner.linkedBy === undefined) await parts.datapath.detach(lease);
  if (lease.delegate !== undefined) {
    const { type } = lease.delegate;
    const told = delegate !== undefined && (type === '' || type === delegate.type) ? delegate : lease.delegate;
    // One that was found on a link alone does not say what to call it with.
    if (told.stdin !== '') await delegateDel(told);
  }
  if (isOnSegment(lease)) await parts.segment?.detach(lease);
  const released = parts.ipam.release(key, lease.generation);
  if (lease.owner.onBridge !== undefined) parts.bridged?.sync(parts.ipam.leases());
  return released;
}

/** Not cut short when the caller goes away: the runtime would only ask again. */
export async function delegateDel(delegate: Delegate): Promise<void> {
  await callDelegate(delegate, 'DEL', new AbortController().signal);
}

/** Takes back what a failed ADD has made; what stays is DEL's to finish. */
export async function undo(lease: Lease, parts: DelParts & Pick<CniParts, 'log'>): Promise<void> {
  try {
    await del(lease, parts, { applies: ({ generation }) => generation === lease.generation });
  } catch (error) {
    parts.log.error(
      { err: error, containerId: lease.containerId, ifname: lease.ifname, addresses: lease.addresses },
      'a failed ADD could not be undone; its address stays leased until DEL',
    );
  }
}
