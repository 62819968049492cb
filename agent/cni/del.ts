// DEL: any order, any number of times, without namespace and without prevResult. Link before address, so that no address is given
// out while a pod may still answer for it.

import type { AttachmentKey, Lease } from '#agent/runtime/ipam.ts';
import type { CniParts } from './parts.ts';

/**
 * Takes the attachment down and releases its address; undefined when there was none, or when `applies` says that the DEL was meant
 * for an earlier one of the same key. The caller serializes per key. Throws what Datapath.detach throws; the lease then stays.
 */
export async function del(
  key: AttachmentKey,
  parts: Pick<CniParts, 'ipam' | 'datapath'>,
  applies: (lease: Lease) => boolean = () => true,
): Promise<Lease | undefined> {
  const lease = parts.ipam.find(key);
  if (lease === undefined || !applies(lease)) return undefined;
  await parts.datapath.detach(lease);
  return parts.ipam.release(key, lease.generation);
}
