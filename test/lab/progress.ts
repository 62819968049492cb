// What the lab says while it works: one line that changes on a terminal, one line a step elsewhere.

export interface Progress {
  step(text: string): void;
  /** Clears the line; what follows is output. */
  done(): void;
}

export function createProgress(steps: number): Progress {
  const terminal = process.stderr.isTTY;
  const start = performance.now();
  let at = 0;
  return {
    step: (text) => {
      at += 1;
      const seconds = ((performance.now() - start) / 1000).toFixed(1);
      const line = `[${at}/${steps}] ${text} …`;
      process.stderr.write(terminal ? `\r\u001B[K${line}` : `weft lab: ${line} (${seconds} s)\n`);
    },
    done: () => {
      if (terminal) process.stderr.write('\r\u001B[K');
    },
  };
}
