// DELs that another plugin (`ipam.type`) could not be told: its program is gone, its daemon away, it failed or hung. The pod goes all the
// same, the DEL stays owed and is tried again until the plugin takes it. Meanwhile the address is taken in the plugin's own books, so
// nobody gets it twice.
//
//   DEL ──▶ plugin told? ── yes ─▶ lease gone
//             no ─▶ owed, in the lease's row ──every ten seconds, and before an ADD of the same key──▶ told ─▶ gone
//
// A further DEL of the key does not wait for the plugin either: one that hangs takes nearly all of the time that a DEL has.

import { toWeftError } from '#agent/errors.ts';
import type { Condition } from '#agent/findings.ts';
import type { AttachmentKey, Delegate, OwedDel, OwedDels } from '#agent/runtime/ipam.ts';
import type { AttachmentQueue } from './attachments.ts';
import { callDelegate } from './delegate.ts';
import type { CniLog } from './parts.ts';
import { Recurring } from './recurring.ts';

const everyMs = 10_000;

export interface OwingParts {
  readonly owed: OwedDels;
  readonly log: CniLog;
}

/** Not cut short when a caller goes away: the runtime would only ask again. Throws WeftError('delegateFailed'). */
export async function delegateDel(
  delegate: Delegate,
  signal: AbortSignal = new AbortController().signal,
): Promise<void> {
  await callDelegate(delegate, 'DEL', signal);
}

/**
 * Tells the plugin, or owes it the DEL: true when it has been told. In the latter case the attachment has no lease any more. Throws
 * WeftError('store') alone, and `delegateFailed` where the signal aborted: then nothing has changed.
 */
export async function tellOrOwe(
  key: AttachmentKey,
  delegate: Delegate,
  addresses: readonly string[],
  { owed, log }: OwingParts,
  signal?: AbortSignal,
): Promise<boolean> {
  const before = owed.find(key);
  try {
    await delegateDel(delegate, signal);
    owed.settle(key);
    return true;
  } catch (error) {
    if (signal?.aborted === true) throw error;
    const { containerId, ifname } = key;
    const why = toWeftError(error).message;
    const sinceMs = before?.sinceMs ?? Date.now();
    owed.owe({ containerId, ifname, delegate, addresses: before?.addresses ?? addresses, why, sinceMs });
    if (before?.why !== why)
      log.error(
        { err: error, ...key, addresses },
        'an IPAM plugin could not be told DEL; the pod is gone, the agent will tell it',
      );
    return false;
  }
}

/** What an operator should know of: one for each plugin. */
export function owedFindings(owed: readonly OwedDel[]): readonly Condition[] {
  const byPlugin = Map.groupBy(owed, ({ delegate }) => delegate.type);
  return [...byPlugin].map(([plugin, dels]) => {
    const addresses = dels.flatMap((del) => del.addresses);
    const shown = addresses.slice(0, 5).join(', ') + (addresses.length > 5 ? ', …' : '');
    const what = addresses.length === 0 ? '' : ` (${shown})`;
    return {
      name: 'pluginOwed',
      subject: `IPAM plugin ${plugin}`,
      message: `it could not be told of ${dels.length} pods that are gone${what}: ${dels.at(-1)?.why ?? ''}`,
    };
  });
}

/** Tells the plugins what they are owed, again and again. */
export function owedDelivery(parts: OwingParts, queue: AttachmentQueue): Recurring {
  return new Recurring({
    everyMs,
    work: (signal) => deliver(parts, queue, signal),
    onError: (error) => parts.log.warn({ err: toWeftError(error) }, 'cannot tell IPAM plugins what they are owed'),
  });
}

/** A plugin that fails is asked once: the next time with what it was not asked for the longest. */
async function deliver(parts: OwingParts, queue: AttachmentQueue, signal: AbortSignal): Promise<void> {
  const byPlugin = Map.groupBy(parts.owed.all(), ({ delegate }) => `${delegate.type} ${delegate.env['CNI_PATH']}`);
  await Promise.all([...byPlugin.values()].map((dels) => deliverTo(dels, parts, queue, signal)));
}

async function deliverTo(
  dels: readonly OwedDel[],
  parts: OwingParts,
  queue: AttachmentQueue,
  signal: AbortSignal,
): Promise<void> {
  for (const { containerId, ifname } of dels) {
    if (signal.aborted) return;
    const key = { containerId, ifname };
    const isTold = await queue.run(key, signal, async () => {
      // Meanwhile another DEL may have told it, or an ADD begun anew.
      const del = parts.owed.find(key);
      return del === undefined || (await tellOrOwe(key, del.delegate, del.addresses, parts, signal));
    });
    if (!isTold) return;
    parts.log.info(key, 'an IPAM plugin was told a DEL that it was owed');
  }
}
