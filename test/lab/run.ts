// Processes of the lab. Each carries the lab's random mark in its environment, so that a later start can find exactly the
// processes of a killed predecessor; each has its own process group, so that Ctrl-C reaches the lab alone.

import { spawn } from 'node:child_process';
import type { ChildProcess, StdioOptions } from 'node:child_process';

/** Name of the variable that marks the lab's processes. */
export const markName = 'LAB_OF_WEFT';

export interface RunOptions {
  readonly signal: AbortSignal;
  readonly stdin?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** The whole environment is `env`, the mark and PATH: as a container runtime calls a plugin. */
  readonly bareEnv?: true;
}

export interface RunResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** An agent of the person who runs the lab may have its settings in the environment: they are not for the lab's. */
function withoutSettings(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !name.startsWith('WEFT_')));
}

/** Starts programs under one lab's mark. */
export class Runner {
  readonly mark: string;

  constructor(mark: string) {
    this.mark = mark;
  }

  start(
    command: readonly string[],
    stdio: StdioOptions,
    options: Omit<RunOptions, 'signal' | 'stdin'> = {},
  ): ChildProcess {
    const [program = '', ...args] = command;
    const inherited = options.bareEnv === true ? { PATH: process.env['PATH'] } : withoutSettings(process.env);
    return spawn(program, args, {
      stdio,
      detached: true,
      env: { ...inherited, ...options.env, [markName]: this.mark },
    });
  }

  /** Runs to the end. Throws only when the program cannot be started. */
  async result(command: readonly string[], options: RunOptions): Promise<RunResult> {
    options.signal.throwIfAborted();
    const child = this.start(command, ['pipe', 'pipe', 'pipe'], options);
    const output = { stdout: '', stderr: '' };
    child.stdout?.setEncoding('utf8').on('data', (chunk: string) => (output.stdout += chunk));
    child.stderr?.setEncoding('utf8').on('data', (chunk: string) => (output.stderr += chunk));
    // A program that ends without reading its input is no error here; its exit code tells.
    child.stdin?.on('error', () => undefined).end(options.stdin ?? '');
    const abort = (): void => void child.kill('SIGKILL');
    options.signal.addEventListener('abort', abort);
    try {
      const code = await new Promise<number>((resolve, reject) => {
        child.on('error', reject);
        child.on('close', (status) => resolve(status ?? 1));
      });
      options.signal.throwIfAborted();
      return { code, ...output };
    } finally {
      options.signal.removeEventListener('abort', abort);
    }
  }

  /** Runs to the end and returns standard output; a failure carries the command and what it said. */
  async output(command: readonly string[], options: RunOptions): Promise<string> {
    const { code, stdout, stderr } = await this.result(command, options);
    if (code !== 0) throw new Error(`${command.join(' ')} failed (${code}): ${stderr.trim() || stdout.trim()}`);
    return stdout;
  }
}

/** Resolves as soon as `probe` gives something; throws `describe()` at the deadline. */
export async function poll<T>(
  probe: () => Promise<T | undefined>,
  describe: () => string,
  options: { readonly signal: AbortSignal; readonly timeoutMs: number; readonly everyMs?: number },
): Promise<T> {
  const deadline = performance.now() + options.timeoutMs;
  for (;;) {
    options.signal.throwIfAborted();
    const found = await probe();
    if (found !== undefined) return found;
    if (performance.now() > deadline) throw new Error(describe());
    await new Promise((resolve) => setTimeout(resolve, options.everyMs ?? 50));
  }
}
