// Who holds a lease, in words for people.
import type { LeaseOwner } from './events.ts';

/** The pod where it is known by name, else the container. */
export function holderText(lease: {
  readonly containerId: string;
  readonly owner?: Pick<LeaseOwner, 'podName' | 'podNamespace'>;
}): string {
  const { podNamespace = '', podName } = lease.owner ?? {};
  return podName === undefined ? `container ${lease.containerId}` : `pod ${podNamespace}/${podName}`;
}
