// The mark beside the socket that an agent has served since this boot: `BOOT_ID SECONDS`, up to which uptime second an absent agent is
// no STATUS error. The shim reads it when nobody answers (cni-shim/shim.c, status_without_agent), so it is replaced by rename.

import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { uptime } from 'node:os';

/** The kernel's id of this boot; empty where it cannot be read. */
export function readBootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  } catch {
    return '';
  }
}

/** True when some agent has left its mark since this boot. */
export async function hasServed(path: string, bootId: string): Promise<boolean> {
  const content = await readFile(path, 'utf8').catch(() => '');
  return bootId !== '' && content.startsWith(`${bootId} `);
}

/** Writes the mark anew. Throws Node's system error. */
export async function markServed(path: string, bootId: string, silentAfterMs: number): Promise<void> {
  const until = Math.floor(uptime() + silentAfterMs / 1000);
  // Not the pid: calls of one process run at once, and an agent in another pid namespace may have the same.
  const temporary = `${path}.${randomBytes(6).toString('hex')}`;
  try {
    await writeFile(temporary, `${bootId} ${until}\n`, { mode: 0o600 });
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}
