// One run of the virtual machine: boots the stock kernel with this work tree on a second disk and reads what its checks came to.
// Emulated (TCG), for machines without nested virtualization: ten to twenty times slower than the processor itself.
import { spawn } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { run } from '#test/e2e/cluster/host.ts';
import { bundle } from '../../deploy/bundle.ts';
import type { VmImage } from './image.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** What a check inside came to; `said` is the error, empty when there was none. */
export interface Outcome {
  readonly name: string;
  readonly said: string;
  readonly seconds: number;
}

export interface MachineRun {
  /** `uname -r` inside. */
  readonly kernel: string;
  readonly outcomes: readonly Outcome[];
  /** The last lines of the console, for a failure. */
  readonly console: string;
  readonly seconds: number;
}

/** Boots, runs test/vm/inside.ts to its end, switches off. Rejects when the machine does not end in time or cannot be started. */
export async function runMachine(image: VmImage, kubeProxy: string, withinMs: number): Promise<MachineRun> {
  const directory = await mkdtemp(join(tmpdir(), 'weft-vm-'));
  try {
    const tree = await treeDisk(directory, kubeProxy);
    const [log, results] = [join(directory, 'console'), join(directory, 'results')];
    const drive = (file: string): readonly string[] => [
      '-drive',
      `file=${file},format=raw,if=virtio,cache=unsafe,snapshot=on`,
    ];
    const startedMs = performance.now();
    // no_timer_check: on a busy machine the emulated timer is late for the kernel's own test of it.
    const kernelWords = 'root=/dev/vda rw init=/weft-init console=ttyS0 quiet panic=1 no_timer_check';
    const machine = '-accel tcg,thread=multi -cpu max -smp 2 -m 1536 -nic none -display none -no-reboot'.split(' ');
    const boot = ['-kernel', image.kernel, '-initrd', image.initrd, '-append', kernelWords];
    const ports = ['-serial', `file:${log}`, '-serial', `file:${results}`];
    await runQemu([...machine, ...boot, ...drive(image.disk), ...drive(tree), ...ports], withinMs);
    const lines = (await readFile(results, 'utf8')).split('\n').filter((line) => line.startsWith('{'));
    const told = lines.map((line) => JSON.parse(line) as Outcome & { readonly kernel?: string });
    return {
      kernel: told.find(({ kernel }) => kernel !== undefined)?.kernel ?? '',
      outcomes: told.filter(({ kernel }) => kernel === undefined),
      console: (await readFile(log, 'utf8')).split('\n').slice(-40).join('\n'),
      seconds: (performance.now() - startedMs) / 1000,
    };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** The sources, what they need to run, Node and kube-proxy, as one ext4 disk. */
async function treeDisk(directory: string, kubeProxy: string): Promise<string> {
  const tree = join(directory, 'tree');
  const lock = JSON.parse(await readFile(join(root, 'package-lock.json'), 'utf8')) as {
    readonly packages: Readonly<Record<string, { readonly dev?: boolean; readonly devOptional?: boolean }>>;
  };
  const needed = Object.entries(lock.packages)
    .filter(([path, { dev, devOptional }]) => path !== '' && dev !== true && devOptional !== true)
    .map(([path]) => path);
  // Those inside another package come with it.
  const outer = needed.filter((path) => path.lastIndexOf('node_modules/') === 0);
  for (const part of [
    'package.json',
    'agent',
    'ipam-peer',
    'cni-shim',
    'test/support',
    'test/netns',
    'test/vm',
    ...outer,
  ])
    await cp(join(root, part), join(tree, part), { recursive: true });
  await mkdir(join(tree, 'node_modules/.bin'), { recursive: true });
  await cp(process.execPath, join(tree, 'node_modules/.bin/node'));
  await cp(kubeProxy, join(tree, 'bin/kube-proxy'));
  // The agent as the image has it, which starts in half the time.
  await bundle(join(tree, 'bin/weft.mjs'));
  await cp(join(root, 'agent/native/build'), join(tree, 'bin/build'), { recursive: true });
  const disk = join(directory, 'tree.img');
  await run(['mke2fs', '-q', '-t', 'ext4', '-d', tree, disk, '512M'], { timeoutMs: 300_000 });
  return disk;
}

async function runQemu(options: readonly string[], withinMs: number): Promise<void> {
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', 'qemu-system-x86_64', ...options], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
  const timer = setTimeout(() => child.kill('SIGKILL'), withinMs);
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
  clearTimeout(timer);
  if (code !== 0) throw new Error(`qemu ended with ${code ?? `no end within ${withinMs} ms`}: ${said}`);
}
