// What runs in each pod: a small HTTP server, and a prober that pings and fetches when told to, one JSON line per order and
// answer. Orders: {"id":1,"ping":"10.40.0.2"}, {"id":2,"fetch":"http://10.40.0.2/"}.

import { execFile } from 'node:child_process';
import { createServer, get } from 'node:http';
import { createInterface } from 'node:readline';

interface Order {
  readonly id: number;
  readonly ping?: string;
  readonly fetch?: string;
}

interface Answer {
  readonly ok: boolean;
  readonly ms: number;
  readonly text: string;
}

const name = process.argv[2] ?? 'pod';

const server = createServer((request, response) => {
  response.setHeader('content-type', 'text/plain; charset=utf-8');
  // An IPv4 client of a socket for both families.
  const client = (request.socket.remoteAddress ?? '').replace(/^::ffff:/, '');
  response.end(`${name} answers ${client}\n`);
});
server.listen({ port: 80 }, () => process.stdout.write('ready\n'));

async function ping(address: string): Promise<Answer> {
  return new Promise((resolve) => {
    execFile('ping', ['-n', '-c', '1', '-W', '3', address], (error, stdout, stderr) => {
      const time = /time=([\d.]+) ms/.exec(stdout)?.[1];
      resolve({ ok: error === null && time !== undefined, ms: Number(time ?? 0), text: (stderr || stdout).trim() });
    });
  });
}

async function fetchPage(url: string): Promise<Answer> {
  const start = performance.now();
  return new Promise((resolve) => {
    const failed = (error: Error): void => resolve({ ok: false, ms: performance.now() - start, text: error.message });
    get(url, { agent: false, signal: AbortSignal.timeout(5000) }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (chunk: string) => (body += chunk));
      response.on('error', failed);
      response.on('end', () => {
        resolve({ ok: response.statusCode === 200, ms: performance.now() - start, text: body.trim() });
      });
    }).on('error', failed);
  });
}

createInterface({ input: process.stdin }).on('line', (line) => {
  const order = JSON.parse(line) as Order;
  const work = order.ping === undefined ? fetchPage(order.fetch ?? '') : ping(order.ping);
  void work.then((answer) => process.stdout.write(`${JSON.stringify({ id: order.id, ...answer })}\n`));
});
