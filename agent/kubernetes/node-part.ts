// Which sixteenth of the nodes a node belongs to: the first digit of its uid. As a label of its Node, of its session and, once it has
// an heir, of its record it lets the API server compare a takeover with few Nodes (deploy/base/admission-takeover.yaml).

import { uidInName } from '#agent/registry/record-name.ts';

export const partLabel = 'weft.network/part';

/** A value that Kubernetes takes for a label; undefined for what is no uid. */
export function nodePart(uid: unknown): string | undefined {
  return typeof uid === 'string' && /^[0-9a-f]/.test(uid) ? uid.slice(0, 1) : undefined;
}

/** Of a record's or a session's name; undefined where that is not clear. */
export function partOfName(name: string): string | undefined {
  return nodePart(uidInName(name));
}
