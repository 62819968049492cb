// Command lines of `npm run sim` and `npm run fuzz` that cannot be meant: a usage line and status 2, before anything runs.
import { spawnSync } from 'node:child_process';
import { expect, it } from 'vitest';

it.each([
  ['sim', '--seeds', 'x'],
  ['sim', '--seeds', '0'],
  ['sim', '--seed', '7'],
  ['sim', 'seeds'],
  ['fuzz', '--seconds', 'x'],
  ['fuzz', '--seconds'],
])('%s %s %s', (program, ...args) => {
  const node = ['--disable-warning=ExperimentalWarning', `test/${program}/main.ts`, ...args];
  const { status, stdout, stderr } = spawnSync(process.execPath, node, { encoding: 'utf8', timeout: 20_000 });
  expect([status, stdout, stderr]).toEqual([2, '', expect.stringMatching(/^weft: .*\nUsage: npm run /)]);
});
