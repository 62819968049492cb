// The connections under the CNI socket's HTTP (agent/native/listener.c): peers that leave, that do not read, that are too many; a process
// out of descriptors; an environment that ends while they are open.

import { once } from 'node:events';
import { spawn } from 'node:child_process';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, expect, test } from 'vitest';

import { type Caller, type HttpHandlers, HttpServer } from '#agent/cni/http.ts';

let directory = '';
let path = '';
let server: HttpServer;
let calls: Caller[];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'weft-http-'));
  path = join(directory, 'http.sock');
  calls = [];
});
afterEach(async () => {
  server.hangUp();
  await rm(directory, { recursive: true, force: true });
});

function listen(options: Partial<HttpHandlers> = {}): void {
  server = new HttpServer({
    bodyLimitBytes: 1 << 20,
    onRequest: (_request, caller) => calls.push(caller),
    refuse: (why) => ({ status: 400, body: why }),
    ...options,
  });
  server.listen(path, 1024);
}

const request = (body = ''): string => `POST / HTTP/1.1\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;

async function dial(bytes: string): Promise<Socket> {
  const socket = connect(path);
  socket.on('error', () => undefined);
  await once(socket, 'connect');
  if (bytes !== '') socket.write(bytes);
  return socket;
}

async function closed(socket: Socket): Promise<void> {
  if (socket.closed) return;
  await new Promise<void>((resolve) => void socket.once('close', () => resolve()));
}

async function said(socket: Socket): Promise<string> {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  await closed(socket);
  return Buffer.concat(chunks).toString();
}

const echo: Partial<HttpHandlers> = {
  onRequest: ({ body }, caller) => setImmediate(() => caller.answer({ status: 200, body })),
};

async function ask(body: string): Promise<string> {
  return (await said(await dial(request(body)))).split('\r\n\r\n')[1] ?? '';
}

test('the socket is 0600 from the first moment, and errors of the system carry their number', async () => {
  listen();
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  const second = new HttpServer({
    bodyLimitBytes: 1,
    onRequest: () => undefined,
    refuse: () => ({ status: 400, body: '' }),
  });
  expect(() => second.listen(path, 1)).toThrow(expect.objectContaining({ errno: 98, syscall: 'bind' }));
  expect(() => second.listen(join(directory, 'x'.repeat(200)), 1)).toThrow(expect.objectContaining({ errno: 36 }));
  await second.close();
});

test('a caller that leaves before its answer aborts the call, and the answer is dropped', async () => {
  listen();
  const socket = await dial(request());
  await expect.poll(() => calls.length).toBe(1);
  const [caller] = calls;
  expect(caller?.gone.signal.aborted).toBe(false);
  socket.destroy();
  await caller?.ended;
  expect(caller?.gone.signal.aborted).toBe(true);
  caller?.answer({ status: 200, body: 'late' });
  await server.close();
});

test('an answer beyond the socket’s buffer waits for its reader, others do not', async () => {
  const body = 'ä'.repeat(2 << 20);
  listen({
    onRequest: (_request, caller) => {
      calls.push(caller);
      caller.answer({ status: 200, body: calls.length === 1 ? body : 'small' });
    },
  });
  const slow = await dial(request());
  slow.pause();
  await expect.poll(() => calls.length).toBe(1);
  expect(await ask('')).toBe('small');
  let ended = false;
  void calls[0]?.ended.then(() => (ended = true));
  expect(await ask('')).toBe('small');
  expect(ended).toBe(false);
  // A stop waits for it.
  const stopped = server.close();
  slow.resume();
  const text = await said(slow);
  expect(text.split('\r\n\r\n')[1] === body).toBe(true);
  await stopped;
  expect(calls[0]?.gone.signal.aborted).toBe(false);
});

test('who does not read its answer, or sends nothing, is cut off by the end', async () => {
  listen({ onRequest: (_request, caller) => caller.answer({ status: 200, body: 'x'.repeat(8 << 20) }) });
  const deaf = await dial(request());
  deaf.pause();
  const mute = await dial('');
  // Its turn comes after theirs.
  const third = await dial('GET');
  server.hangUp();
  await Promise.all([closed(mute), closed(third), said(deaf.resume())]);
});

test('who takes too long is dropped; a call at work is not', async () => {
  listen({
    patienceMs: 1000,
    onRequest: ({ body }, caller) => {
      calls.push(caller);
      if (body.length > 0) caller.answer({ status: 200, body: 'x'.repeat(8 << 20) });
    },
  });
  const working = await dial(request());
  await expect.poll(() => calls.length).toBe(1);
  const mute = await dial('');
  const half = await dial('POST / HTTP/1.1');
  const deaf = await dial(request('much'));
  deaf.pause();
  await Promise.all([closed(mute), closed(half)]);
  await calls[1]?.ended;
  deaf.destroy();
  expect(calls[0]?.gone.signal.aborted).toBe(false);
  const text = said(working);
  calls[0]?.answer({ status: 200, body: 'in the end' });
  expect(await text).toContain('in the end');
});

test('500 at once are served, with a request in pieces among them', async () => {
  listen(echo);
  const slow = await dial(request('in pieces').slice(0, -4));
  const bodies = Array.from({ length: 500 }, (_, index) => `call ${index}`);
  expect(await Promise.all(bodies.map((body) => ask(body)))).toEqual(bodies);
  slow.write('eces');
  expect(await said(slow)).toContain('in pieces');
});

test('what comes behind a request does not cost its sender the answer', async () => {
  listen();
  const socket = await dial(request());
  await expect.poll(() => calls.length).toBe(1);
  await new Promise((resolve) => socket.write('x'.repeat(100_000), resolve));
  const text = said(socket);
  calls[0]?.answer({ status: 200, body: 'still' });
  expect(await text).toContain('still');
});

test('beyond the most connections others wait, and have their turn', async () => {
  listen({ mostConnections: 2 });
  const first = await dial(request());
  const second = await dial('');
  const third = await dial(request());
  const fourth = await dial(request());
  await expect.poll(() => calls.length).toBe(1);
  second.destroy();
  await expect.poll(() => calls.length).toBe(2);
  const text = said(first);
  calls[0]?.answer({ status: 200, body: 'one' });
  expect(await text).toContain('one');
  await expect.poll(() => calls.length).toBe(3);
  const rest = Promise.all([said(third), said(fourth)]);
  for (const caller of calls) caller.answer({ status: 200, body: 'more' });
  expect((await rest).every((one) => one.endsWith('more'))).toBe(true);
});

test('an exception of a handler is uncaught, not swallowed, and what is open ends with its environment', async () => {
  const code = (body: string): string => `
    const { parentPort } = require('node:worker_threads');
    import(${JSON.stringify(new URL('../../../agent/cni/http.ts', import.meta.url).href)}).then(({ HttpServer }) => {
      const server = new HttpServer({ bodyLimitBytes: 100, onRequest: () => { ${body} }, refuse: () => ({ status: 400, body: '' }) });
      server.listen(${JSON.stringify(path)}, 10);
      parentPort.postMessage('listening');
    });`;
  listen();
  server.hangUp();
  await rm(path, { force: true });
  const throwing = new Worker(code('throw new Error("handler")'), { eval: true, execArgv: [] });
  await once(throwing, 'message');
  const failed = once(throwing, 'error');
  await dial(request());
  expect(await failed).toMatchObject([{ message: 'handler' }]);

  await rm(path, { force: true });
  const busy = new Worker(code('parentPort.postMessage("at work")'), { eval: true, execArgv: [] });
  await once(busy, 'message');
  const idle = await dial('');
  const working = await dial(request());
  await once(busy, 'message');
  const gone = Promise.all([closed(idle), closed(working)]);
  await busy.terminate();
  await gone;
});

test('a process out of descriptors takes the others when it has some again', async () => {
  listen();
  server.hangUp();
  await rm(path, { force: true });
  const program = `
    import { HttpServer } from ${JSON.stringify(new URL('../../../agent/cni/http.ts', import.meta.url).href)};
    const calls = [];
    const server = new HttpServer({ bodyLimitBytes: 100, refuse: () => ({ status: 400, body: '' }), onRequest: (request, caller) => calls.push(caller) });
    server.listen(${JSON.stringify(path)}, 1024);
    console.log('listening');
    process.stdin.once('data', () => {
      console.log('had ' + calls.length);
      setInterval(() => { for (const caller of calls.splice(0)) caller.answer({ status: 200, body: 'served' }); }, 10);
    });`;
  const line = `ulimit -n 64; exec "$0" --input-type=module -e "$1"`;
  const child = spawn('sh', ['-c', line, process.execPath, program], { stdio: ['pipe', 'pipe', 'inherit'] });
  try {
    let output = '';
    child.stdout.on('data', (chunk) => (output += chunk.toString()));
    await expect.poll(() => output, { timeout: 20_000 }).toContain('listening');
    const sockets = await Promise.all(Array.from({ length: 100 }, () => dial(request())));
    const texts = Promise.all(sockets.map(said));
    child.stdin.write('go\n');
    expect((await texts).every((text) => text.endsWith('served'))).toBe(true);
    expect(Number(/had (\d+)/.exec(output)?.[1])).toBeLessThan(64);
  } finally {
    child.kill('SIGKILL');
    await once(child, 'close');
  }
});

test('the shim’s own head is taken like any other, wherever it is cut, and refused like any other', async () => {
  const heads: string[] = [];
  const onRequest: HttpHandlers['onRequest'] = ({ method, target, contentType, body }, caller) => {
    heads.push(`${method} ${target} ${contentType} ${body}`);
    caller.answer({ status: 200, body: 'good' });
  };
  listen({ onRequest, bodyLimitBytes: 100 });
  const head =
    'POST /cni HTTP/1.1\r\nHost: weft\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: ';
  const whole = `${head}2\r\n\r\n{}`;
  for (let cut = 1; cut < whole.length; cut += 7) {
    const socket = await dial(whole.slice(0, cut));
    await new Promise((resolve) => setTimeout(resolve, 2));
    socket.write(whole.slice(cut));
    expect(await said(socket)).toMatch(/^HTTP\/1.1 200 .*good$/s);
  }
  expect(new Set(heads)).toEqual(new Set(['POST /cni application/json {}']));
  const refused: readonly (readonly [string, RegExp])[] = [
    [`${head}101\r\n\r\n`, /larger than 100 bytes/],
    [`${head}-1\r\n\r\n`, /no proper Content-Length/],
    [`${head}12345678901\r\n\r\n`, /no proper Content-Length/],
    [`${head}\r\n\r\n`, /no proper Content-Length/],
    [`${head}2\r\nContent-Length: 3\r\n\r\n{}`, /no proper Content-Length/],
    [`${head}2\r\nTransfer-Encoding: chunked\r\n\r\n{}`, /Transfer-Encoding/],
    [`${head}2\r\n\r\n{} `, /more came than its Content-Length says/],
  ];
  for (const [bytes, why] of refused) expect(await said(await dial(bytes))).toMatch(why);
});
