// The addon's build beside another one: in two pid namespaces both may have the same pid, as tests and containers do.

import { chmod, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';

import { run } from '#test/support/netns.ts';

const build = fileURLToPath(new URL('../../../agent/native/build.ts', import.meta.url));
let directory = '';

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'weft-build-'));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

/** A compiler that writes the name of its output file down and waits until two are at work. */
const compiler = `#!/bin/sh
for last; do :; done
echo made > "$last"
echo "$last" >> DIRECTORY/outputs
at=0
while [ "$(wc -l < DIRECTORY/outputs)" -lt 2 ]; do
  at=$((at + 1)); [ "$at" -lt 1000 ] || exit 9
  sleep 0.01
done
`;

test('two builds with the same pid do not take each other’s file', async () => {
  const cc = join(directory, 'cc');
  await writeFile(cc, compiler.replaceAll('DIRECTORY', directory));
  await chmod(cc, 0o755);
  const output = join(directory, 'out/weft.node');
  const command = ['unshare', '--pid', '--fork', '--kill-child', process.execPath, build, output];
  const env = { ...process.env, CC: cc };
  await Promise.all([run(command, { env }), run(command, { env })]);
  const outputs = (await readFile(join(directory, 'outputs'), 'utf8')).trim().split('\n');
  expect(new Set(outputs).size).toBe(2);
  expect(await readdir(join(directory, 'out'))).toEqual(['weft.node']);
});
