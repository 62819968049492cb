// As much of an API server as kube-proxy asks: the objects of one JSON file, listed and watched; they never change.
//   node services.ts FILE     serves on 127.0.0.1:8080 until it is killed; says so on standard output
// FILE: {"/api/v1/services": {"kind": "Service", "apiVersion": "v1", "items": [ … ]}, … }
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';

interface Collection {
  readonly kind: string;
  readonly apiVersion: string;
  readonly items: readonly Readonly<Record<string, unknown>>[];
}

const collections = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8')) as Readonly<Record<string, Collection>>;
const resourceVersion = '10';
const initialEventsEnd = { 'k8s.io/initial-events-end': 'true' };

createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url ?? '/', 'http://localhost');
  const send = (status: number, body: object): void =>
    void response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  // Events that kube-proxy tells.
  if (request.method !== 'GET') return send(201, {});
  const list = collections[pathname];
  if (list === undefined) {
    const [path = '', name] = /^(.*)\/([^/]+)$/.exec(pathname)?.slice(1) ?? [];
    const one = collections[path]?.items.find((item) => (item['metadata'] as { name: string }).name === name);
    return one === undefined
      ? send(404, { kind: 'Status', apiVersion: 'v1', status: 'Failure', reason: 'NotFound', code: 404 })
      : send(200, one);
  }
  const { kind, apiVersion, items } = list;
  const objects = items.map((item) => ({ kind, apiVersion, ...item }));
  if (searchParams.get('watch') === null)
    return send(200, { kind: `${kind}List`, apiVersion, metadata: { resourceVersion }, items: objects });
  response.writeHead(200, { 'content-type': 'application/json' }).flushHeaders();
  // KEP-3157: a watch that lists first.
  if (searchParams.get('sendInitialEvents') !== 'true') return undefined;
  for (const object of objects) response.write(`${JSON.stringify({ type: 'ADDED', object })}\n`);
  const mark = { kind, apiVersion, metadata: { resourceVersion, annotations: initialEventsEnd } };
  response.write(`${JSON.stringify({ type: 'BOOKMARK', object: mark })}\n`);
  return undefined;
}).listen(8080, '127.0.0.1', () => console.log('serving'));
