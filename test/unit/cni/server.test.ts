// The server's edges: its socket in the file system, bad HTTP, callers held while the DEL spool is drained, stopping.

import fc from 'fast-check';
import { chmod, mkdir, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { dirname } from 'node:path';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';

import { CniCase, fails } from '#test/support/cni-case.ts';
import { ensureShim } from '../../../cni-shim/build.ts';

let given: CniCase;

beforeAll(() => ensureShim());
beforeEach(async () => {
  given = await CniCase.create();
});
afterEach(() => given[Symbol.asyncDispose]());

/** Everything that the server says to these bytes before it closes. */
async function talk(bytes: string | Buffer): Promise<string> {
  return await new Promise((resolve, reject) => {
    let said = '';
    const socket = connect(given.socketPath, () => socket.write(bytes));
    socket.on('data', (chunk) => (said += chunk.toString()));
    socket.on('error', reject);
    socket.on('close', () => resolve(said));
  });
}

function post(body: string | Buffer, head = ''): string {
  return `POST /cni HTTP/1.1\r\nHost: weft\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n${head}\r\n${body.toString()}`;
}

/** Status and parsed body of an answer. */
function answerIn(text: string): { status: number; json: Record<string, unknown> } {
  const [head = '', body = ''] = text.split('\r\n\r\n');
  return { status: Number(head.split(' ')[1]), json: JSON.parse(body) as Record<string, unknown> };
}

describe('socket', () => {
  test('is 0600 in a 0700 directory, and nothing else stays there', async () => {
    await mkdir(dirname(given.socketPath), { recursive: true });
    await chmod(dirname(given.socketPath), 0o755);
    await given.start();
    expect((await stat(given.socketPath)).mode & 0o777).toBe(0o600);
    expect((await stat(dirname(given.socketPath))).mode & 0o777).toBe(0o700);
    expect((await stat(given.spoolDir)).mode & 0o777).toBe(0o700);
    expect((await readdir(dirname(given.socketPath))).toSorted()).toEqual(['cni.sock', 'served']);
    await given.stop();
    expect(await readdir(dirname(given.socketPath))).toEqual(['served']);
  });

  test('of a dead predecessor is replaced', async () => {
    await mkdir(dirname(given.socketPath), { recursive: true });
    const dead = createServer().listen(`${given.socketPath}.dead`);
    await new Promise((resolve) => dead.once('listening', resolve));
    await rename(`${given.socketPath}.dead`, given.socketPath);
    await new Promise((resolve) => dead.close(resolve));
    await given.start();
    expect(await given.call('STATUS')).toMatchObject({ code: 0 });
  });

  test('of a living one is respected, as is a file that is none', async () => {
    const first = await given.start();
    await expect(given.start()).rejects.toThrow(/another agent serves/);
    expect(await given.call('STATUS')).toMatchObject({ code: 0 });
    await first.close();
    await writeFile(given.socketPath, '');
    await expect(given.start()).rejects.toThrow(/is no socket/);
  });

  test('of a successor stays when the predecessor stops late', async () => {
    const first = await given.start();
    await rm(given.socketPath);
    await given.start();
    await first.close();
    expect(await given.call('STATUS')).toMatchObject({ code: 0 });
  });
});

describe('bad HTTP gets a CNI error', () => {
  const request = { env: { CNI_COMMAND: 'STATUS' }, stdin: '{"cniVersion":"1.1.0"}', netnsInode: '', bootId: '' };
  test.each<[string, string | Buffer, number]>([
    ['no HTTP', 'hello\r\n\r\n', 6],
    ['another path', 'GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n', 6],
    ['another method', 'GET /cni HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n', 6],
    ['broken JSON', post('{"env":'), 6],
    ['a string', post('"x"'), 6],
    ['nothing', post(''), 6],
    ['no stdin', post(JSON.stringify({ ...request, stdin: undefined })), 6],
    ['a number where a string should be', post(JSON.stringify({ ...request, stdin: 5 })), 6],
    ['a variable that is not CNI’s', post(JSON.stringify({ ...request, env: { PATH: '/' } })), 6],
    ['a key more', post(JSON.stringify({ ...request, uid: 0 })), 6],
    ['__proto__', post('{"__proto__":{},"env":{},"stdin":"","netnsInode":"","bootId":""}'), 6],
    ['an inode that is none', post(JSON.stringify({ ...request, netnsInode: '-1' })), 6],
    ['stdin above 1 MiB', post(JSON.stringify({ ...request, stdin: 'x'.repeat((1 << 20) + 1) })), 6],
    ['a body that comes in chunks', post('{}').replace(/Content-Length: \d+/, 'Transfer-Encoding: chunked'), 6],
    ['two lengths', post('{}', 'Content-Length: 2\r\n'), 6],
    ['a length that is none', post('{}').replace(/Content-Length: \d+/, 'Content-Length: -1'), 6],
    ['more than its length', `${post('{}')}{}`, 6],
    ['a header line that is none', post('{}', 'no colon\r\n'), 6],
    ['a header without end', `POST /cni HTTP/1.1\r\nX: ${'x'.repeat(20_000)}`, 6],
    ['another content type', post('{}').replace('application/json', 'text/plain'), 6],
    ['no verb', post(JSON.stringify({ ...request, env: {} })), 4],
    ['a verb of Object', post(JSON.stringify({ ...request, env: { CNI_COMMAND: 'constructor' } })), 4],
  ])('%s', async (_name, bytes, code) => {
    await given.start();
    const { status, json } = answerIn(await talk(bytes));
    expect(status).toBeGreaterThanOrEqual(400);
    expect(json).toMatchObject({ cniVersion: '1.1.0', code });
    expect(json['msg']).toMatch(/\w/);
    expect(await given.call('STATUS')).toMatchObject({ code: 0 });
  });

  test('a body above the limit is refused without being read', async () => {
    await given.start();
    const said = await talk(
      `POST /cni HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n`,
    );
    expect(answerIn(said)).toMatchObject({ status: 400, json: { code: 6 } });
  });

  test('a request may come byte by byte, and another caller is not held up by it', async () => {
    await given.start();
    const stdin = '{"cniVersion":"1.1.0","name":"weft","type":"weft"}';
    const bytes = Buffer.from(post(JSON.stringify({ ...request, stdin })));
    const slow = connect(given.socketPath);
    const answer = new Promise<string>((resolve) => {
      let said = '';
      slow.on('data', (chunk) => (said += chunk.toString())).on('close', () => resolve(said));
    });
    for (const byte of bytes.subarray(0, 60)) {
      slow.write(Buffer.of(byte));
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(await given.call('STATUS')).toMatchObject({ code: 0 });
    slow.write(bytes.subarray(60));
    expect(await answer).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
  });

  test('any JSON gets an answer, and nothing is changed', async () => {
    await given.start();
    given.namespaces.set('/ns/pod1', 100n);
    const variable = fc.oneof(fc.string(), fc.constantFrom('ADD', 'DEL', 'CHECK', 'GC', '/ns/pod1', 'pod1', 'eth0'));
    const names = ['CNI_COMMAND', 'CNI_CONTAINERID', 'CNI_NETNS', 'CNI_IFNAME', 'CNI_ARGS', 'CNI_PATH'];
    const env = fc.dictionary(fc.constantFrom(...names), variable);
    const stdin = fc.oneof(fc.string(), fc.json(), fc.constant('{"cniVersion":"1.1.0","name":"../"}'));
    const body = fc.oneof(
      fc.json(),
      fc.record({ env, stdin }).map((part) => JSON.stringify({ ...request, ...part })),
    );
    await fc.assert(
      fc.asyncProperty(body, async (text) => {
        const { status, json } = answerIn(await talk(post(text)));
        expect(status).toBeGreaterThanOrEqual(400);
        expect(json).toMatchObject({ code: expect.any(Number) as number, msg: expect.any(String) as string });
      }),
      { numRuns: 300 },
    );
    expect(given.ipam.leases()).toEqual([]);
    expect(given.datapath.calls).toEqual([]);
  });

  test('VERSION by the socket lists what the shim lists', async () => {
    await given.start();
    const body = JSON.stringify({ ...request, env: { CNI_COMMAND: 'VERSION' } });
    expect(answerIn(await talk(post(body))).json).toEqual((await given.call('VERSION')).json);
  });
});

describe('spool', () => {
  test('a DEL kept while no agent ran is done before anything is served', async () => {
    await given.start();
    await given.addPod('pod1');
    await given.addPod('pod2');
    await given.stop();
    expect(await given.call('DEL', { id: 'pod1' })).toMatchObject({ code: 0, stdout: '' });
    expect(await readdir(given.spoolDir)).toEqual(['pod1@eth0.json']);

    const held = Promise.withResolvers<void>();
    const began = Promise.withResolvers<void>();
    given.datapath.beforeDetach = async () => {
      began.resolve();
      await held.promise;
    };
    const starting = given.start();
    await began.promise;
    // Listens already, answers not yet: an ADD of the same key must come after the kept DEL.
    given.namespaces.set('/ns/pod1', 4242n);
    const adding = given.call('ADD', { id: 'pod1' });
    expect(given.observed).toEqual(['ADD ok', 'ADD ok']);
    held.resolve();
    await starting;
    expect(await adding).toMatchObject({ code: 0 });
    expect(given.datapath.calls.slice(2)).toEqual(['detach pod1', 'attach pod1']);
    expect(await readdir(given.spoolDir)).toEqual([]);
    expect(given.ipam.leases()).toHaveLength(2);
  });

  test('what must run before serving finds the kept DELs done, and no request served', async () => {
    await given.start();
    await given.addPod('pod1');
    await given.stop();
    await given.call('DEL', { id: 'pod1' });
    const held = Promise.withResolvers<void>();
    const began = Promise.withResolvers<void>();
    given.beforeServing = async () => {
      began.resolve();
      await held.promise;
    };
    const starting = given.start();
    await began.promise;
    expect(given.ipam.leases()).toEqual([]);
    const asking = given.addPod('pod2');
    expect(given.datapath.calls).toEqual(['attach pod1', 'detach pod1']);
    held.resolve();
    await starting;
    expect(await asking).toMatchObject({ code: 0 });
  });

  test('a start that fails before serving takes the socket away and tells whoever waits', async () => {
    given.beforeServing = fails('kernel');
    await expect(given.start()).rejects.toMatchObject({ kind: 'kernel' });
    expect(await readdir(dirname(given.socketPath))).toEqual([]);
    given.beforeServing = () => Promise.resolve();
    await given.start();
    expect(await given.call('STATUS')).toMatchObject({ code: 0 });
  });

  test('a DEL kept while the agent runs is done too', async () => {
    await given.start();
    await given.addPod('pod1');
    // The shim cannot reach the agent under this name.
    const kept = await given.call('DEL', { env: { WEFT_SOCKET: `${given.directory}/nobody.sock` } });
    expect(kept).toMatchObject({ code: 0 });
    await expect.poll(() => given.ipam.leases()).toEqual([]);
    await expect.poll(() => readdir(given.spoolDir)).toEqual([]);
  });
});

test('stopping waits for the call at work and its answer arrives', async () => {
  const server = await given.start();
  given.namespaces.set('/ns/pod1', 100n);
  const held = Promise.withResolvers<void>();
  const began = Promise.withResolvers<void>();
  given.datapath.beforeAttach = async () => {
    began.resolve();
    await held.promise;
  };
  const adding = given.call('ADD');
  await Promise.race([began.promise, adding.then(({ stdout }) => expect.unreachable(`ADD ended early: ${stdout}`))]);
  const closing = server.close();
  held.resolve();
  expect(await adding).toMatchObject({ code: 0 });
  await closing;
  expect(given.ipam.leases()).toMatchObject([{ state: 'active' }]);
});

test('stopping cuts short an ADD that waits for an address', async () => {
  const server = await given.start();
  given.namespaces.set('/ns/pod1', 100n);
  const began = Promise.withResolvers<void>();
  given.ipam.beforeLease = async (signal) => {
    began.resolve();
    await new Promise((resolve) => signal.addEventListener('abort', resolve));
    signal.throwIfAborted();
  };
  const adding = given.call('ADD');
  await Promise.race([began.promise, adding.then(({ stdout }) => expect.unreachable(`ADD ended early: ${stdout}`))]);
  await server.close();
  expect(await adding).toMatchObject({ code: 1, json: { code: 11 } });
  expect(given.ipam.leases()).toEqual([]);
});

test.each(['', 'POST /cni HTTP/1.1\r\nHost', post('{"env":{}').slice(0, -5)])(
  'stopping does not wait for a client that has sent %j',
  async (part) => {
    const server = await given.start();
    const socket = connect(given.socketPath);
    await new Promise((resolve) => socket.once('connect', resolve));
    if (part !== '') await new Promise((resolve) => socket.write(part, resolve));
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.on('error', () => undefined);
    // Its turn comes when the server has seen this client.
    await given.call('STATUS');
    await server.close();
    await closed;
  },
);
