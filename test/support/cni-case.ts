// One CNI server test's surroundings: the server behind its real socket in a directory of its own, asked by the real shim, on
// Ipam and Datapath that keep state in memory and namespaces that exist on paper.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Logger, pino } from 'pino';

import type { NetnsInspector, NetnsOpener } from '#agent/cni/parts.ts';
import { type CniServer, startCniServer } from '#agent/cni/server.ts';
import { type ErrorName, WeftError } from '#agent/errors.ts';
import { errno, NetlinkError } from '#agent/netlink/netlink-error.ts';
import { FakeDatapath, FakeIpam, FakeOwedDels } from '#test/support/cni-fakes.ts';
import { runShim, type ShimRun } from '#test/support/shim.ts';

export const hostInode: bigint = 1n;

export interface Call {
  readonly id?: string;
  readonly netns?: string;
  /** Keys over the usual configuration, or stdin as it is. */
  readonly conf?: Readonly<Record<string, unknown>> | string;
  readonly env?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
}

/** A step that fails with an error of the catalogue. */
export function fails(kind: ErrorName): () => Promise<void> {
  return () => Promise.reject(new WeftError(kind, 'as the test wants'));
}

export class CniCase implements AsyncDisposable {
  readonly directory: string;
  /** Inode by path: the network namespaces that there are. */
  readonly namespaces: Map<string, bigint> = new Map();
  /** `VERB outcome` of each answered call. */
  readonly observed: string[] = [];
  ipam: FakeIpam = new FakeIpam();
  readonly owed: FakeOwedDels = new FakeOwedDels();
  datapath: FakeDatapath = new FakeDatapath();
  log: Logger = pino({ level: 'silent' });
  beforeServing: () => Promise<void> = () => Promise.resolve();
  #server: CniServer | undefined;

  private constructor(directory: string) {
    this.directory = directory;
  }

  static async create(): Promise<CniCase> {
    return new CniCase(await mkdtemp(join(tmpdir(), 'weft-cni-')));
  }

  get socketPath(): string {
    return join(this.directory, 'run/cni.sock');
  }

  get spoolDir(): string {
    return join(this.directory, 'spool');
  }

  inspectNetns: NetnsInspector = (path) => {
    if (path === '/proc/self/ns/net') return { isNetns: true, inode: hostInode };
    if (path === '/etc/passwd') return { isNetns: false, inode: 77n };
    const inode = this.namespaces.get(path);
    if (inode === undefined) throw new NetlinkError({ request: `netns ${path}`, errno: errno.ENOENT });
    return { isNetns: true, inode };
  };

  readonly openNetns: NetnsOpener = (path) => {
    const { isNetns, inode } = this.inspectNetns(path);
    return isNetns ? { fd: -1, inode, [Symbol.dispose]: () => undefined } : undefined;
  };

  async start(): Promise<CniServer> {
    this.#server = await startCniServer({
      ipam: this.ipam,
      owed: this.owed,
      datapath: this.datapath,
      inspectNetns: this.inspectNetns,
      openNetns: this.openNetns,
      socketPath: this.socketPath,
      spoolDir: this.spoolDir,
      log: this.log,
      beforeServing: () => this.beforeServing(),
      observe: (verb, outcome) => this.observed.push(`${verb} ${outcome}`),
    });
    return this.#server;
  }

  async stop(): Promise<void> {
    await this.#server?.close();
    this.#server = undefined;
  }

  /** One execution of the shim for `pod1`, or the id given, whose namespace is `/ns/ID`. */
  async call(verb: string, options: Call = {}): Promise<ShimRun> {
    const id = options.id ?? 'pod1';
    const conf = options.conf ?? {};
    const usual = { cniVersion: '1.1.0', name: 'weft', type: 'weft' };
    const container = { CNI_CONTAINERID: id, CNI_NETNS: options.netns ?? `/ns/${id}`, CNI_IFNAME: 'eth0' };
    const paths = { CNI_PATH: '/opt/cni/bin', WEFT_SOCKET: this.socketPath, WEFT_SPOOL_DIR: this.spoolDir };
    return await runShim({
      env: { CNI_COMMAND: verb, ...container, ...paths, ...options.env },
      stdin: typeof conf === 'string' ? conf : JSON.stringify({ ...usual, ...conf }),
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
  }

  /** Makes a namespace and ADDs the pod; throws when that fails. */
  async addPod(id: string): Promise<ShimRun> {
    this.namespaces.set(`/ns/${id}`, BigInt(this.namespaces.size + 100));
    const added = await this.call('ADD', { id });
    if (added.code !== 0) throw new Error(`ADD of ${id} failed: ${added.stdout}`);
    return added;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await rm(this.directory, { recursive: true, force: true });
  }
}
