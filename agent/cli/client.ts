// Asks the agent's status API once. An agent that is away is the commonest case: it gets its own words and next step.

import { request } from 'node:http';
import type { HostPort } from '#agent/config/formats.ts';
import { WeftError } from '#agent/errors.ts';
import type { Status } from '#agent/observe/status.ts';

const maxAnswerBytes = 32 << 20;

/**
 * GET /api/status. `fresh`: the agent looks at the kernel and the host before it answers. Throws WeftError('agentAway') when nobody answers or
 * the answer is not an agent's.
 */
export async function askStatus(target: HostPort, signal: AbortSignal, fresh = false): Promise<Status> {
  const where = `${target.host ?? '127.0.0.1'}:${target.port}`;
  const away = (why: string, cause?: unknown): WeftError =>
    new WeftError('agentAway', `the weft agent does not answer on ${where}: ${why}`, { cause });
  const { code, body } = await get(target, fresh, signal).catch((error: NodeJS.ErrnoException) => {
    throw away(
      signal.aborted
        ? 'no answer in time'
        : error.code === 'ECONNREFUSED'
          ? 'nothing listens there'
          : (error.code ?? error.message),
      error,
    );
  });
  if (code !== 200) throw away(`HTTP status ${code}`);
  let status: unknown;
  try {
    status = JSON.parse(body);
  } catch (error) {
    throw away('the answer is no JSON; does another program listen there?', error);
  }
  if (typeof status !== 'object' || status === null || !('nodeName' in status)) {
    throw away('the answer is not an agent’s; does another program listen there?');
  }
  return status as Status;
}

async function get(
  target: HostPort,
  fresh: boolean,
  signal: AbortSignal,
): Promise<{ readonly code: number; readonly body: string }> {
  return new Promise((resolve, reject) => {
    const path = `/api/status?leases=10000${fresh ? '&fresh=true' : ''}`;
    const asked = request(
      { host: target.host ?? '127.0.0.1', port: target.port, path, signal, agent: false },
      (answer) => {
        const chunks: Buffer[] = [];
        let bytes = 0;
        answer.on('data', (chunk: Buffer) => {
          bytes += chunk.length;
          if (bytes > maxAnswerBytes) answer.destroy(new Error('the answer is too long'));
          else chunks.push(chunk);
        });
        answer.on('error', reject);
        answer.on('end', () => resolve({ code: answer.statusCode ?? 0, body: Buffer.concat(chunks).toString() }));
      },
    );
    asked.on('error', reject);
    asked.end();
  });
}
