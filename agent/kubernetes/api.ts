// Requests to the Kubernetes API server over kept-alive HTTPS, with credentials read again as they rotate. One place decides
// what a failure means: an answer is returned whatever its status, no answer throws WeftError('registry').

import { Agent, request, type RequestOptions } from 'node:https';
import type { IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf, WeftError } from '#agent/errors.ts';
import type { CredentialOptions, Credentials } from '#agent/kubernetes/credentials.ts';

export type KubeApiOptions = CredentialOptions;

export interface KubeRequest {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  readonly path: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly body?: unknown;
  /** `application/json` unless a patch says otherwise. */
  readonly contentType?: string;
  /** `application/json` unless only a part is wanted. */
  readonly accept?: string;
}

export interface KubeAnswer {
  readonly status: number;
  /** Parsed JSON; a Status object when the request failed. */
  readonly body: unknown;
}

export interface KubeApi {
  /** Throws WeftError('registry') when no answer came: a write may then have taken effect. */
  call(call: KubeRequest, signal: AbortSignal): Promise<KubeAnswer>;
  /** One JSON value a line until the server ends the stream, nothing came for `idleMs`, or the signal aborts. */
  lines(call: KubeRequest, idleMs: number, signal: AbortSignal): AsyncGenerator<KubeAnswer, void, undefined>;
  close(): void;
}

/** Also the longest that credentials on disk may be newer than those in use. */
const credentialsAgeMs = 60_000;
const requestTimeoutMs = 10_000;
/** A page of 500 nodes with all that kubelets write into them is a few MiB. */
const maxAnswerBytes = 64 << 20;
const maxLineBytes = 8 << 20;
/** How often a request that the server was too busy for (429) is sent again. */
const busyRetries = 3;

interface Session {
  readonly credentials: Credentials;
  readonly agent: Agent;
  readonly readAtMs: number;
}

/** Reads credentials on the first request; nothing is contacted before. */
export function openKubeApi(options: KubeApiOptions): KubeApi {
  let session: Promise<Session> | undefined;

  const renew = async (previous: Session | undefined): Promise<Session> => {
    const { readCredentials } = await import('#agent/kubernetes/credentials.ts');
    const credentials = await readCredentials(options);
    const keep = previous !== undefined && sameTls(previous.credentials, credentials);
    if (!keep && previous !== undefined) retire(previous.agent);
    return { credentials, agent: keep ? previous.agent : newAgent(credentials), readAtMs: performance.now() };
  };
  const current = async (fresh: boolean): Promise<Session> => {
    const previous = await session?.catch(() => undefined);
    const old = previous === undefined || performance.now() - previous.readAtMs > credentialsAgeMs;
    if (old || fresh) session = renew(previous);
    return session ?? renew(previous);
  };

  const send = async (call: KubeRequest, fresh: boolean, signal: AbortSignal): Promise<IncomingMessage> => {
    const { credentials, agent } = await current(fresh);
    return open(credentials, agent, call, signal);
  };

  const callOnce = async (call: KubeRequest, signal: AbortSignal): Promise<KubeAnswer & { retryAfterMs: number }> => {
    const ended = AbortSignal.any([signal, AbortSignal.timeout(requestTimeoutMs)]);
    try {
      let response = await send(call, false, ended);
      if (response.statusCode === 401) {
        response.resume();
        response = await send(call, true, ended);
      }
      const retryAfterMs = Number(response.headers['retry-after'] ?? 1) * 1000;
      return { status: response.statusCode ?? 0, body: await readJson(response), retryAfterMs };
    } catch (cause) {
      if (cause instanceof WeftError) throw cause;
      throw new WeftError('registry', `API server, ${call.method} ${call.path}: ${describe(cause, ended)}`, { cause });
    }
  };

  return {
    call: async (call, signal) => {
      for (let attempt = 1; ; attempt += 1) {
        signal.throwIfAborted();
        const answer = await callOnce(call, signal);
        // Too many requests: refused before anything was done.
        if (answer.status !== 429 || attempt > busyRetries) return answer;
        await sleep(Math.min(answer.retryAfterMs, 5000) * (0.5 + Math.random()), undefined, { signal });
      }
    },
    async *lines(call, idleMs, signal) {
      const stop = new AbortController();
      const ended = AbortSignal.any([signal, stop.signal]);
      const idle = setTimeout(() => stop.abort(new Error(`nothing for ${idleMs} ms`)), idleMs);
      try {
        const response = await send(call, false, ended);
        const status = response.statusCode ?? 0;
        if (status !== 200) {
          if (status === 401) void current(true).catch(() => undefined);
          yield { status, body: await readJson(response) };
          return;
        }
        for await (const line of splitLines(response)) {
          idle.refresh();
          yield { status, body: JSON.parse(line) as unknown };
        }
      } catch (cause) {
        if (signal.aborted) return;
        throw new WeftError('registry', `API server, watching ${call.path}: ${describe(cause, ended)}`, { cause });
      } finally {
        clearTimeout(idle);
        stop.abort();
      }
    },
    close: () => {
      void session?.then(({ agent }) => agent.destroy()).catch(() => undefined);
    },
  };
}

function newAgent({ ca, cert, key, servername, rejectUnauthorized }: Credentials): Agent {
  return new Agent({
    keepAlive: true,
    rejectUnauthorized,
    minVersion: 'TLSv1.2',
    ...(ca !== undefined && { ca }),
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
    ...(servername !== undefined && { servername }),
  });
}

/** Requests under way end by themselves; their connections are not kept. */
function retire(agent: Agent): void {
  (agent as { keepAlive?: boolean }).keepAlive = false;
  for (const sockets of Object.values(agent.freeSockets)) for (const socket of sockets ?? []) socket.destroy();
}

function sameTls(a: Credentials, b: Credentials): boolean {
  const same = (x: Buffer | undefined, y: Buffer | undefined): boolean =>
    x === undefined || y === undefined ? x === y : x.equals(y);
  return a.server === b.server && same(a.ca, b.ca) && same(a.cert, b.cert) && same(a.key, b.key);
}

function open(
  credentials: Credentials,
  agent: Agent,
  call: KubeRequest,
  signal: AbortSignal,
): Promise<IncomingMessage> {
  const url = new URL(credentials.server + call.path);
  for (const [name, value] of Object.entries(call.query ?? {})) url.searchParams.set(name, value);
  const payload = call.body === undefined ? undefined : JSON.stringify(call.body);
  const options: RequestOptions = {
    agent,
    method: call.method,
    signal,
    headers: {
      ...credentials.headers,
      Accept: call.accept ?? 'application/json',
      'User-Agent': 'weft',
      ...(payload !== undefined && {
        'Content-Type': call.contentType ?? 'application/json',
        'Content-Length': String(Buffer.byteLength(payload)),
      }),
    },
  };
  return new Promise((resolve, reject) => {
    const outgoing = request(url, options, resolve);
    outgoing.on('error', reject);
    // A server that vanished without a word is noticed by probes, not only by our own idle time.
    outgoing.on('socket', (socket) => socket.setKeepAlive(true, 15_000));
    outgoing.end(payload);
  });
}

async function readJson(response: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > maxAnswerBytes) throw new Error(`an answer larger than ${maxAnswerBytes} bytes`);
    chunks.push(chunk);
  }
  const text = Buffer.concat(chunks).toString();
  try {
    return JSON.parse(text) as unknown;
  } catch {
    // Proxies and early start-up answer in plain text.
    return { message: text.slice(0, 500) };
  }
}

async function* splitLines(response: IncomingMessage): AsyncGenerator<string, void, undefined> {
  let held: Buffer[] = [];
  let heldBytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    let from = 0;
    for (let at = chunk.indexOf(0x0a); at !== -1; at = chunk.indexOf(0x0a, from)) {
      held.push(chunk.subarray(from, at));
      from = at + 1;
      const line = Buffer.concat(held).toString();
      held = [];
      heldBytes = 0;
      if (line !== '') yield line;
    }
    held.push(chunk.subarray(from));
    heldBytes += chunk.length - from;
    if (heldBytes > maxLineBytes) throw new Error(`a line longer than ${maxLineBytes} bytes`);
  }
}

function describe(cause: unknown, signal: AbortSignal): string {
  return messageOf(signal.aborted ? signal.reason : cause);
}
