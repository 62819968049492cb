// Renders deploy/weft.yaml, the one file that users apply, from the kustomize base: the base's files in their order, joined, with
// the image's name put in. `node deploy/generate.ts` writes it; `--check` says whether it is up to date; `--image NAME` changes the name.
import { readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import manifest from '../package.json' with { type: 'json' };

const here = dirname(fileURLToPath(import.meta.url));
/** The generated file. */
export const manifestPath: string = join(here, 'weft.yaml');
/** A release puts its registry here. */
export const defaultImage: string = `localhost/weft:${manifest.version}`;

/** The manifest as text. Throws when the base lists a file that is not there, or names no image. */
export async function renderManifest(image: string = defaultImage): Promise<string> {
  const kustomization = await readFile(join(here, 'base/kustomization.yaml'), 'utf8');
  const names = [...kustomization.matchAll(/^ {2}- (\S+\.yaml)$/gm)].map((match) => match[1] ?? '');
  if (names.length === 0) throw new Error('deploy/base/kustomization.yaml lists no resources');
  const parts = await Promise.all(names.map((name) => readFile(join(here, 'base', name), 'utf8')));
  const text = parts.map((part) => part.trim()).join('\n---\n');
  const named = text.replaceAll(/^(\s+image: )weft$/gm, `$1${image}`);
  if (named === text) throw new Error('deploy/base names no `image: weft`');
  return `# Weft ${manifest.version}. Generated from deploy/base by deploy/generate.ts; do not edit.\n${named}\n`;
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: { check: { type: 'boolean', default: false }, image: { type: 'string', default: defaultImage } },
  });
  const rendered = await renderManifest(values.image);
  const current = await readFile(manifestPath, 'utf8').catch(() => '');
  if (!values.check) await writeFile(manifestPath, rendered);
  else if (rendered !== current) {
    console.error('deploy/weft.yaml is not what deploy/base says; run: node deploy/generate.ts');
    process.exitCode = 1;
  }
}
