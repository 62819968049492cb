// The agent as the image has it: one bundled, minified file, with the addon beside it.

import { copyFile, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import type { AgentHost } from '#test/support/agent-host.ts';
import { bundle } from '../../deploy/bundle.ts';

const addon = fileURLToPath(new URL('../../agent/native/build/weft.node', import.meta.url));

/** From now on `host` starts the bundle instead of the sources. */
export async function startsBundled(host: AgentHost): Promise<void> {
  const program = join(host.directory, 'weft.mjs');
  await bundle(program);
  host.program = [process.execPath, program, 'agent'];
  await mkdir(join(host.directory, 'build'));
  await copyFile(addon, join(host.directory, 'build/weft.node'));
}
