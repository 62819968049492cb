// The first process of a lab host: it holds the namespaces and hands connections on a Unix socket to the status API on the
// host's own 127.0.0.1:6785, which the machine cannot reach otherwise.

import { connect, createServer } from 'node:net';

const socketPath = process.argv[2] ?? '';
const server = createServer((incoming) => {
  const outgoing = connect({ host: '127.0.0.1', port: 6785 });
  incoming.on('error', () => outgoing.destroy());
  outgoing.on('error', () => incoming.destroy());
  incoming.pipe(outgoing).pipe(incoming);
});
server.maxConnections = 64;
server.listen(socketPath, () => process.stdout.write('ready\n'));
