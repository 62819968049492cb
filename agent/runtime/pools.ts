// Several pools on one node: each Universe has a core, a record and a store of its own, so that one that is full, or refused, hurts no
// other. Universes are followed while the agent runs: a new one is served without a restart. The node joins a further pool when its
// first pod asks for it; until then it only follows the others' records, because its pods must reach theirs.
//
//   Universe default ──▶ core ──▶ Peer <node>.<uid>              state.db
//   Universe blue    ──▶ core ──▶ Peer <node>.<uid>.pool-blue    pools/blue/state.db
//
// What is known of the universes is kept on disk: a start while the registry is away serves the same pools.
import { setTimeout as sleep } from 'node:timers/promises';
import { writeDurably } from '#agent/discovery/durable-file.ts';
import { toWeftError, WeftError } from '#agent/errors.ts';
import type { Registry, RegistryRecord } from '#agent/registry/registry.ts';
import { families, type Family } from '#ipam-peer/address.ts';
import { type Cidr, formatCidr, subtract } from '#ipam-peer/cidr.ts';
import type { InUse } from '#ipam-peer/events.ts';
import { defaultUniverse, parseUniverse } from '#ipam-peer/records.ts';
import { type DeclaredPool, declarePools } from './declare-pools.ts';
import type { Log } from './driver.ts';
import type { AttachmentKey, IpamView, Lease, LeaseRequest } from './ipam.ts';
import { type KnownPool, loadKnownPools, type PoolStores, poolsWithLeases } from './known-pools.ts';
import { mergeNodes, mergeViews } from './merge-views.ts';
import { cidrs, inUse, isWithin, overlapsText, problemOf, spaceOfOtherPools } from './pool-overlaps.ts';
import { RefusedPools } from './refused-pools.ts';
import type { RunningIpam } from './start.ts';

/** A pool to be opened. */
export interface PoolOpening {
  readonly name: string;
  /** Families in which the node has no address of its own from the default pool. */
  readonly ownAddresses: readonly Family[];
  /** The other pools' space, which its own must not overlap; asked when it is about to be founded. */
  readonly others: (signal: AbortSignal) => Promise<readonly InUse[]>;
  /** Those of the leases found in the kernel that are this pool's; waits until the registry has told which pools there are. */
  readonly mine: (leases: readonly Lease[], signal: AbortSignal) => Promise<readonly Lease[]>;
}

export interface PoolsOptions {
  readonly registry: Pick<Registry, 'get' | 'list' | 'watch' | 'create'>;
  /** Pools to be made where there is no Universe of the name. */
  readonly declared?: readonly DeclaredPool[];
  /** File that keeps what is known of the universes; a missing or damaged one is an empty one. */
  readonly path: string;
  readonly stores: PoolStores;
  /** The default pool's ranges as the settings have them, which count until its Universe is read. */
  readonly defaultRanges: readonly string[];
  readonly open: (pool: PoolOpening) => Promise<RunningIpam>;
  readonly log: Log;
}

/** The name goes into the names of records and folders: a DNS label. */
const namePattern = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
/** How long an ADD waits for the registry to tell of a pool that it names. */
const lookUpMs = 2000;
const retryMs = 1000;

/** Starts the default pool and every further one that is known. Throws what `open` throws for the default pool. */
export async function openPools(options: PoolsOptions): Promise<RunningIpam> {
  const pools = new Pools(options);
  await pools.start();
  return {
    lease: (request, signal) => pools.lease(request, signal),
    activate: (lease) => (pools.holder(lease) ?? pools.main).activate(lease),
    release: (key, generation) => (pools.holder(key) ?? pools.main).release(key, generation),
    find: (key) => pools.holder(key)?.find(key),
    leases: () => pools.all().flatMap((pool) => pool.leases()),
    view: () => pools.view(),
    onChange: (listener) => pools.onChange(listener),
    whenReady: async (signal) => await pools.whenReady(signal),
    setUnderlay: (addresses) => pools.all().forEach((pool) => pool.setUnderlay(addresses)),
    setGone: (uids) => pools.setGone(uids),
    peerNodes: () => mergeNodes(pools.all().flatMap((pool) => pool.peerNodes())),
    wards: (turns) => mergeNodes(pools.all().flatMap((pool) => pool.wards(turns))),
    close: async () => await pools.close(),
  };
}

class Pools {
  readonly #options: PoolsOptions;
  readonly #running = new Map<string, RunningIpam>();
  /** Further universes by name, served or not. */
  readonly #known = new Map<string, KnownPool>();
  readonly #refused: RefusedPools;
  readonly #listeners = new Set<() => void>();
  readonly #stop = new AbortController();
  #work: Promise<void> = Promise.resolve();
  #following: Promise<void> = Promise.resolve();
  #declaring: Promise<void> = Promise.resolve();
  #main: RunningIpam | undefined;
  #gone: ReadonlySet<string> = new Set();
  #isUnsaved = false;

  constructor(options: PoolsOptions) {
    this.#options = options;
    this.#refused = new RefusedPools(options.log);
  }

  get main(): RunningIpam {
    if (this.#main === undefined) throw new Error('the pools are not started');
    return this.#main;
  }

  all(): readonly RunningIpam[] {
    return [...this.#running.values()];
  }

  setGone(uids: ReadonlySet<string>): void {
    this.#gone = uids;
    for (const pool of this.all()) pool.setGone(uids);
  }

  holder(key: AttachmentKey): RunningIpam | undefined {
    return this.all().find((pool) => pool.find(key) !== undefined);
  }

  async start(): Promise<void> {
    const { path, stores, registry, declared = [], log } = this.#options;
    this.#main = await this.#open(defaultUniverse);
    // Their pods run: whatever the ranges look like now, their leases must be known.
    const kept = (await loadKnownPools(path, log)).filter(
      ({ name }) => name !== defaultUniverse && namePattern.test(name),
    );
    const more = await poolsWithLeases(stores, new Set([defaultUniverse, ...kept.map(({ name }) => name)]));
    for (const known of [...kept, ...more]) await this.#serve(known);
    this.#following = this.#follow();
    this.#declaring = declarePools(registry, declared, log, this.#stop.signal);
  }

  async lease(request: LeaseRequest, signal: AbortSignal): Promise<Lease> {
    if (this.holder(request) !== undefined) {
      throw new WeftError('attachmentExists', `container ${request.containerId} already has ${request.ifname}`);
    }
    const { pool: asked, ...rest } = request;
    const name = asked ?? this.#poolOf(request);
    if (name === defaultUniverse) return await this.main.lease(rest, signal);
    const pool = this.#running.get(name) ?? (await this.#lookUp(name, signal));
    if (pool !== undefined) return await pool.lease({ ...rest, pool: name }, signal);
    // One that was refused is gone, so another may be meant.
    if (asked === undefined && this.#poolOf(request) !== name) return await this.lease(request, signal);
    const why = this.#refused.problemOf(name) ?? 'there is no Universe of that name';
    throw new WeftError('unknownPool', `no pool ${JSON.stringify(name.slice(0, 80))}: ${why}`);
  }

  /** The pool for who names none. */
  #poolOf({ addresses: [address], owner: { podNamespace = '' } }: LeaseRequest): string {
    return this.#ofAddress(address) ?? this.#ofNamespace(podNamespace) ?? defaultUniverse;
  }

  #ofNamespace(namespace: string): string | undefined {
    if (namespace === '') return undefined;
    const pools = [...this.#known.values()].filter((known) => known.namespaces.includes(namespace));
    return pools.map(({ name }) => name).toSorted()[0] ?? this.#refused.ofNamespace(namespace);
  }

  /** The further pool in whose ranges the address lies. */
  #ofAddress(text: string | undefined): string | undefined {
    return [...this.#known.values()].find(({ ranges }) => isWithin(text, ranges))?.name;
  }

  /** A pool that was made a moment ago, or is gone, may not have been heard of yet. */
  async #lookUp(name: string, signal: AbortSignal): Promise<RunningIpam | undefined> {
    if (!namePattern.test(name)) return undefined;
    try {
      const limit = AbortSignal.any([signal, this.#stop.signal, AbortSignal.timeout(lookUpMs)]);
      const record = await this.#options.registry.get('universe', name, limit);
      if (record === undefined) this.#refused.forget(name);
      else await this.#heard(record);
    } catch (error) {
      signal.throwIfAborted();
      const why = this.#refused.problemOf(name) ?? `the registry does not tell: ${toWeftError(error).message}`;
      throw new WeftError('unknownPool', `no pool ${JSON.stringify(name)}: ${why}`);
    }
    return this.#running.get(name);
  }

  view(): IpamView {
    const further = [...this.#known.values()].flatMap((known) => {
      const view = this.#running.get(known.name)?.view();
      return view === undefined ? [] : [{ ...known, view }];
    });
    return mergeViews(this.main.view(), further);
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  #changed(): void {
    for (const listener of this.#listeners) listener();
  }

  /** The default pool is ready, and of every other one it is known which leases it has here. */
  async whenReady(signal: AbortSignal): Promise<void> {
    await this.main.whenReady(signal);
    await this.#hearAll(signal);
    while (this.all().some((pool) => pool.view().settled === false)) await sleep(retryMs / 20, undefined, { signal });
  }

  async #hearAll(signal: AbortSignal): Promise<void> {
    const { registry, log } = this.#options;
    for (;;) {
      signal.throwIfAborted();
      try {
        for (const record of await registry.list('universe', signal)) await this.#heard(record);
        return;
      } catch (error) {
        log.warn(`cannot list the pools: ${toWeftError(error).message}`);
        await sleep(retryMs, undefined, { signal });
      }
    }
  }

  /** Each pool's are those in its ranges; of no pool is what another IPAM plugin gave. */
  async #mine(name: string, leases: readonly Lease[], signal: AbortSignal): Promise<readonly Lease[]> {
    await this.#hearAll(signal);
    const further = (lease: Lease): string | undefined => this.#ofAddress(lease.addresses[0]);
    if (name === defaultUniverse) {
      const ranges = this.#defaultRanges();
      return leases.filter((lease) => further(lease) === undefined && isWithin(lease.addresses[0], ranges));
    }
    return leases.filter((lease) => further(lease) === name).map((lease) => ({ ...lease, pool: name }));
  }

  /** One universe after the other, so that two that overlap are not both taken. */
  async #heard(record: RegistryRecord): Promise<void> {
    const work = this.#work.then(async () => {
      const parsed = parseUniverse(record.value);
      if (!parsed.ok) return this.#refused.refuse(record.name, `its Universe cannot be understood: ${parsed.reason}`);
      const { ranges, namespaces, founder } = parsed.record;
      const known = { name: record.name, ranges: ranges.map(formatCidr), namespaces };
      if ((await this.#take(known, founder !== undefined)) || this.#isUnsaved) await this.#save();
    });
    this.#work = work.catch(() => undefined);
    await work;
  }

  /** True when something about the universe is new. */
  async #take(known: KnownPool, founded: boolean): Promise<boolean> {
    const { name } = known;
    if (name === defaultUniverse) return false;
    if (!namePattern.test(name)) {
      this.#refused.refuse(name, 'the name of a pool is a DNS label: lower-case letters, digits and "-", at most 63');
      return false;
    }
    const before = this.#known.get(name);
    if (before === undefined || before.ranges.join() !== known.ranges.join()) {
      const problem = await this.#makeRoom(known, founded);
      if (problem !== '') {
        this.#refused.refuse(name, problem, known.namespaces);
        return false;
      }
    }
    return await this.#serve(known);
  }

  /** A pool that nobody has founded gives way to one that is. Resolves to what is in the way, or ''. */
  async #makeRoom(known: KnownPool, founded: boolean): Promise<string> {
    const met = this.#othersThan(known.name).filter(({ cidr }) => known.ranges.some((one) => overlapsText(one, cidr)));
    const firm = met.find(({ pool }) => !founded || !isUnused(this.#running.get(pool)?.view()));
    if (firm !== undefined) return problemOf(firm);
    for (const { pool } of met) {
      const running = this.#running.get(pool);
      if (running === undefined) continue;
      const namespaces = this.#known.get(pool)?.namespaces;
      await this.#drop(pool, running);
      this.#refused.refuse(pool, problemOf({ pool: known.name, cidr: met[0]?.cidr }), namespaces);
    }
    return '';
  }

  /** True when something about the pool is new. A node that can have no record in it does not serve it. */
  async #serve(known: KnownPool): Promise<boolean> {
    const { name } = known;
    if (!this.#running.has(name)) {
      try {
        this.#running.set(name, await this.#open(name));
      } catch (error) {
        if (!(error instanceof WeftError) || error.kind !== 'invalidSetting') throw error;
        this.#refused.refuse(name, error.message, known.namespaces);
        return false;
      }
      this.#options.log.info(`serving the pool ${name}: ${known.ranges.join(', ')}`);
    }
    this.#refused.forget(name);
    const before = this.#known.get(name);
    if (before !== undefined && JSON.stringify(before) === JSON.stringify(known)) return false;
    this.#known.set(name, known);
    this.#changed();
    return true;
  }

  /** A pool whose Universe, records and leases are all gone. */
  async #forget(name: string, pool: RunningIpam): Promise<void> {
    const work = this.#work.then(async () => {
      if (this.#running.get(name) !== pool || !isOver(pool.view()) || this.#stop.signal.aborted) return;
      this.#options.log.info(`the pool ${name} is no more`);
      await this.#drop(name, pool);
      await this.#save();
    });
    this.#work = work.catch((error: unknown) => this.#options.log.warn(toWeftError(error).message));
    await this.#work;
    // One that was refused because of it may be served now; nothing else tells of it.
    if (this.#refused.size > 0) await this.#hearAll(this.#stop.signal).catch(() => undefined);
  }

  async #drop(name: string, pool: RunningIpam): Promise<void> {
    this.#running.delete(name);
    this.#known.delete(name);
    await pool.close();
    this.#changed();
  }

  async #open(name: string): Promise<RunningIpam> {
    const pool = await this.#options.open({
      name,
      ownAddresses: name === defaultUniverse ? families : this.#lackedByDefault(),
      others: async (signal) => [
        ...(await spaceOfOtherPools(this.#options.registry, name, signal)),
        ...this.#othersThan(name).flatMap(({ pool, cidr }) => inUse(name, [cidr], `the pool ${pool}'s`)),
      ],
      mine: async (leases, signal) => await this.#mine(name, leases, signal),
    });
    pool.setGone(this.#gone);
    pool.onChange(() => {
      this.#changed();
      if (name !== defaultUniverse && isOver(pool.view())) void this.#forget(name, pool);
    });
    if (name === defaultUniverse) this.#running.set(name, pool);
    return pool;
  }

  #defaultRanges(): readonly string[] {
    const told = this.#main?.view().ranges ?? [];
    return told.length > 0 ? told : this.#options.defaultRanges;
  }

  #lackedByDefault(): readonly Family[] {
    const ranges = this.#defaultRanges();
    return families.filter((family) => !ranges.some((text) => text.includes(':') === (family === 6)));
  }

  /** Space of the other pools that are served here; what one has reserved may be another's. */
  #othersThan(name: string): readonly { readonly pool: string; readonly cidr: Cidr }[] {
    const further = [...this.#known.values()].map((known) => ({
      name: known.name,
      ranges: known.ranges,
      reserved: this.#running.get(known.name)?.view().reserved ?? [],
    }));
    const main = { name: defaultUniverse, ranges: this.#defaultRanges(), reserved: this.#main?.view().reserved ?? [] };
    return [main, ...further].flatMap((other) => {
      if (other.name === name) return [];
      return subtract(cidrs(other.ranges), cidrs(other.reserved)).map((cidr) => ({ pool: other.name, cidr }));
    });
  }

  async #save(): Promise<void> {
    this.#isUnsaved = true;
    await writeDurably(this.#options.path, `${JSON.stringify([...this.#known.values()])}\n`);
    this.#isUnsaved = false;
  }

  /** Hints for as long as the agent runs; a watch that ends by an error is begun again. */
  async #follow(): Promise<void> {
    const { registry, log } = this.#options;
    const { signal } = this.#stop;
    while (!signal.aborted) {
      try {
        for await (const { name, record } of registry.watch('universe', signal)) {
          if (signal.aborted) return;
          if (record === undefined) this.#refused.forget(name);
          else await this.#heard(record);
        }
      } catch (error) {
        if (!signal.aborted) log.warn(`the watch on pools ended: ${toWeftError(error).message}`);
      }
      await sleep(retryMs, undefined, { signal }).catch(() => undefined);
    }
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await Promise.allSettled([this.#following, this.#declaring, this.#work]);
    await Promise.all(this.all().map(async (pool) => await pool.close()));
  }
}

/** Nothing is left of it. */
function isOver({ ended, peers, leasedAddresses }: IpamView): boolean {
  return ended?.name === 'universeDeleted' && peers.length === 0 && leasedAddresses === 0;
}

/** Nobody has founded it, and nobody has anything of it. */
function isUnused(view: IpamView | undefined): boolean {
  return (
    view?.unfounded === true && view.leasedAddresses === 0 && view.peers.every(({ blocks }) => blocks.length === 0)
  );
}
