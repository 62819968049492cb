// Compiles the addon with nothing but a C compiler and libc's headers: Node-API's own headers come from npm, Node's are not
// needed. Skips when the output is newer than everything it is made from.
//
//   node agent/native/build.ts [OUTPUT]      CC=aarch64-linux-gnu-gcc to cross-compile
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));

function modifiedMs(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
}

function fail(message: string): never {
  console.error(`weft: ${message}`);
  process.exit(1);
}

function compile(compiler: string, sources: readonly string[], output: string): void {
  const headers = createRequire(import.meta.url).resolve('node-api-headers/package.json');
  // Not the pid: tests and containers build inside pid namespaces, where two have the same.
  const temporary = `${output}.${randomBytes(6).toString('hex')}`;
  const flags = ['-std=gnu11', '-O2', '-shared', '-fPIC', '-fvisibility=hidden', '-Wall', '-Wextra', '-pthread'];
  const include = ['-isystem', join(dirname(headers), 'include')];
  mkdirSync(dirname(output), { recursive: true });
  const [program = 'cc', ...own] = compiler.split(/\s+/u); // CC may hold options, as in make
  const result = spawnSync(program, [...own, ...flags, ...include, ...sources, '-ldl', '-o', temporary], {
    encoding: 'utf8',
  });
  if (result.error) {
    fail(
      `no C compiler: cannot run "${compiler}" (${result.error.message}). On Debian: apt-get install gcc libc6-dev; or set CC.`,
    );
  }
  if (result.status !== 0) {
    rmSync(temporary, { force: true });
    fail(`${compiler} could not build the native addon:\n${result.stderr}`);
  }
  if (result.stderr !== '') console.error(result.stderr.trimEnd());
  // A running agent may have the old file mapped: replace it, never write into it.
  renameSync(temporary, output);
}

const output = resolve(process.argv[2] ?? join(here, 'build/weft.node'));
const all = readdirSync(here).map((name) => join(here, name));
const sources = all.filter((path) => path.endsWith('.c'));
const inputs = [...sources, ...all.filter((path) => path.endsWith('.h')), fileURLToPath(import.meta.url)];
if (modifiedMs(output) <= Math.max(...inputs.map((path) => modifiedMs(path)))) {
  compile(process.env['CC'] ?? 'cc', sources, output);
}
