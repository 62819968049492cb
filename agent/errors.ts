// The error catalogue: every failure that reaches a user has a name here, a CNI code (CNI spec 1.1.0, "Error"), whether a
// retry can heal it, and what the operator does next. docs/errors.md lists the same; a test compares the two.

/** What the catalogue knows about one kind of failure. */
export interface ErrorKind {
  /** CNI error code: 1-99 as the spec has them, 100 and above are Weft's own. */
  readonly cniCode: number;
  /** True where the same call may succeed later with nothing changed by a person. */
  readonly retryable: boolean;
  /** The operator's next step, one sentence. */
  readonly nextStep: string;
}

export type ErrorName =
  | 'incompatibleVersion'
  | 'unsupportedField'
  | 'unknownContainer'
  | 'invalidEnvironment'
  | 'io'
  | 'undecodable'
  | 'invalidConfig'
  | 'invalidNetns'
  | 'agentAway'
  | 'noAddress'
  | 'unknownPool'
  | 'notReady'
  | 'interrupted'
  | 'statusUnavailable'
  | 'statusDegraded'
  | 'attachmentExists'
  | 'interfaceExists'
  | 'kernel'
  | 'checkFailed'
  | 'hostPortTaken'
  | 'store'
  | 'delegateFailed'
  | 'invalidSetting'
  | 'registry'
  | 'internal';

export const errorCatalogue: Readonly<Record<ErrorName, ErrorKind>> = {
  incompatibleVersion: { cniCode: 1, retryable: false, nextStep: 'Use a cniVersion that `weft` lists under VERSION.' },
  unsupportedField: {
    cniCode: 2,
    retryable: false,
    nextStep: 'Remove the named field from the network configuration.',
  },
  unknownContainer: { cniCode: 3, retryable: false, nextStep: 'Nothing to do: the container has no attachment here.' },
  invalidEnvironment: {
    cniCode: 4,
    retryable: false,
    nextStep: 'The container runtime must set the named CNI_* variables as the CNI specification says.',
  },
  io: { cniCode: 5, retryable: true, nextStep: 'Look at the agent log for the failing path or socket.' },
  undecodable: { cniCode: 6, retryable: false, nextStep: 'Correct the JSON of the network configuration.' },
  invalidConfig: { cniCode: 7, retryable: false, nextStep: 'Correct the named value in the network configuration.' },
  invalidNetns: {
    cniCode: 8,
    retryable: false,
    nextStep: "CNI_NETNS must be the absolute path of a network namespace other than the host's.",
  },
  agentAway: {
    cniCode: 11,
    retryable: true,
    nextStep:
      'Check that the weft agent runs on this node (kubectl -n weft get pods -o wide, or systemctl status weft).',
  },
  noAddress: {
    cniCode: 11,
    retryable: true,
    nextStep: 'Run `weft ipam` to see who holds the space; free addresses or add a pool.',
  },
  unknownPool: {
    cniCode: 106,
    retryable: true,
    nextStep: 'Name a pool that `weft ipam` lists, or make the Universe of that name.',
  },
  notReady: {
    cniCode: 11,
    retryable: true,
    nextStep: 'The agent is starting; see `weft status` for what it waits for.',
  },
  interrupted: { cniCode: 11, retryable: true, nextStep: 'The call was cut short; the runtime tries again.' },
  statusUnavailable: { cniCode: 50, retryable: true, nextStep: 'See `weft status` on this node.' },
  statusDegraded: { cniCode: 51, retryable: true, nextStep: 'See the findings of `weft status` on this node.' },
  attachmentExists: {
    cniCode: 100,
    retryable: false,
    nextStep: 'DEL the existing attachment of this container and interface first.',
  },
  interfaceExists: {
    cniCode: 101,
    retryable: false,
    nextStep: 'The pod already has an interface of this name; choose another CNI_IFNAME or remove it.',
  },
  kernel: {
    cniCode: 102,
    retryable: true,
    nextStep: "Look at the kernel's words in the message and at the findings of `weft status`.",
  },
  checkFailed: {
    cniCode: 103,
    retryable: false,
    nextStep: 'Recreate the pod; find out who altered what the message names.',
  },
  store: { cniCode: 104, retryable: true, nextStep: 'Check free space and permissions of the state directory.' },
  hostPortTaken: {
    cniCode: 105,
    retryable: true,
    nextStep: 'Give the pod another host port, or remove the pod that has it.',
  },
  delegateFailed: {
    cniCode: 110,
    retryable: true,
    nextStep: 'Look at the `ipam` section of the network configuration and at what that plugin says.',
  },
  invalidSetting: {
    cniCode: 7,
    retryable: false,
    nextStep: 'Correct the named setting; `weft agent --help` lists them.',
  },
  registry: {
    cniCode: 11,
    retryable: true,
    nextStep: 'Check that the registry (API server or voters) can be reached.',
  },
  internal: { cniCode: 999, retryable: true, nextStep: 'Report this with the agent log: it is a defect of Weft.' },
};

export interface WeftErrorOptions {
  readonly details?: string;
  readonly address?: string | undefined;
  readonly cause?: unknown;
}

/** A failure out of the catalogue. `message` says what happened; the catalogue adds what to do. */
export class WeftError extends Error {
  override readonly name = 'WeftError';
  readonly kind: ErrorName;
  /** Machine detail for CNI's `details`: kernel errno and extended ACK, file path, field name. */
  readonly details: string;
  /** Of the addresses that were asked for by name, the one that cannot be had; undefined where the failure is about none. */
  readonly address: string | undefined;

  constructor(kind: ErrorName, message: string, options: WeftErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.kind = kind;
    this.details = options.details ?? '';
    this.address = options.address;
  }

  get cniCode(): number {
    return errorCatalogue[this.kind].cniCode;
  }

  get retryable(): boolean {
    return errorCatalogue[this.kind].retryable;
  }

  get nextStep(): string {
    return errorCatalogue[this.kind].nextStep;
  }
}

/** Any thrown value as a catalogue error: what is not from the catalogue is an internal defect. */
export function toWeftError(thrown: unknown): WeftError {
  if (thrown instanceof WeftError) return thrown;
  return new WeftError('internal', messageOf(thrown), { cause: thrown });
}

/** Any thrown value's words. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}
