// The HTTP of the CNI socket: each connection brings one request with a Content-Length, gets one answer and is closed. Read by hand,
// because every start of a pod waits for it (docs/decisions/201); RFC 9112 as far as the shim, curl and a curious person need it.

import { createServer, type Server, type Socket } from 'node:net';

/** Bytes that a request's line and headers may have together. */
const headLimitBytes = 16 << 10;
/** How long a request may take to arrive whole. */
const arrivalMs = 60_000;

/** A request as it came: the body is not looked at. */
export interface HttpRequest {
  readonly method: string;
  /** The request target, `/cni`. */
  readonly target: string;
  /** Lower-case media type without parameters; '' where there is none. */
  readonly contentType: string;
  readonly body: Buffer;
}

export interface HttpAnswer {
  readonly status: number;
  /** application/json; '' sends no body. */
  readonly body: string;
}

/** Where an answer goes. `closed` aborts when the caller went away before it had the answer. */
export interface Caller {
  readonly closed: AbortSignal;
  /** The connection is over, answered or not. */
  readonly ended: Promise<void>;
  /** Sends and closes. What comes second, or after the caller has gone, is dropped. */
  answer(answer: HttpAnswer): void;
}

export interface HttpHandlers {
  /** Largest Content-Length that is read. */
  readonly bodyLimitBytes: number;
  onRequest(request: HttpRequest, caller: Caller): void;
  /** The answer to bytes that are no such request; `why` is a clause. */
  refuse(why: string): HttpAnswer;
}

const reasons: Readonly<Record<number, string>> = {
  200: 'OK',
  400: 'Bad Request',
  404: 'Not Found',
  503: 'Service Unavailable',
};

export class HttpServer {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  constructor(handlers: HttpHandlers) {
    this.#server = createServer((socket) => {
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
      receive(socket, handlers);
    });
  }

  /** Resolves when the socket at `path` takes connections; rejects with the system's error. */
  async listen(path: string, backlog: number): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen({ path, backlog }, () => {
        this.#server.off('error', reject);
        resolve();
      });
    });
  }

  /** Takes no more connections; resolves when the last has ended. */
  async close(): Promise<void> {
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  /** Ends every connection, answered or not. */
  hangUp(): void {
    for (const socket of this.#sockets) socket.destroy();
  }
}

/** Collects what comes until it is a whole request or cannot become one. */
function receive(socket: Socket, handlers: HttpHandlers): void {
  let got: Buffer = Buffer.alloc(0);
  let head: Head | undefined;
  const late = setTimeout(() => socket.destroy(), arrivalMs);
  const done = (): void => {
    clearTimeout(late);
    socket.off('data', take);
    // Whatever else comes is read and dropped, or its sender would never see the answer.
    socket.resume();
  };
  const refuse = (why: string): void => {
    done();
    send(socket, handlers.refuse(why));
  };
  function take(chunk: Buffer): void {
    got = got.length === 0 ? chunk : Buffer.concat([got, chunk]);
    if (head === undefined) {
      const parsed = parseHead(got);
      if (parsed === 'more') return;
      if (typeof parsed === 'string') return refuse(parsed);
      if (parsed.bodyBytes > handlers.bodyLimitBytes)
        return refuse(`its body is larger than ${handlers.bodyLimitBytes} bytes`);
      head = parsed;
    }
    const { start, bodyBytes, ...rest } = head;
    if (got.length < start + bodyBytes) return;
    if (got.length > start + bodyBytes) return refuse('more came than its Content-Length says');
    done();
    handlers.onRequest({ ...rest, body: got.subarray(start) }, callerOf(socket));
  }
  socket.on('data', take);
  socket.on('error', () => undefined);
  socket.once('close', () => clearTimeout(late));
}

function callerOf(socket: Socket): Caller {
  const closed = new AbortController();
  const ended = Promise.withResolvers<void>();
  let answered = false;
  const end = (): void => {
    // Node ends the sending side by itself when the caller closes: that is no answer.
    if (!answered || !socket.writableFinished) closed.abort();
    ended.resolve();
  };
  if (socket.closed) end();
  else socket.once('close', end);
  const answer = (what: HttpAnswer): void => {
    answered = true;
    send(socket, what);
  };
  return { closed: closed.signal, ended: ended.promise, answer };
}

function send(socket: Socket, { status, body }: HttpAnswer): void {
  if (!socket.writable) return;
  const length = Buffer.byteLength(body);
  socket.write(
    `HTTP/1.1 ${status} ${reasons[status] ?? ''}\r\nContent-Type: application/json\r\nContent-Length: ${length}\r\nConnection: close\r\n\r\n${body}`,
  );
  socket.destroySoon();
}

interface Head {
  readonly method: string;
  readonly target: string;
  readonly contentType: string;
  /** Content-Length. */
  readonly bodyBytes: number;
  /** Where the body begins. */
  readonly start: number;
}

/** The head of a request; 'more' while it has not ended, else why it cannot be one. */
function parseHead(bytes: Buffer): Head | string {
  const end = bytes.indexOf('\r\n\r\n');
  if (end === -1 || end > headLimitBytes) return bytes.length > headLimitBytes ? 'its header does not end' : 'more';
  const [first = '', ...lines] = bytes.toString('latin1', 0, end).split('\r\n');
  const request = /^([A-Z]+) (\S+) HTTP\/1\.[01]$/.exec(first);
  if (request === null) return 'it is not HTTP/1.1';
  let bodyBytes: number | undefined;
  let contentType = '';
  for (const line of lines) {
    const field = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*$/.exec(line);
    if (field === null) return 'one of its header lines is none';
    const [, name = '', value = ''] = field;
    switch (name.toLowerCase()) {
      case 'content-length':
        if (bodyBytes !== undefined || !/^\d{1,10}$/.test(value)) return 'it has no proper Content-Length';
        bodyBytes = Number(value);
        break;
      case 'transfer-encoding':
        return 'it has a Transfer-Encoding: send it with a Content-Length';
      case 'content-type':
        contentType = (value.split(';')[0] ?? '').trim().toLowerCase();
    }
  }
  return { method: request[1] ?? '', target: request[2] ?? '', contentType, bodyBytes: bodyBytes ?? 0, start: end + 4 };
}
