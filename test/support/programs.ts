// The agent, the command `weft` and programs that tests make of them, bundled once for a run: half of what starting one costs is
// finding and stripping 300 files. Without a run's bundles (a bench, a lab of a person) they are the sources.
import { mkdir, readdir, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

import { ensureShim, shimPath } from '../../cni-shim/build.ts';

const root = join(import.meta.dirname, '../..');
const sources = {
  weft: 'agent/cli/weft.ts',
  'stepping-agent': 'test/support/stepping-agent.ts',
  'agent-process': 'test/netns/datapath/agent-process.ts',
} as const;

/** File to give to Node. */
export function programPath(name: keyof typeof sources): string {
  const bundles = process.env['TEST_PROGRAMS'];
  return bundles === undefined ? join(root, sources[name]) : join(bundles, `${name}.mjs`);
}

/** Bundles all of them for this process and those that it starts; beside them the addon and the shim, where they look for them. */
export async function bundlePrograms(): Promise<void> {
  const directory = join(root, '.cache/programs');
  await rm(directory, { recursive: true, force: true });
  // The lab of a person has no use for it.
  const { build } = await import('esbuild');
  await build({
    entryPoints: { ...sources },
    outdir: directory,
    outExtension: { '.js': '.mjs' },
    absWorkingDir: root,
    bundle: true,
    // What is loaded only when it is needed stays so.
    splitting: true,
    platform: 'node',
    target: 'node24',
    supported: { using: true },
    format: 'esm',
    banner: { js: "import { createRequire as r } from 'node:module'; const require = r(import.meta.url);" },
    logLevel: 'warning',
  });
  await mkdir(join(directory, 'build'));
  await symlink(join(root, 'agent/native/build/weft.node'), join(directory, 'build/weft.node'));
  ensureShim();
  await symlink(shimPath, join(directory, 'weft'));
  process.env['TEST_PROGRAMS'] = directory;
}

/** An import for each bundle that an agent of a test loads; with NODE_COMPILE_CACHE nobody compiles it again. */
export async function importsOfAgent(): Promise<string> {
  const directory = join(root, '.cache/programs');
  const files = (await readdir(directory)).filter((name) =>
    /^(chunk|weft|main|peers-registry|static)\b.*\.mjs$/.test(name),
  );
  return files.map((name) => `import ${JSON.stringify(pathToFileURL(join(directory, name)).href)};`).join('\n');
}
