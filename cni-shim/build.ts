// Compiles the shim to one static binary: against musl where its compiler wrapper is there (small, quick to start), else against
// glibc, and says so. Skips when the output is newer than everything it is made from.
//
//   node cni-shim/build.ts [OUTPUT]      CC=aarch64-linux-gnu-gcc to cross-compile
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const flags: readonly string[] =
  '-std=gnu11 -static -Os -s -ffunction-sections -fdata-sections -Wl,--gc-sections -Wall -Wextra -Werror'.split(' ');

/** Where the build puts the shim unless told otherwise. */
export const shimPath: string = join(here, 'build/weft');

export interface ShimBuild {
  readonly output: string;
  /** Preprocessor definitions, `NAME=value`: the time limits of shim.h, all of them or none. */
  readonly defines?: readonly string[];
}

function works(compiler: string): boolean {
  return spawnSync(compiler, ['--version'], { stdio: 'ignore' }).status === 0;
}

function chooseCompiler(): string {
  const asked = process.env['CC'];
  if (asked !== undefined && asked !== '') return asked;
  if (works('musl-gcc')) return 'musl-gcc';
  console.error(
    'weft: no musl-gcc (Debian: apt-get install musl-tools); the shim is linked against glibc, larger but the same',
  );
  return 'cc';
}

/** Compiles the shim and puts it in place by rename, since a runtime may be executing the old one. Throws with the compiler's words. */
export function buildShim(build: ShimBuild): void {
  const compiler = chooseCompiler();
  const sources = readdirSync(here)
    .filter((name) => name.endsWith('.c'))
    .map((name) => join(here, name));
  // Not the pid: tests build inside pid namespaces, where two have the same.
  const temporary = `${build.output}.${randomBytes(6).toString('hex')}`;
  const defines = (build.defines ?? []).map((define) => `-D${define}`);
  mkdirSync(dirname(build.output), { recursive: true });
  const result = spawnSync(compiler, [...flags, ...defines, ...sources, '-o', temporary], { encoding: 'utf8' });
  if (result.error !== undefined) {
    throw new Error(
      `no C compiler: cannot run "${compiler}" (${result.error.message}). On Debian: apt-get install gcc libc6-dev musl-tools; or set CC.`,
    );
  }
  if (result.status !== 0) {
    rmSync(temporary, { force: true });
    throw new Error(`${compiler} could not build the shim:\n${result.stderr}`);
  }
  renameSync(temporary, build.output);
}

function isFresh(output: string): boolean {
  const builtMs = statSync(output, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  const inputs = readdirSync(here).filter((name) => /\.(?:c|h|ts)$/.test(name));
  return inputs.every((name) => statSync(join(here, name)).mtimeMs < builtMs);
}

/** Builds `output` unless it is newer than its sources. Throws like buildShim. */
export function ensureShim(output: string = shimPath): void {
  if (!isFresh(output)) buildShim({ output });
}

if (import.meta.main) {
  try {
    ensureShim(resolve(process.argv[2] ?? shimPath));
  } catch (error) {
    console.error(`weft: ${error instanceof Error ? error.message : String(error)}`);
    process.exit(1);
  }
}
