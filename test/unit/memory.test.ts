// What an agent gives back after its start: pages of the program's file leave the process, and whatever runs next finds them again.
import { readFileSync } from 'node:fs';

import { expect, it } from 'vitest';

import { staySmall } from '#agent/memory.ts';
import { nativeAddon } from '#agent/native/addon.ts';

/** Resident pages of files, in kilobytes. */
function ofFiles(): number {
  return Number(/^RssFile:\s+(\d+) kB/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]);
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
