// What README and the pages tell people to apply, put on their PATH or read is there.
import { access, readdir, readFile } from 'node:fs/promises';

import { expect, test } from 'vitest';

const root = new URL('../../../', import.meta.url);
const read = (path: string): Promise<string> => readFile(new URL(path, root), 'utf8');
const pages = ['README.md', ...(await readdir(new URL('docs/', root))).map((name) => `docs/${name}`)].filter((path) =>
  path.endsWith('.md'),
);

test.for(pages)('every file under deploy/ that %s names is there', async (page) => {
  const named = (await read(page)).matchAll(/\bdeploy\/[\w./*-]*[\w*]/g);
  const missing: string[] = [];
  for (const path of new Set([...named].map(([path]) => path.replace(/[\w.-]*\*[\w.*-]*$/, '')))) {
    await access(new URL(path, root)).catch(() => missing.push(path));
  }
  expect(missing).toEqual([]);
});
