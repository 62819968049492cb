// What an operator should look at, derived from the status: each with a name that stays, a sentence, and the next step.

import { grouped } from '#agent/observe/counts.ts';
import type { Status } from '#agent/observe/status.ts';

export interface Finding {
  /** Stable, camel case: what alerts and the docs refer to. */
  readonly name: string;
  readonly severity: 'warning' | 'error';
  readonly message: string;
  readonly nextStep: string;
}

/** A registry that has said nothing for so long is a finding: IPAM asks it at least every ten minutes. Pods on owned space go on. */
export const registrySilentAfterMs = 900_000;
const fullBelowAddresses = 8;

/** Findings of a status that has none yet. Pure. */
export function findingsOf(status: Omit<Status, 'findings'>): readonly Finding[] {
  return [
    ...readyFindings(status),
    ...registryFindings(status),
    ...addressFindings(status),
    ...poolFindings(status),
    ...peerFindings(status),
    ...datapathFindings(status),
  ];
}

type Known = Omit<Status, 'findings'>;

function readyFindings({ ready, waitingFor, nowMs, startedAtMs }: Known): readonly Finding[] {
  if (ready || nowMs - startedAtMs < 30_000) return [];
  return [
    {
      name: 'notReady',
      severity: 'error',
      message: `Pods cannot start here: waiting for ${waitingFor}.`,
      nextStep: 'Look at the last lines of the agent log.',
    },
  ];
}

function registryFindings({ registry, nowMs, startedAtMs }: Known): readonly Finding[] {
  const silentMs = nowMs - (registry.answeredAtMs ?? startedAtMs);
  if (silentMs < registrySilentAfterMs) return [];
  const minutes = Math.floor(silentMs / 60_000);
  return [
    {
      name: 'registrySilent',
      severity: 'warning',
      message: `The registry (${registry.engine}) has not answered for ${minutes} min; pods start from owned space meanwhile.`,
      nextStep:
        registry.engine === 'peers'
          ? 'Check that a majority of the voters runs and that TCP 6783 is open between the nodes.'
          : 'Check that this node reaches the API server.',
    },
  ];
}

function addressFindings({ ready, addresses }: Known): readonly Finding[] {
  if (!ready || addresses.free >= fullBelowAddresses) return [];
  return [
    {
      name: 'fewAddresses',
      severity: 'warning',
      message: `Only ${addresses.free} addresses are free on this node (${addresses.leased} leased, ${addresses.resting} resting).`,
      nextStep: 'See `weft ipam` for who holds the space.',
    },
  ];
}

/** A tenth of the pool: published counts are rounded, so that less would be told too late. */
function poolFindings({ pools }: Known): readonly Finding[] {
  const scarce = pools.filter(
    ({ addresses, availableAddresses, peers }) =>
      peers.some((peer) => peer.self) && availableAddresses < addresses / 10,
  );
  return scarce.map(({ name, ranges, addresses, availableAddresses }) => ({
    name: 'poolNearlyFull',
    severity: 'warning',
    message: `Of the ${grouped(addresses)} addresses of the pool ${name} (${ranges.join(', ')}) about ${grouped(availableAddresses)} can still be had here.`,
    nextStep: 'See `weft ipam` for who holds them; add a pool (docs/ipam.md) before they are gone.',
  }));
}

function peerFindings({ peers }: Known): readonly Finding[] {
  const unreachable = peers.filter((peer) => peer.blocks.length > 0 && peer.underlayAddress === undefined);
  return unreachable.map(({ nodeName }) => ({
    name: 'peerWithoutUnderlay',
    severity: 'warning',
    message: `Pods on ${nodeName} cannot be reached: no underlay address of it is known.`,
    nextStep: 'Check that the node still exists and has an InternalIP, or is listed under `nodes`.',
  }));
}

/** What a person does about the datapath's findings; those not here the agent puts right by itself. */
const datapathSteps: Readonly<Record<string, string>> = {
  duplicatePeerAddress: 'Give each node an underlay address of its own; a cloned machine keeps its original’s.',
  duplicatePeerMac: 'Remove the state directory of the younger one of two cloned machines and restart its agent.',
  underlayDown: 'Bring the link up; the overlay follows by itself.',
  underlayFamily: 'Give all nodes an underlay address of one family.',
  forwardingOff: 'Switch on net.ipv4.ip_forward (sysctl -w net.ipv4.ip_forward=1) and find out what switches it off.',
  routeConflict: 'Remove that route, or choose a range that does not overlap the routes of the hosts.',
  forwardPolicyDrops: 'Allow forwarding from and to the pods’ links in that chain, or set its policy to accept.',
  inputPolicyDrops: 'Allow the overlay’s UDP port from the other nodes in that chain.',
  podLinkMissing: 'Recreate that pod: something removed its link.',
};

function datapathFindings({ datapath }: Known): readonly Finding[] {
  return (datapath?.findings ?? []).map(({ name, subject, message }) => ({
    name,
    severity: 'warning',
    message: `${subject}: ${message}`,
    nextStep: datapathSteps[name] ?? 'The agent tries again by itself; its log has the kernel’s words.',
  }));
}
