// `npm run fuzz`: the shim under libFuzzer (clang) with ASan and UBSan, then the agent's socket, each for half of the time.
//   --seconds N    in all (default 60)        --seed S    replays the socket's half

import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { CniCase } from '#test/support/cni-case.ts';
import { readOptions, wholeNumber } from '#test/support/options.ts';
import { ensureShim } from '../../cni-shim/build.ts';
import { buildFuzzer, runFuzzer } from './shim.ts';
import { fuzzSocket } from './socket.ts';

const usage = 'npm run fuzz -- [--seconds N] [--seed S]';
const values = readOptions({ seconds: { type: 'string' }, seed: { type: 'string' } }, usage);
const halfSeconds = Math.max(1, Math.floor(wholeNumber('--seconds', values.seconds, 60, usage, 1) / 2));
const seed = wholeNumber('--seed', values.seed, Math.floor(Math.random() * 2 ** 31), usage);

async function fuzzShim(): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'weft-fuzz-'));
  const generator = buildFuzzer(directory, 'generator');
  const fuzzer = buildFuzzer(directory, 'libFuzzer');
  const corpus = join(directory, 'corpus');
  await mkdir(corpus);
  await runFuzzer(generator, ['--corpus', corpus], directory);
  const words = [
    '-max_len=65536',
    '-timeout=10',
    '-rss_limit_mb=2048',
    `-max_total_time=${halfSeconds}`,
    '-print_final_stats=1',
  ];
  const run = await runFuzzer(fuzzer, [...words, corpus], directory);
  const figures = run.output.split('\n').filter((line) => /^stat::|^Done|^#\d+\s+DONE/.test(line));
  console.log(`shim under libFuzzer: ${figures.join('; ')}`);
  if (run.code !== 0) throw new Error(`the shim broke; the input is in ${directory}:\n${run.output.slice(-6000)}`);
  await rm(directory, { recursive: true, force: true });
}

async function fuzzAgent(): Promise<void> {
  ensureShim();
  await using given = await CniCase.create();
  await given.start();
  await fuzzSocket(given, { seed, runs: 10_000_000, limitMs: halfSeconds * 1000 });
  console.log(`socket: ${given.observed.length} calls answered, seed ${seed}`);
}

await fuzzShim();
await fuzzAgent();
