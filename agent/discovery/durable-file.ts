// Small files that must survive a crash whole: written beside, synced, renamed into place, the folder synced. Mode 0600.

import { randomUUID } from 'node:crypto';
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { WeftError } from '#agent/errors.ts';

/** On disk on return; readers see the old or the new content. Throws WeftError('store'). */
export async function writeDurably(path: string, content: string): Promise<void> {
  const beside = `${path}.${randomUUID()}`;
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    const file = await open(beside, 'wx', 0o600);
    try {
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(beside, path);
    const folder = await open(dirname(path), 'r');
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  } catch (cause) {
    await rm(beside, { force: true }).catch(() => undefined);
    throw new WeftError('store', `${path}: ${(cause as Error).message}`, { details: path, cause });
  }
}

/** undefined: there is none. Throws WeftError('store') when it cannot be read. */
export async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new WeftError('store', `${path}: ${(cause as Error).message}`, { details: path, cause });
  }
}
