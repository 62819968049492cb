// One short line per test while the run goes on, and what went wrong right below a failed one.
import { writeFile } from 'node:fs/promises';

import type { Reporter, TestCase, TestModule } from 'vitest/node';

export default class LineReporter implements Reporter {
  /** Leaves the counts in the file that WEFT_E2E_COUNTS names. */
  async onTestRunEnd(modules: readonly TestModule[]): Promise<void> {
    const file = process.env['WEFT_E2E_COUNTS'];
    if (file === undefined) return;
    const states = modules.flatMap((module) => [...module.children.allTests()].map((test) => test.result().state));
    const count = (wanted: string): number => states.filter((state) => state === wanted).length;
    await writeFile(file, JSON.stringify({ passed: count('passed'), failed: count('failed') }));
  }

  onTestCaseResult(test: TestCase): void {
    const result = test.result();
    if (result.state === 'pending' || result.state === 'skipped') return;
    const seconds = ((test.diagnostic()?.duration ?? 0) / 1000).toFixed(1);
    console.log(`  ${result.state === 'passed' ? 'ok    ' : 'FAILED'} ${test.fullName} (${seconds} s)`);
    for (const error of result.errors ?? []) console.log(indent(error.stack ?? error.message, error.diff));
  }

  /** What a spec has measured. */
  onUserConsoleLog({ content }: { readonly content: string }): void {
    console.log(content.trimEnd().replaceAll(/^/gm, '         '));
  }

  /** Failures outside a test: a hook, or a file that does not load. */
  onTestModuleEnd(module: TestModule): void {
    const suites = [module, ...module.children.allSuites()];
    for (const suite of suites) {
      for (const error of suite.errors())
        console.log(`  FAILED ${module.relativeModuleId}\n${indent(error.stack ?? error.message)}`);
    }
  }
}

function indent(text: string, diff = ''): string {
  const lines = `${text}\n${diff}`.split('\n').filter((line) => line.trim() !== '' && !line.includes('node_modules'));
  return lines
    .slice(0, 60)
    .map((line) => `         ${line}`)
    .join('\n');
}
