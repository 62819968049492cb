// A Debian with its stock kernel as a disk for a virtual machine: the kernel that users have, with what the machine that runs the tests
// may lack (ip_vs, ipvlan, 802.1q). Made once per machine into the cache outside the work tree, under a digest of the recipe.
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { lockFile, run } from '#test/e2e/cluster/host.ts';
import { cacheDirectory } from '#test/e2e/cluster/programs.ts';

const packages =
  'linux-image-cloud-amd64 initramfs-tools containernetworking-plugins iproute2 nftables libnftables1 iptables ipset ipvsadm kmod socat iputils-ping procps'.split(
    ' ',
  );

/** Process 1: mounts what is needed, runs the checks from the second disk, says how it ended, and switches the machine off. */
const init = `#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /tmp
mkdir -p /run/netns /weft
mount -o ro /dev/vdb /weft
export PATH=/weft/node_modules/.bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp
ip link set lo up
stty -F /dev/ttyS1 raw
cd /weft && node --disable-warning=ExperimentalWarning test/vm/inside.ts > /dev/ttyS1
echo "ended with $?" > /dev/ttyS1
sleep 1
echo o > /proc/sysrq-trigger
sleep 60
`;

export interface VmImage {
  readonly kernel: string;
  readonly initrd: string;
  /** ext4, to be booted with a snapshot: it is shared. */
  readonly disk: string;
}

/** Builds what the cache lacks. Two at once: the second waits. Throws with the words of debootstrap or mke2fs. */
export async function ensureVmImage(say: (line: string) => void): Promise<VmImage> {
  const recipe = createHash('sha256')
    .update(JSON.stringify([packages, init]))
    .digest('hex');
  const cache = join(cacheDirectory(), `vm-${recipe.slice(0, 8)}`);
  const image: VmImage = { kernel: join(cache, 'vmlinuz'), initrd: join(cache, 'initrd'), disk: join(cache, 'disk') };
  await mkdir(cache, { recursive: true });
  await using _lock = await lockFile(join(cache, 'lock'), () => say('another run is making the image, waiting'));
  if (existsSync(image.disk)) return image;
  say('making a Debian with its stock kernel (once per machine, a few minutes)');
  const root = join(cache, 'root');
  await rm(root, { recursive: true, force: true });
  const targets = await run(['apt-get', 'indextargets', '--format', '$(CODENAME) $(COMPONENT) $(REPO_URI)']);
  const mirror = /^bookworm main (\S+)/m.exec(targets)?.[1];
  const command = ['debootstrap', '--variant=minbase', `--include=${packages.join(',')}`, 'bookworm', root];
  await run(mirror === undefined ? command : [...command, mirror], { timeoutMs: 1_800_000 });
  await writeFile(join(root, 'weft-init'), init);
  await chmod(join(root, 'weft-init'), 0o755);
  for (const waste of ['var/cache/apt', 'var/lib/apt/lists', 'usr/share/doc', 'usr/share/locale'])
    await rm(join(root, waste), { recursive: true, force: true });
  for (const [name, to] of [
    ['vmlinuz-', image.kernel],
    ['initrd.img-', image.initrd],
  ] as const) {
    const found = (await readdir(join(root, 'boot'))).find((file) => file.startsWith(name));
    if (found === undefined) throw new Error(`Debian's kernel package left no ${name}* in /boot`);
    await rename(join(root, 'boot', found), to);
  }
  const unfinished = `${image.disk}.unfinished`;
  await run(['mke2fs', '-q', '-t', 'ext4', '-d', root, unfinished, '2G'], { timeoutMs: 600_000 });
  await rm(root, { recursive: true, force: true });
  await rename(unfinished, image.disk);
  return image;
}
