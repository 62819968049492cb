// One shim test's surroundings: a shim built with short time limits, so that what takes a minute in production takes half a second,
// a directory of its own, and a scripted agent that may be slow, talk garbage, close or be absent.

import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer, type Server, type ServerOpts, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { runShim, type ShimOptions, type ShimRun } from '#test/support/shim.ts';
import { buildShim } from '../../cni-shim/build.ts';

/** Time limits of the test build, milliseconds. */
export const shimLimits = {
  ADD: 600,
  ADD_CONNECT: 300,
  DEL: 600,
  CHECK: 500,
  CHECK_CONNECT: 200,
  STATUS: 300,
  GC: 500,
  GC_CONNECT: 200,
} as const;
/** What a bounded call may take beyond its limit: process start, a loaded machine. */
export const graceMs: number = 1000;

/** Variables of a container, as ADD needs them. */
export const container = {
  CNI_CONTAINERID: 'c1',
  CNI_NETNS: '/no/netns',
  CNI_IFNAME: 'eth0',
  CNI_PATH: '/opt/cni/bin',
} as const;

export async function readBootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
}

export function http(status: number, body: string): string {
  return `HTTP/1.1 ${status} X\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
}

/** The request's body when all of it has arrived. */
export function bodyOf(received: string): string | undefined {
  const end = received.indexOf('\r\n\r\n');
  const length = Number(/content-length: (\d+)/i.exec(received)?.[1] ?? Number.NaN);
  if (end === -1) return undefined;
  const body = received.slice(end + 4);
  return Buffer.byteLength(body) >= length ? body : undefined;
}

export class ShimCase implements AsyncDisposable {
  readonly directory: string;
  readonly binary: string;
  readonly #sockets = new Set<Socket>();
  #agent: Server | undefined;

  private constructor(directory: string) {
    this.directory = directory;
    this.binary = join(directory, 'weft');
  }

  static async create(): Promise<ShimCase> {
    const made = new ShimCase(await mkdtemp(join(tmpdir(), 'weft-shim-')));
    buildShim({ output: made.binary, defines: Object.entries(shimLimits).map(([name, ms]) => `${name}_MS=${ms}`) });
    return made;
  }

  get socketPath(): string {
    return join(this.directory, 'cni.sock');
  }

  get spoolDir(): string {
    return join(this.directory, 'var/spool');
  }

  /** Listens and hands each connection's bytes so far to the script, whenever more arrive. */
  async listen(script: (socket: Socket, received: string) => void, options: ServerOpts = {}): Promise<void> {
    const agent = createServer(options, (socket) => {
      this.#sockets.add(socket);
      let received = '';
      socket.on('error', () => undefined);
      if (options.pauseOnConnect === true) return;
      socket.on('data', (chunk) => {
        received += chunk.toString();
        script(socket, received);
      });
    });
    this.#agent = agent;
    await new Promise<void>((resolve) => agent.listen(this.socketPath, resolve));
  }

  async shim(verb: string, options: Partial<ShimOptions> = {}): Promise<ShimRun> {
    const paths = { WEFT_SOCKET: this.socketPath, WEFT_SPOOL_DIR: this.spoolDir };
    const env = { CNI_COMMAND: verb, ...container, ...paths, ...options.env };
    return await runShim({ binary: this.binary, stdin: '{"cniVersion":"1.0.0"}', ...options, env });
  }

  /** Ends the agent and empties the spool, for the next test on the same binary. */
  async reset(): Promise<void> {
    this.#agent?.close();
    this.#agent = undefined;
    for (const socket of this.#sockets) socket.destroy();
    this.#sockets.clear();
    for (const name of ['var', 'served', 'cni.sock', 'dead.sock']) {
      await rm(join(this.directory, name), { recursive: true, force: true });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.reset();
    await rm(this.directory, { recursive: true, force: true });
  }
}
