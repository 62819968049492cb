// Programs that come from a Debian package and are not installed: the package unpacked into the cache, once per machine.
import { access, mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { lockFile, run } from './host.ts';
import { cacheDirectory } from './programs.ts';

/** The package's /usr/bin. Throws with apt's words when it cannot be fetched. */
export async function ensureDebianProgram(name: string, say: (line: string) => void): Promise<string> {
  const place = join(cacheDirectory(), `debian-${name}`);
  const bin = join(place, 'usr/bin');
  await using _lock = await lockFile(`${place}.lock`, () => say(`another run is fetching ${name}, waiting`));
  const there = await access(bin).then(
    () => true,
    () => false,
  );
  if (there) return bin;
  say(`fetching the Debian package ${name} (once per machine)`);
  const work = await mkdtemp(join(tmpdir(), 'weft-deb-'));
  try {
    await run(['apt-get', 'update', '-qq'], { timeoutMs: 300_000 });
    await run(['apt-get', 'download', '-qq', '-o', 'APT::Sandbox::User=root', name], { cwd: work, timeoutMs: 300_000 });
    const [deb = ''] = await readdir(work);
    await mkdir(join(work, 'root'));
    await run(['dpkg-deb', '-x', join(work, deb), join(work, 'root')]);
    await rm(place, { recursive: true, force: true });
    await run(['cp', '-a', join(work, 'root'), `${place}.unfinished`]);
    await rename(`${place}.unfinished`, place);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  return bin;
}
