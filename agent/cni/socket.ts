// The Unix socket's place in the file system: a private directory, a dead predecessor's leftover replaced, a living one respected.
// The server listens under another name and is renamed into place: the path never lacks a socket while one is replaced, shims see it
// only with its final mode, and Node, which removes on close the name it bound, does not remove a successor's.

import { chmod, lstat, mkdir, rename, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname } from 'node:path';

import { toWeftError, WeftError } from '#agent/errors.ts';
import { errnoOf } from './parts.ts';

/** The name to bind before `publishSocket`. */
export function unpublishedPath(path: string): string {
  return `${path}.${process.pid}`;
}

/** Makes the directory (0700) and makes sure that nobody serves the path. Throws WeftError('io'). */
export async function prepareSocket(path: string): Promise<void> {
  const directory = dirname(path);
  try {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await chmod(directory, 0o700);
    await rm(unpublishedPath(path), { force: true });
    const found = await lstat(path).catch((error: unknown) => {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw error;
    });
    if (found === undefined) return;
    if (!found.isSocket()) throw new WeftError('io', `${path} is there and is no socket; remove it`, { details: path });
    if (await isServed(path)) {
      throw new WeftError('io', `another agent serves ${path}; only one may run on a node`, { details: path });
    }
  } catch (error) {
    if (error instanceof WeftError) throw error;
    throw new WeftError('io', `cannot prepare the socket ${path}: ${toWeftError(error).message}`, {
      details: path,
      cause: error,
    });
  }
}

/** Puts the bound socket in place, 0600. Resolves to the way to take it away, which leaves a successor's alone. */
export async function publishSocket(path: string): Promise<() => Promise<void>> {
  await chmod(unpublishedPath(path), 0o600);
  await rename(unpublishedPath(path), path);
  const { ino } = await lstat(path, { bigint: true });
  return async () => {
    const found = await lstat(path, { bigint: true }).catch(() => undefined);
    if (found?.ino === ino) await rm(path, { force: true });
  };
}

async function isServed(path: string): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connect(path);
    const answer = (served: boolean): void => {
      socket.destroy();
      resolve(served);
    };
    socket.once('connect', () => answer(true));
    socket.once('error', (error: NodeJS.ErrnoException) =>
      answer(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT'),
    );
    socket.setTimeout(2000, () => answer(true));
  });
}
