// Starts IPAM for one node: opens the store, restores the core from it, and offers the `Ipam` that the rest of the agent sees.
// A lease with a free address is one core step and one local commit; the registry is never in its way.
import { randomUUID } from 'node:crypto';
import type { NodeIdentity, PeerNodes } from '#agent/discovery/discovery.ts';
import { type ErrorName, WeftError } from '#agent/errors.ts';
import { peerName } from '#agent/registry/record-name.ts';
import type { Registry } from '#agent/registry/registry.ts';
import { families, type Family } from '#ipam-peer/address.ts';
import { type Cidr, parseCidr } from '#ipam-peer/cidr.ts';
import type { Config, InUse, Refusal, RefusalReason } from '#ipam-peer/events.ts';
import { defaultUniverse, viasLimit } from '#ipam-peer/records.ts';
import { familiesOf, leaseKey } from '#ipam-peer/state.ts';
import { summary } from '#ipam-peer/view.ts';
import { type Driver, type Log, makeDriver, type Outcome } from './driver.ts';
import type { Ipam, IpamView, Lease, LeaseRequest } from './ipam.ts';
import { randomGeneration, randomUnit } from './random.ts';
import { openStore } from './store.ts';

export interface IpamOptions {
  readonly registry: Registry;
  /** SQLite file; its directory is made with mode 0700. */
  readonly statePath: string;
  readonly node: NodeIdentity;
  readonly universe: {
    /** Name of the Universe record. */
    readonly name: string;
    /** CIDR blocks; used when this agent creates the record. Empty: the record is shipped by the manifest. */
    readonly ranges: readonly string[];
    /** Never given out; added when this agent creates or founds the universe. */
    readonly reserved: readonly string[];
    /** Families in which the node takes an address of its own from it; default: both. */
    readonly ownAddresses?: readonly Family[];
  };
  readonly log: Log;
  /** How long a freed address rests; default 30 s. */
  readonly restMs?: number;
  /** Longest wait of a lease that finds no address; default 10 s. */
  readonly allocateWaitMs?: number;
  /**
   * Leases as the kernel knows them, asked for when the state directory was lost (or set back: then it knows some) while the
   * registry holds blocks for this node. Without it such a node allocates nothing and says so.
   */
  readonly recoverLeases?: (signal: AbortSignal, known: readonly Lease[]) => Promise<readonly Lease[]>;
  /** What others use around this host; asked for before this agent founds a universe. Absent: nothing is in use. */
  readonly survey?: (signal: AbortSignal) => Promise<readonly InUse[]>;
  /**
   * Whether the node of a record exists, read as linearizably as a record; throws when that cannot be known. Absent: a node is gone
   * once its session was marked so (`weft peers remove`).
   */
  readonly nodeExists?: (
    node: { readonly name: string; readonly uid: string },
    signal: AbortSignal,
  ) => Promise<boolean>;
  /** Cuts the links of leases that an earlier identity of this machine made. Absent: there are none. */
  readonly cutLeases?: (leases: readonly Lease[], signal: AbortSignal) => Promise<void>;
  /** Other timings of the core, for tests. */
  readonly timing?: Partial<Omit<Config, Told>>;
}

/** What of the core's configuration the options say by themselves. */
type Told =
  | 'universe'
  | 'joinOnUse'
  | 'ownAddresses'
  | 'ranges'
  | 'reserved'
  | 'self'
  | 'node'
  | 'session'
  | 'restMs'
  | 'allocateWaitMs';

export interface RunningIpam extends Ipam, PeerNodes {
  /** Underlay addresses changed; the record follows. */
  setUnderlay(addresses: readonly string[]): void;
  /** The uids of nodes that are gone; their peers are taken over after a while. */
  setGone(uids: ReadonlySet<string>): void;
  close(): Promise<void>;
}

export const defaultTiming = {
  restMs: 30_000,
  allocateWaitMs: 10_000,
  requestTimeoutMs: 10_000,
  answerTimeoutMs: 5_000,
  serveDelayMs: 250,
  pollMs: 5_000,
  resyncMs: 600_000,
  lowWater: 32,
  sessionRenewMs: 60_000,
  sessionTermMs: 180_000,
  sessionWaitMs: 2_000,
  takeOverAfterMs: 300_000,
  takeOverStepMs: 30_000,
  spareAfterMs: 3_600_000,
  suspicionMs: 1_200_000,
} as const;

/** Host end of an attachment's veth: the prefix and the first 10 digits of the lease's generation (15 bytes, the kernel's limit). */
export function hostIfname(generation: string, prefix = 'weftp'): string {
  return `${prefix}${generation.slice(0, 10)}`;
}

/**
 * Starts IPAM. Resolves once the local state is restored, with or without the registry; `whenReady` tells when an address can be
 * had. Throws WeftError: `store` (state unreadable, the path in the message), `invalidSetting`.
 */
export async function startIpam(options: IpamOptions): Promise<RunningIpam> {
  const config: Config = {
    ...defaultTiming,
    ...options.timing,
    restMs: options.restMs ?? defaultTiming.restMs,
    allocateWaitMs: options.allocateWaitMs ?? defaultTiming.allocateWaitMs,
    universe: options.universe.name,
    joinOnUse: options.universe.name !== defaultUniverse,
    ownAddresses: options.universe.ownAddresses ?? families,
    ranges: options.universe.ranges.map(setting),
    reserved: options.universe.reserved.map(setting),
    self: peerName(options.node, options.universe.name),
    node: { name: options.node.nodeName, uid: options.node.nodeUid },
    session: randomUUID(),
    mostVias: viasLimit,
    quarantineMs: options.timing?.quarantineMs ?? options.restMs ?? defaultTiming.restMs,
  };
  const store = openStore(options.statePath);
  try {
    const { registry, log } = options;
    const underlay = options.node.underlayAddresses;
    const { recoverLeases, cutLeases, nodeExists, survey } = options;
    const outside = { registry, recoverLeases, cutLeases, nodeExists, survey };
    const driver = makeDriver({ ...outside, store, config, underlay, log, nowMs: monotonicMs, random: randomUnit });
    driver.start();
    return facade(driver);
  } catch (error) {
    store.close();
    throw error;
  }
}

function setting(text: string): Cidr {
  const block = parseCidr(text);
  if (block === undefined)
    throw new WeftError('invalidSetting', `"${text}" is no CIDR block (address bits below the prefix must be 0)`);
  return block;
}

function monotonicMs(): number {
  return performance.now();
}

function facade(driver: Driver): RunningIpam {
  let nextTicket = 1;
  return {
    lease: (request, signal) => lease(driver, nextTicket++, request, signal),
    activate: ({ containerId, ifname, generation }) => {
      driver.feed({ kind: 'activate', containerId, ifname, generation });
    },
    release: ({ containerId, ifname }, generation) =>
      driver.feed({ kind: 'free', containerId, ifname, ...(generation !== undefined && { generation }) }),
    find: (key) => driver.state.leases.get(leaseKey(key)),
    leases: () => [...driver.state.leases.values()],
    view: () => view(driver),
    onChange: (listener) => driver.onChange(listener),
    whenReady: async (signal) => await whenReady(driver, signal),
    setUnderlay: (addresses) => void driver.feed({ kind: 'underlay', addresses }),
    setGone: (uids) => driver.setGone(uids),
    peerNodes: () => driver.peerNodes(),
    wards: (turns) => driver.wards(turns),
    close: async () => await driver.close(),
  };
}

async function lease(driver: Driver, ticket: number, request: LeaseRequest, signal: AbortSignal): Promise<Lease> {
  signal.throwIfAborted();
  const { containerId, ifname, owner, addresses } = request;
  const generation = randomGeneration();
  const wish = {
    containerId,
    ifname,
    owner,
    addresses,
    generation,
    sinceMs: Date.now(),
    hostIfname: hostIfname(generation),
    ...(request.link !== undefined && { link: request.link }),
    ...(request.pool !== undefined && { pool: request.pool }),
  };
  // Settled at once as a rule: what waiting takes comes only then.
  let settled: Outcome | undefined;
  driver.expect(ticket, (outcome) => (settled = outcome));
  driver.feed({ kind: 'allocate', ticket, wish });
  const outcome = settled ?? (await settledLater(driver, ticket, containerId, signal));
  if (outcome.kind === 'leased') return outcome.lease;
  throw outcome.kind === 'failed' ? outcome.error : refusalError(outcome.refusal);
}

/** Throws WeftError('interrupted') when the signal aborts first. */
async function settledLater(
  driver: Driver,
  ticket: number,
  containerId: string,
  signal: AbortSignal,
): Promise<Outcome> {
  return await new Promise<Outcome>((resolve, reject) => {
    const abort = (): void => {
      driver.expect(ticket, () => undefined);
      driver.feed({ kind: 'cancel', ticket });
      reject(
        new WeftError('interrupted', `the call for container ${containerId} was cut short`, { cause: signal.reason }),
      );
    };
    driver.expect(ticket, (outcome) => {
      signal.removeEventListener('abort', abort);
      resolve(outcome);
    });
    signal.addEventListener('abort', abort, { once: true });
  });
}

const errorOf: Readonly<Record<RefusalReason, ErrorName>> = {
  exists: 'attachmentExists',
  exhausted: 'noAddress',
  waited: 'noAddress',
  notReady: 'notReady',
  fenced: 'notReady',
  notOurs: 'noAddress',
  inUse: 'noAddress',
  invalid: 'invalidConfig',
};

function refusalError(refusal: Refusal): WeftError {
  return new WeftError(errorOf[refusal.reason], refusal.text, { address: refusal.address });
}

function view(driver: Driver): IpamView {
  const now = summary(driver.state);
  return {
    ranges: now.ranges,
    reserved: now.reserved,
    ...(!now.founded && { unfounded: true as const }),
    peers: now.peers.map((peer) => ({
      name: peer.name,
      nodeName: peer.nodeName,
      self: peer.self,
      underlayAddress: peer.underlay[0],
      overlayAddresses: peer.overlay,
      blocks: peer.blocks,
      ...(peer.outside && { outside: peer.outside }),
      ...(peer.gone && { gone: peer.gone }),
      ...(peer.heir !== undefined && { heir: peer.heir }),
    })),
    overlayAddresses: now.overlay,
    freeAddresses: now.freeAddresses,
    leasedAddresses: now.leasedAddresses,
    restingAddresses: now.restingAddresses,
    ready: now.ready,
    waitingFor: now.waitingFor,
    registryAnsweredAtMs: driver.registryAnsweredAtMs,
    availableAddresses: now.availableAddresses,
    settled: now.settled,
    ...(now.ended && { ended: now.ended }),
    ...(now.conflicts.length > 0 && { conflicts: now.conflicts }),
    ...(now.unowned.length > 0 && { unowned: now.unowned }),
  };
}

/** Resolves once a block of each family is usable and the overlay addresses are chosen. */
async function whenReady(driver: Driver, signal: AbortSignal): Promise<void> {
  const isReady = (): boolean => {
    const { state } = driver;
    const served = familiesOf(state);
    return (
      served.length > 0 &&
      state.durable.overlay.length === served.filter((family) => state.config.ownAddresses.includes(family)).length &&
      served.every((family) => state.spaces[family].total > 0)
    );
  };
  await new Promise<void>((resolve, reject) => {
    const abort = (): void => {
      stop();
      reject(new WeftError('interrupted', 'gave up waiting for the first block', { cause: signal.reason }));
    };
    const look = (): void => {
      if (!isReady()) return;
      stop();
      signal.removeEventListener('abort', abort);
      resolve();
    };
    const stop = driver.onChange(look);
    if (signal.aborted) abort();
    else signal.addEventListener('abort', abort, { once: true });
    look();
  });
}
