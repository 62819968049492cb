// The Dockerfile is built by podman as the README has it, on a Debian whose podman knows no registry to search.
import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';

test('every base image is named with its registry: podman resolves no short name that it has no alias for', async () => {
  const text = await readFile(new URL('../../../Dockerfile', import.meta.url), 'utf8');
  const bases = [...text.matchAll(/^FROM (?:--platform=\S+ )?(\S+)/gm)].map((match) => match[1]);
  expect(bases).toHaveLength(3);
  for (const base of bases) expect(base).toMatch(/^(?:docker\.io\/library\/.+:.+|scratch)$/);
});
