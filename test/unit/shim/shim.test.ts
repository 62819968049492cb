// The shim as a process: what it answers alone, and what it makes of an agent that answers well, badly, slowly or half.

import { readdir, readFile } from 'node:fs/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';

import { runShim } from '#test/support/shim.ts';
import { bodyOf, container, graceMs, http, readBootId, ShimCase, shimLimits } from '#test/support/shim-case.ts';

let given: ShimCase;

beforeAll(async () => {
  given = await ShimCase.create();
});

afterEach(() => given.reset());
afterAll(() => given[Symbol.asyncDispose]());

describe('alone', () => {
  test('is static and small', async () => {
    const content = await readFile(given.binary, 'latin1');
    expect(content.startsWith('\u007FELF')).toBe(true);
    expect(content).not.toMatch(/\/ld-(?:musl|linux)/);
    expect(content.length).toBeLessThan(1 << 20);
  });

  test('VERSION with any stdin, without an agent', async () => {
    for (const options of [
      { stdin: '' },
      { stdin: 'nonsense' },
      { stdin: '{"cniVersion":"0.2.0"}' },
      { holdStdin: true },
    ]) {
      const answer = await runShim({ binary: given.binary, env: { CNI_COMMAND: 'VERSION' }, ...options });
      expect(answer).toMatchObject({
        code: 0,
        stderr: '',
        json: { supportedVersions: ['0.1.0', '0.2.0', '0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'] },
      });
    }
  });

  test('without CNI_COMMAND says what it is on stderr and ends well', async () => {
    for (const env of [{}, { CNI_COMMAND: '' }] as const) {
      const answer = await runShim({ binary: given.binary, env });
      expect(answer).toMatchObject({ code: 0, stdout: '' });
      expect(answer.stderr).toMatch(/CNI plugin/);
    }
  });

  test.each([
    ['ADD', ['CNI_CONTAINERID', 'CNI_NETNS', 'CNI_IFNAME']],
    ['DEL', ['CNI_CONTAINERID', 'CNI_IFNAME']],
    ['CHECK', ['CNI_CONTAINERID', 'CNI_NETNS', 'CNI_IFNAME']],
    ['GC', ['CNI_PATH']],
  ])('%s names missing variables, each alone and all together', async (verb, names) => {
    const all = await runShim({ binary: given.binary, env: { CNI_COMMAND: verb } });
    expect(all).toMatchObject({ code: 1, json: { code: 4 } });
    expect(all.json?.['msg']).toContain(`missing: ${names.join(', ')}`);
    for (const name of names) {
      for (const env of [
        { [name]: '' },
        Object.fromEntries(Object.entries(container).filter(([key]) => key !== name)),
      ]) {
        const variables = name in env ? { ...container, ...env } : env;
        const one = await runShim({ binary: given.binary, env: { CNI_COMMAND: verb, ...variables } });
        expect(one).toMatchObject({ code: 1, json: { code: 4 } });
        expect(String(one.json?.['msg'])).toMatch(new RegExp(`missing: ${name}$`));
      }
    }
  });

  test('an unknown verb is code 4, whatever bytes it has', async () => {
    for (const verb of ['add', 'FROBNICATE', 'A"\\\n\u0001é', 'x'.repeat(100_000)]) {
      expect(await given.shim(verb)).toMatchObject({ code: 1, json: { code: 4 } });
    }
  });

  test('inside the namespace of CNI_NETNS is code 8', async () => {
    await given.listen((socket) => socket.end(http(200, '{}')));
    for (const verb of ['ADD', 'DEL', 'CHECK']) {
      const answer = await given.shim(verb, { env: { CNI_NETNS: `/proc/${process.pid}/ns/net` } });
      expect(answer).toMatchObject({ code: 1, json: { code: 8 } });
    }
  });

  test('stdin that never ends fails at the deadline', async () => {
    await given.listen((socket) => socket.end(http(200, '{}')));
    const answer = await given.shim('ADD', { holdStdin: true });
    expect(answer).toMatchObject({ code: 1, json: { code: 5 } });
    expect(answer.durationMs).toBeLessThan(shimLimits.ADD + graceMs);
  });

  test('stdin above 1 MiB is refused, 1 MiB passes', async () => {
    let length = 0;
    await given.listen((socket, received) => {
      const body = bodyOf(received);
      if (body === undefined) return;
      length = (JSON.parse(body) as { stdin: string }).stdin.length;
      socket.end(http(200, '{"ok":true}'));
    });
    expect(await given.shim('ADD', { stdin: 'x'.repeat((1 << 20) + 1) })).toMatchObject({ code: 1, json: { code: 6 } });
    expect(await given.shim('ADD', { stdin: 'x'.repeat(1 << 20) })).toMatchObject({ code: 0, json: { ok: true } });
    expect(length).toBe(1 << 20);
  });

  test('works with standard files closed', async () => {
    await given.listen((socket) => socket.end(http(200, '{"ok":true}')));
    const command = `exec 0<&- 2>&-; exec "$0"`;
    const answer = await runShim({
      binary: given.binary,
      prefix: ['sh', '-c', command],
      env: { CNI_COMMAND: 'ADD', ...container, WEFT_SOCKET: given.socketPath },
    });
    expect(answer).toMatchObject({ code: 0, json: { ok: true } });
  });
});

describe('with an agent', () => {
  test('sends CNI variables and nothing else, and stdin byte for byte', async () => {
    let head = '';
    let body = '';
    await given.listen((socket, received) => {
      const whole = bodyOf(received);
      if (whole === undefined) return;
      head = received.slice(0, received.indexOf('\r\n\r\n'));
      body = whole;
      socket.end(http(200, '{"cniVersion":"1.0.0"}\n'));
    });
    const stdin = '{"name":"a\\"b", "x":"\u0000\u0001\u001f\t\r\n é 漢 😀"}';
    const env = { CNI_ARGS: 'A="1";B=\\2\n', CNI_COMMAND: 'ADD', CNITRAP: 'x', SECRET: 'y', CNI_EMPTY: '' };
    const answer = await given.shim('ADD', { stdin, env });
    expect(answer).toMatchObject({ code: 0, stdout: '{"cniVersion":"1.0.0"}\n', stderr: '' });
    expect(head.split('\r\n')[0]).toBe('POST /cni HTTP/1.1');
    expect(JSON.parse(body)).toEqual({
      env: { ...container, CNI_COMMAND: 'ADD', CNI_ARGS: 'A="1";B=\\2\n', CNI_EMPTY: '' },
      stdin,
      netnsInode: '',
      bootId: await readBootId(),
    });
  });

  test('an error answer goes to stdout with exit 1, an empty success to nothing', async () => {
    await given.listen((socket, received) => {
      if (bodyOf(received) === undefined) return;
      socket.end(received.includes('"DEL"') ? http(200, '') : http(503, '{"code":11,"msg":"x"}'));
    });
    expect(await given.shim('ADD')).toMatchObject({ code: 1, json: { code: 11, msg: 'x' } });
    expect(await given.shim('DEL')).toMatchObject({ code: 0, stdout: '' });
  });

  test('an answer in small pieces and a large one arrive whole', async () => {
    const large = JSON.stringify({ x: 'y'.repeat(900_000) });
    await given.listen((socket, received) => {
      if (bodyOf(received) === undefined) return;
      const answer = http(200, received.includes('"CHECK"') ? large : '{"a":1}');
      if (received.includes('"CHECK"')) socket.end(answer);
      else
        void (async () => {
          for (const letter of answer)
            await new Promise<void>((resolve) => socket.write(letter, () => setImmediate(resolve)));
        })();
    });
    expect(await given.shim('ADD')).toMatchObject({ code: 0, json: { a: 1 } });
    expect((await given.shim('CHECK')).stdout).toBe(large);
  });

  const garbage: readonly (readonly [string, string])[] = [
    ['no HTTP', 'hello\r\n\r\n'],
    ['HTTP/1.0', 'HTTP/1.0 200 OK\r\n\r\n{}'],
    ['no status', 'HTTP/1.1 abc\r\ncontent-length: 2\r\n\r\n{}'],
    ['status 700', 'HTTP/1.1 700 X\r\ncontent-length: 2\r\n\r\n{}'],
    ['status 100', 'HTTP/1.1 100 Continue\r\ncontent-length: 2\r\n\r\n{}'],
    ['no length', 'HTTP/1.1 200 OK\r\n\r\n{}'],
    ['chunked', 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n'],
    ['negative length', 'HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n{}'],
    ['length with a tail', 'HTTP/1.1 200 OK\r\ncontent-length: 2x\r\n\r\n{}'],
    ['two lengths', 'HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{} '],
    ['too large', `HTTP/1.1 200 OK\r\ncontent-length: ${(1 << 20) + 1}\r\n\r\n`],
    ['absurdly large', `HTTP/1.1 200 OK\r\ncontent-length: ${'9'.repeat(30)}\r\n\r\n`],
    ['more than its length', 'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}{}'],
    ['a body that is no object', 'HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull'],
    ['an empty error', 'HTTP/1.1 400 X\r\ncontent-length: 0\r\n\r\n'],
    ['an endless header', `HTTP/1.1 200 OK\r\n${'x: y\r\n'.repeat(5000)}`],
  ];
  test.each(garbage)('garbage becomes an error: %s', async (_name, answer) => {
    await given.listen((socket) => socket.write(answer));
    for (const verb of ['ADD', 'DEL', 'STATUS']) {
      expect(await given.shim(verb)).toMatchObject({ code: 1, json: { code: 999 } });
    }
    await expect(readdir(given.spoolDir)).rejects.toThrow(/ENOENT/);
  });

  const partial = ['', 'HT', 'HTTP/1.1 200 OK\r\n', 'HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"a":'];
  test.each(partial)('closed half-way (%j) fails the ADD at once', async (part) => {
    await given.listen((socket) => socket.end(part));
    const answer = await given.shim('ADD');
    expect(answer).toMatchObject({ code: 1, json: { code: 11 } });
    expect(answer.durationMs).toBeLessThan(shimLimits.ADD);
  });

  test.each(partial)('an agent that stops after %j is a time-out, never a spool', async (part) => {
    await given.listen((socket) => socket.write(part));
    const verbs = ['ADD', 'DEL', 'CHECK', 'GC'] as const;
    const answers = await Promise.all(verbs.map(async (verb) => ({ verb, answer: await given.shim(verb) })));
    for (const { verb, answer } of answers) {
      expect(answer).toMatchObject({ code: 1, json: { code: 11 } });
      expect(answer.durationMs).toBeGreaterThan(shimLimits[verb] - 50);
      expect(answer.durationMs).toBeLessThan(shimLimits[verb] + graceMs);
    }
    await expect(readdir(given.spoolDir)).rejects.toThrow(/ENOENT/);
  });

  test('an agent that reads nothing is a time-out too', async () => {
    await given.listen(() => undefined, { pauseOnConnect: true });
    const answer = await given.shim('ADD', { stdin: 'x'.repeat(1 << 20) });
    expect(answer).toMatchObject({ code: 1, json: { code: 11 } });
    expect(answer.durationMs).toBeLessThan(shimLimits.ADD + graceMs);
  });

  test('a reader of stdout that stands still does not hold the shim for ever', async () => {
    await given.listen((socket) => socket.end(http(200, JSON.stringify({ x: 'y'.repeat(500_000) }))));
    const startedMs = performance.now();
    const env = { CNI_COMMAND: 'ADD', ...container, WEFT_SOCKET: given.socketPath };
    // The second sleeper holds the pipe's reading end without reading.
    const run = await runShim({
      binary: given.binary,
      prefix: ['sh', '-c', '("$0"; echo "ended $?" >&2) | sleep 2'],
      env,
    });
    expect(run.stderr).toMatch(/ended 1/);
    expect(performance.now() - startedMs).toBeLessThan(3000);
  });
});
