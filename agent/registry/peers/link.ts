// The way to one voter: the own one by a call, another by HTTPS over kept-alive connections. Every call ends by its timeout;
// whether a voter answers is logged when it changes, not for each call.

import { Agent, request } from 'node:https';
import { createSecureContext } from 'node:tls';
import type { PeerCertificate } from 'node:tls';
import type { Logger } from 'pino';
import { messageOf, WeftError } from '#agent/errors.ts';
import type { TlsFiles } from '#agent/registry/peers/tls.ts';
import { Turns } from '#agent/registry/peers/turns.ts';
import type { Voter } from '#agent/registry/peers/voter.ts';
import {
  acceptorPath,
  changesPath,
  copyPath,
  helloPath,
  maxAnswerBytes,
  parseAcceptorReply,
  parseChangesAnswer,
  parseCopyAnswer,
  parseHelloReply,
  type AcceptorCall,
  type ChangesAnswer,
  type ChangesCall,
  type CopyAnswer,
  type CopyCall,
  type HelloCall,
} from '#agent/registry/peers/wire.ts';
import type { AcceptorReply } from '#ipam-peer/caspaxos/acceptor.ts';
import type { HelloReply } from '#ipam-peer/caspaxos/join.ts';

export interface VoterAddress {
  readonly name: string;
  readonly address: string;
  readonly port: number;
}

/** Calls throw WeftError('registry') when the voter gave no answer. */
export interface VoterLink {
  readonly name: string;
  acceptor(call: AcceptorCall, signal: AbortSignal): Promise<AcceptorReply>;
  changes(call: ChangesCall, signal: AbortSignal): Promise<ChangesAnswer>;
  close(): void;
}

/** What a voter asks of another one. */
export interface FellowLink extends VoterLink {
  hello(call: HelloCall, signal: AbortSignal): Promise<HelloReply>;
  copy(call: CopyCall, signal: AbortSignal): Promise<CopyAnswer>;
}

/** A voter that takes longer counts as down for this round: a commit to disk is milliseconds, a slow disk a second. */
const callTimeoutMs = 2000;
/** A page of registers may hold megabytes. */
const copyTimeoutMs = 10_000;

export function localLink(name: string, voter: Voter): VoterLink {
  return {
    name,
    acceptor: (call) => voter.acceptor(call, { nodeName: name }),
    changes: (call, signal) => voter.changes(call, signal),
    close: () => undefined,
  };
}

export function remoteLink(voter: VoterAddress, tls: TlsFiles, log: Pick<Logger, 'info' | 'warn'>): FellowLink {
  const agent = new Agent({
    // Made once: it reads the three files, which takes longer than the rest of a connection that comes to nothing.
    secureContext: createSecureContext({ ...tls, minVersion: 'TLSv1.3' }),
    keepAlive: true,
    maxSockets: 64,
    checkServerIdentity: (_host: string, certificate: PeerCertificate) => checkName(voter, certificate),
  });
  const turns = new Turns();
  let answering: boolean | undefined;
  const attempt = async (path: string, body: unknown, ends: AbortSignal, signal: AbortSignal): Promise<unknown> => {
    try {
      const answer = await post(agent, voter, path, body, ends);
      if (answering === false) log.info({ voter: voter.name }, 'voter answers again');
      answering = true;
      turns.heard();
      return answer;
    } catch (cause) {
      const reason = messageOf(cause);
      if (cause instanceof Refusal) turns.heard();
      else if (!signal.aborted) turns.missed();
      if (answering !== false && !signal.aborted) {
        answering = false;
        log.warn({ voter: voter.name, address: `${voter.address}:${voter.port}`, reason }, 'voter does not answer');
      }
      throw cause;
    }
  };
  const call = async (
    path: string,
    body: unknown,
    signal: AbortSignal,
    timeoutMs: number = callTimeoutMs,
  ): Promise<unknown> => {
    const ends = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]);
    const one = async (): Promise<unknown> => await attempt(path, body, ends, signal);
    try {
      // Nobody waits for a call that may take much longer than others.
      return await (timeoutMs > callTimeoutMs ? one() : turns.run(one, ends));
    } catch (cause) {
      const reason = messageOf(cause);
      throw new WeftError('registry', `voter ${voter.name} at ${voter.address}:${voter.port}: ${reason}`, { cause });
    }
  };
  return {
    name: voter.name,
    acceptor: async (body, signal) => checked(voter, parseAcceptorReply(await call(acceptorPath, body, signal))),
    changes: async (body, signal) =>
      checked(voter, parseChangesAnswer(await call(changesPath, body, signal, callTimeoutMs + body.waitMs))),
    hello: async (body, signal) => checked(voter, parseHelloReply(await call(helloPath, body, signal))),
    copy: async (body, signal) => checked(voter, parseCopyAnswer(await call(copyPath, body, signal, copyTimeoutMs))),
    close: () => agent.destroy(),
  };
}

/** An answer, if not the one that was asked for. */
class Refusal extends Error {}

function checkName(voter: VoterAddress, certificate: PeerCertificate): Error | undefined {
  const name: unknown = certificate.subject?.CN;
  if (name === voter.name) return undefined;
  return new Error(`its certificate is that of ${String(name)}, not of ${voter.name}`);
}

function checked<T>(voter: VoterAddress, answer: T | undefined): T {
  if (answer !== undefined) return answer;
  throw new WeftError('registry', `voter ${voter.name} gave an answer that is not of this protocol`);
}

function post(agent: Agent, voter: VoterAddress, path: string, body: unknown, signal: AbortSignal): Promise<unknown> {
  const payload = JSON.stringify(body);
  const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) };
  return new Promise((resolve, reject) => {
    const outgoing = request(
      { agent, host: voter.address, port: voter.port, path, method: 'POST', headers, signal },
      (incoming) => {
        const chunks: Buffer[] = [];
        let size = 0;
        incoming.on('data', (chunk: Buffer) => {
          size += chunk.length;
          if (size > maxAnswerBytes) outgoing.destroy(new Error(`answer larger than ${maxAnswerBytes} bytes`));
          else chunks.push(chunk);
        });
        incoming.on('error', reject);
        incoming.on('end', () => {
          const text = Buffer.concat(chunks).toString();
          if (incoming.statusCode !== 200) reject(new Refusal(`HTTP ${incoming.statusCode}: ${text.slice(0, 500)}`));
          else {
            try {
              resolve(JSON.parse(text));
            } catch (error) {
              reject(error);
            }
          }
        });
      },
    );
    outgoing.on('error', (error) => reject(signal.aborted ? abortReason(signal) : error));
    outgoing.end(payload);
  });
}

function abortReason(signal: AbortSignal): Error {
  const reason: unknown = signal.reason;
  return reason instanceof Error ? reason : new Error(String(reason));
}
