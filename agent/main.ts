// Builds the parts of the agent, starts and stops them; nothing else.

import { loadConfig } from '#agent/config.ts';
import { WeftError } from '#agent/errors.ts';
import { createLogger } from '#agent/observe/log.ts';

/** Runs the agent. Resolves when it serves; the exit code is given where it ends at once. */
export async function runAgent(
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): Promise<number | undefined> {
  const { config, notes } = loadConfig({ argv, env });
  const log = createLogger(config);
  for (const note of notes) log.warn({ part: 'config' }, note);
  throw new WeftError('internal', 'the parts are not wired yet');
}
