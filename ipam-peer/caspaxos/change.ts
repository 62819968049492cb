// What a register holds and how an operation changes it: CASPaxos' change function, as data. A deleted key keeps its cell as a
// tombstone, so that its ballots are remembered and the next create of that key is told apart by a new uid.

export type CellValue = Readonly<Record<string, unknown>>;

export interface Cell {
  /** Made by the operation that created the record; the same through all its updates. */
  readonly uid: string;
  /** Text of the ballot that first proposed this content; equal versions mean equal content. */
  readonly version: string;
  /** Node name of who proposed it. */
  readonly writer: string;
  /** Versions that this one replaced, oldest first, the last `lineageLimit` of them; they go on through deletions. */
  readonly lineage: readonly string[];
  /** null: a tombstone. */
  readonly value: CellValue | null;
}

export type Change =
  | { readonly kind: 'read' }
  | { readonly kind: 'create'; readonly uid: string; readonly writer: string; readonly value: CellValue }
  | {
      readonly kind: 'update';
      readonly uid: string;
      readonly version: string;
      readonly writer: string;
      readonly value: CellValue;
    }
  | { readonly kind: 'delete'; readonly uid: string; readonly version: string; readonly writer: string };

/** How an operation ends that was decided by the register's content. */
export type Decision = 'ok' | 'conflict' | 'notFound' | 'unknown';

/** What to propose, and the answer once it is chosen. */
export interface Verdict {
  readonly cell: Cell | null;
  /** `cell` is new content, not a confirmation of what is there. */
  readonly fresh: boolean;
  readonly decision: Decision;
  /** The record to answer with: what this operation wrote, or what it found. */
  readonly answer: Cell | null;
}

/** How many writes by others an operation may miss between two of its rounds and still tell whether it took effect. */
export const lineageLimit: number = 8;

/** What earlier rounds of the same operation have sent for acceptance. */
export interface Attempts {
  readonly versions: readonly string[];
  /** Version of the cell that the first of them would have replaced; '' for none. */
  readonly base: string;
}

/**
 * Applies a change to the current cell (null: never written). The lineage tells whether an earlier attempt took effect: it is
 * in there, or the attempts' base is and they are not; a lineage too short for either leaves the outcome unknown.
 */
export function applyChange(
  change: Change,
  current: Cell | null,
  attempts: Attempts | undefined,
  nextVersion: string,
): Verdict {
  if (change.kind === 'read') return keep(current, 'ok');
  const history = current === null ? [] : [...current.lineage, current.version];
  if (attempts !== undefined) {
    const version = attempts.versions.find((attempt) => history.includes(attempt));
    if (version !== undefined) return keep(current, 'ok', cellOf(change, version, []));
    const complete = history.length <= lineageLimit;
    if (attempts.base === '' ? !complete : !history.includes(attempts.base)) return keep(current, 'unknown');
  }
  const live = current !== null && current.value !== null;
  if (change.kind === 'create') {
    if (live) return keep(current, 'conflict');
  } else {
    if (!live) return keep(current, 'notFound');
    if (current.uid !== change.uid || current.version !== change.version) return keep(current, 'conflict');
  }
  const cell = cellOf(change, nextVersion, history.slice(-lineageLimit));
  return { cell, fresh: true, decision: 'ok', answer: cell };
}

function keep(cell: Cell | null, decision: Decision, answer: Cell | null = cell): Verdict {
  return { cell, fresh: false, decision, answer };
}

function cellOf(change: Exclude<Change, { kind: 'read' }>, version: string, lineage: readonly string[]): Cell {
  const { uid, writer } = change;
  return { uid, version, writer, lineage, value: change.kind === 'delete' ? null : change.value };
}
