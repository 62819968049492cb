// `npm run check`: types, lint (with import direction), format and repository habits, all at once; seconds.
import { spawn } from 'node:child_process';
import { tidyFindings } from '#test/support/tidy.ts';

interface Outcome {
  readonly name: string;
  readonly ok: boolean;
  readonly output: string;
  readonly tookMs: number;
}

async function tool(name: string, command: string, args: readonly string[]): Promise<Outcome> {
  const start = performance.now();
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const chunks: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => chunks.push(chunk));
  const code = await new Promise<number>((resolve) => {
    child.on('error', (error) => {
      chunks.push(Buffer.from(`cannot run ${command}: ${error.message}\n`));
      resolve(1);
    });
    child.on('close', (status) => resolve(status ?? 1));
  });
  return { name, ok: code === 0, output: Buffer.concat(chunks).toString(), tookMs: performance.now() - start };
}

async function tidy(): Promise<Outcome> {
  const start = performance.now();
  const findings = await tidyFindings();
  return { name: 'tidy', ok: findings.length === 0, output: findings.join('\n'), tookMs: performance.now() - start };
}

const outcomes = await Promise.all([
  tool('types', 'tsc', ['-p', '.']),
  tool('lint', 'oxlint', ['--type-aware', '--deny-warnings', '.']),
  tool('format', 'oxfmt', ['--check', '.']),
  tidy(),
]);
for (const { name, ok, output, tookMs } of outcomes) {
  console.log(`${ok ? 'ok    ' : 'FAILED'} ${name} (${(tookMs / 1000).toFixed(1)} s)`);
  if (!ok) console.log(output.trimEnd());
}
const failed = outcomes.filter((outcome) => !outcome.ok).length;
console.log(`check: ${outcomes.length - failed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
