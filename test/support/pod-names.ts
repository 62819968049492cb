// Names of pod links for worlds without a lease store: the same for the same key, of the length of real ones.

import { createHash } from 'node:crypto';

import type { AttachmentKey } from '#agent/runtime/ipam.ts';

export function hostIfnameOf(prefix: string, { containerId, ifname }: AttachmentKey): string {
  const hash = createHash('sha256').update(`${containerId}/${ifname}`).digest('hex');
  return `${prefix}${hash.slice(0, 10)}`;
}
