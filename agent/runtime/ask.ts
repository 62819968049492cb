// Asks the registry, or whoever knows the nodes, what the core wants to know, and puts the answer into the core's words. Silence is an
// answer too: of a read nothing is known, of a write not whether it took effect.
import { toWeftError } from '#agent/errors.ts';
import { nodeRecordOf } from '#agent/registry/record-name.ts';
import type { Registry } from '#agent/registry/registry.ts';
import type { Answer, Effect } from '#ipam-peer/events.ts';
import { type RecordRef } from '#ipam-peer/records.ts';
import { parseSession } from '#ipam-peer/session-record.ts';

export type RegistryEffect = Extract<
  Effect,
  { readonly kind: 'get' | 'list' | 'create' | 'update' | 'delete' | 'node' }
>;

export interface Outside {
  readonly registry: Registry;
  /** Absent: a node is gone once its session is marked so. */
  readonly nodeExists: ((node: RecordRef, signal: AbortSignal) => Promise<boolean>) | undefined;
}

/** Never rejects. */
export async function ask(outside: Outside, effect: RegistryEffect, signal: AbortSignal): Promise<Answer> {
  const isRead = effect.kind === 'get' || effect.kind === 'list' || effect.kind === 'node';
  try {
    return await answer(outside, effect, signal);
  } catch (error) {
    const reason = toWeftError(error).message;
    return isRead ? { kind: 'failed', reason } : { kind: 'unknown', reason };
  }
}

async function answer({ registry, nodeExists }: Outside, effect: RegistryEffect, signal: AbortSignal): Promise<Answer> {
  switch (effect.kind) {
    case 'get':
      return { kind: 'record', record: await registry.get(effect.record, effect.name, signal) };
    case 'list':
      return { kind: 'list', records: await registry.list('peer', signal) };
    case 'create':
      return await registry.create(effect.record, effect.name, effect.value, signal);
    case 'update':
      return await registry.update({ kind: effect.record, ...effect.stored, value: {} }, effect.value, signal);
    case 'delete': {
      const outcome = await registry.delete({ kind: effect.record, ...effect.stored, value: {} }, signal);
      return outcome.kind === 'ok' ? { kind: 'deleted' } : outcome;
    }
    case 'node': {
      if (nodeExists !== undefined) return { kind: 'node', exists: await nodeExists(effect.node, signal) };
      // A node is removed once, by the session of its record in the default pool.
      const session = parseSession((await registry.get('session', nodeRecordOf(effect.name), signal))?.value);
      return { kind: 'node', exists: !(session.ok && session.record.removed) };
    }
  }
}
