// Runs the real shim as a container runtime does: CNI's environment and nothing else, the configuration on stdin.

import { spawn } from 'node:child_process';

import { shimPath } from '../../cni-shim/build.ts';

export interface ShimRun {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  /** stdout parsed; undefined when it is empty. Not JSON is an error of the shim and throws. */
  readonly json: Readonly<Record<string, unknown>> | undefined;
  readonly durationMs: number;
}

export interface ShimOptions {
  readonly env: Readonly<Record<string, string>>;
  readonly stdin?: string | Buffer;
  /** Leaves stdin open after what was given. */
  readonly holdStdin?: boolean;
  readonly binary?: string;
  /** Put before the shim, `nsenter` and the like. */
  readonly prefix?: readonly string[];
  readonly signal?: AbortSignal;
}

/** One execution of the shim, start to exit. Rejects when it cannot be started, was aborted and is gone, or prints what is not JSON. */
export async function runShim(options: ShimOptions): Promise<ShimRun> {
  const [program, ...args] = [...(options.prefix ?? []), options.binary ?? shimPath];
  const startedMs = performance.now();
  const child = spawn(program, args, { env: { PATH: process.env['PATH'], ...options.env }, signal: options.signal });
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => err.push(chunk));
  child.stdin.on('error', () => undefined);
  if (options.holdStdin === true) child.stdin.write(options.stdin ?? '');
  else child.stdin.end(options.stdin ?? '');
  const code = await new Promise<number | null>((resolve, reject) => {
    let aborted: Error | undefined;
    child.on('error', (error) => {
      if (child.pid === undefined) reject(error);
      aborted = error;
    });
    child.on('close', (status) => (aborted ? reject(aborted) : resolve(status)));
  });
  const durationMs = performance.now() - startedMs;
  child.stdin.destroy();
  const stdout = Buffer.concat(out).toString();
  const json = stdout.trim() === '' ? undefined : (JSON.parse(stdout) as Readonly<Record<string, unknown>>);
  return { code, stdout, stderr: Buffer.concat(err).toString(), json, durationMs };
}
