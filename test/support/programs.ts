// The agent, the command `weft` and programs that tests make of them, bundled once for a run: half of what starting one costs is
// finding and stripping 300 files. Without a run's bundles (a bench, a lab of a person) they are the sources.
import { randomUUID } from 'node:crypto';
import { mkdir, readFile, rename, symlink, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';

import { ensureShim, shimPath } from '../../cni-shim/build.ts';

const root = join(import.meta.dirname, '../..');
const sources = {
  weft: 'agent/cli/weft.ts',
  'stepping-agent': 'test/support/stepping-agent.ts',
  'peers-node': 'test/support/peers-node.ts',
  'agent-process': 'test/netns/datapath/agent-process.ts',
} as const;

/** File to give to Node. */
export function programPath(name: keyof typeof sources): string {
  const bundles = process.env['TEST_PROGRAMS'];
  return bundles === undefined ? join(root, sources[name]) : join(bundles, `${name}.mjs`);
}

/**
 * Bundles all of them for this process and those that it starts; beside them the addon and the shim, where they look for them.
 * Resolves to an import for each file that an agent of a test loads: with NODE_COMPILE_CACHE nobody compiles it again.
 */
export async function bundlePrograms(): Promise<string> {
  const directory = join(root, '.cache/programs');
  // The lab of a person has no use for it.
  const { build } = await import('esbuild');
  const { outputFiles } = await build({
    write: false,
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
  // Nothing goes that was here: another run may be about to load it.
  for (const { path, contents } of outputFiles) await putInPlace(path, contents);
  await link(join(root, 'agent/native/build/weft.node'), join(directory, 'build/weft.node'));
  ensureShim();
  await link(shimPath, join(directory, 'weft'));
  process.env['TEST_PROGRAMS'] = directory;
  const ofAgent = /^(chunk|weft|main|peers-registry|static)\b.*\.mjs$/;
  const files = outputFiles.map(({ path }) => path).filter((path) => ofAgent.test(basename(path)));
  return files.map((path) => `import ${JSON.stringify(pathToFileURL(path).href)};`).join('\n');
}

async function putInPlace(path: string, contents: Uint8Array): Promise<void> {
  const there = await readFile(path).catch(() => undefined);
  if (there?.equals(contents) === true) return;
  await mkdir(dirname(path), { recursive: true });
  // Not the pid: two namespaces have the same.
  const temporary = `${path}.${randomUUID()}`;
  await writeFile(temporary, contents);
  await rename(temporary, path);
}

async function link(target: string, path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await symlink(target, path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error;
  });
}
