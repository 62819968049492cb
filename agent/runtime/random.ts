// Randomness for the lease path, fetched for many at once: a fetch of eight bytes by a process that has gone cold costs as much as the lease's row.

import { randomFillSync } from 'node:crypto';

const pool = Buffer.alloc(4096);
let used = pool.length;

/** Where the next `count` bytes are; each is given out once. */
function take(count: number): number {
  if (used + count > pool.length) {
    randomFillSync(pool);
    used = 0;
  }
  used += count;
  return used - count;
}

/** 64 bits as hex. */
export function randomGeneration(): string {
  const at = take(8);
  return pool.toString('hex', at, at + 8);
}

/** At least 0, less than 1, in steps of 2^-32. */
export function randomUnit(): number {
  return pool.readUInt32LE(take(4)) / 2 ** 32;
}
