// The shim as a process while no agent is there: who waits, who fails, and the DEL spool.

import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { uptime } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';

import { runShim } from '#test/support/shim.ts';
import { bodyOf, container, graceMs, http, readBootId, ShimCase, shimLimits } from '#test/support/shim-case.ts';

const bootId = await readBootId();
let given: ShimCase;

beforeAll(async () => {
  given = await ShimCase.create();
});

afterEach(() => given.reset());
afterAll(() => given[Symbol.asyncDispose]());

describe('without an agent', () => {
  test('ADD, CHECK and GC try to connect for a while, then say what to look at', async () => {
    for (const [verb, waitMs] of [
      ['ADD', shimLimits.ADD_CONNECT],
      ['CHECK', shimLimits.CHECK_CONNECT],
      ['GC', shimLimits.GC_CONNECT],
    ] as const) {
      const answer = await given.shim(verb);
      expect(answer).toMatchObject({ code: 1, json: { code: 11 } });
      expect(answer.json?.['msg']).toMatch(/cannot connect to .*No such file.*kubectl -n weft/);
      expect(answer.durationMs).toBeGreaterThan(waitMs - 20);
      expect(answer.durationMs).toBeLessThan(waitMs + graceMs);
    }
  });

  test('ADD reaches an agent that comes up meanwhile', async () => {
    const adding = given.shim('ADD');
    await new Promise((resolve) => setTimeout(resolve, shimLimits.ADD_CONNECT / 3));
    await given.listen((socket) => socket.end(http(200, '{"late":true}')));
    expect(await adding).toMatchObject({ code: 0, json: { late: true } });
  });

  test('DEL keeps itself in the spool and succeeds', async () => {
    const answer = await given.shim('DEL', { stdin: '{"name":"weft"}', env: { CNI_ARGS: 'K8S_POD_NAME=web' } });
    expect(answer).toMatchObject({ code: 0, stdout: '' });
    expect(answer.durationMs).toBeLessThan(graceMs);
    expect(await readdir(given.spoolDir)).toEqual(['c1@eth0.json']);
    const file = join(given.spoolDir, 'c1@eth0.json');
    expect((await stat(file)).mode & 0o777).toBe(0o600);
    expect((await stat(given.spoolDir)).mode & 0o777).toBe(0o700);
    expect(JSON.parse(await readFile(file, 'utf8'))).toEqual({
      env: { ...container, CNI_COMMAND: 'DEL', CNI_ARGS: 'K8S_POD_NAME=web' },
      stdin: '{"name":"weft"}',
      netnsInode: '',
      bootId,
    });
  });

  test('the kept DEL has the time of the clock, not the kernel’s coarse one', async () => {
    for (let time = 0; time < 10; time++) {
      const beforeMs = Date.now();
      await given.shim('DEL');
      expect((await stat(join(given.spoolDir, 'c1@eth0.json'))).mtimeMs).toBeGreaterThanOrEqual(beforeMs);
    }
  });

  test('a second DEL replaces the first, another interface has its own file', async () => {
    await given.shim('DEL', { stdin: '1' });
    await given.shim('DEL', { stdin: '2' });
    await given.shim('DEL', { env: { CNI_IFNAME: 'net1' } });
    expect((await readdir(given.spoolDir)).toSorted()).toEqual(['c1@eth0.json', 'c1@net1.json']);
    expect(await readFile(join(given.spoolDir, 'c1@eth0.json'), 'utf8')).toContain('"stdin":"2"');
  });

  test('DEL is kept when the agent dies at work, and a dead socket counts as absent', async () => {
    await given.listen((socket) => socket.destroy());
    expect(await given.shim('DEL')).toMatchObject({ code: 0 });
    expect(await readdir(given.spoolDir)).toEqual(['c1@eth0.json']);
    const script = `require('net').createServer().listen(process.argv[1], () => process.kill(process.pid, 'SIGKILL'))`;
    const dead = join(given.directory, 'dead.sock');
    spawnSync(process.execPath, ['-e', script, dead]);
    expect((await stat(dead)).isSocket()).toBe(true);
    expect(await given.shim('DEL', { env: { CNI_IFNAME: 'net1', WEFT_SOCKET: dead } })).toMatchObject({ code: 0 });
    expect(await readdir(given.spoolDir)).toContain('c1@net1.json');
  });

  test('an id that is no id never becomes a path', async () => {
    for (const id of ['../../x', '.x', 'a/b', 'a@b', 'x'.repeat(201)]) {
      expect(await given.shim('DEL', { env: { CNI_CONTAINERID: id } })).toMatchObject({ code: 1, json: { code: 4 } });
    }
    for (const ifname of ['a/../../b', 'x'.repeat(16)]) {
      expect(await given.shim('DEL', { env: { CNI_IFNAME: ifname } })).toMatchObject({ code: 1, json: { code: 4 } });
    }
    await expect(readdir(given.spoolDir)).rejects.toThrow(/ENOENT/);
  });

  test('the agent’s answer counts when it is back before the shim ends', async () => {
    let connections = 0;
    await given.listen((socket, received) => {
      if (bodyOf(received) === undefined) return;
      connections += 1;
      if (connections === 1) socket.destroy();
      else socket.end(http(503, '{"code":102,"msg":"kernel"}'));
    });
    expect(await given.shim('DEL')).toMatchObject({ code: 1, json: { code: 102 } });
    expect(await readdir(given.spoolDir)).toEqual(['c1@eth0.json']);
  });

  test('a limit on the size of files fails the DEL with code 5 too, and leaves no half of one', async () => {
    const answer = await given.shim('DEL', { prefix: ['sh', '-c', 'ulimit -f 0; exec "$0"'] });
    expect(answer).toMatchObject({ code: 1, json: { code: 5 } });
    expect(answer.json?.['msg']).toMatch(/cannot write the file: File too large/);
    expect(await readdir(given.spoolDir)).toEqual([]);
  });

  test('a spool that cannot be written fails the DEL with code 5', async () => {
    await writeFile(join(given.directory, 'var'), 'a file where a directory should be');
    const answer = await given.shim('DEL');
    expect(answer).toMatchObject({ code: 1, json: { code: 5 } });
    expect(answer.json?.['msg']).toMatch(/could not be kept/);
  });

  test('a full disk fails the DEL with code 5 and leaves no half file', async () => {
    mkdirSync(given.spoolDir, { recursive: true });
    const env = { CNI_COMMAND: 'DEL', ...container, WEFT_SOCKET: given.socketPath, WEFT_SPOOL_DIR: given.spoolDir };
    const mount = `mount -t tmpfs -o size=8k tmpfs "$WEFT_SPOOL_DIR" && "$0"; code=$?; ls -A "$WEFT_SPOOL_DIR" >&2; exit $code`;
    // Root needs no user namespace, and in a chroot the kernel gives none.
    const asRoot = process.getuid?.() === 0 ? [] : ['--user', '--map-root-user'];
    const prefix = ['unshare', ...asRoot, '--mount', '--propagation', 'private', 'sh', '-c', mount];
    const full = await runShim({ binary: given.binary, prefix, env, stdin: 'x'.repeat(100_000) });
    expect(full).toMatchObject({ code: 1, json: { code: 5 } });
    expect(full.json?.['msg']).toMatch(/No space left/);
    expect(full.stderr).not.toContain('c1@eth0');
    expect(await runShim({ binary: given.binary, prefix, env, stdin: '{}' })).toMatchObject({ code: 0 });
  });
});

describe('STATUS without an answer', () => {
  const mark = async (text: string): Promise<void> => writeFile(join(given.directory, 'served'), text);

  test('is 50 when none has served since boot', async () => {
    expect(await given.shim('STATUS')).toMatchObject({ code: 1, json: { code: 50 } });
    for (const text of ['', 'garbage', bootId, `00000000-0000-0000-0000-000000000000 ${uptime() + 900}\n`]) {
      await mark(text);
      expect(await given.shim('STATUS')).toMatchObject({ code: 1, json: { code: 50 } });
    }
  });

  test('is fine while the last agent’s word holds, 50 after', async () => {
    await mark(`${bootId} ${Math.floor(uptime()) + 600}\n`);
    expect(await given.shim('STATUS')).toMatchObject({ code: 0, stdout: '' });
    await mark(`${bootId} ${Math.floor(uptime()) - 2}\n`);
    expect(await given.shim('STATUS')).toMatchObject({ code: 1, json: { code: 50 } });
  });

  test('a silent agent is no failure either, and the answer comes in time', async () => {
    await mark(`${bootId} ${Math.floor(uptime()) + 600}\n`);
    await given.listen(() => undefined);
    const answer = await given.shim('STATUS');
    expect(answer).toMatchObject({ code: 0, stdout: '' });
    expect(answer.durationMs).toBeLessThan(shimLimits.STATUS + graceMs);
  });
});
