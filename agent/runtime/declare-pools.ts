// On plain hosts nobody can apply a Universe: the setting `pools` names those that agents make where there is none of the name.
import { setTimeout as sleep } from 'node:timers/promises';
import { toWeftError } from '#agent/errors.ts';
import type { Registry } from '#agent/registry/registry.ts';
import { parseCidr } from '#ipam-peer/cidr.ts';
import { formatUniverse } from '#ipam-peer/records.ts';
import type { Log } from './driver.ts';

export interface DeclaredPool {
  readonly name: string;
  readonly ranges: readonly string[];
}

const retryMs = 5000;

/** Where the registry does not answer, later. Resolves once all are there, or the signal aborts. */
export async function declarePools(
  registry: Pick<Registry, 'get' | 'create'>,
  declared: readonly DeclaredPool[],
  log: Log,
  signal: AbortSignal,
): Promise<void> {
  for (const { name, ranges } of declared) {
    while (!signal.aborted) {
      try {
        if ((await registry.get('universe', name, signal)) !== undefined) break;
        const value = formatUniverse({
          ranges: ranges.flatMap((text) => parseCidr(text) ?? []),
          reserved: [],
          namespaces: [],
          extra: {},
        });
        const outcome = await registry.create('universe', name, value, signal);
        if (outcome.kind === 'ok') log.info(`made the pool ${name}: ${ranges.join(', ')}`);
        if (outcome.kind === 'refused') log.error(`the registry refuses the pool ${name}: ${outcome.reason}`);
        if (outcome.kind !== 'unknown') break;
      } catch (error) {
        if (!signal.aborted) log.debug(`cannot make the pool ${name} yet: ${toWeftError(error).message}`);
      }
      await sleep(retryMs, undefined, { signal }).catch(() => undefined);
    }
  }
}
