// Counts as people read them.

/** Digits in threes, by blanks; a count beyond what digits tell as a power of two, `2^80`. */
export function grouped(count: number): string {
  if (count >= 2 ** 53) return `2^${Math.round(Math.log2(count) * 10) / 10}`;
  return String(count).replaceAll(/\B(?=(\d{3})+$)/g, ' ');
}
