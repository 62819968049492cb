// The network configuration that the runtime loads. Written beside itself and renamed into place, since containerd's watcher follows
// only that, and only when its content differs; left in place when the agent stops, because DEL needs it too.

import { mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

import { toWeftError, WeftError } from '#agent/errors.ts';
import { ownCapabilities } from './wish.ts';

/** The configuration's text. cniVersion 1.0.0 for containerd 1.6; who knows `cniVersions` takes 1.1.0 and with it STATUS and GC. */
export function conflistText(networkName = 'weft'): string {
  const conflist = {
    cniVersion: '1.0.0',
    cniVersions: ['1.0.0', '1.1.0'],
    name: networkName,
    plugins: [{ type: 'weft', capabilities: Object.fromEntries(ownCapabilities.map((name) => [name, true])) }],
  };
  return `${JSON.stringify(conflist, null, 2)}\n`;
}

/** True when the file was written, false when it was right already. Throws WeftError('io'). */
export async function writeConflist(path: string, text: string = conflistText()): Promise<boolean> {
  // A name that no runtime loads (.conf, .conflist, .json), in the same directory so that the rename is one step.
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}.tmp`);
  try {
    const present = await readFile(path, 'utf8').catch(() => undefined);
    if (present === text) return false;
    await mkdir(dirname(path), { recursive: true });
    await rm(temporary, { force: true });
    {
      await using file = await open(temporary, 'wx', 0o644);
      await file.writeFile(text);
      await file.sync();
    }
    await rename(temporary, path);
    return true;
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw new WeftError('io', `cannot write the network configuration ${path}: ${toWeftError(error).message}`, {
      details: path,
      cause: error,
    });
  }
}
