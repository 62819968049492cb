// The CNI server on the Unix socket. It listens first, drains the DEL spool, then serves: shims that came early wait. What must find
// the kept DELs done but no new pods yet (the datapath's first round) runs in between. Every answer is CNI's: status 200 with the result (or nothing), any other status with the error JSON, bad HTTP included.
//
//   shim ──▶ http ──▶ schema ──▶ gate (spool drained) ──▶ parseCall ──▶ queue per attachment ──▶ verb ──▶ answer

import { Ajv } from 'ajv';
import { rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';

import { type ErrorName, toWeftError, WeftError } from '#agent/errors.ts';
import { add } from './add.ts';
import { AttachmentQueue } from './attachments.ts';
import { check } from './check.ts';
import { Collector, type CollectorOptions } from './collector.ts';
import { del } from './del.ts';
import { callDelegate } from './delegate.ts';
import { gc } from './gc.ts';
import { type Caller, type HttpAnswer, type HttpRequest, HttpServer } from './http.ts';
import { answerVersion } from './netconf.ts';
import { type AddParts, type CniParts, rememberingOwnNetns } from './parts.ts';
import { owedDelivery } from './owed-dels.ts';
import { PortClaims } from './port-mappings.ts';
import type { Recurring } from './recurring.ts';
import { type CniCall, parseCall, type ShimRequest, shimRequestSchema, type Verb } from './request.ts';
import { afterPrevious, errorJson, resultJson } from './result.ts';
import { hasServed, markServed, readBootId } from './served.ts';
import { prepareSocket, publishSocket, unpublishedPath } from './socket.ts';
import { Spool } from './spool.ts';
import { canServe, status, Suffering } from './status.ts';
import { version } from './version.ts';
import { type CniVersion, newestVersion } from './versions.ts';

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
/** Shims of a node that boots with hundreds of pods wait here, not in a loop of their own. */
const backlog = 1024;
/** An upgrade must not wait for an ADD that waits for an address. */
const stopPatienceMs = 3000;
const defaultSilentAfterMs = 10 * 60_000;

/** Listens, drains the spool, serves. Throws WeftError('io') when the socket or the spool cannot be had, and what `beforeServing` throws. */
export async function startCniServer(options: CniServerOptions): Promise<CniServer> {
  const handler = new CniHandler(options);
  const server = new HttpServer({
    bodyLimitBytes,
    onRequest: (request, caller) => void handler.handle(request, caller),
    refuse: (why) => errorAnswer(400, undecodable(why), newestVersion),
  });
  await handler.spool.open();
  await prepareSocket(options.socketPath);
  let unpublish: () => Promise<void>;
  try {
    server.listen(unpublishedPath(options.socketPath), backlog);
    unpublish = await publishSocket(options.socketPath);
  } catch (error) {
    server.hangUp();
    await rm(unpublishedPath(options.socketPath), { force: true });
    throw new WeftError('io', `cannot listen on ${options.socketPath}: ${toWeftError(error).message}`, {
      details: options.socketPath,
      cause: error,
    });
  }
  const close = async (): Promise<void> => {
    await unpublish();
    const closed = server.close();
    await handler.stop();
    // Who has sent half a request, or nothing, would hold up the stop.
    server.hangUp();
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
  readonly #delivery: Recurring;
  readonly #bootId = readBootId();
  readonly #suffering = new Suffering();
  readonly #markPath: string;
  readonly #open = Promise.withResolvers<void>();
  #isOpen = false;
  /** Each call's way to be aborted, and when its answer has left. */
  readonly #atWork = new Map<AbortController, Promise<void>>();
  #served = false;
  #marking: Promise<void> | undefined;
  #markTimer: NodeJS.Timeout | undefined;

  constructor(options: CniServerOptions) {
    this.#options = { ...options, inspectNetns: rememberingOwnNetns(options.inspectNetns) };
    this.#parts = { ...this.#options, ports: new PortClaims() };
    this.#collector = options.collect && new Collector(options.collect, this.#parts, this.#queue);
    this.#delivery = owedDelivery(options, this.#queue);
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
    this.#isOpen = true;
    this.#collector?.start();
    this.#delivery.start();
  }

  /** Resolves when every call at work has been answered and its answer has left. An ADD that waits for long is cut short. */
  async stop(): Promise<void> {
    clearInterval(this.#markTimer);
    this.#open.reject(new WeftError('interrupted', 'the agent is stopping'));
    await this.spool.stop();
    await this.#collector?.stop();
    await this.#delivery.stop();
    const impatient = setTimeout(() => {
      for (const call of this.#atWork.keys()) call.abort();
    }, stopPatienceMs);
    await Promise.all(this.#atWork.values());
    clearTimeout(impatient);
  }

  /** One request to one answer. Never throws. */
  async handle(request: HttpRequest, caller: Caller): Promise<void> {
    const startedMs = performance.now();
    const body = bodyOf(request);
    if (body instanceof WeftError) {
      caller.answer(errorAnswer(request.target === '/cni' ? 400 : 404, body, newestVersion));
      return;
    }
    const { gone, ended } = caller;
    this.#atWork.set(gone, ended);
    void ended.then(() => this.#atWork.delete(gone));
    let call: CniCall | undefined;
    let outcome: 'ok' | WeftError = 'ok';
    try {
      if (!this.#isOpen) await this.#open.promise;
      call = parseCall(body);
      const json = await this.#execute(call, gone.signal);
      caller.answer({ status: 200, body: json === undefined ? '' : `${JSON.stringify(json)}\n` });
    } catch (thrown) {
      outcome = toWeftError(thrown);
      caller.answer(errorAnswer(outcome.retryable ? 503 : 400, outcome, answerVersion(body.stdin)));
    }
    const durationMs = performance.now() - startedMs;
    // Nobody waits for the log, but those that came in the same turn of the loop wait for their answers.
    setImmediate(() => this.#tell(call, body, outcome, durationMs));
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
        await this.#queue.run(call.key, signal, () =>
          del(call.key, this.#options, { network: call.netConf.name, delegate: call.delegate }),
        );
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

  #tell(call: CniCall | undefined, body: ShimRequest, outcome: 'ok' | WeftError, durationMs: number): void {
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

const isShimRequest = new Ajv({ allErrors: false, validateSchema: false }).compile<ShimRequest>(shimRequestSchema);

/** The shim's request, or why it is none. */
function bodyOf({ method, target, contentType, body }: HttpRequest): ShimRequest | WeftError {
  if (method !== 'POST' || target !== '/cni')
    return new WeftError('undecodable', `there is no ${method} ${target.slice(0, 80)} here, only POST /cni`);
  if (contentType !== 'application/json') return undecodable('its Content-Type is not application/json');
  let json: unknown;
  try {
    json = JSON.parse(body);
  } catch (error) {
    return undecodable(`its body is not JSON: ${toWeftError(error).message}`);
  }
  if (isShimRequest(json)) return json;
  const [first] = isShimRequest.errors ?? [];
  return undecodable(`body${first?.instancePath ?? ''} ${first?.message ?? ''}`);
}

function undecodable(why: string): WeftError {
  return new WeftError('undecodable', `the request is not one of the shim: ${why}`);
}

function errorAnswer(status: number, error: WeftError, version: CniVersion): HttpAnswer {
  return { status, body: `${JSON.stringify(errorJson(error, version))}\n` };
}
