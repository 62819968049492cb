// Container images without a registry: one directory becomes a single-layer image in the `docker-archive` form that
// `ctr images import` reads. The same directory always gives the same image id.
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { run } from './host.ts';

export interface ImageRecipe {
  /** Directory that becomes the image's root. */
  readonly root: string;
  readonly tags: readonly string[];
  readonly entrypoint?: readonly string[];
  readonly command?: readonly string[];
}

/** Writes the tarball beside `file` and renames it into place. */
export async function writeImage(file: string, recipe: ImageRecipe): Promise<void> {
  const work = await mkdtemp(join(tmpdir(), 'weft-image-'));
  try {
    const layer = join(work, 'layer.tar');
    const plain = '--sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner'.split(' ');
    await run(['tar', ...plain, '-C', recipe.root, '-cf', layer, '.']);
    const config = JSON.stringify({
      architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
      os: 'linux',
      created: '1970-01-01T00:00:00Z',
      config: {
        Env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'],
        ...(recipe.entrypoint === undefined ? {} : { Entrypoint: recipe.entrypoint }),
        ...(recipe.command === undefined ? {} : { Cmd: recipe.command }),
      },
      rootfs: { type: 'layers', diff_ids: [`sha256:${await fileDigest(layer)}`] },
      history: [{ created: '1970-01-01T00:00:00Z' }],
    });
    const configName = `${createHash('sha256').update(config).digest('hex')}.json`;
    await writeFile(join(work, configName), config);
    const manifest = [{ Config: configName, RepoTags: recipe.tags, Layers: ['layer.tar'] }];
    await writeFile(join(work, 'manifest.json'), JSON.stringify(manifest));
    await run(['tar', '-C', work, '-cf', `${file}.unfinished`, 'manifest.json', configName, 'layer.tar']);
    await rename(`${file}.unfinished`, file);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function fileDigest(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}
