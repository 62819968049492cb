// Several nodes' IPAM in one process, over one registry in memory, each with a state directory of its own.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { LeaseRequest } from '#agent/runtime/ipam.ts';
import type { Log } from '#agent/runtime/driver.ts';
import { openPools, type PoolsOptions } from '#agent/runtime/pools.ts';
import { type IpamOptions, type RunningIpam, startIpam } from '#agent/runtime/start.ts';
import { MemoryRegistry } from './memory-registry.ts';

export const pool = { name: 'default', ranges: ['10.32.0.0/12'], reserved: [] } as const;

/** Short timings, so that a test ends soon; nothing in a test may depend on them being met. */
export const briskTiming: NonNullable<IpamOptions['timing']> = {
  requestTimeoutMs: 500,
  answerTimeoutMs: 400,
  serveDelayMs: 60,
  pollMs: 100,
  resyncMs: 2000,
  sessionRenewMs: 300,
  sessionTermMs: 1000,
  sessionWaitMs: 200,
  quarantineMs: 100,
};

export interface NodeSetup extends Partial<Omit<IpamOptions, 'node'>> {
  readonly uid?: string;
}

export class IpamNodes implements AsyncDisposable {
  readonly registry: MemoryRegistry = new MemoryRegistry();
  readonly directory: string;
  /** Log lines, `node level text`. */
  readonly lines: string[] = [];
  readonly #running = new Set<RunningIpam>();

  private constructor(directory: string) {
    this.directory = directory;
  }

  static async create(): Promise<IpamNodes> {
    return new IpamNodes(await mkdtemp(join(tmpdir(), 'weft-ipam-')));
  }

  statePath(name: string): string {
    return join(this.directory, name, 'state.sqlite');
  }

  async start(name: string, setup: NodeSetup = {}): Promise<RunningIpam> {
    const { uid = `${name}0000-0000-4000`, ...rest } = setup;
    const number = Number(/\d+$/.exec(name)?.[0] ?? 1);
    const ipam = await startIpam({
      registry: this.registry.client(),
      statePath: this.statePath(name),
      node: { nodeName: name, nodeUid: uid, underlayAddresses: [`192.0.2.${number}`] },
      universe: pool,
      log: this.#logOf(name),
      timing: briskTiming,
      ...rest,
    });
    this.#running.add(ipam);
    return ipam;
  }

  /** A node with every pool that there is, as the agent starts it. */
  async startPools(name: string, setup: NodeSetup = {}, declared: PoolsOptions['declared'] = []): Promise<RunningIpam> {
    const registry = setup.registry ?? this.registry.client();
    const log = this.#logOf(name);
    const path = join(this.directory, name, 'pools.json');
    const ipam = await openPools({
      registry,
      path,
      stores: { folder: join(this.directory, name), file: 'state.sqlite' },
      log,
      defaultRanges: pool.ranges,
      declared,
      open: async ({ name: universe, ownAddresses, others, mine }) => {
        const { recoverLeases } = setup;
        const own = await this.start(name, {
          ...setup,
          registry,
          statePath: join(this.directory, name, universe, 'state.sqlite'),
          universe: universe === 'default' ? pool : { name: universe, ranges: [], reserved: [], ownAddresses },
          survey: others,
          ...(recoverLeases && {
            recoverLeases: async (signal) => await mine(await recoverLeases(signal, []), signal),
          }),
        });
        this.#running.delete(own);
        return own;
      },
    });
    this.#running.add(ipam);
    return ipam;
  }

  #logOf(name: string): Log {
    const say =
      (level: string) =>
      (text: string): void =>
        void this.lines.push(`${name} ${level} ${text}`);
    return { debug: say('debug'), info: say('info'), warn: say('warn'), error: say('error') };
  }

  async stop(ipam: RunningIpam): Promise<void> {
    this.#running.delete(ipam);
    await ipam.close();
  }

  /** The node's disk is lost. */
  async wipe(name: string): Promise<void> {
    await rm(join(this.directory, name), { recursive: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#running].map(async (ipam) => await ipam.close()));
    await rm(this.directory, { recursive: true, force: true });
  }
}

export function request(containerId: string, addresses: readonly string[] = []): LeaseRequest {
  const owner = {
    podNamespace: 'default',
    podName: `pod-${containerId}`,
    network: 'weft',
    netnsPath: '',
    netnsInode: 7n,
  };
  return { containerId, ifname: 'eth0', owner, addresses };
}

/** Polls until the condition holds; throws what it last saw at the deadline. */
export async function until(what: string, holds: () => boolean, deadlineMs = 10_000): Promise<void> {
  const endMs = performance.now() + deadlineMs;
  while (!holds()) {
    if (performance.now() > endMs) throw new Error(`not within ${deadlineMs} ms: ${what}`);
    await delay(5);
  }
}

export function soon(ms = 10_000): AbortSignal {
  return AbortSignal.timeout(ms);
}
