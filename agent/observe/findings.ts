// What an operator should look at, derived from the status: each with a name that stays, a sentence, and the next step.

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

function peerFindings({ peers }: Known): readonly Finding[] {
  const unreachable = peers.filter((peer) => peer.blocks.length > 0 && peer.underlayAddress === undefined);
  const byUnderlay = Map.groupBy(
    peers.filter((peer) => peer.underlayAddress !== undefined),
    (peer) => peer.underlayAddress,
  );
  const shared = [...byUnderlay].filter(([, holders]) => holders.length > 1);
  return [
    ...unreachable.map(({ nodeName }): Finding => ({
      name: 'peerWithoutUnderlay',
      severity: 'warning',
      message: `Pods on ${nodeName} cannot be reached: no underlay address of it is known.`,
      nextStep: 'Check that the node still exists and has an InternalIP, or is listed under `nodes`.',
    })),
    ...shared.map(([address, holders]): Finding => ({
      name: 'underlayShared',
      severity: 'error',
      message: `${holders.map((peer) => peer.nodeName).join(' and ')} claim one underlay address, ${address ?? ''}.`,
      nextStep: 'Give each node its own address; a cloned machine keeps its original’s.',
    })),
  ];
}

function datapathFindings({ datapath }: Known): readonly Finding[] {
  return (datapath?.findings ?? []).map(({ name, subject, message }) => ({
    name,
    severity: 'warning',
    message: `${subject}: ${message}`,
    nextStep: 'The agent repairs what it can; its log says what it did.',
  }));
}
