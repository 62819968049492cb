// A voter's door: HTTPS with TLS 1.3 only, a client certificate of our own authority required, bodies bounded and checked by
// schema. The caller's node name is the common name of its certificate.

import type { AddressInfo } from 'node:net';
import { TLSSocket } from 'node:tls';
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify';
import { toWeftError } from '#agent/errors.ts';
import type { TlsFiles } from '#agent/registry/peers/tls.ts';
import type { Caller, Voter } from '#agent/registry/peers/voter.ts';
import {
  acceptorCallSchema,
  acceptorPath,
  changesCallSchema,
  changesPath,
  copyCallSchema,
  copyPath,
  helloCallSchema,
  helloPath,
  maxRequestBytes,
  type AcceptorCall,
  type ChangesCall,
  type CopyCall,
  type HelloCall,
} from '#agent/registry/peers/wire.ts';

export interface VoterServer extends AsyncDisposable {
  readonly port: number;
}

/** Listens; throws the listen error (EADDRINUSE, EADDRNOTAVAIL) as it is. */
export async function startVoterServer(
  voter: Voter,
  tls: TlsFiles,
  listen: { readonly address: string; readonly port: number },
): Promise<VoterServer> {
  const closing = new AbortController();
  const server: FastifyInstance = Fastify({
    https: { ...tls, requestCert: true, rejectUnauthorized: true, minVersion: 'TLSv1.3' },
    bodyLimit: maxRequestBytes,
    forceCloseConnections: true,
    ajv: { customOptions: { validateSchema: false, coerceTypes: false, removeAdditional: false, useDefaults: false } },
  });
  server.setErrorHandler(async (thrown, _request, reply) => {
    const status = (thrown as { readonly statusCode?: number }).statusCode;
    if (status !== undefined && status < 500) return reply.code(status).send({ error: String(thrown) });
    const error = toWeftError(thrown);
    return reply.code(error.kind === 'registry' ? 403 : 503).send({ error: error.message });
  });
  server.post<{ Body: AcceptorCall }>(acceptorPath, { schema: { body: acceptorCallSchema } }, async (request) =>
    voter.acceptor(request.body, callerOf(request)),
  );
  server.post<{ Body: ChangesCall }>(changesPath, { schema: { body: changesCallSchema } }, async (request, reply) => {
    const gone = new AbortController();
    // On the response, not on the connection: a kept-alive connection sees many requests.
    reply.raw.once('close', () => gone.abort());
    return voter.changes(request.body, AbortSignal.any([gone.signal, closing.signal]));
  });
  server.post<{ Body: HelloCall }>(helloPath, { schema: { body: helloCallSchema } }, async (request) =>
    voter.hello(request.body, callerOf(request)),
  );
  server.post<{ Body: CopyCall }>(copyPath, { schema: { body: copyCallSchema } }, async (request) =>
    voter.copy(request.body, callerOf(request)),
  );
  await server.listen({ host: listen.address, port: listen.port });
  return {
    port: (server.server.address() as AddressInfo).port,
    [Symbol.asyncDispose]: async () => {
      closing.abort();
      await server.close();
    },
  };
}

function callerOf(request: FastifyRequest): Caller {
  const { socket } = request.raw;
  if (!(socket instanceof TLSSocket)) throw new Error('a voter is only reached through TLS');
  const name: unknown = socket.getPeerCertificate().subject?.CN;
  if (typeof name !== 'string' || name === '') throw new Error('the certificate names no node');
  return { nodeName: name };
}
