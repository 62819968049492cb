// Bundles the agent and the command `weft` into one minified file for the image: `node deploy/bundle.ts OUTPUT`. Less to load
// means 50 MB less memory and half the start time of the unbundled packages (facts in docs/decisions/005-libraries.md). Beside
// it: the licences of the packages that are inside, and `packages.json`, which deploy/sbom.ts reads.
import { chmod, copyFile, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { build } from 'esbuild';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

/** Packages of CommonJS call `require` for Node's own modules; a module file has none unless it makes one. */
const banner =
  "import { createRequire as weftCreateRequire } from 'node:module'; const require = weftCreateRequire(import.meta.url);";
/** The image has no shell: the file itself says what runs it. */
const interpreter = '#!/opt/weft/bin/node --disable-warning=ExperimentalWarning';

export interface BundledPackage {
  readonly name: string;
  readonly version: string;
  readonly license: string;
}

/** Writes the bundle and what belongs to it; returns its size in bytes. Throws when esbuild finds an error. */
export async function bundle(output: string): Promise<number> {
  const result = await build({
    entryPoints: [join(root, 'agent/cli/weft.ts')],
    outfile: output,
    absWorkingDir: root,
    bundle: true,
    // Names stay as they are written: stack traces need them, and esbuild's `keepNames` would have every closure defined twice, on every call.
    minifyWhitespace: true,
    minifySyntax: true,
    platform: 'node',
    target: 'node24',
    // Node 24 has it; what esbuild writes instead is an array and five functions for each.
    supported: { using: true },
    format: 'esm',
    banner: { js: banner },
    legalComments: 'linked',
    metafile: true,
    logLevel: 'warning',
  });
  const text = await readFile(output, 'utf8');
  await writeFile(output, `${interpreter}\n${text.replace(/^#!.*\n/, '')}`);
  await chmod(output, 0o755);
  await writePackages(Object.keys(result.metafile.inputs), dirname(output));
  return Object.values(result.metafile.outputs).reduce((most, one) => Math.max(most, one.bytes), 0);
}

/** `node_modules/a/lib/x.js` and `node_modules/a/node_modules/@b/c/y.js` are of the packages in `node_modules/a` and `…/@b/c`. */
async function writePackages(inputs: readonly string[], directory: string): Promise<void> {
  const places = inputs.map((input) => /^(?:.*\/)?node_modules\/(?:@[^/]+\/)?[^/]+/.exec(input)?.[0]);
  const found = [...new Set(places.filter((place) => place !== undefined))].toSorted();
  const packages = await Promise.all(found.map((place) => keepLicense(place, join(directory, 'licenses'))));
  await writeFile(join(directory, 'packages.json'), `${JSON.stringify(packages, undefined, 1)}\n`);
}

async function keepLicense(place: string, licenses: string): Promise<BundledPackage> {
  const from = join(root, place);
  const { name, version, license } = JSON.parse(await readFile(join(from, 'package.json'), 'utf8')) as BundledPackage;
  const to = join(licenses, `${name.replace('/', '__')}-${version}`);
  await mkdir(to, { recursive: true });
  const texts = (await readdir(from)).filter((file) => /^(?:licen[cs]e|copying|notice)/i.test(file));
  await Promise.all(texts.map((file) => copyFile(join(from, file), join(to, file))));
  return { name, version, license };
}

if (import.meta.main) {
  const output = resolve(process.argv[2] ?? join(root, 'build/weft.mjs'));
  const bytes = await bundle(output);
  console.log(`${output}: ${(bytes / 1e6).toFixed(1)} MB`);
}
