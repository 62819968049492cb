// A stand-in for the API server that misbehaves on demand: HTTPS with a real certificate, answers decided by the test, watches
// written line by line. What a real server does is tested against a real one (test/e2e/registry.test.ts).

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createKeys } from '#agent/registry/peers/keys.ts';

export interface Asked {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly authorization: string;
  readonly body: string;
}

export interface FakeApi extends AsyncDisposable {
  readonly directory: string;
  readonly kubeConfig: string;
  /** Every request, oldest first. */
  readonly asked: readonly Asked[];
  /** Decides each answer; writes and ends the response itself. */
  answer: (asked: Asked, response: ServerResponse) => void;
  /** Cuts every connection, as a crash does. */
  cut(): void;
  writeKubeConfig(token: string): Promise<void>;
}

export function sendJson(
  response: ServerResponse,
  status: number,
  body: unknown,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
}

export function sendLine(response: ServerResponse, type: string, object: unknown): void {
  if (!response.headersSent) response.writeHead(200, { 'content-type': 'application/json' });
  response.write(`${JSON.stringify({ type, object })}\n`);
}

export async function startFakeApi(): Promise<FakeApi> {
  const directory = await mkdtemp(join(tmpdir(), 'weft-fake-api-'));
  const [keys] = await createKeys(join(directory, 'keys'), [{ name: 'localhost', addresses: ['127.0.0.1'] }]);
  if (keys === undefined) throw new Error('no keys');
  const server = createServer({ cert: await readFile(keys.cert), key: await readFile(keys.key) });
  const asked: Asked[] = [];
  server.on('request', (request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const url = new URL(request.url ?? '/', 'https://localhost');
      const one: Asked = {
        method: request.method ?? '',
        path: url.pathname,
        query: url.searchParams,
        authorization: request.headers.authorization ?? '',
        body: Buffer.concat(chunks).toString(),
      };
      asked.push(one);
      fake.answer(one, response);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const kubeConfig = join(directory, 'kubeconfig');
  const fake: FakeApi = {
    directory,
    kubeConfig,
    asked,
    answer: (_asked, response) => sendJson(response, 503, { message: 'not yet' }),
    cut: () => server.closeAllConnections(),
    writeKubeConfig: (token) =>
      writeFile(
        kubeConfig,
        JSON.stringify({
          'current-context': 'test',
          contexts: [{ name: 'test', context: { cluster: 'test', user: 'test' } }],
          clusters: [
            { name: 'test', cluster: { server: `https://127.0.0.1:${port}`, 'certificate-authority': keys.ca } },
          ],
          users: [{ name: 'test', user: { token } }],
        }),
      ),
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
      await rm(directory, { recursive: true, force: true });
    },
  };
  await fake.writeKubeConfig('first-token');
  return fake;
}
