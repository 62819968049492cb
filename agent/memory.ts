// How an agent stays small. It starts with ten times the work of an hour in which nothing happens, and what the process takes for that
// it would keep: room for young objects (V8), freed pages (the C library), pages of Node's own file that only the start runs.
import { getHeapStatistics, setFlagsFromString } from 'node:v8';

import { nativeAddon } from '#agent/native/addon.ts';

/** The first rounds are over by then. */
const startedMs = 5000;
/** Two milliseconds of work. */
const everyMs = 10_000;
/** Live and dead objects of an agent with more than a thousand peers: it gets the room that rounds over all of them need. */
const manyPeersBytes = 36 << 20;

/** As small as a start gets by with; called before most of the program is loaded. */
export function startSmall(): void {
  setGrowth(1);
}

/** How many times larger V8 makes the room for young objects when many of them survive; its default is 2. */
function setGrowth(factor: 1 | 2): void {
  setFlagsFromString(`--semi-space-growth-factor=${factor}`);
}

/** Gives back what only the start needed, and every ten seconds what has gathered since; until disposed. */
export function staySmall(): Disposable {
  startSmall();
  const giveBack = (): void => {
    setGrowth(getHeapStatistics().used_heap_size > manyPeersBytes ? 2 : 1);
    nativeAddon().giveBackMemory();
  };
  let repeated: NodeJS.Timeout | undefined;
  const first = setTimeout(() => {
    giveBack();
    repeated = setInterval(giveBack, everyMs);
    repeated.unref();
  }, startedMs);
  first.unref();
  return {
    [Symbol.dispose]: () => {
      clearTimeout(first);
      clearInterval(repeated);
    },
  };
}
