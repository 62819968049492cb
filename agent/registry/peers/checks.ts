// What a voter refuses whatever the ballot says. A cell that is proposed anew names its proposer as its writer, which the
// certificate proves; who merely confirms a cell of another must propose one that some voter holds already.

import { WeftError } from '#agent/errors.ts';
import type { FellowLink } from '#agent/registry/peers/link.ts';
import type { VoterStore } from '#agent/registry/peers/store.ts';
import type { AcceptorCall } from '#agent/registry/peers/wire.ts';
import { maxValueBytes } from '#agent/registry/record-rules.ts';
import { sameCell, type LookUp, type WriterRule } from '#agent/registry/peers/writers.ts';
import type { RecordKind } from '#agent/registry/registry.ts';
import { ballotText } from '#ipam-peer/caspaxos/ballot.ts';
import type { Cell } from '#ipam-peer/caspaxos/change.ts';

export interface ChecksOptions {
  readonly store: VoterStore;
  readonly fellows: readonly FellowLink[];
  readonly rule: WriterRule;
}

/**
 * undefined: may be accepted, otherwise why not. Asks the other voters where the own disk cannot tell; throws
 * WeftError('registry') where they cannot either: that refuses nothing for good.
 */
export type Checks = (call: AcceptorCall, caller: string, signal: AbortSignal) => Promise<string | undefined>;

export function createChecks({ store, fellows, rule }: ChecksOptions): Checks {
  /** A cell of this key that fits, on this voter or any other. */
  const find = async (key: string, fits: (cell: Cell) => boolean, signal: AbortSignal): Promise<Cell | undefined> => {
    const own = store.read(key).cell;
    if (own !== null && fits(own)) return own;
    const cells = await Promise.all(
      fellows.map((fellow) =>
        fellow.acceptor({ key, request: { kind: 'read' } }, signal).then(
          (reply) => (reply.kind === 'current' ? reply.cell : null),
          () => null,
        ),
      ),
    );
    return cells.find((cell) => cell !== null && fits(cell)) ?? undefined;
  };
  const lookUp: LookUp = (name) => {
    const { cell } = store.read(`peer/${name}`);
    return cell === null || cell.value === null ? undefined : { uid: cell.uid, value: cell.value };
  };

  return async ({ key, request }, caller, signal) => {
    if (request.kind !== 'accept') return undefined;
    const { cell } = request;
    if (cell === null) {
      if (store.read(key).cell === null) return undefined;
      throw new WeftError('registry', `${key} has content here, and ${caller} says that it has none`);
    }
    const bytes = cell.value === null ? 0 : Buffer.byteLength(JSON.stringify(cell.value));
    if (bytes > maxValueBytes) return `${key} from ${caller} is larger than ${maxValueBytes} bytes`;
    if (cell.version !== ballotText(request.ballot)) {
      const found = await find(key, (known) => sameCell(known, cell), signal);
      if (found !== undefined) return undefined;
      throw new WeftError('registry', `no voter that answers holds what ${caller} confirms for ${key}`);
    }
    if (cell.writer !== caller) return `${caller} writes ${key} in the name of ${cell.writer}`;
    const base = cell.lineage.at(-1);
    let before: Cell | null = null;
    if (base !== undefined) {
      const found = await find(key, (known) => known.version === base, signal);
      if (found === undefined) {
        throw new WeftError('registry', `no voter that answers holds what ${caller} replaces in ${key}`);
      }
      before = found;
    }
    const [kind = '', ...name] = key.split('/');
    const write = {
      kind: kind as RecordKind,
      name: name.join('/'),
      before: before?.value ?? null,
      after: cell.value,
    };
    return rule(caller, write, lookUp);
  };
}
