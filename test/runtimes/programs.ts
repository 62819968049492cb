// What the tests of container runtimes need and Debian does not have: cnitool out of libcni's newest version, a client of libcni itself,
// nerdctl, and a static program to put into a container. Compiled once per machine into the cache outside the work tree, under a digest of the recipe.

import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { cacheDirectory, ensureProgram, goEnvironment } from '#test/e2e/cluster/programs.ts';
import { lockFile, run } from '#test/e2e/cluster/host.ts';

const libcniVersion = '1.3.1';
const nerdctlVersion = '2.1.2';
const goVersion = '1.26.0';
const sources = {
  web: fileURLToPath(new URL('web/main.go', import.meta.url)),
  libcni: fileURLToPath(new URL('libcni/main.go', import.meta.url)),
} as const;

export interface Programs {
  readonly cnitool: string;
  /** test/runtimes/libcni: one operation of libcni, by JSON. */
  readonly libcni: string;
  readonly nerdctl: string;
  /** A tar of a root file system that holds `/web` alone. */
  readonly image: string;
}

/** Builds whatever the tests of this folder ask for, theirs and the cluster's containerd: before they run, because their namespace has no network. */
export async function ensureForAll(say: (line: string) => void): Promise<void> {
  say('the programs of the runtime tests, where they are not there yet (once per machine, minutes on two cores)');
  await ensurePrograms();
  for (const name of ['containerd', 'containerd-shim-runc-v2', 'ctr', 'pause']) await ensureProgram(name, say);
}

/** Builds what the cache lacks. Two at once: the second waits. Throws with Go's words. */
export async function ensurePrograms(): Promise<Programs> {
  const recipe = createHash('sha256')
    .update(await readFile(sources.web))
    .update(await readFile(sources.libcni))
    .update(libcniVersion + nerdctlVersion)
    .digest('hex');
  const cache = join(cacheDirectory(), `runtimes-${recipe.slice(0, 8)}`);
  const programs = {
    cnitool: join(cache, 'cnitool'),
    libcni: join(cache, 'libcni'),
    nerdctl: join(cache, 'nerdctl'),
    image: join(cache, 'web.tar'),
  };
  await mkdir(cache, { recursive: true });
  await using _lock = await lockFile(join(cache, 'lock'), () => undefined);
  if (existsSync(programs.image)) return programs;
  const making = join(cache, 'making');
  await rm(making, { recursive: true, force: true });
  const build = async (name: string, requires: string, path: string): Promise<void> => {
    const directory = join(making, name);
    await mkdir(directory, { recursive: true });
    await writeFile(join(directory, 'go.mod'), `module weft.test/${name}\n\ngo ${goVersion}\n\n${requires}`);
    const source = name === 'web' || name === 'libcni' ? sources[name] : undefined;
    if (source === undefined) await writeFile(join(directory, 'doc.go'), `package ${name}\n`);
    else await copyFile(source, join(directory, 'main.go'));
    const words = ['build', '-mod=mod', '-ldflags', '-s -w', '-o', join(making, 'out', name), path];
    await run(['nice', 'go', ...words], { cwd: directory, env: goEnvironment });
  };
  const cni = 'github.com/containernetworking/cni';
  await build('cnitool', `require ${cni} v${libcniVersion}\n`, `${cni}/cnitool`);
  await build('libcni', `require ${cni} v${libcniVersion}\n`, '.');
  const nerdctl = 'github.com/containerd/nerdctl/v2';
  await build('nerdctl', `require ${nerdctl} v${nerdctlVersion}\n`, `${nerdctl}/cmd/nerdctl`);
  await build('web', '', '.');
  await run(['tar', '-C', join(making, 'out'), '-cf', join(making, 'web.tar'), 'web']);
  await rename(join(making, 'out/cnitool'), programs.cnitool);
  await rename(join(making, 'out/libcni'), programs.libcni);
  await rename(join(making, 'out/nerdctl'), programs.nerdctl);
  await rename(join(making, 'web.tar'), programs.image);
  await rm(making, { recursive: true, force: true });
  return programs;
}
