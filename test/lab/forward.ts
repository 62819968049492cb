// A port on the machine's loopback that leads to a host's status page.

import { connect, createServer } from 'node:net';
import type { AddressInfo, Server } from 'node:net';

const preferredPort = 16_785;

/** Listens on 127.0.0.1 and hands connections to the host's Unix socket. Resolves to the port. */
export async function forwardStatus(
  socketPath: string,
): Promise<{ readonly port: number; readonly close: () => void }> {
  const server = createServer((incoming) => {
    const outgoing = connect(socketPath);
    incoming.on('error', () => outgoing.destroy());
    outgoing.on('error', () => incoming.destroy());
    incoming.pipe(outgoing).pipe(incoming);
  });
  server.maxConnections = 64;
  await listen(server, preferredPort).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EADDRINUSE') throw error;
    return listen(server, 0);
  });
  return { port: (server.address() as AddressInfo).port, close: () => void server.close() };
}

async function listen(server: Server, port: number): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', () => {
      server.off('error', reject);
      resolve();
    });
  });
}
