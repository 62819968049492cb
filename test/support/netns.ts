// A throw-away network namespace: `await using ns = await TestNetns.create()`. Made by `ip netns add`, so the kernel's own tools
// can look inside; everything in it goes when it is disposed, however the test ended.
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';

export interface ExecOptions {
  readonly signal?: AbortSignal;
  readonly env?: NodeJS.ProcessEnv;
}

/** Runs a command and returns its standard output; a failure carries the command and its standard error. */
export async function run(command: readonly string[], options: ExecOptions = {}): Promise<string> {
  const [program = '', ...args] = command;
  return new Promise((resolve, reject) => {
    execFile(program, args, { encoding: 'utf8', maxBuffer: 64 << 20, ...options }, (error, stdout, stderr) => {
      if (error) reject(new Error(`${command.join(' ')}: ${stderr.trim() || error.message}`, { cause: error }));
      else resolve(stdout);
    });
  });
}

export class TestNetns implements AsyncDisposable {
  readonly name: string;
  /** Absolute path, for CNI_NETNS and setns. */
  readonly path: string;

  private constructor(name: string) {
    this.name = name;
    this.path = `/run/netns/${name}`;
  }

  /** A new namespace with its loopback up. Fails, saying why, without root or iproute2. */
  static async create(prefix = 'wt'): Promise<TestNetns> {
    const ns = new TestNetns(`${prefix}-${randomBytes(4).toString('hex')}`);
    await run(['ip', 'netns', 'add', ns.name]);
    await ns.exec(['ip', 'link', 'set', 'lo', 'up']);
    return ns;
  }

  /** Runs a command inside and returns its standard output. */
  async exec(command: readonly string[], options: ExecOptions = {}): Promise<string> {
    return run(['nsenter', `--net=${this.path}`, '--', ...command], options);
  }

  /** Standard output of `ip -d -j …`, `bridge -j …`, `nft -j …`, parsed; what prints nothing is an empty list. */
  async json<Result = readonly Record<string, unknown>[]>(
    command: readonly string[],
    options: ExecOptions = {},
  ): Promise<Result> {
    const text = await this.exec(command, options);
    return JSON.parse(text.trim() === '' ? '[]' : text) as Result;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await run(['ip', 'netns', 'delete', this.name]);
  }
}
