// The two listeners that people and monitors ask: metrics (all addresses) and status (localhost). Both only answer GET, take
// no body, and bound their connections. `/healthz` depends on nothing but this process; `/readyz` says whether an ADD would do.

import { createHash } from 'node:crypto';
import { isIP } from 'node:net';
import fastify from 'fastify';
import type { FastifyInstance } from 'fastify';
import { type TSchema, Type } from 'typebox';
import { hostPort } from '#agent/config/formats.ts';
import { WeftError } from '#agent/errors.ts';
import type { Metrics } from '#agent/observe/metrics.ts';
import { statusPage, statusPageScript } from '#agent/observe/page.ts';
import { buildStatus, readiness } from '#agent/observe/status.ts';
import type { StatusSources } from '#agent/observe/status.ts';

export interface ObserveOptions {
  /** `address:port`, `:port`, or `off`. */
  readonly metricsListen: string;
  readonly statusListen: string;
  readonly sources: StatusSources;
  readonly metrics: Metrics;
}

export interface ObserveServers {
  close(): Promise<void>;
}

export const statusQuery: TSchema = Type.Object(
  {
    leases: Type.Integer({ minimum: 0, maximum: 10_000, default: 1000 }),
    fresh: Type.Boolean({ default: false }),
  },
  { additionalProperties: false },
);

/** Starts both listeners. Throws WeftError('io') that names the setting when an address is taken. */
export async function startObserving(options: ObserveOptions): Promise<ObserveServers> {
  const started: FastifyInstance[] = [];
  try {
    for (const key of ['metricsListen', 'statusListen'] as const) {
      const target = hostPort(options[key]);
      if (target === undefined) continue;
      const server = key === 'metricsListen' ? metricsServer(options) : statusServer(options);
      // Pushed first, so that a failed listen is closed too.
      started.push(server);
      await server.listen({ port: target.port, host: target.host ?? '::' }).catch((error: NodeJS.ErrnoException) => {
        // A host without IPv6 has no `::`.
        if (target.host === undefined && error.code === 'EAFNOSUPPORT')
          return server.listen({ port: target.port, host: '0.0.0.0' });
        const cause = error.code ?? error.message;
        throw new WeftError('io', `cannot listen on ${options[key]} (setting ${key}): ${cause}`, { cause: error });
      });
    }
  } catch (error) {
    await Promise.all(started.map((server) => server.close()));
    throw error;
  }
  return { close: async () => void (await Promise.all(started.map((server) => server.close()))) };
}

function baseServer({ sources }: ObserveOptions): FastifyInstance {
  const server = fastify({
    bodyLimit: 1024,
    requestTimeout: 10_000,
    connectionTimeout: 30_000,
    forceCloseConnections: true,
    ajv: { customOptions: { validateSchema: false } },
  });
  server.server.maxConnections = 256;
  server.get('/healthz', () => ({ ok: true }));
  server.get('/readyz', (_, reply) => {
    const state = readiness(sources);
    return reply.code(state.ready ? 200 : 503).send(state);
  });
  return server;
}

/** `/metrics`, `/healthz`, `/readyz`. */
export function metricsServer(options: ObserveOptions): FastifyInstance {
  const server = baseServer(options);
  addMetrics(server, options.metrics);
  return server;
}

function addMetrics(server: FastifyInstance, metrics: Metrics): void {
  server.get('/metrics', async (_, reply) => reply.type(metrics.contentType).send(await metrics.text()));
}

/** `/` (page), `/api/status`, and what the metrics listener has. */
export function statusServer(options: ObserveOptions): FastifyInstance {
  const server = baseServer(options);
  const scriptHash = createHash('sha256').update(statusPageScript).digest('base64');
  const policy = `default-src 'none'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; script-src 'sha256-${scriptHash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`;
  const local = /^(127\.|\[::1\]|localhost)/.test(options.statusListen);
  server.addHook('onRequest', async (request, reply) => {
    void reply.header('cache-control', 'no-store').header('x-content-type-options', 'nosniff');
    // A web site whose name resolves to 127.0.0.1 (DNS rebinding) must not read this node's status.
    if (local && !isLocalName(request.hostname)) await reply.code(421).send({ message: 'ask by address or localhost' });
  });
  server.get('/', (_, reply) =>
    reply.type('text/html; charset=utf-8').header('content-security-policy', policy).send(statusPage),
  );
  const refresh = seldom(options.sources.refresh);
  server.get<{ Querystring: { leases: number; fresh: boolean } }>(
    '/api/status',
    { schema: { querystring: statusQuery } },
    async (request) => {
      if (request.query.fresh) await refresh();
      return buildStatus(options.sources, request.query.leases);
    },
  );
  addMetrics(server, options.metrics);
  return server;
}

/** Anybody on the node may ask: at most one look a second, which all who ask meanwhile share. */
function seldom(work: (() => Promise<void>) | undefined): () => Promise<void> {
  let last: Promise<void> | undefined;
  let beganMs = Number.NEGATIVE_INFINITY;
  return async () => {
    if (work !== undefined && performance.now() - beganMs > 1000) {
      beganMs = performance.now();
      last = work();
    }
    await last;
  };
}

function isLocalName(hostname: string): boolean {
  return hostname === 'localhost' || isIP(hostname.replaceAll(/^\[|\]$/g, '')) !== 0;
}
