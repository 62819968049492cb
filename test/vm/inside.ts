// Runs inside the virtual machine: every check in turn, one line of JSON each on standard output. What goes wrong is the outcome's text.
import { release } from 'node:os';

import { checks } from './checks.ts';

const say = (line: object): void => void process.stdout.write(`${JSON.stringify(line)}\n`);

say({ kernel: release() });
for (const [name, check] of Object.entries(checks)) {
  const startedMs = performance.now();
  const said = await check().then(
    () => '',
    (error: unknown) => (error instanceof Error ? (error.stack ?? error.message) : String(error)),
  );
  say({ name, said, seconds: Math.round((performance.now() - startedMs) / 1000) });
}
process.exit(0);
