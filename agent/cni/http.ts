// The HTTP of the CNI socket: each connection brings one request with a Content-Length, gets one answer and is closed. Read by hand,
// because every start of a pod waits for it (docs/decisions/201, 202); RFC 9112 as far as the shim, curl and a curious person need it.

import { type ListenerHandle, type NativeAddon, nativeAddon } from '#agent/native/addon.ts';

/** Bytes that a request's line and headers may have together. */
const headLimitBytes = 16 << 10;
const defaultPatienceMs = 60_000;
/** In a patience is looked so often for those that took longer. */
const sweeps = 6;
/** After how long a listener that was out of descriptors tries again. */
const retryMs = 100;

/** A request as it came: the body, UTF-8, is not looked at. */
export interface HttpRequest {
  readonly method: string;
  /** The request target, `/cni`. */
  readonly target: string;
  /** Lower-case media type without parameters; '' where there is none. */
  readonly contentType: string;
  readonly body: string;
}

export interface HttpAnswer {
  readonly status: number;
  /** application/json; '' sends no body. */
  readonly body: string;
}

/** Where an answer goes. */
export interface Caller {
  /** Aborts when the caller went away before it had the answer, and when it is told to. */
  readonly gone: AbortController;
  /** The connection is over, answered or not. */
  readonly ended: Promise<void>;
  /** Sends and closes. What comes second, or after the caller has gone, is dropped. */
  answer(answer: HttpAnswer): void;
}

export interface HttpHandlers {
  /** Largest Content-Length that is read. */
  readonly bodyLimitBytes: number;
  /** As many are open at once; the others wait in the backlog. 4096, which is the most, when absent. */
  readonly mostConnections?: number;
  /** How long a request may take to arrive whole, and an answer to be read; whole seconds, 60 when absent. */
  readonly patienceMs?: number;
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
  readonly #addon: NativeAddon = nativeAddon();
  readonly #handlers: HttpHandlers;
  readonly #patienceMs: number;
  /** Those that have sent something and are not over. */
  readonly #exchanges = new Map<number, Exchange>();
  /** Where all of them are received, one at a time. */
  readonly #room = Buffer.allocUnsafeSlow(64 << 10);
  #handle: ListenerHandle | undefined;
  #sweep: NodeJS.Timeout | undefined;
  #emptied: (() => void) | undefined;

  constructor(handlers: HttpHandlers) {
    this.#handlers = handlers;
    this.#patienceMs = handlers.patienceMs ?? defaultPatienceMs;
  }

  /** Takes connections at `path` from now on. Throws NativeError. */
  listen(path: string, backlog: number): void {
    const most = this.#handlers.mostConnections ?? 4096;
    const take = (connection: number, value: number | null): void => this.#take(connection, value);
    this.#handle = this.#addon.listenerOpen(path, backlog, most, take, this.#room);
    this.#sweep = setInterval(() => this.#dropLate(), this.#patienceMs / sweeps).unref();
  }

  /** Takes no more connections; resolves when the last that has sent anything has ended. */
  async close(): Promise<void> {
    if (this.#handle === undefined) return;
    this.#addon.listenerStop(this.#handle);
    if (this.#exchanges.size > 0) await new Promise<void>((resolve) => (this.#emptied = resolve));
    this.hangUp();
  }

  /** Ends every connection, answered or not, and the listening. */
  hangUp(): void {
    if (this.#handle === undefined) return;
    clearInterval(this.#sweep);
    this.#addon.listenerClose(this.#handle);
    this.#handle = undefined;
    for (const number of this.#exchanges.keys()) this.#over(number);
  }

  #take(number: number, value: number | null): void {
    if (value === null) this.#over(number);
    else if (number === -1) setTimeout(() => this.#resume(), retryMs);
    else {
      let exchange = this.#exchanges.get(number);
      if (exchange === undefined) {
        exchange = new Exchange(this.#handlers, (text) => this.#send(number, text));
        this.#exchanges.set(number, exchange);
      }
      exchange.take(this.#room.subarray(0, value));
    }
  }

  #send(number: number, text: string): void {
    const handle = this.#handle;
    if (handle !== undefined && this.#addon.listenerAnswer(handle, number, text)) this.#over(number);
  }

  #over(number: number): void {
    const exchange = this.#exchanges.get(number);
    this.#exchanges.delete(number);
    exchange?.end();
    if (this.#exchanges.size === 0) this.#emptied?.();
  }

  /** Who has sent no whole request by now, or does not read the answer, is not waited for. */
  #dropLate(): void {
    if (this.#handle === undefined) return;
    const patienceMs = this.#patienceMs;
    const nowMs = performance.now();
    for (const number of this.#addon.listenerOld(this.#handle, patienceMs / 1000)) {
      const exchange = this.#exchanges.get(number);
      if (exchange !== undefined && !exchange.isLate(nowMs - patienceMs)) continue;
      this.#addon.listenerDrop(this.#handle, number);
      this.#over(number);
    }
  }

  #resume(): void {
    if (this.#handle !== undefined) this.#addon.listenerResume(this.#handle);
  }
}

/** One connection: collects what comes until it is a whole request or cannot become one, then takes one answer. */
class Exchange implements Caller {
  readonly gone: AbortController = new AbortController();
  readonly #ended = Promise.withResolvers<void>();
  readonly #handlers: HttpHandlers;
  readonly #send: (text: string) => void;
  #parts: Buffer[] = [];
  #gotBytes = 0;
  #head: Head | undefined;
  #state: 'arriving' | 'at work' | 'answered' = 'arriving';
  #answeredMs = 0;

  constructor(handlers: HttpHandlers, send: (text: string) => void) {
    this.#handlers = handlers;
    this.#send = send;
  }

  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  /** What has been received, in memory that is somebody else's after this call. */
  take(bytes: Buffer): void {
    // Whatever comes behind a request is read and dropped, or its sender would never see the answer.
    if (this.#state !== 'arriving') return;
    this.#gotBytes += bytes.length;
    this.#parts.push(bytes);
    this.#progress();
    // Most come in one piece and are done with.
    const at = this.#parts.indexOf(bytes);
    if (at !== -1) this.#parts[at] = Buffer.from(bytes);
  }

  #progress(): void {
    const { bodyLimitBytes } = this.#handlers;
    if (this.#head === undefined) {
      const parsed = parseHead(this.#joined());
      if (parsed === 'more') return;
      if (typeof parsed === 'string') return this.#refuse(parsed);
      if (parsed.bodyBytes > bodyLimitBytes) return this.#refuse(`its body is larger than ${bodyLimitBytes} bytes`);
      this.#head = parsed;
    }
    const { start, bodyBytes, method, target, contentType } = this.#head;
    if (this.#gotBytes < start + bodyBytes) return;
    if (this.#gotBytes > start + bodyBytes) return this.#refuse('more came than its Content-Length says');
    const body = this.#joined().toString('utf8', start);
    this.#parts = [];
    this.#state = 'at work';
    this.#handlers.onRequest({ method, target, contentType, body }, this);
  }

  answer({ status, body }: HttpAnswer): void {
    if (this.#state === 'answered') return;
    this.#state = 'answered';
    this.#answeredMs = performance.now();
    this.#send(
      `HTTP/1.1 ${status} ${reasons[status] ?? ''}\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
    );
  }

  /** The connection is over. */
  end(): void {
    if (this.#state !== 'answered') this.gone.abort();
    this.#ended.resolve();
  }

  /** Of a connection older than `sinceMs`: nothing whole has come, or the answer has been waiting for as long. */
  isLate(sinceMs: number): boolean {
    return this.#state === 'arriving' || (this.#state === 'answered' && this.#answeredMs <= sinceMs);
  }

  #joined(): Buffer {
    if (this.#parts.length > 1) this.#parts = [Buffer.concat(this.#parts)];
    return this.#parts[0] ?? Buffer.alloc(0);
  }

  #refuse(why: string): void {
    this.#parts = [];
    this.answer(this.#handlers.refuse(why));
  }
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

/** What the shim's head begins with (cni-shim/agent.c); the length is all that differs from call to call. */
const shimHead =
  'POST /cni HTTP/1.1\r\nHost: weft\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: ';
const longestShimHead = shimHead.length + 14;

/** The shim's own head, taken at a glance; undefined for any other, and while it has not ended. */
function parseShimHead(bytes: Buffer): Head | undefined {
  const text = bytes.toString('latin1', 0, longestShimHead);
  if (!text.startsWith(shimHead)) return undefined;
  const end = text.indexOf('\r\n\r\n', shimHead.length);
  const digits = text.slice(shimHead.length, end);
  if (end === -1 || !/^\d{1,10}$/.test(digits)) return undefined;
  return {
    method: 'POST',
    target: '/cni',
    contentType: 'application/json',
    bodyBytes: Number(digits),
    start: end + 4,
  };
}

/** The head of a request; 'more' while it has not ended, else why it cannot be one. */
function parseHead(bytes: Buffer): Head | string {
  const shim = parseShimHead(bytes);
  if (shim !== undefined) return shim;
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
