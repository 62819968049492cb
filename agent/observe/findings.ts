// What an operator should look at, derived from the status: each with a name that stays, a sentence, and the next step.

import { grouped } from '#agent/observe/counts.ts';
import { findingCatalogue } from '#agent/findings.ts';
import type { Condition, FindingKind, FindingName } from '#agent/findings.ts';
import type { Status } from '#agent/observe/status.ts';

export interface Finding {
  /** Stable, camel case: what alerts and the docs refer to. */
  readonly name: FindingName;
  readonly severity: FindingKind['severity'];
  /** A peer, a link, an address, a file; absent: this node. */
  readonly subject?: string;
  readonly message: string;
  readonly nextStep: string;
}

/** A registry that has said nothing for so long is a finding: IPAM asks it at least every ten minutes. Pods on owned space go on. */
const registrySilentAfterMs = 900_000;
const fullBelowAddresses = 8;

/** Findings of a status that has none yet, and of conditions that no part of the status shows. Pure. */
export function findingsOf(
  status: Omit<Status, 'findings'>,
  conditions: readonly Condition[] = [],
): readonly Finding[] {
  return [
    ...readyFindings(status),
    ...registryFindings(status),
    ...addressFindings(status),
    ...poolFindings(status),
    ...universeFindings(status),
    ...conflictFindings(status),
    ...unownedFindings(status),
    ...peerFindings(status),
    ...(status.datapath?.findings ?? []).map(findingOf),
    ...conditions.map(findingOf),
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
          ? 'Check that a majority of the voters runs and that TCP 6783 (setting `peersPort`) is open between the nodes.'
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

function universeFindings({ pools }: Known): readonly Finding[] {
  return pools.flatMap(({ name, ended }) =>
    ended === undefined ? [] : [findingOf({ name: ended.name, subject: `pool ${name}`, message: `${ended.text}.` })],
  );
}

function conflictFindings({ pools }: Known): readonly Finding[] {
  return pools
    .flatMap((pool) => pool.conflicts ?? [])
    .map(({ name, nodeName, gone, blocks }) => {
      const node = gone ? `${nodeName}, which is gone` : nodeName;
      const message = `${blocks.join(', ')} of this node is also in that record, of ${node}.`;
      return findingOf({ name: 'blocksInTwoRecords', subject: name, message });
    });
}

function unownedFindings({ pools }: Known): readonly Finding[] {
  return pools.flatMap(({ name, unowned }) => {
    const message = `${unowned?.join(', ')} is in no node's record.`;
    return unowned === undefined ? [] : [findingOf({ name: 'spaceWithoutOwner', subject: `pool ${name}`, message })];
  });
}

function peerFindings({ peers }: Known): readonly Finding[] {
  const unreachable = peers.filter((peer) => peer.blocks.length > 0 && peer.underlayAddress === undefined);
  return [
    ...unreachable.map(({ nodeName }) => ({
      name: 'peerWithoutUnderlay' as const,
      severity: 'warning' as const,
      message: `Pods on ${nodeName} cannot be reached: no underlay address of it is known.`,
      nextStep: 'Check that the node still exists and has an InternalIP, or is listed under `nodes`.',
    })),
    ...peers.flatMap(({ name, outside }) => {
      const message = `its record claims ${outside?.join(', ')}, which is none of its pool's space.`;
      return outside === undefined ? [] : [findingOf({ name: 'blockOutsideRange', subject: name, message })];
    }),
  ];
}

/** A condition with what the catalogue knows of it. */
export function findingOf({ name, subject, message }: Condition): Finding {
  const { severity, nextStep } = findingCatalogue[name];
  return { name, severity, subject, message: `${subject}: ${message}`, nextStep };
}
