// Puts the CNI plugin into the runtime's directory by rename, so that a call under way keeps the file it has open and none
// ever sees half a program ("text file busy" included).

import { constants } from 'node:fs';
import { access, chmod, copyFile, mkdir, open, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { WeftError } from '#agent/errors.ts';

/** Where the build leaves the shim: beside the sources, or beside the bundle in the image. */
const candidates: readonly string[] = ['../../cni-shim/build/weft', './weft', '../weft'].map((path) =>
  fileURLToPath(new URL(path, import.meta.url)),
);

/** The image brings the reference loopback plugin, which containerd executes for each pod; other builds have none. */
const loopbackSource = fileURLToPath(new URL('./loopback', import.meta.url));

/** Installs as `<directory>/weft`, mode 0755, and `loopback` where it is missing. Resolves to one sentence about it. Throws WeftError('io'). */
export async function installPlugin(directory: string, shim?: string): Promise<string> {
  const source = shim ?? (await firstThatIs(candidates));
  const target = join(directory, 'weft');
  await putInPlace(source, target);
  const loopback = join(directory, 'loopback');
  if (!(await isProgram(loopbackSource)) || (await isProgram(loopback))) return `installed ${target}`;
  await putInPlace(loopbackSource, loopback);
  return `installed ${target} and ${loopback}, which was missing`;
}

async function putInPlace(source: string, target: string): Promise<void> {
  const temporary = join(dirname(target), `.${basename(target)}.${process.pid}.tmp`);
  try {
    await mkdir(dirname(target), { recursive: true });
    await copyFile(source, temporary, constants.COPYFILE_EXCL);
    await chmod(temporary, 0o755);
    await using file = await open(temporary);
    await file.sync();
    await rename(temporary, target);
  } catch (error) {
    await rm(temporary, { force: true });
    throw new WeftError('io', `cannot install ${source} as ${target}: ${(error as Error).message}`, { cause: error });
  }
}

async function isProgram(path: string): Promise<boolean> {
  return await access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}

async function firstThatIs(paths: readonly string[]): Promise<string> {
  for (const path of paths) {
    if (await isProgram(path)) return path;
  }
  throw new WeftError('io', `the CNI plugin is not built; looked for ${paths.join(', ')}`);
}
