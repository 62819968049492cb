// Work that is asked for more often than it has to be done: at once when nothing runs, else once more for all who asked since, and
// never more of it than a twentieth of the time. With few peers that is no pause at all, with thousands it is what a look costs.

const share = 20;

export interface Gathered {
  (): void;
  stop(): void;
}

/** `work` says how many milliseconds of the thread it took, or throws; `onError` hears of that. */
export function gathered(work: () => Promise<number>, onError: (error: unknown) => void): Gathered {
  let isRunning = false;
  let isAskedAgain = false;
  let isStopped = false;
  let timer: NodeJS.Timeout | undefined;
  const run = async (): Promise<void> => {
    isRunning = true;
    isAskedAgain = false;
    let tookMs = 0;
    try {
      tookMs = await work();
    } catch (error) {
      onError(error);
    }
    timer = setTimeout(() => {
      isRunning = false;
      if (isAskedAgain) ask();
    }, tookMs * share);
    timer.unref();
  };
  const ask = (): void => {
    if (isRunning) isAskedAgain = true;
    else if (!isStopped) void run();
  };
  const stop = (): void => {
    isStopped = true;
    clearTimeout(timer);
  };
  return Object.assign(ask, { stop });
}
