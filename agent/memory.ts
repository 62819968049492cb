// How an agent stays small. It starts with ten times the work of an hour in which nothing happens, and what the process takes for that
// it would keep: room for young objects (V8), freed pages (the C library), pages of Node's own file that only the start runs.
import { setFlagsFromString } from 'node:v8';

import { nativeAddon } from '#agent/native/addon.ts';

/** The first rounds are over by then. */
const startedMs = 5000;
const everyMs = 30_000;

/** As small as a start gets by with; called before most of the program is loaded. */
export function startSmall(): void {
  setFlagsFromString('--semi-space-growth-factor=1');
}

/** V8's default: thousands of peers get the room that they need. */
function growAsUsual(): void {
  setFlagsFromString('--semi-space-growth-factor=2');
}

/** Gives back what only the start needed, and every half minute what has gathered since; until disposed. */
export function staySmall(): Disposable {
  startSmall();
  const giveBack = (): void => {
    growAsUsual();
    nativeAddon().giveBackMemory();
  };
  const timers = [setTimeout(giveBack, startedMs), setInterval(giveBack, everyMs)];
  for (const timer of timers) timer.unref();
  return {
    [Symbol.dispose]: () => {
      for (const timer of timers) clearTimeout(timer);
    },
  };
}
