// What commands do that change a node's record at a person's word: with voters they write it; in Kubernetes no agent may, and they print
// the kubectl command for who may.
import { WeftError } from '#agent/errors.ts';
import type { RecordValue, Registry, RegistryRecord } from '#agent/registry/registry.ts';

/** Resolves once it is written. Throws WeftError('registry'). */
export async function writeRecord(
  registry: Registry,
  record: RegistryRecord,
  next: RecordValue,
  signal: AbortSignal,
): Promise<void> {
  const outcome = await registry.update(record, next, signal);
  switch (outcome.kind) {
    case 'ok':
      return;
    case 'refused':
      throw new WeftError('registry', `the voters refuse: ${outcome.reason}`);
    case 'unknown':
      throw new WeftError('registry', `nobody knows whether it was written: ${outcome.reason}; try again`);
    case 'conflict':
    case 'notFound':
      throw new WeftError('registry', `the record ${record.name} changed meanwhile; nothing was written, try again`);
  }
}

/** The command below what it is for. It does nothing if the record has changed meanwhile. */
export function patchCommand(
  told: readonly string[],
  { name, version }: RegistryRecord,
  { metadata, spec }: { readonly metadata?: object; readonly spec: object },
): string {
  const patch = { metadata: { resourceVersion: version, ...metadata }, spec };
  return [
    ...told,
    '',
    `  kubectl patch peers.weft.network ${name} --type=merge -p '${JSON.stringify(patch)}'`,
    '',
  ].join('\n');
}
