// The images that a cluster needs and no registry gives: pause, CoreDNS, and one with every tool that the tests run in pods.
// They are made from the cached programs and this machine's Debian, once, beside the programs.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { access, cp, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

import { writeImage } from './archive.ts';
import { lockFile, run } from './host.ts';
import { kubernetesSources } from './programs.ts';
import { images } from './settings.ts';

/** Programs of this machine for the tools image; upstream's specs need OpenBSD's nc. */
const machinePrograms = 'bash getent curl dig host nslookup nc.openbsd:nc ss ip ping'.split(' ');

/** Makes the tarballs that are missing beside `bin` and returns their paths. */
export async function ensureImages(bin: string, say: (line: string) => void): Promise<readonly string[]> {
  const directory = join(dirname(bin), `images-${recipeDigest()}`);
  await mkdir(directory, { recursive: true });
  await using _lock = await lockFile(join(directory, 'lock'), () => say('another run is making the images, waiting'));
  const makers: Readonly<Record<string, (root: string, file: string) => Promise<void>>> = {
    'pause.tar': async (root, file) => {
      await cp(join(bin, 'pause'), join(root, 'pause'));
      await writeImage(file, { root, tags: [images.pause], entrypoint: ['/pause'] });
    },
    'coredns.tar': async (root, file) => {
      await cp(join(bin, 'coredns'), join(root, 'coredns'));
      await mkdir(join(root, 'etc'));
      await writeImage(file, { root, tags: [images.coredns], entrypoint: ['/coredns'] });
    },
    'tools.tar': async (root, file) => {
      await makeToolsRoot(root, bin);
      const tags = [images.tools, images.dnsTools];
      await writeImage(file, { root, tags, entrypoint: ['/agnhost'], command: ['pause'] });
    },
    'busybox.tar': async (root, file) => {
      await makeBusyboxRoot(root);
      await writeImage(file, { root, tags: [images.busybox], command: ['sh'] });
    },
  };
  const paths: string[] = [];
  for (const [name, make] of Object.entries(makers)) {
    const file = join(directory, name);
    paths.push(file);
    if (await exists(file)) continue;
    say(`  making image ${name}`);
    const root = await mkdtemp(join(tmpdir(), 'weft-image-root-'));
    try {
      await make(root, file);
    } finally {
      await rm(root, { recursive: true, force: true });
    }
  }
  return paths;
}

/** Another recipe, another directory: the two files that say how images are made, and their names. */
function recipeDigest(): string {
  const texts = ['./images.ts', './archive.ts'].map((name) => readFileSync(new URL(name, import.meta.url), 'utf8'));
  return createHash('sha256')
    .update(JSON.stringify([images, texts]))
    .digest('hex')
    .slice(0, 8);
}

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}

async function makeBusyboxRoot(root: string): Promise<void> {
  for (const directory of ['bin', 'etc', 'tmp', 'var', 'root', 'usr/bin', 'run', 'proc', 'sys', 'dev', 'uploads']) {
    await mkdir(join(root, directory), { recursive: true, mode: directory === 'tmp' ? 0o1777 : 0o755 });
  }
  await putProgram(root, '/bin/busybox', 'busybox');
  const applets = (await run(['busybox', '--list'])).trim().split('\n');
  for (const applet of applets) {
    // Debian's busybox wget crashes on -T.
    if (applet !== 'busybox' && applet !== 'wget') await symlink('/bin/busybox', join(root, 'bin', applet));
  }
  await putProgram(root, '/bin/wget', 'wget');
  await symlink('/bin/busybox', join(root, 'usr/bin/env'));
  await writeFile(join(root, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n');
  await writeFile(join(root, 'etc/group'), 'root:x:0:\n');
  await writeFile(join(root, 'etc/nsswitch.conf'), 'hosts: files dns\n');
}

async function makeToolsRoot(root: string, bin: string): Promise<void> {
  await makeBusyboxRoot(root);
  for (const wish of machinePrograms) {
    const [program = '', name = program] = wish.split(':');
    await rm(join(root, 'bin', name), { force: true });
    await putProgram(root, `/bin/${name}`, program);
  }
  await cp(join(bin, 'agnhost'), join(root, 'agnhost'));
  // What `agnhost porter` shows over TLS.
  const agnhost = join(await kubernetesSources(), 'test/images/agnhost/porter');
  for (const name of ['localhost.crt', 'localhost.key']) await cp(join(agnhost, name), join(root, name));
}

/** A program of this machine with the shared libraries that it names, and glibc's DNS resolver, which nothing names. */
async function putProgram(root: string, place: string, program: string): Promise<void> {
  const path = (await run(['sh', '-c', `command -v "${program}"`])).trim();
  const libraries = (await run(['sh', '-c', `ldd "${path}" || true`])).match(/\/\S+/g) ?? [];
  const resolvers = libraries.flatMap((library) =>
    library.includes('/libc.so.')
      ? [join(dirname(library), 'libnss_dns.so.2'), join(dirname(library), 'libresolv.so.2')]
      : [],
  );
  await cp(path, join(root, place), { dereference: true });
  for (const library of new Set([...libraries.filter((one) => !one.endsWith(':')), ...resolvers])) {
    if (!(await exists(library))) continue;
    await mkdir(dirname(join(root, library)), { recursive: true });
    await cp(library, join(root, library), { dereference: true, force: true });
  }
}
