// How often each operation and each fault happened, so that a green run shows what it has seen.

export type OperationName =
  | 'found'
  | 'join'
  | 'seed'
  | 'want'
  | 'grant'
  | 'receive'
  | 'settle'
  | 'takeBack'
  | 'clearVia'
  | 'write'
  | 'conflict'
  | 'allocate'
  | 'allocateNamed'
  | 'refuse'
  | 'exhausted'
  | 'activate'
  | 'free'
  | 'restEnded'
  | 'sessionTaken'
  | 'sessionRenewed'
  | 'heir'
  | 'heirOfHeir'
  | 'voidHeir'
  | 'carry'
  | 'settleDead'
  | 'shed'
  | 'deleteDead'
  | 'quarantine'
  | 'quarantineLifted'
  | 'cut'
  | 'writtenBack'
  | 'spare'
  | 'pull'
  | 'merge';

export type FaultName =
  | 'crash'
  | 'crashBetweenEffects'
  | 'powerLoss'
  | 'diskLost'
  | 'restart'
  | 'partition'
  | 'heal'
  | 'recordDeleted'
  | 'recordLost'
  | 'universeDeleted'
  | 'reclaim'
  | 'registryRestored'
  | 'nodeDeleted'
  | 'nodeDeletedAlive'
  | 'reRegistered'
  | 'reinstalled'
  | 'diskRolledBack'
  | 'cloned'
  | 'namesake'
  | 'addressChanged'
  | 'clockSkewed'
  | 'nodesLate'
  | 'requestLost'
  | 'requestLate'
  | 'requestTwice'
  | 'replyLost'
  | 'replyLate'
  | 'replyTwice'
  | 'unknownButDone'
  | 'unknownNotDone'
  | 'hintLost'
  | 'hintLate'
  | 'hintTwice';

/** Every counter, in the order of the summary. */
export const operationNames: readonly OperationName[] =
  'found join seed want grant receive settle takeBack clearVia write conflict allocate allocateNamed refuse exhausted activate free restEnded sessionTaken sessionRenewed heir heirOfHeir voidHeir carry settleDead shed deleteDead quarantine quarantineLifted cut writtenBack spare pull merge'.split(
    ' ',
  ) as OperationName[];

export const faultNames: readonly FaultName[] =
  'crash crashBetweenEffects powerLoss diskLost restart partition heal recordDeleted recordLost registryRestored nodeDeleted nodeDeletedAlive reRegistered reinstalled diskRolledBack cloned namesake addressChanged clockSkewed nodesLate requestLost requestLate requestTwice replyLost replyLate replyTwice unknownButDone unknownNotDone hintLost hintLate hintTwice'.split(
    ' ',
  ) as FaultName[];

export type CounterName = OperationName | FaultName;

export class Counters {
  readonly #counts = new Map<CounterName, number>();

  count(name: CounterName, by = 1): void {
    this.#counts.set(name, this.get(name) + by);
  }

  get(name: CounterName): number {
    return this.#counts.get(name) ?? 0;
  }

  add(other: Counters): void {
    for (const [name, by] of other.#counts) this.count(name, by);
  }

  /** `name count` for each of the names, zero included. */
  text(names: readonly CounterName[]): string {
    return names.map((name) => `${name} ${this.get(name)}`).join(' ');
  }
}
