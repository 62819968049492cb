// Running programs on this machine: to the end with their output, in the background with a log file, and under a lock that
// the kernel drops when the holder dies.
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdir, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Written to the program's stdin. */
  readonly input?: string;
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
}

export interface RunResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end; an exit other than 0 is a result, not an error. Throws when it cannot be started. */
export async function attempt(command: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const signals = [
    options.signal,
    options.timeoutMs === undefined ? undefined : AbortSignal.timeout(options.timeoutMs),
  ];
  const signal = AbortSignal.any(signals.filter((one) => one !== undefined));
  const child = spawn(command[0] ?? '', command.slice(1), {
    cwd: options.cwd,
    env: { ...process.env, ...options.env },
    stdio: ['pipe', 'pipe', 'pipe'],
    signal,
    killSignal: 'SIGKILL',
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  child.stdin.on('error', () => undefined);
  child.stdin.end(options.input ?? '');
  const code = await new Promise<number>((resolve, reject) => {
    child.on('error', (error) => (error.name === 'AbortError' ? undefined : reject(error)));
    child.on('close', (status) => resolve(status ?? 137));
  });
  if (signal.aborted) stderr += `\n(ended: ${String(signal.reason)})`;
  return { code, stdout, stderr };
}

/** Runs a program to its end and returns its stdout. Throws with both outputs when it exits with anything but 0. */
export async function run(command: readonly string[], options: RunOptions = {}): Promise<string> {
  const result = await attempt(command, options);
  if (result.code === 0) return result.stdout;
  const output = `${result.stderr}${result.stdout}`.trim().split('\n').slice(-40).join('\n');
  throw new Error(`${command.join(' ')}: exit ${result.code}\n${output}`);
}

/** Starts a long-running program with stdout and stderr appended to `log`. It dies with this process (PR_SET_PDEATHSIG). */
export async function startDaemon(
  command: readonly string[],
  log: string,
  env: Readonly<Record<string, string>> = {},
): Promise<ChildProcess> {
  await mkdir(dirname(log), { recursive: true });
  await using file = await open(log, 'a');
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', ...command], {
    stdio: ['ignore', file.fd, file.fd],
    env: { ...process.env, ...env },
    detached: true,
  });
  await new Promise<void>((resolve, reject) => child.once('spawn', resolve).once('error', reject));
  return child;
}

/** SIGKILL to a child, and waits until it is gone. */
export async function killChild(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  child.kill('SIGKILL');
  await gone;
}

/**
 * Calls `probe` until it resolves to something other than undefined or false, with a short growing pause.
 * Throws, naming `what` and the last error, when the deadline passes.
 */
export async function until<T>(
  what: string,
  timeoutMs: number,
  probe: () => Promise<T | undefined | false>,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  let pauseMs = 50;
  let last = '';
  for (;;) {
    try {
      const value = await probe();
      if (value !== undefined && value !== false) return value;
    } catch (error) {
      last = error instanceof Error ? error.message : String(error);
    }
    if (performance.now() > deadline) {
      throw new Error(`not within ${timeoutMs / 1000} s: ${what}${last === '' ? '' : `\nlast error: ${last}`}`);
    }
    await sleep(pauseMs);
    pauseMs = Math.min(pauseMs * 1.5, 500);
  }
}

/** Holds `flock` on a file: the kernel frees it when this process dies, however it dies. */
export async function lockFile(path: string, onWait: () => void): Promise<AsyncDisposable> {
  await mkdir(dirname(path), { recursive: true });
  const child = spawn('flock', [path, 'sh', '-c', 'echo locked; cat'], { stdio: ['pipe', 'pipe', 'inherit'] });
  const waiting = setTimeout(onWait, 500);
  await new Promise<void>((resolve, reject) => {
    child.stdout.once('data', () => resolve());
    child.once('error', reject);
    child.once('exit', (code) => reject(new Error(`flock ${path}: exit ${String(code)}`)));
  });
  clearTimeout(waiting);
  return {
    async [Symbol.asyncDispose](): Promise<void> {
      const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
      child.stdin.end();
      await gone;
    },
  };
}
