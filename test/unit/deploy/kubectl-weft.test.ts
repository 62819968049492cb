// The plugin as a shell runs it, with a kubectl that writes down what it was asked.
import { execFile } from 'node:child_process';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { afterEach, beforeEach, expect, test } from 'vitest';

const plugin = new URL('../../../deploy/kubectl-weft', import.meta.url).pathname;
const fake = `#!/bin/sh
echo "$*" >>"$(dirname "$0")/asked"
case "$*" in
  *peers.weft.network*custom-columns*) printf 'a.1 <none>\\nb.2 default\\na.1.pool-blue blue\\n' ;;
  *custom-columns*) cat "$(dirname "$0")/agents" ;;
  *'weft ipam --json'*) printf '{\\n  "leasesTotal": %s\\n}\\n' "$(cat "$(dirname "$0")/leases")" ;;
  *'weft range replace bad'*) echo 'weft: bad is no range' >&2; exit 2 ;;
  *'weft range replace'*) echo 'the steps' ;;
  *'create --filename -'*) cat >"$(dirname "$0")/created" ;;
  *'exec weft-b'*) echo 'said by b'; exit 3 ;;
  *exec*) echo 'said by a' ;;
esac
`;

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'weft-plugin-'));
  await writeFile(join(directory, 'kubectl'), fake);
  await chmod(join(directory, 'kubectl'), 0o755);
  await agents('b weft weft-b Running', 'a weft weft-a Running', 'c weft weft-c Pending');
});
afterEach(async () => {
  await rm(directory, { recursive: true });
});

async function agents(...lines: readonly string[]): Promise<void> {
  await writeFile(join(directory, 'agents'), lines.map((line) => `${line}\n`).join(''));
}

async function run(
  ...args: readonly string[]
): Promise<{ readonly code: number; readonly out: string; readonly err: string }> {
  const env = { PATH: `${directory}:${process.env['PATH']}` };
  return await promisify(execFile)('sh', [plugin, ...args], { env }).then(
    ({ stdout, stderr }) => ({ code: 0, out: stdout, err: stderr }),
    (error: { readonly code: number; readonly stdout: string; readonly stderr: string }) => ({
      code: error.code,
      out: error.stdout,
      err: error.stderr,
    }),
  );
}

const asked = async (): Promise<string> => await readFile(join(directory, 'asked'), 'utf8');

test('asks the agent of one node, and hands options on', async () => {
  expect(await run('status', 'a', '--json')).toEqual({ code: 0, out: 'said by a\n', err: '' });
  expect(await asked()).toContain('--namespace weft exec weft-a --container agent -- weft status --json\n');
});

test('hands the name of another node on too', async () => {
  await run('ipam', 'a', 'reclaim', 'c');
  expect(await asked()).toContain('exec weft-a --container agent -- weft ipam reclaim c\n');
});

test('asks every node in order, says which it could not ask, and fails then', async () => {
  const { code, out, err } = await run('ipam');
  expect(code).toBe(1);
  expect(out).toBe('== a\nsaid by a\n\n== b\nsaid by b\n\n== c\n');
  expect(err).toBe('kubectl weft: the agent of c is Pending: kubectl -n weft describe pod weft-c\n');
});

test('names a node that has no agent, a cluster that has none, and a command that it does not know', async () => {
  expect(await run('status', 'd')).toMatchObject({ code: 1, err: expect.stringContaining("no agent on node 'd'") });
  await agents();
  expect(await run('peers')).toMatchObject({ code: 1, err: expect.stringContaining('is Weft installed?') });
  expect(await run('frobnicate')).toMatchObject({
    code: 2,
    err: expect.stringContaining("unknown command 'frobnicate'"),
  });
  expect(await run()).toMatchObject({ code: 0, out: expect.stringContaining('Usage: kubectl weft') });
});

test('leaves it to kubectl to say why the cluster cannot be asked', async () => {
  const refused = 'The connection to the server 127.0.0.1:6443 was refused';
  await writeFile(join(directory, 'kubectl'), `#!/bin/sh\necho '${refused}' >&2\nexit 1\n`);
  for (const args of [['status'], ['ipam', 'a'], ['range', 'replace', '10.96.0.0/12']]) {
    expect(await run(...args)).toEqual({ code: 1, out: '', err: `${refused}\n` });
  }
});

test('replaces the range while no pod has an address: the Universe first, then the records of that pool alone', async () => {
  await agents('a weft weft-a Running', 'b weft weft-b Running');
  await writeFile(join(directory, 'leases'), '0');
  expect(await run('range', 'replace', '10.96.0.0/12', 'fd00:96::/48')).toMatchObject({ code: 0, err: '' });
  expect(JSON.parse(await readFile(join(directory, 'created'), 'utf8'))).toMatchObject({
    kind: 'Universe',
    metadata: { name: 'default' },
    spec: { ranges: ['10.96.0.0/12', 'fd00:96::/48'] },
  });
  const changes = (await asked()).split('\n').filter((line) => /^(?:delete|create)/.test(line));
  expect(changes).toEqual([
    'delete universes.weft.network default --ignore-not-found',
    'create --filename -',
    'delete peers.weft.network a.1 b.2',
  ]);
});

test('changes nothing while pods have addresses, or an agent cannot be asked, or for what is no range', async () => {
  await agents('a weft weft-a Running', 'b weft weft-b Running');
  await writeFile(join(directory, 'leases'), '3');
  expect(await run('range', 'replace', '10.96.0.0/12')).toMatchObject({
    code: 1,
    err: 'the steps\n\nkubectl weft: nothing was changed: pods have addresses on\n  a: 3\n  b: 3\n',
  });
  await writeFile(join(directory, 'leases'), '');
  expect((await run('range', 'replace', '10.96.0.0/12')).err).toContain('a: unknown, its agent is Running');
  await writeFile(join(directory, 'leases'), '0');
  expect(await run('range', 'replace', 'bad')).toMatchObject({ code: 1, err: 'weft: bad is no range\n' });
  expect(await run('range', 'replace')).toMatchObject({ code: 2 });
  expect(await run('range')).toMatchObject({ code: 2 });
  expect(await asked()).not.toMatch(/^(?:delete|create)/m);
});
