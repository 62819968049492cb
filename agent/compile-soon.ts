// When V8 compiles. Left to itself it waits until a function has run 400 times, and 500 times more whenever it has seen something new; an
// agent is asked for a pod a few times an hour. What it then runs has gone cold, and code of the simpler tiers touches three times as much
// memory to do the same: it looks everything up, in tables that have to come from memory first (docs/decisions/420).

import { setFlagsFromString } from 'node:v8';

/** How often a function has run, and how often since it saw something new, before it is compiled (Maglev, on a thread of its own). */
const runs = 8;
const runsSinceNews = 5;

/** From here on. Called once the agent serves: a start runs many things a few times and then never again. */
export function compileSoon(): void {
  setFlagsFromString(`--invocation-count-for-maglev=${runs}`);
  setFlagsFromString(`--minimum-invocations-after-ic-update=${runsSinceNews}`);
}
