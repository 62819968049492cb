// Every pod pings every other and fetches its page; the result as a table. One attempt each: on a network that is up nothing
// may get lost.

import { table } from '#agent/cli/text.ts';
import type { ProbeAnswer, RunningPod } from '#test/lab/pods.ts';

export interface Cell {
  readonly from: RunningPod;
  readonly to: RunningPod;
  readonly ping: ProbeAnswer;
  readonly page: ProbeAnswer;
}

/** Row by row: the pods of a row probe all others at once. */
export async function probeAll(pods: readonly RunningPod[], signal: AbortSignal): Promise<readonly Cell[]> {
  const aborted = new Promise<never>((_, reject) =>
    signal.addEventListener('abort', () => reject(new Error('aborted')), { once: true }),
  );
  aborted.catch(() => undefined);
  const cells: Cell[] = [];
  for (const from of pods) {
    signal.throwIfAborted();
    const others = pods.filter((to) => to !== from);
    cells.push(...(await Promise.race([Promise.all(others.map((to) => probe(from, to))), aborted])));
  }
  return cells;
}

async function probe(from: RunningPod, to: RunningPod): Promise<Cell> {
  const ping = await from.process.ping(to.address);
  const page = await from.process.fetch(`http://${to.address.includes(':') ? `[${to.address}]` : to.address}/`);
  // The page says who answered and whom it saw: the right pod, and no translated source address.
  const right = page.ok && page.text === `${to.name} answers ${from.address}`;
  return { from, to, ping, page: { ...page, ok: right } };
}

export const isFull = (cells: readonly Cell[]): boolean => cells.every(({ ping, page }) => ping.ok && page.ok);

const milliseconds = ({ ok, ms }: ProbeAnswer): string => (ok ? ms.toFixed(ms < 10 ? 2 : 0) : 'FAILED');

/** Rows are senders, columns are receivers; each cell `ping / fetch` in milliseconds. */
export function matrixText(pods: readonly RunningPod[], cells: readonly Cell[]): string {
  const label = ({ name, host }: RunningPod): string => `${name} (${host.name})`;
  const rows = pods.map((from) => [
    label(from),
    from.address,
    ...pods.map((to) => {
      const cell = cells.find((candidate) => candidate.from === from && candidate.to === to);
      if (cell === undefined) return '-';
      // Many pods: figures would make lines that no terminal shows.
      if (pods.length > 8 && cell.ping.ok && cell.page.ok) return 'ok';
      return `${milliseconds(cell.ping)} / ${milliseconds(cell.page)}`;
    }),
  ]);
  const failures = cells.flatMap(({ from, to, ping, page }) => [
    ...(ping.ok ? [] : [`  ping ${from.name} -> ${to.name} (${to.address}): ${lastLine(ping.text)}`]),
    ...(page.ok ? [] : [`  http ${from.name} -> ${to.name} (${to.address}): ${lastLine(page.text)}`]),
  ]);
  const heading = ['from \\ to', 'address', ...pods.map(({ name }) => name)];
  return `${table(heading, rows)}${failures.length === 0 ? '' : `${failures.join('\n')}\n`}`;
}

const lastLine = (text: string): string => text.split('\n').at(-1) ?? '';
