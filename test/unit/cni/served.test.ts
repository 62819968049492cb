// The mark that an agent has served: written whole whoever writes at once, by this process or by one with the same pid elsewhere.

import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';

import { markServed } from '#agent/cni/served.ts';
import { CniCase } from '#test/support/cni-case.ts';
import { ensureShim } from '../../../cni-shim/build.ts';

const bootId = '11111111-2222-3333-4444-555555555555';
let directory = '';

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'weft-served-'));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

test('sixteen marks at once all succeed and leave one file', async () => {
  const path = join(directory, 'served');
  await Promise.all(Array.from({ length: 16 }, () => markServed(path, bootId, 60_000)));
  expect(await readdir(directory)).toEqual(['served']);
  expect(await readFile(path, 'utf8')).toMatch(new RegExp(`^${bootId} [0-9]+\n$`));
});

test('a mark that cannot be put in place leaves nothing and says why', async () => {
  await expect(markServed(join(directory, 'absent/served'), bootId, 60_000)).rejects.toThrow('ENOENT');
  await expect(markServed(directory, bootId, 60_000)).rejects.toThrow(/EISDIR|ENOTEMPTY|EEXIST|EBUSY/);
  expect(await readdir(directory)).toEqual([]);
  expect((await readdir(tmpdir())).filter((name) => name.startsWith(`${directory.split('/').at(-1)}.`))).toEqual([]);
});

test('the first ADDs of a node, sixteen at once, leave the mark without a warning', async () => {
  ensureShim();
  const warnings: string[] = [];
  await using given = await CniCase.create();
  given.log = pino({ level: 'warn' }, { write: (line: string) => warnings.push(line) });
  given.datapath.ready = false;
  await given.start();
  given.datapath.ready = true;
  await Promise.all(Array.from({ length: 16 }, (_, at) => given.addPod(`pod${at}`)));
  expect(warnings).toEqual([]);
  expect((await readdir(join(given.directory, 'run'))).toSorted()).toEqual(['cni.sock', 'served']);
});
