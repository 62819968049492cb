// The process behind Talker: serves and asks over TCP and UDP in the network namespace it was started in, told over IPC.

import { createSocket, type Socket } from 'node:dgram';
import { connect, createServer } from 'node:net';

import type { Answer, Ask, Download, Downloaded, Serve, ToTalker } from '#test/support/talker.ts';

/** UDP clients by local port: a second question of the same flow comes from the same socket. */
const udpClients = new Map<number, Socket>();
const plain = (address: string): string => address.replace(/^::ffff:/, '');

async function serve({ protocol, port, name, bytes }: Serve): Promise<void> {
  const answer = (source: string): string => JSON.stringify({ name, source: plain(source) });
  if (protocol === 'udp') {
    const socket = createSocket('udp6');
    socket.on('message', (_bytes, from) => socket.send(answer(from.address), from.port, from.address));
    await new Promise<void>((resolve) => socket.bind(port, '::', resolve));
    return;
  }
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.end(bytes === undefined ? answer(socket.remoteAddress ?? '') : Buffer.alloc(bytes));
  });
  await new Promise<void>((resolve) => server.listen(port, '::', resolve));
}

/** Undefined where nobody answers in time. */
async function ask(question: Ask): Promise<Answer | undefined> {
  return question.protocol === 'udp' ? await askUdp(question) : await askTcp(question);
}

async function askTcp({ address, port, waitMs }: Ask): Promise<Answer | undefined> {
  return await new Promise((resolve) => {
    const socket = connect({ host: address, port });
    let text = '';
    const end = (answer: Answer | undefined): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answer);
    };
    const timer = setTimeout(() => end(undefined), waitMs);
    socket.on('data', (chunk) => (text += chunk.toString()));
    socket.on('end', () => end(text === '' ? undefined : (JSON.parse(text) as Answer)));
    socket.on('error', () => end(undefined));
  });
}

async function askUdp({ address, port, localPort, waitMs }: Ask): Promise<Answer | undefined> {
  const socket = await udpClient(address.includes(':') ? 'udp6' : 'udp4', localPort ?? 0);
  return await new Promise((resolve) => {
    const end = (answer: Answer | undefined): void => {
      clearTimeout(timer);
      socket.removeAllListeners('message');
      if (localPort === undefined) socket.close();
      resolve(answer);
    };
    const timer = setTimeout(() => end(undefined), waitMs);
    socket.on('message', (bytes) => end(JSON.parse(bytes.toString()) as Answer));
    socket.send('?', port, address, (error) => {
      if (error !== null) end(undefined);
    });
  });
}

async function udpClient(type: 'udp4' | 'udp6', localPort: number): Promise<Socket> {
  const known = localPort === 0 ? undefined : udpClients.get(localPort);
  if (known !== undefined) return known;
  const socket = createSocket(type);
  socket.on('error', () => undefined);
  await new Promise<void>((resolve) => socket.bind(localPort, resolve));
  if (localPort !== 0) udpClients.set(localPort, socket);
  return socket;
}

async function download({ address, port }: Download): Promise<Downloaded> {
  const beganMs = performance.now();
  return await new Promise((resolve, reject) => {
    const socket = connect({ host: address, port });
    let bytes = 0;
    socket.on('data', (chunk) => (bytes += chunk.length));
    socket.on('end', () => resolve({ bytes, ms: performance.now() - beganMs }));
    socket.on('error', reject);
  });
}

async function run(errand: ToTalker): Promise<Answer | Downloaded | undefined | void> {
  switch (errand.kind) {
    case 'serve':
      return await serve(errand.serve);
    case 'ask':
      return await ask(errand.ask);
    case 'download':
      return await download(errand.download);
  }
}

process.on('disconnect', () => process.exit(0));
process.on('message', (message: ToTalker) => {
  run(message).then(
    (answer) => process.send?.({ id: message.id, answer }),
    (error: unknown) => process.send?.({ id: message.id, error: String(error) }),
  );
});
