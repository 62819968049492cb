// What an agent gives back after its start: pages of the program's file leave the process, and whatever runs next finds them again.
import { readFileSync } from 'node:fs';

import { expect, it } from 'vitest';

import { staySmall } from '#agent/memory.ts';
import { nativeAddon } from '#agent/native/addon.ts';

/** Resident pages of files, in kilobytes; those of files in memory (tmpfs) are counted apart by the kernel. */
function ofFiles(): number {
  const status = readFileSync('/proc/self/status', 'utf8');
  const sizes = [...status.matchAll(/^Rss(?:File|Shmem):\s+(\d+) kB/gm)];
  return sizes.reduce((sum, [, kilobytes]) => sum + Number(kilobytes), 0);
}

it('pages of the program that only its start has run are given back', () => {
  const before = ofFiles();
  nativeAddon().giveBackMemory();
  expect(ofFiles()).toBeLessThan(before / 2);
  expect(JSON.parse(JSON.stringify({ still: /works/u.test('it works') }))).toEqual({ still: true });
  nativeAddon().giveBackMemory();
});

it('is disposed without a trace', () => {
  const count = (): number => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
  const before = count();
  const held = staySmall();
  held[Symbol.dispose]();
  expect(count()).toBe(before);
});
