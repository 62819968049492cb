// Builds our image from our Dockerfile with buildah and no image registry: the base images that the Dockerfile names are made
// here, from Debian packages and this machine's Go and npm, under the same names. Everything lies in the cache directory.
import { createHash } from 'node:crypto';
import { access, cp, mkdir, readFile, realpath, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { defaultImage } from '../../deploy/generate.ts';
import { attempt, lockFile, run } from './cluster/host.ts';
import { cacheDirectory, goEnvironment } from './cluster/programs.ts';

const repository = new URL('../..', import.meta.url).pathname;
const registry = 'docker.io/library';
const bases = {
  debian: `${registry}/debian:bookworm-slim`,
  node: `${registry}/node:24-bookworm-slim`,
  go: `${registry}/golang:1.26-bookworm`,
} as const;

/** The name that deploy/weft.yaml has: the tests apply that file as it is. */
const weftImage = defaultImage;

type Say = (line: string) => void;

const storage = (): string => join(cacheDirectory(), 'buildah');

function buildah(...args: readonly string[]): readonly string[] {
  const where = ['--root', storage(), '--runroot', '/run/weft-buildah', '--storage-driver', 'overlay'];
  return ['buildah', ...where, ...args];
}

/** Builds the image where its inputs changed and returns its tarball. Throws with buildah's output when the Dockerfile fails. */
export async function ensureWeftImage(say: Say): Promise<string> {
  await using _lock = await lockFile(join(cacheDirectory(), 'buildah.lock'), () => {
    say('another run is building the image, waiting for it');
  });
  await ensureBases(say);
  const certificates = certificateArguments();
  const how = ['--isolation=chroot', '--network=host', '--pull-never', '--layers', ...certificates];
  const what = ['--tag', weftImage, '--file', join(repository, 'Dockerfile'), repository];
  await run(buildah('bud', ...how, ...what), { timeoutMs: 900_000 });
  const id = (await run(buildah('images', '--quiet', '--no-trunc', weftImage))).trim().replace(/^sha256:/, '');
  const tarball = join(cacheDirectory(), 'images', `weft-${id.slice(0, 16)}.tar`);
  if (await exists(tarball)) return tarball;
  await rm(join(cacheDirectory(), 'images'), { recursive: true, force: true });
  await mkdir(join(cacheDirectory(), 'images'), { recursive: true });
  await run(buildah('push', '--quiet', weftImage, `docker-archive:${tarball}.unfinished:${weftImage}`));
  await rename(`${tarball}.unfinished`, tarball);
  return tarball;
}

/** This machine's certificate authorities, seen by build steps and left in no image. */
function certificateArguments(): readonly string[] {
  const extra = process.env['NODE_EXTRA_CA_CERTS'] ?? '';
  const mount = ['--volume', '/etc/ssl/certs:/etc/ssl/certs:ro'];
  return extra === '' ? mount : [...mount, '--build-arg', `NODE_EXTRA_CA_CERTS=${extra}`];
}

async function ensureBases(say: Say): Promise<void> {
  const root = join(cacheDirectory(), 'bookworm-root');
  const lockText = await readFile(join(repository, 'package-lock.json'), 'utf8');
  const nodeKey = createHash('sha256')
    .update(/"node_modules\/node":[^}]*/.exec(lockText)?.[0] ?? '')
    .digest('hex');
  await ensureBase(say, bases.debian, 'bookworm', async () => {
    await ensureDebianRoot(root, say);
    return [];
  });
  await ensureBase(say, bases.node, nodeKey.slice(0, 12), nodeLayer);
  await ensureBase(say, bases.go, 'go', goLayer);
}

/** Something to add to the Debian base: a directory of this machine and its place in the image. */
interface Addition {
  readonly from: string;
  readonly to: string;
}

async function ensureBase(
  say: Say,
  tag: string,
  key: string,
  additions: () => Promise<readonly Addition[]>,
): Promise<void> {
  const label = 'weft.test.key';
  const inspected = await attempt(
    buildah('inspect', '--type', 'image', '--format', `{{index .OCIv1.Config.Labels "${label}"}}`, tag),
  );
  if (inspected.code === 0 && inspected.stdout.trim() === key) return;
  say(`  making base image ${tag}`);
  const added = await additions();
  const container = (
    await run(buildah('from', '--pull-never', tag === bases.debian ? 'scratch' : bases.debian))
  ).trim();
  try {
    if (tag === bases.debian)
      await run(buildah('add', '--quiet', container, join(cacheDirectory(), 'bookworm-root'), '/'));
    for (const { from, to } of added) await run(buildah('add', '--quiet', container, from, to));
    const path = 'PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
    await run(buildah('config', '--label', `${label}=${key}`, '--env', path, container));
    await run(buildah('commit', '--quiet', container, tag), { timeoutMs: 300_000 });
  } finally {
    await run(buildah('rm', container));
  }
}

/** `debootstrap --variant=minbase` without documentation, as the slim images are. */
async function ensureDebianRoot(root: string, say: Say): Promise<void> {
  if (await exists(root)) return;
  const unfinished = `${root}.unfinished`;
  await rm(unfinished, { recursive: true, force: true });
  say('  debootstrap bookworm (once per machine, about 30 s)');
  const targets = await run(['apt-get', 'indextargets', '--format', '$(CODENAME) $(COMPONENT) $(REPO_URI)']);
  const mirror = /^bookworm main (\S+)/m.exec(targets)?.[1];
  const command = ['debootstrap', '--variant=minbase', 'bookworm', unfinished];
  await run(mirror === undefined ? command : [...command, mirror], { timeoutMs: 600_000 });
  const slim = [
    'usr/share/doc',
    'usr/share/man',
    'usr/share/locale',
    'usr/share/info',
    'var/cache/apt',
    'var/lib/apt/lists',
    'var/log',
  ];
  for (const directory of slim) {
    await rm(join(unfinished, directory), { recursive: true, force: true });
    await mkdir(join(unfinished, directory), { recursive: true });
  }
  await writeFile(
    join(unfinished, 'etc/dpkg/dpkg.cfg.d/slim'),
    'path-exclude /usr/share/doc/*\npath-exclude /usr/share/man/*\npath-exclude /usr/share/locale/*\n',
  );
  await rename(unfinished, root);
}

/** Node 24 as the lock file pins it, and this machine's npm. */
async function nodeLayer(): Promise<readonly Addition[]> {
  const npm = await realpath((await run(['sh', '-c', 'command -v npm'])).trim());
  const layer = join(cacheDirectory(), 'node-layer');
  await rm(layer, { recursive: true, force: true });
  await mkdir(join(layer, 'bin'), { recursive: true });
  await mkdir(join(layer, 'lib/node_modules'), { recursive: true });
  await cp(join(repository, 'node_modules/node/bin/node'), join(layer, 'bin/node'), { dereference: true });
  await cp(join(npm, '../..'), join(layer, 'lib/node_modules/npm'), { recursive: true });
  for (const program of ['npm', 'npx']) {
    await symlink(`../lib/node_modules/npm/bin/${program}-cli.js`, join(layer, 'bin', program));
  }
  return [{ from: layer, to: '/usr/local' }];
}

async function goLayer(): Promise<readonly Addition[]> {
  const root = (await run(['go', 'env', 'GOROOT'], { env: goEnvironment })).trim();
  return [{ from: root, to: '/usr/local/go' }];
}

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}
