// What benches hand over: nested names with numbers at the leaves, a median, and the same as a table.

export interface Figures {
  readonly [name: string]: number | Figures;
}

/** Measures and resolves to its figures; says what it is doing line by line. */
export type Bench = (say: (line: string) => void) => Promise<Figures>;

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const half = Math.floor(sorted.length / 2);
  const [low = Number.NaN, high = Number.NaN] = [sorted[half - 1], sorted[half]];
  return sorted.length % 2 === 1 ? high : (low + high) / 2;
}

/** Three digits that mean something. */
export function rounded(value: number): number {
  return Number(value.toPrecision(3));
}

/** One line per group of figures: its dotted name, then name and number of each. */
export function tableOf(figures: Figures): string {
  const lines: (readonly [string, string])[] = [];
  const visit = (path: string, group: Figures): void => {
    const own = Object.entries(group).filter(([, value]) => typeof value === 'number');
    if (own.length > 0) lines.push([path, own.map(([name, value]) => `${name} ${JSON.stringify(value)}`).join('   ')]);
    for (const [name, value] of Object.entries(group)) {
      if (typeof value !== 'number') visit(path === '' ? name : `${path}.${name}`, value);
    }
  };
  visit('', figures);
  const width = Math.max(...lines.map(([path]) => path.length));
  return lines.map(([path, text]) => `${path.padEnd(width)}   ${text}`).join('\n');
}
