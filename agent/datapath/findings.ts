// What a round tells the operator: the plan's own findings, and what reading and writing the kernel showed.
import { errno } from '#agent/netlink/netlink-error.ts';

import type { KernelReading } from './actual.ts';
import type { Refusal } from './apply.ts';
import type { DesiredState, Finding } from './objects.ts';
import type { DatapathSettings } from './settings.ts';

export interface Round {
  readonly desired: DesiredState;
  readonly reading: KernelReading;
  readonly refusals: readonly Refusal[];
  /** Forwarding that cannot be switched on. */
  readonly notForwarding: readonly Finding[];
}

/** The findings of a round, in the order in which they are shown. */
export function roundFindings(
  { desired, reading, refusals, notForwarding }: Round,
  settings: Pick<DatapathSettings, 'vxlanPort'>,
): readonly Finding[] {
  const findings: Finding[] = [...desired.findings];
  const present = new Set(reading.state.podLinks.map((link) => link.ifname));
  for (const { ifname } of desired.podLinks) {
    if (present.has(ifname)) continue;
    findings.push({ name: 'podLinkMissing', subject: ifname, message: `${ifname} is leased but not in the kernel` });
  }
  if (reading.underlay && !reading.underlay.up) {
    findings.push({ name: 'underlayDown', subject: reading.underlay.ifname, message: 'the underlay link is down' });
  }
  findings.push(...notForwarding);
  for (const { hook, chain } of reading.foreignDrops) {
    const what = hook === 'forward' ? 'pod traffic' : `UDP port ${settings.vxlanPort}`;
    const message = `chain ${chain} drops by policy and may drop ${what}`;
    findings.push({ name: hook === 'forward' ? 'forwardPolicyDrops' : 'inputPolicyDrops', subject: chain, message });
  }
  return [...findings, ...refusals.map(findingOf)];
}

function findingOf({ operation, reason, errno: number }: Refusal): Finding {
  if (operation.kind === 'putRoute' && number === errno.EEXIST) {
    const { dst } = operation.route;
    return { name: 'routeConflict', subject: dst, message: `somebody else's route to ${dst} is in the way` };
  }
  return { name: 'kernelRefused', subject: operation.kind, message: reason };
}
