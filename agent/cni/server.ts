// The CNI server on the Unix socket. It listens first, drains the DEL spool, then serves: shims that came early wait. What must find
// the kept DELs done but no new pods yet (the datapath's first round) runs in between. Every answer is CNI's: status 200 with the result (or nothing), any other status with the error JSON, bad HTTP included.
//
//   shim ──▶ schema ──▶ gate (spool drained) ──▶ parseCall ──▶ queue per attachment ──▶ verb ──▶ answer

import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { dirname, join } from 'node:path';

import { type ErrorName, toWeftError, WeftError } from '#agent/errors.ts';
import { add } from './add.ts';
import { AttachmentQueue } from './attachments.ts';
import { check } from './check.ts';
import { Collector, type CollectorOptions } from './collector.ts';
import { del } from './del.ts';
import { callDelegate } from './delegate.ts';
import { gc } from './gc.ts';
import { answerVersion } from './netconf.ts';
import { type AddParts, type CniParts, rememberingOwnNetns } from './parts.ts';
import { PortClaims } from './port-mappings.ts';
import { type CniCall, parseCall, type ShimRequest, shimRequestSchema, type Verb } from './request.ts';
import { afterPrevious, errorJson, resultJson } from './result.ts';
import { hasServed, markServed, readBootId } from './served.ts';
import { prepareSocket, publishSocket, unpublishedPath } from './socket.ts';
import { Spool } from './spool.ts';
import { canServe, status, Suffering } from './status.ts';
import { version } from './version.ts';
import { newestVersion } from './versions.ts';

/** Called once per answered call, for metrics. `verb` is empty when the request was too bad to name one. */
export type CniObserver = (verb: Verb | '', outcome: 'ok' | ErrorName, durationMs: number) => void;

export interface CniServerOptions extends CniParts {
  /** Absolute path; its directory becomes 0700 and also holds the mark `served`. */
  readonly socketPath: string;
  readonly spoolDir: string;
  readonly observe?: CniObserver;
  /** After how long of silence STATUS fails without an agent; ten minutes when absent. */
  readonly silentAfterMs?: number;
  /** How to find pods that went without a DEL; absent: they are not looked for. */
  readonly collect?: CollectorOptions;
  /** Runs when the kept DELs are done, before any request is served; what it throws fails the start. */
  readonly beforeServing?: () => Promise<void>;
}

export interface CniServer {
  /** Stops taking calls, waits for those at work, removes the socket. */
  close(): Promise<void>;
}

/** Larger than the shim's largest request: 1 MiB of stdin, every byte escaped, and the environment. */
const bodyLimitBytes = 16 << 20;
/** An upgrade must not wait for an ADD that waits for an address. */
const stopPatienceMs = 3000;
const defaultSilentAfterMs = 10 * 60_000;

/** Listens, drains the spool, serves. Throws WeftError('io') when the socket or the spool cannot be had, and what `beforeServing` throws. */
export async function startCniServer(options: CniServerOptions): Promise<CniServer> {
  const handler = new CniHandler(options);
  const app = buildApp(handler);
  await handler.spool.open();
  await prepareSocket(options.socketPath);
  let unpublish: () => Promise<void>;
  try {
    await app.listen({ path: unpublishedPath(options.socketPath), backlog: 1024 });
    unpublish = await publishSocket(options.socketPath);
  } catch (error) {
    await app.close();
    throw new WeftError('io', `cannot listen on ${options.socketPath}: ${toWeftError(error).message}`, {
      details: options.socketPath,
      cause: error,
    });
  }
  const close = async (): Promise<void> => {
    await unpublish();
    const closed = app.close();
    await handler.stop();
    // Who has sent half a request, or nothing, would hold up the stop.
    app.server.closeAllConnections();
    await closed;
  };
  try {
    await handler.start();
  } catch (error) {
    await close();
    throw error;
  }
  return { close };
}

class CniHandler {
  readonly spool: Spool;
  readonly #options: CniServerOptions;
  readonly #parts: AddParts;
  readonly #queue = new AttachmentQueue();
  readonly #collector: Collector | undefined;
  readonly #bootId = readBootId();
  readonly #suffering = new Suffering();
  readonly #markPath: string;
  readonly #open = Promise.withResolvers<void>();
  /** Each call's way to be aborted, and when its answer has left. */
  readonly #atWork = new Map<AbortController, Promise<void>>();
  #served = false;
  #marking: Promise<void> | undefined;
  #markTimer: NodeJS.Timeout | undefined;

  constructor(options: CniServerOptions) {
    this.#options = { ...options, inspectNetns: rememberingOwnNetns(options.inspectNetns) };
    this.#parts = { ...this.#options, ports: new PortClaims() };
    this.#collector = options.collect && new Collector(options.collect, this.#parts, this.#queue);
    this.#markPath = join(dirname(options.socketPath), 'served');
    this.spool = new Spool(options.spoolDir, options, this.#queue, this.#bootId);
    this.#open.promise.catch(() => undefined);
  }

  async start(): Promise<void> {
    this.#served = await hasServed(this.#markPath, this.#bootId);
    await this.spool.drain();
    await this.#options.beforeServing?.();
    this.spool.watch();
    const silentAfterMs = this.#options.silentAfterMs ?? defaultSilentAfterMs;
    this.#markTimer = setInterval(() => void this.#mark(), Math.min(60_000, silentAfterMs / 5));
    this.#markTimer.unref();
    await this.#mark();
    this.#open.resolve();
    this.#collector?.start();
  }

  /** Resolves when every call at work has been answered and its answer has left. An ADD that waits for long is cut short. */
  async stop(): Promise<void> {
    clearInterval(this.#markTimer);
    this.#open.reject(new WeftError('interrupted', 'the agent is stopping'));
    await this.spool.stop();
    await this.#collector?.stop();
    const impatient = setTimeout(() => {
      for (const call of this.#atWork.keys()) call.abort();
    }, stopPatienceMs);
    await Promise.all(this.#atWork.values());
    clearTimeout(impatient);
  }

  /** One request to one answer. Never throws. */
  async handle(request: FastifyRequest<{ Body: ShimRequest }>, reply: FastifyReply): Promise<FastifyReply> {
    const startedMs = performance.now();
    const body = request.body;
    const gone = this.#follow(reply);
    let call: CniCall | undefined;
    try {
      await this.#open.promise;
      call = parseCall(body);
      const json = await this.#execute(call, gone.signal);
      this.#tell(call, body, 'ok', startedMs);
      return await sendJson(reply, 200, json);
    } catch (thrown) {
      const error = toWeftError(thrown);
      this.#tell(call, body, error, startedMs);
      return await sendJson(reply, error.retryable ? 503 : 400, errorJson(error, answerVersion(body.stdin)));
    }
  }

  /** Aborts when the client goes away before its answer; until then the call counts as at work. */
  #follow(reply: FastifyReply): AbortController {
    const gone = new AbortController();
    const answered = Promise.withResolvers<void>();
    this.#atWork.set(gone, answered.promise);
    const end = (): void => {
      if (!reply.raw.writableFinished) gone.abort();
      this.#atWork.delete(gone);
      answered.resolve();
    };
    if (reply.raw.closed) end();
    else reply.raw.once('close', end);
    return gone;
  }

  async #execute(call: CniCall, signal: AbortSignal): Promise<Readonly<Record<string, unknown>> | undefined> {
    const { ipam, datapath } = this.#options;
    switch (call.verb) {
      case 'ADD': {
        const result = await this.#queue.run(call.key, signal, () => add(call, this.#parts, signal));
        if (!this.#served) await this.#mark();
        const { cniVersion, prevResult, ipam: conf } = call.netConf;
        const json = resultJson(result, cniVersion);
        return conf.linkedBy === undefined ? afterPrevious(prevResult?.json, json) : json;
      }
      case 'DEL':
        await this.#queue.run(call.key, signal, () => del(call.key, this.#options, { delegate: call.delegate }));
        return undefined;
      case 'CHECK':
        await this.#queue.run(call.key, signal, () => check(call, this.#options, signal));
        return undefined;
      case 'STATUS':
        status(this.#served, ipam, datapath, this.#suffering);
        if (call.delegate !== undefined) await callDelegate(call.delegate, 'STATUS', signal);
        if (!this.#served) await this.#mark();
        return undefined;
      case 'GC':
        await gc(call, this.#options, this.#queue, signal);
        return undefined;
      case 'VERSION':
        return version();
    }
  }

  /** Renews the mark while an agent that has served lives, first when ADDs can be served. One write for all who ask at once. */
  #mark(): Promise<void> {
    this.#marking ??= this.#writeMark().finally(() => (this.#marking = undefined));
    return this.#marking;
  }

  async #writeMark(): Promise<void> {
    if (!this.#served && !canServe(this.#options.ipam, this.#options.datapath).ready) return;
    try {
      await markServed(this.#markPath, this.#bootId, this.#options.silentAfterMs ?? defaultSilentAfterMs);
      this.#served = true;
    } catch (error) {
      this.#options.log.warn({ err: error, path: this.#markPath }, 'cannot leave the mark that this agent serves');
    }
  }

  #tell(call: CniCall | undefined, body: ShimRequest, outcome: 'ok' | WeftError, startedMs: number): void {
    const durationMs = performance.now() - startedMs;
    const { log, observe } = this.#options;
    observe?.(call?.verb ?? '', outcome === 'ok' ? 'ok' : outcome.kind, durationMs);
    const fields = {
      ...(call !== undefined && 'key' in call ? call.key : {}),
      ...(call?.verb === 'ADD' ? { ...call.pod, addresses: this.#options.ipam.find(call.key)?.addresses ?? [] } : {}),
      durationMs: Math.round(durationMs * 10) / 10,
    };
    const what = call?.verb ?? (body.env['CNI_COMMAND'] ?? 'a call').slice(0, 20);
    if (outcome !== 'ok') {
      const internal = outcome.kind === 'internal' ? { err: outcome.cause ?? outcome } : {};
      log.warn(
        { ...fields, ...internal, kind: outcome.kind, details: outcome.details },
        `${what} failed: ${outcome.message}`,
      );
    } else {
      const isChange = call?.verb === 'ADD' || call?.verb === 'DEL' || call?.verb === 'GC';
      log[isChange ? 'info' : 'debug'](fields, `${what} done`);
    }
  }
}

function buildApp(handler: CniHandler): FastifyInstance {
  const app = Fastify({
    bodyLimit: bodyLimitBytes,
    return503OnClosing: false,
    requestTimeout: 60_000,
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false, useDefaults: false } },
    clientErrorHandler: (error, socket) => {
      if (!socket.writable || error.code === 'ECONNRESET') {
        socket.destroy();
        return;
      }
      const body = JSON.stringify(
        errorJson(new WeftError('undecodable', 'the request is not HTTP as the shim sends it'), newestVersion),
      );
      socket.end(
        `HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
      );
    },
  });
  app.setErrorHandler((error: Error & { statusCode?: number; code?: string }, _request, reply) => {
    const isTheirs = error.statusCode !== undefined && error.statusCode < 500;
    const told = isTheirs
      ? new WeftError('undecodable', `the request is not one of the shim: ${error.message}`, {
          details: error.code ?? '',
        })
      : toWeftError(error);
    return sendJson(reply, isTheirs ? 400 : 503, errorJson(told, newestVersion));
  });
  app.setNotFoundHandler((request, reply) => {
    const error = new WeftError(
      'undecodable',
      `there is no ${request.method} ${request.url.slice(0, 80)} here, only POST /cni`,
    );
    return sendJson(reply, 404, errorJson(error, newestVersion));
  });
  app.post<{ Body: ShimRequest }>('/cni', { schema: { body: shimRequestSchema } }, (request, reply) =>
    handler.handle(request, reply),
  );
  return app;
}

function sendJson(
  reply: FastifyReply,
  code: number,
  json: Readonly<Record<string, unknown>> | undefined,
): FastifyReply {
  return reply
    .code(code)
    .type('application/json')
    .send(json === undefined ? '' : `${JSON.stringify(json)}\n`);
}
