// docs/errors.md and the catalogue say the same, line by line.

import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';

import { errorCatalogue } from '#agent/errors.ts';

test('docs/errors.md lists the whole catalogue and nothing else', async () => {
  const text = await readFile(new URL('../../../docs/errors.md', import.meta.url), 'utf8');
  const rows = text.split('\n').filter((line) => line.startsWith('| `'));
  const expected = Object.entries(errorCatalogue).map(
    ([name, kind]) => `| \`${name}\` | ${kind.cniCode} | ${kind.retryable ? 'yes' : 'no'} | ${kind.nextStep} |`,
  );
  expect(rows).toEqual(expected);
});

test('codes below 100 are CNI’s, the others Weft’s own', () => {
  const spec = new Set([1, 2, 3, 4, 5, 6, 7, 8, 11, 50, 51]);
  for (const { cniCode, nextStep } of Object.values(errorCatalogue)) {
    expect(cniCode >= 100 || spec.has(cniCode)).toBe(true);
    expect(nextStep).toMatch(/^[A-Z`].*\.$/);
  }
});

test('no two of Weft’s own codes are the same', () => {
  const own = Object.values(errorCatalogue).flatMap(({ cniCode }) => (cniCode >= 100 ? [cniCode] : []));
  expect(own).toEqual([...new Set(own)]);
});
