// Builds the shim's fuzzing harness (harness.c) with sanitizers: with a generator of its own for any compiler, or for libFuzzer.

import { spawn, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('.', import.meta.url));
const flags = '-std=gnu11 -g -O1 -fno-omit-frame-pointer -fno-sanitize-recover=all -Wall -Wextra -Werror'.split(' ');

/** An exit in the middle of a call frees nothing, so leaks are none. */
export const sanitizerEnv: NodeJS.ProcessEnv = {
  ...process.env,
  ASAN_OPTIONS: 'detect_leaks=0:abort_on_error=1',
  UBSAN_OPTIONS: 'print_stacktrace=1',
};

/** Compiles into `directory`; the program's path. Throws with the compiler's words. */
export function buildFuzzer(directory: string, kind: 'generator' | 'libFuzzer'): string {
  const output = join(directory, kind);
  const [compiler, ...more] =
    kind === 'libFuzzer'
      ? ['clang', '-fsanitize=fuzzer,address,undefined']
      : ['gcc', '-fsanitize=address,undefined', join(here, 'generate.c')];
  const result = spawnSync(compiler ?? '', [...flags, ...more, join(here, 'harness.c'), '-o', output], {
    encoding: 'utf8',
  });
  if (result.status === 0) return output;
  throw new Error(`${compiler} could not build the fuzzer: ${result.error?.message ?? result.stderr}`);
}

export interface Ended {
  readonly code: number | null;
  readonly output: string;
}

/** Runs to the end; both output streams together. */
export async function runFuzzer(program: string, args: readonly string[], cwd: string): Promise<Ended> {
  const child = spawn(program, args, { cwd, env: sanitizerEnv, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (chunk: string) => (output = (output + chunk).slice(-200_000)));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
  return { code, output };
}
