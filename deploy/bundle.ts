// Bundles the agent and the command `weft` into one minified file for the image: `node deploy/bundle.ts OUTPUT`. Less to load
// means 50 MB less memory and half the start time of the unbundled packages (facts in docs/decisions/005-libraries.md).
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { build } from 'esbuild';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

/** Packages of CommonJS call `require` for Node's own modules; a module file has none unless it makes one. */
const banner =
  "import { createRequire as weftCreateRequire } from 'node:module'; const require = weftCreateRequire(import.meta.url);";

/** Writes the bundle, its source map and the licences that packages carry in comments; throws when esbuild finds an error. */
export async function bundle(output: string): Promise<number> {
  const result = await build({
    entryPoints: [join(root, 'agent/cli/weft.ts')],
    outfile: output,
    absWorkingDir: root,
    bundle: true,
    minify: true,
    keepNames: true,
    platform: 'node',
    target: 'node24',
    format: 'esm',
    banner: { js: banner },
    legalComments: 'linked',
    metafile: true,
    logLevel: 'warning',
  });
  return Object.values(result.metafile.outputs).reduce((most, one) => Math.max(most, one.bytes), 0);
}

if (import.meta.main) {
  const output = resolve(process.argv[2] ?? join(root, 'build/weft.mjs'));
  const bytes = await bundle(output);
  console.log(`${output}: ${(bytes / 1e6).toFixed(1)} MB`);
}
