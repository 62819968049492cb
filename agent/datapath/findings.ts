// What a round has found that a person should know, as named findings (docs/troubleshooting.md says what to do about each). Pure.
import { errno } from '#agent/netlink/netlink-error.ts';

import type { KernelReading } from './actual.ts';
import type { Refusal } from './apply.ts';
import type { DesiredState, Finding, Operation } from './objects.ts';

export interface RoundOutcome {
  readonly desired: DesiredState;
  readonly reading: KernelReading;
  readonly refusals: readonly Refusal[];
  /** About the host's sysctls and firewalls, and about limits. */
  readonly more: readonly Finding[];
}

/** Findings of one round, those of the planning first. */
export function roundFindings(outcome: RoundOutcome): readonly Finding[] {
  const { desired, reading, refusals, more } = outcome;
  const findings: Finding[] = [...desired.findings];
  const present = new Set(reading.state.podLinks.map((link) => link.ifname));
  for (const { ifname } of desired.podLinks) {
    if (present.has(ifname)) continue;
    findings.push({ name: 'podLinkMissing', subject: ifname, message: `${ifname} is leased but not in the kernel` });
  }
  if (reading.underlay && !reading.underlay.up) {
    findings.push({ name: 'underlayDown', subject: reading.underlay.ifname, message: 'the underlay link is down' });
  }
  findings.push(...more);
  if (desired.bridge && !reading.bridgeNetfilter) {
    const message =
      'answers of a Service backend to a pod of the same bridge do not pass conntrack: modprobe br_netfilter, and name it ' +
      'in /etc/modules-load.d';
    findings.push({ name: 'bridgeNetfilterMissing', subject: desired.bridge.ifname, message });
  }
  const taken = refusals.find(isPortTaken);
  // What is on the device, or leads to it, fails with it: one cause, one finding.
  if (taken)
    return [
      ...findings,
      findingOf(taken),
      ...refusals.filter(({ operation }) => !needsOverlay(operation)).map(findingOf),
    ];
  return [...findings, ...refusals.map(findingOf)];
}

/** The kernel has the VNI on that port already, or a program has the port. */
function isPortTaken({ operation: { kind }, errno: number }: Refusal): boolean {
  return /^(add|set)Overlay$/.test(kind) && (number === errno.EEXIST || number === errno.EADDRINUSE);
}

function needsOverlay({ kind }: Operation): boolean {
  return /(Overlay|Address|Fdb|Neighbour|Nexthop|Route)$/.test(kind);
}

function findingOf(refusal: Refusal): Finding {
  const { operation, reason, errno: number } = refusal;
  if ('link' in operation && 'vni' in operation.link && isPortTaken(refusal)) {
    const { port, vni } = operation.link;
    const message =
      `another VXLAN device has VNI ${vni} on it, or another program the port (${reason}); a device that was moved is in another ` +
      'network namespace: ip -all netns exec ip -d link show type vxlan';
    return { name: 'vxlanPortTaken', subject: `UDP ${port}`, message };
  }
  if (operation.kind === 'putRoute' && number === errno.EEXIST) {
    const { dst } = operation.route;
    return { name: 'routeConflict', subject: dst, message: `somebody else's route to ${dst} is in the way` };
  }
  return { name: 'kernelRefused', subject: operation.kind, message: reason };
}

/** Logs what was not known before; returns what is now. */
export function logNew(
  log: { warn(fields: object, message: string): void },
  before: readonly Finding[],
  now: readonly Finding[],
): readonly Finding[] {
  const known = new Set(before.map((finding) => JSON.stringify(finding)));
  for (const finding of now) if (!known.has(JSON.stringify(finding))) log.warn({ ...finding }, 'finding');
  return now;
}
