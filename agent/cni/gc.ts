// GC: takes down the attachments of one network that the runtime no longer knows. Others' networks, those that came after the
// call and those whose ADD is at work are left alone; one that fails does not stop the rest.

import { toWeftError, WeftError } from '#agent/errors.ts';
import type { AttachmentQueue } from './attachments.ts';
import { del } from './del.ts';
import { callDelegate } from './delegate.ts';
import type { CniParts } from './parts.ts';
import type { GcCall } from './request.ts';

/** Throws WeftError('kernel') naming everything that could not be collected. */
export async function gc(call: GcCall, parts: CniParts, queue: AttachmentQueue, signal: AbortSignal): Promise<void> {
  const valid = new Set(call.valid.map((key) => `${key.containerId}/${key.ifname}`));
  const gone = parts.ipam
    .leases()
    .filter((lease) => lease.owner.network === call.netConf.name && lease.state === 'active')
    .filter((lease) => !valid.has(`${lease.containerId}/${lease.ifname}`));
  const outcomes = await Promise.allSettled(
    gone.map((lease) =>
      queue.run(lease, signal, () =>
        del(lease, parts, { applies: (current) => current.generation === lease.generation }),
      ),
    ),
  );
  const problems: string[] = [];
  for (const [at, outcome] of outcomes.entries()) {
    const lease = gone[at];
    if (lease === undefined) continue;
    const name = `${lease.containerId}/${lease.ifname}`;
    if (outcome.status === 'rejected') problems.push(`${name}: ${toWeftError(outcome.reason).message}`);
    else
      parts.log.info(
        { containerId: lease.containerId, ifname: lease.ifname, addresses: lease.addresses },
        'GC collected',
      );
  }
  if (call.delegate !== undefined) {
    await callDelegate(call.delegate, 'GC', signal).catch((error: unknown) =>
      problems.push(toWeftError(error).message),
    );
  }
  if (problems.length > 0) {
    throw new WeftError('kernel', `not everything could be collected: ${problems.join('; ')}`);
  }
}
